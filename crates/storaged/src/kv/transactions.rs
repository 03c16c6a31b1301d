//! What became of a transaction or a collection, as the client hears it.

use replcore::Collected;
use types::{Term, TransactionOutcome};
use wire::v1;
use wire::v1::response::Result as Wire;

/// A transaction that has happened, or that had nothing to change.
pub(crate) fn transacted(outcome: TransactionOutcome, durable_on: u32, term: Term) -> Wire {
    Wire::Transacted(v1::Transacted {
        succeeded: outcome.succeeded,
        results: outcome.results.into_iter().map(Into::into).collect(),
        durable_on,
        term: term.0,
    })
}

/// Several keys as of one instant.
pub(crate) fn collected(collected: Vec<Collected>) -> Wire {
    let one = |collected| {
        let found = match collected {
            Collected::Found(record) => {
                v1::collected_key::Found::Value(v1::Found { value: record.value, version: record.seq.0 })
            }
            Collected::Absent { since } => {
                v1::collected_key::Found::Absent(v1::Absence { since: since.map(|since| since.0) })
            }
        };
        v1::CollectedKey { found: Some(found) }
    };
    Wire::Collected(v1::Collected { keys: collected.into_iter().map(one).collect() })
}

/// What a request of several keys makes this node hold while it is open.
pub(crate) fn request_bytes(transact: &v1::Transact) -> usize {
    let steps = transact.then.iter().chain(&transact.otherwise).map(|step| match &step.step {
        Some(v1::transaction_step::Step::Put(put)) => put.key.len() + put.value.len(),
        _ => 0,
    });
    let compared = transact.conditions.iter().map(|one| {
        match one.condition.as_ref().and_then(|condition| condition.condition.as_ref()) {
            Some(v1::condition::Condition::Value(value)) => value.len(),
            _ => 0,
        }
    });
    steps.chain(compared).sum()
}

/// What an answer holds beside its frame.
pub(crate) fn answer_bytes(result: &Wire) -> usize {
    match result {
        Wire::Transacted(transacted) => transacted
            .results
            .iter()
            .map(|result| match &result.result {
                Some(v1::step_result::Result::Found(found)) => found.value.len() + 16,
                _ => 16,
            })
            .sum(),
        Wire::Collected(collected) => collected
            .keys
            .iter()
            .map(|key| match &key.found {
                Some(v1::collected_key::Found::Value(found)) => found.value.len() + 16,
                _ => 16,
            })
            .sum(),
        _ => 0,
    }
}
