//! Where a request goes: to a shard here, once to the node that serves its partition, or back with a refusal.

use crate::clock::Moment;
use crate::gate::{Gate, Node};
use crate::kv::answer::refusal;
use crate::kv::connection::{Connection, OPEN_MAX};
use crate::kv::transactions;
use crate::shard::{Incoming, Input};
use futures::future::poll_fn;
use metrics::counter;
use std::sync::Arc;
use std::time::Duration;
use types::{ErrorCode, NodeId, PartitionId, View};
use wire::convert::Operation;
use wire::v1;

/// How long a request may take that does not say.
const TIMEOUT_DEFAULT_MS: u32 = 10_000;
/// Longer than this nobody waits.
const TIMEOUT_MAX_MS: u32 = 300_000;
/// What a forwarded request loses of its time, so that this node still answers within it.
const FORWARDING_MS: u32 = 20;

/// Takes on one client's batch. Waits while a shard has too much to do, which holds up this client and no other.
pub(crate) async fn dispatch(gate: &Gate, connection: &Arc<Connection>, batch: v1::RequestBatch) {
    connection.opened(batch.requests.len(), batch.requests.iter().map(request_bytes).sum());
    let node = match admit(gate, &batch.cluster) {
        Ok(node) => node,
        Err((code, detail)) => {
            let me = gate.node().map_or(NodeId(0), |node| node.me.node);
            for request in batch.requests {
                connection.answer_now(refusal(request.number, me, None, code, Some(detail.clone()), None));
            }
            return;
        }
    };
    let view = node.view.borrow().clone();
    let now = node.clock.now();
    let mut by_shard: Vec<Vec<Incoming>> = Vec::new();
    by_shard.resize_with(node.shards.count(), Vec::new);
    for (index, request) in batch.requests.into_iter().enumerate() {
        let number = request.number;
        match sort(node, &view, request, now, index >= OPEN_MAX) {
            Sorted::Here(incoming) => by_shard[node.shards.index_of(incoming.partition)].push(incoming),
            Sorted::Refused(partition, code, detail) => {
                connection.answer_now(refusal(number, node.me.node, partition, code, detail, Some(&view)));
            }
            Sorted::There(request, partition, address) => {
                forward(node.clone(), connection.clone(), *request, partition, &address);
            }
        }
    }
    for (index, requests) in by_shard.into_iter().enumerate() {
        if !requests.is_empty() {
            let connection = connection.clone();
            node.shards.at(index).send(Input::Requests { connection, requests }).await;
        }
    }
}

/// One request by itself.
pub(crate) async fn call(gate: &Gate, request: v1::Request) -> v1::Response {
    let number = request.number;
    let connection = Arc::new(Connection::default());
    dispatch(gate, &connection, v1::RequestBatch { requests: vec![request], ..Default::default() }).await;
    connection.finish();
    let answers = poll_fn(|context| connection.poll_answers(context)).await;
    let mut response = answers.and_then(|answers| answers.into_iter().next()).unwrap_or_else(|| {
        let me = gate.node().map_or(NodeId(0), |node| node.me.node);
        refusal(number, me, None, ErrorCode::Internal, Some("a request without an answer".to_owned()), None)
    });
    if let Some(node) = gate.node() {
        response.epoch = node.view.borrow().epoch.0;
    }
    response
}

/// Whether requests are taken on at all at the moment, and for this cluster.
fn admit<'a>(gate: &'a Gate, cluster: &[u8]) -> Result<&'a Arc<Node>, (ErrorCode, String)> {
    let Some(node) = gate.node() else {
        let detail = "this node waits until a viewleader accepts it; ask another node".to_owned();
        return Err((ErrorCode::Unavailable, detail));
    };
    if gate.is_stopping() {
        return Err((ErrorCode::ShuttingDown, "the node is shutting down; ask another".to_owned()));
    }
    match wire::convert::cluster_from_wire(cluster) {
        Ok(cluster) if cluster == types::ClusterId::NONE || cluster == node.me.cluster => Ok(node),
        Ok(cluster) => {
            let detail = format!("this node is of cluster {}, the request for {cluster}", node.me.cluster);
            Err((ErrorCode::WrongCluster, detail))
        }
        Err(malformed) => Err((ErrorCode::Invalid, malformed.to_string())),
    }
}

