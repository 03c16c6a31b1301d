//! What the primaries of partitions say to each other about transactions, as it travels, and back, checked.

use replcore::{Age, Judgement, TransactionBody, TransactionMessage};
use types::{AttemptId, ErrorCode, FencingToken, PartitionId, RequestId, Seq, Stamp, Term};
use wire::convert::{Malformed, fence_to_wire, required};
use wire::transactions::{part_from_wire, part_to_wire, results_from_wire, results_to_wire};
use wire::v1;
use wire::v1::between_partitions::Body as Wire;

/// A message for the primary of `partition`, as it travels.
pub(crate) fn to_wire(partition: PartitionId, message: TransactionMessage) -> v1::PeerMessage {
    let TransactionMessage { attempt, from, body } = message;
    let body = match body {
        TransactionBody::Prepare { age, part } => {
            let fence = part.fence.as_ref().map(fence_to_wire);
            let (conditions, then, otherwise) = part_to_wire(*part);
            Wire::Prepare(v1::TransactionPrepare {
                stamp: age.stamp.0,
                client: age.request.client,
                counter: age.request.counter,
                conditions,
                then,
                otherwise,
                fence,
            })
        }
        TransactionBody::Yes { prepared, judged } => Wire::Yes(v1::TransactionYes {
            prepared: prepared.0,
            holds: judged.holds,
            then: results_to_wire(judged.then),
            otherwise: results_to_wire(judged.otherwise),
        }),
        TransactionBody::No { code } => Wire::No(code.number()),
        TransactionBody::Fenced { newest } => Wire::Fenced(newest.0),
        TransactionBody::Commit { prepared, succeeded } => {
            Wire::Commit(v1::TransactionCommit { prepared: prepared.0, succeeded })
        }
        TransactionBody::Abort => Wire::Abort(true),
        TransactionBody::Done => Wire::Done(true),
        TransactionBody::Ask { prepared } => Wire::Ask(prepared.0),
    };
    let between = v1::BetweenPartitions {
        home: attempt.home.0,
        term: attempt.term.0,
        counter: attempt.counter,
        from: from.0,
        body: Some(body),
    };
    let body = v1::peer_message::Body::BetweenPartitions(between);
    v1::PeerMessage { partition: partition.0, term: 0, body: Some(body) }
}

/// What arrived.
///
/// # Errors
/// [`Malformed`] where a part is missing.
pub(crate) fn from_wire(message: v1::BetweenPartitions) -> Result<TransactionMessage, Malformed> {
    let v1::BetweenPartitions { home, term, counter, from, body } = message;
    let body = match required(body, "what a partition says")? {
        Wire::Prepare(prepare) => TransactionBody::Prepare {
            age: Age {
                stamp: Stamp(prepare.stamp),
                request: RequestId { client: prepare.client, counter: prepare.counter },
            },
            part: Box::new(part_from_wire(prepare.conditions, prepare.then, prepare.otherwise, prepare.fence)?),
        },
        Wire::Yes(yes) => TransactionBody::Yes {
            prepared: Seq(yes.prepared),
            judged: Box::new(Judgement {
                holds: yes.holds,
                then: results_from_wire(yes.then)?,
                otherwise: results_from_wire(yes.otherwise)?,
            }),
        },
        Wire::No(code) => TransactionBody::No { code: ErrorCode::from_number(code) },
        Wire::Fenced(newest) => TransactionBody::Fenced { newest: FencingToken(newest) },
        Wire::Commit(commit) => TransactionBody::Commit { prepared: Seq(commit.prepared), succeeded: commit.succeeded },
        Wire::Abort(_) => TransactionBody::Abort,
        Wire::Done(_) => TransactionBody::Done,
        Wire::Ask(prepared) => TransactionBody::Ask { prepared: Seq(prepared) },
    };
    let attempt = AttemptId { home: PartitionId(home), term: Term(term), counter };
    Ok(TransactionMessage { attempt, from: PartitionId(from), body })
}

/// What it takes on the wire, at most about.
pub(crate) fn wire_bytes(message: &v1::BetweenPartitions) -> usize {
    /// What each condition, step or result takes beside keys and values.
    const EACH: usize = 24;
    let step = |placed: &v1::PlacedStep| {
        EACH + match placed.step.as_ref().and_then(|step| step.step.as_ref()) {
            Some(v1::transaction_step::Step::Put(put)) => put.key.len() + put.value.len(),
            Some(v1::transaction_step::Step::Delete(key) | v1::transaction_step::Step::Get(key)) => key.len(),
            None => 0,
        }
    };
    let condition = |one: &v1::KeyCondition| {
        let value = match one.condition.as_ref().and_then(|condition| condition.condition.as_ref()) {
            Some(v1::condition::Condition::Value(value)) => value.len(),
            _ => 0,
        };
        EACH + one.key.len() + value
    };
    let result = |placed: &v1::PlacedResult| match placed.result.as_ref().and_then(|result| result.result.as_ref()) {
        Some(v1::step_result::Result::Found(found)) => EACH + found.value.len(),
        _ => EACH,
    };
    match &message.body {
        Some(Wire::Prepare(prepare)) => {
            let steps = prepare.then.iter().chain(&prepare.otherwise).map(step).sum::<usize>();
            EACH + prepare.fence.as_ref().map_or(0, |fence| fence.name.len() + 12)
                + steps
                + prepare.conditions.iter().map(condition).sum::<usize>()
        }
        Some(Wire::Yes(yes)) => EACH + yes.then.iter().chain(&yes.otherwise).map(result).sum::<usize>(),
        _ => EACH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use types::{Condition, Fence, OperationResult, TransactionOperation, TransactionPart};

    /// Guards against a word between partitions that gets lost on the way, or arrives as another.
    #[test]
    fn every_word_travels_as_it_is() {
        let key = Bytes::from_static(b"k");
        let part = TransactionPart {
            conditions: vec![(key.clone(), Condition::Present)],
            then: vec![(3, TransactionOperation::Put { key: key.clone(), value: key.clone() })],
            otherwise: vec![(0, TransactionOperation::Get { key: key.clone() })],
            fence: Some(Fence { name: key, token: FencingToken(7) }),
        };
        let age = Age { stamp: Stamp(5), request: RequestId { client: 6, counter: 7 } };
        let judged = Judgement { holds: true, then: vec![(3, OperationResult::NotFound)], otherwise: Vec::new() };
        for body in [
            TransactionBody::Prepare { age, part: Box::new(part) },
            TransactionBody::Yes { prepared: Seq(8), judged: Box::new(judged) },
            TransactionBody::No { code: ErrorCode::Conflict },
            TransactionBody::Fenced { newest: FencingToken(8) },
            TransactionBody::Commit { prepared: Seq(9), succeeded: false },
            TransactionBody::Abort,
            TransactionBody::Done,
            TransactionBody::Ask { prepared: Seq(10) },
        ] {
            let attempt = AttemptId { home: PartitionId(1), term: Term(2), counter: 3 };
            let message = TransactionMessage { attempt, from: PartitionId(4), body };
            let wire = to_wire(PartitionId(11), message.clone());
            assert_eq!(wire.partition, 11);
            let Some(v1::peer_message::Body::BetweenPartitions(between)) = wire.body else { panic!("{wire:?}") };
            assert!(wire_bytes(&between) > 0);
            assert_eq!(from_wire(between), Ok(message));
        }
    }
}
