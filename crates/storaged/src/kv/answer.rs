//! A replica's answer as the client hears it.

use crate::kv::transactions;
use replcore::Answer;
use types::{ErrorCode, NodeId, PartitionId, View};
use wire::v1;
use wire::v1::response::Result as Wire;

/// The response to request `number` about a key of `partition`, answered by node `me`.
pub(crate) fn response(number: u64, me: NodeId, partition: PartitionId, answer: Answer, view: &View) -> v1::Response {
    let result = match answer {
        Answer::Written { outcome, durable_on, term } => Wire::Written(v1::Written {
            version: outcome.version.0,
            replaced: outcome.replaced,
            durable_on,
            term: term.0,
        }),
        Answer::Transacted { outcome, durable_on, term } => transactions::transacted(outcome, durable_on, term),
        Answer::Collected(collected) => transactions::collected(collected),
        Answer::Found(record) => Wire::Found(v1::Found { value: record.value, version: record.seq.0 }),
        Answer::Page(page) => Wire::Page(page.into()),
        Answer::NotFound => Wire::NotFound(v1::NotFound {}),
        Answer::ConditionFailed { version } => Wire::ConditionFailed(v1::ConditionFailed {
            present: version.is_some(),
            version: version.map_or(0, |version| version.0),
        }),
        Answer::Fenced { newest } => Wire::Fenced(v1::WriteFenced { newest: newest.0 }),
        Answer::Error(code) => return refusal(number, me, Some(partition), code, None, Some(view)),
    };
    v1::Response { number, node: me.0, result: Some(result), ..Default::default() }
}

/// The response to a request that was not done, or whose outcome nobody knows. `detail` says more than the code does.
pub(crate) fn refusal(
    number: u64,
    me: NodeId,
    partition: Option<PartitionId>,
    code: ErrorCode,
    detail: Option<String>,
    view: Option<&View>,
) -> v1::Response {
    let primary = view.zip(partition).and_then(|(view, partition)| view.configuration(partition)?.primary());
    let what = detail.unwrap_or_else(|| explanation(code).to_owned());
    let place = partition.map_or_else(|| me.to_string(), |partition| format!("{partition} on {me}"));
    v1::Response {
        number,
        node: me.0,
        result: Some(Wire::Error(wire::convert::error(code, format!("{place}: {what}")))),
        epoch: view.map_or(0, |view| view.epoch.0),
        primary_hint: primary.map_or(0, |primary| primary.0),
        // Where it matters, who knows the partition's sets it.
        server_time_ms: 0,
    }
}

/// What happened and what to do next.
fn explanation(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Unknown => {
            "the outcome is unknown: the time was over, or the primary changed, before it was certain; read the key"
        }
        ErrorCode::NotPrimary => "another node is the primary; ask that one",
        ErrorCode::Unavailable => "the primary has no quorum or is taking over; nothing was done, try again",
        ErrorCode::Overloaded => "too much is waiting here; nothing was done, try again later",
        ErrorCode::DeadlineExceeded => "the time was over before anything was done; give it more",
        ErrorCode::StampTooOld => "the request's stamp is outside what is remembered; send it as a new request",
        ErrorCode::Invalid => {
            "the request breaks a limit: 8 MiB may be read at once, 64 KiB by a transaction that writes"
        }
        ErrorCode::WrongCluster => "the request is for another cluster; check the addresses",
        ErrorCode::ShuttingDown => "the node is shutting down; ask another",
        ErrorCode::Damaged => "the data here is damaged and out of service; it is rebuilt from other replicas",
        ErrorCode::NotBootstrapped => "the cluster has no partition map yet: start more storage nodes",
        ErrorCode::NoLeader => "the viewleaders have no leader at the moment; try again",
        ErrorCode::Refused => "refused",
        ErrorCode::Internal => "a bug; please report it",
        ErrorCode::Conflict => "another transaction is under way with one of the keys; nothing was done, try again",
    }
}