/// What a request makes this node hold while it is open.
fn request_bytes(request: &v1::Request) -> usize {
    match &request.operation {
        Some(v1::request::Operation::Put(put)) => put.key.len() + put.value.len(),
        Some(v1::request::Operation::Transact(transact)) => transactions::request_bytes(transact),
        _ => 0,
    }
}

enum Sorted {
    Here(Incoming),
    There(Box<v1::Request>, PartitionId, String),
    Refused(Option<PartitionId>, ErrorCode, Option<String>),
}

fn sort(node: &Node, view: &View, request: v1::Request, now: Moment, too_many: bool) -> Sorted {
    if too_many {
        return Sorted::Refused(None, ErrorCode::Overloaded, None);
    }
    let v1::Request { number, timeout_ms, forwarded, operation } = request;
    let operation = match Operation::from_wire(operation) {
        Ok(operation) => operation,
        Err(malformed) => return Sorted::Refused(None, ErrorCode::Invalid, Some(malformed.to_string())),
    };
    let partition = operation.partition(view.partition_count);
    if partition.0 >= view.partition_count.get() {
        let detail = format!("there is no {partition}; the cluster has {} partitions", view.partition_count.get());
        return Sorted::Refused(None, ErrorCode::Invalid, Some(detail));
    }
    if let Operation::Collect(keys) = &operation
        && keys.iter().any(|key| view.partition_of(key) != partition)
    {
        let detail = "a collection's keys are of one partition; collect each partition's alone".to_owned();
        return Sorted::Refused(Some(partition), ErrorCode::Invalid, Some(detail));
    }
    let Some(configuration) = view.configuration(partition) else {
        return Sorted::Refused(Some(partition), ErrorCode::NotBootstrapped, None);
    };
    let timeout_ms = if timeout_ms == 0 { TIMEOUT_DEFAULT_MS } else { timeout_ms.min(TIMEOUT_MAX_MS) };
    if configuration.primary() == Some(node.me.node) {
        let deadline = now.after_ms(u64::from(timeout_ms));
        return Sorted::Here(Incoming { number, partition, operation, deadline });
    }
    match view.primary(partition) {
        Some(primary) if !forwarded => {
            let timeout_ms = timeout_ms.saturating_sub(FORWARDING_MS).max(1);
            let request = v1::Request { number, timeout_ms, forwarded: true, operation: Some(operation.to_wire()) };
            Sorted::There(Box::new(request), partition, primary.address.clone())
        }
        _ => Sorted::Refused(Some(partition), ErrorCode::NotPrimary, None),
    }
}

/// Sends a request to the node that serves its partition, once.
fn forward(node: Arc<Node>, connection: Arc<Connection>, request: v1::Request, partition: PartitionId, address: &str) {
    counter!("storaged_forwarded_total").increment(1);
    let number = request.number;
    use v1::request::Operation::{Collect, Get, Scan};
    let changes = !matches!(request.operation, Some(Get(_) | Collect(_) | Scan(_)));
    let patience = Duration::from_millis(u64::from(request.timeout_ms + FORWARDING_MS / 2));
    let sent = node.streams.send(address, request, patience);
    tokio::spawn(async move {
        let response = match sent.answer().await {
            Ok(response) => v1::Response { number, ..response },
            Err(unanswered) => {
                // P29: what may have arrived may happen.
                let code = match unanswered.may_have_arrived && changes {
                    true => ErrorCode::Unknown,
                    false => ErrorCode::Unavailable,
                };
                let view = node.view.borrow().clone();
                let detail = format!("forwarding to its primary failed: {unanswered}");
                refusal(number, node.me.node, Some(partition), code, Some(detail), Some(&view))
            }
        };
        connection.answer_now(response);
    });
}
