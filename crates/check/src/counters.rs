//! Counters: every read is between what must have been added and what may have been added by then.
//!
//! Exact for each read alone: there is a choice of the additions that nobody knows of, and of those under way, which
//! gives exactly the bounds. Two reads are compared only where nothing is ever taken away: then no later read is lower.

use crate::bounds::{Addition, Bounds};
use crate::report::PieceOperation;
use crate::{Anomaly, Outcome};
use bytes::Bytes;
use std::collections::BTreeMap;

/// What was asked of a counter, which begins at 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Add this much (or take it away, below 0).
    Add(i64),
    /// Read it; this was there. Without meaning unless the outcome is `Done`.
    Read(i64),
}

/// One operation. Instants are microseconds of one clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Who asked, for people.
    pub client: u64,
    /// Which counter.
    pub key: Bytes,
    /// When it was called.
    pub called_at: u64,
    /// When it was answered; `None` where no answer came.
    pub answered_at: Option<u64>,
    /// What was asked.
    pub action: Action,
    /// How it ended.
    pub outcome: Outcome,
}

/// What can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Less than what was acknowledged: something was lost.
    TooLow,
    /// More than what was asked for: something was done twice, or though it was refused.
    TooHigh,
    /// A later read is lower than an earlier one, though nothing is ever taken away.
    Fell,
}

/// Holds every read, and the value at the end, when everything was quiet, against what was possible then. A counter
/// that is not in `at_end` is not looked at there. Returns at most one anomaly per read, counter by counter.
pub fn check(history: &[Operation], at_end: &BTreeMap<Bytes, i64>) -> Vec<Anomaly<Kind>> {
    let mut by_key: BTreeMap<&Bytes, Vec<&Operation>> = at_end.keys().map(|key| (key, Vec::new())).collect();
    for operation in history {
        by_key.entry(&operation.key).or_default().push(operation);
    }
    by_key.into_iter().flat_map(|(key, operations)| check_one(key, &operations, at_end.get(key).copied())).collect()
}

fn check_one(key: &Bytes, operations: &[&Operation], at_end: Option<i64>) -> Vec<Anomaly<Kind>> {
    let bounds = Bounds::new(operations.iter().filter_map(|operation| addition(operation)));
    let mut anomalies = Vec::new();
    let mut outside = |value: i64, (low, high): (i128, i128), when: &str, read: Option<&Operation>| {
        let value = i128::from(value);
        let kind = if value < low { Kind::TooLow } else { Kind::TooHigh };
        if value < low || value > high {
            let name = key.escape_ascii();
            let sentence = format!("counter {name} was {value} {when}, and only {low} to {high} was possible");
            anomalies.push(Anomaly::new(kind, sentence, around(operations, read)));
        }
    };
    let mut reads = Vec::new();
    for operation in operations {
        let answered = operation.outcome.done_by(operation.called_at, operation.answered_at);
        if let (Action::Read(value), Some(answered_at)) = (operation.action, answered) {
            let possible = bounds.between(operation.called_at, answered_at);
            outside(value, possible, &format!("as client {} read it", operation.client), Some(operation));
            reads.push((answered_at, value, *operation));
        }
    }
    if let Some(value) = at_end {
        outside(value, bounds.at_end(), "at the end", None);
    }
    if anomalies.is_empty() && !operations.iter().any(|o| matches!(o.action, Action::Add(amount) if amount < 0)) {
        anomalies.extend(fallen(key, reads));
    }
    anomalies
}

/// The first read that is lower than one answered before its call.
fn fallen(key: &Bytes, mut reads: Vec<(u64, i64, &Operation)>) -> Option<Anomaly<Kind>> {
    let mut by_call: Vec<_> = reads.iter().map(|(_, value, read)| (read.called_at, *value, *read)).collect();
    by_call.sort_by_key(|(called_at, ..)| *called_at);
    reads.sort_by_key(|(answered_at, ..)| *answered_at);
    let mut earlier = reads.into_iter().peekable();
    let mut highest: Option<(i64, &Operation)> = None;
    for (called_at, value, read) in by_call {
        while let Some((_, before, by)) = earlier.next_if(|(answered_at, ..)| *answered_at < called_at) {
            if highest.is_none_or(|(most, _)| before > most) {
                highest = Some((before, by));
            }
        }
        if let Some((most, by)) = highest.filter(|(most, _)| *most > value) {
            let name = key.escape_ascii();
            let sentence = format!("counter {name} fell from {most} to {value}, though nothing is taken away from it");
            return Some(Anomaly::new(Kind::Fell, sentence, [drawn(by), drawn(read)]));
        }
    }
    None
}

fn addition(operation: &Operation) -> Option<Addition> {
    let Operation { called_at, answered_at, outcome, .. } = *operation;
    match operation.action {
        Action::Add(amount) => Some(Addition { called_at, answered_at, outcome, amount }),
        Action::Read(_) => None,
    }
}

/// The read, and the last operations called before its end.
fn around(operations: &[&Operation], read: Option<&Operation>) -> Vec<PieceOperation> {
    let until = read.and_then(|read| read.answered_at).unwrap_or(u64::MAX);
    let is_read = |operation: &&Operation| read.is_some_and(|read| std::ptr::eq(*operation, read));
    let mut before: Vec<&Operation> =
        operations.iter().copied().filter(|operation| operation.called_at <= until && !is_read(operation)).collect();
    before.sort_by_key(|operation| std::cmp::Reverse(operation.called_at));
    read.into_iter().chain(before.into_iter().take(8)).map(drawn).collect()
}

fn drawn(operation: &Operation) -> PieceOperation {
    let key = operation.key.escape_ascii();
    let text = match (operation.action, operation.outcome) {
        (Action::Add(amount), outcome) => format!("add {amount} to {key} → {}", outcome.word()),
        (Action::Read(value), Outcome::Done) => format!("read {key} → {value}"),
        (Action::Read(_), outcome) => format!("read {key} → {}", outcome.word()),
    };
    PieceOperation { client: operation.client, began_us: operation.called_at, ended_us: operation.answered_at, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(called_at: u64, answered_at: u64, action: Action, outcome: Outcome) -> Operation {
        let answered_at = (outcome != Outcome::Unknown).then_some(answered_at);
        Operation { client: 1, key: Bytes::from_static(b"c"), called_at, answered_at, action, outcome }
    }

    fn kinds(history: &[Operation], at_end: i64) -> Vec<Kind> {
        let at_end = BTreeMap::from([(Bytes::from_static(b"c"), at_end)]);
        check(history, &at_end).into_iter().map(|anomaly| anomaly.kind).collect()
    }

    fn adds() -> Vec<Operation> {
        vec![
            operation(0, 1, Action::Add(5), Outcome::Done),
            operation(2, 3, Action::Add(100), Outcome::NotDone),
            operation(4, 0, Action::Add(2), Outcome::Unknown),
        ]
    }

    /// Guards against a checker that rejects what is right: what nobody knows is in or out, then and at the end.
    #[test]
    fn what_is_possible_is_accepted() {
        let mut history = adds();
        for value in [5, 7] {
            assert_eq!(kinds(&history, value), []);
            history.push(operation(6 + value as u64, 6 + value as u64, Action::Read(value), Outcome::Done));
        }
        history.push(operation(0, 1, Action::Read(0), Outcome::Done));
        assert_eq!(kinds(&history, 7), []);
    }

    /// Guards against each anomaly passing unseen, in a read and at the end.
    #[test]
    fn each_anomaly_is_caught() {
        assert_eq!(kinds(&adds(), 4), [Kind::TooLow]);
        assert_eq!(kinds(&adds(), 8), [Kind::TooHigh]);
        assert_eq!(kinds(&adds(), 105), [Kind::TooHigh], "what was refused is in");
        for (value, kind) in [(0, Kind::TooLow), (10, Kind::TooHigh)] {
            let mut history = adds();
            history.push(operation(8, 9, Action::Read(value), Outcome::Done));
            assert_eq!(kinds(&history, 5), [kind]);
        }
        let mut history = adds();
        history.push(operation(2, 3, Action::Read(7), Outcome::Done));
        assert_eq!(kinds(&history, 7), [Kind::TooHigh], "seen before it was asked for");
        let mut history = adds();
        history.push(operation(8, 9, Action::Read(7), Outcome::Done));
        history.push(operation(10, 11, Action::Read(5), Outcome::Done));
        assert_eq!(kinds(&history, 7), [Kind::Fell]);
    }

    /// Guards against overflow where numbers are as large as they can be.
    #[test]
    fn large_numbers() {
        let history = [0, 2].map(|at| operation(at, at + 1, Action::Add(i64::MAX), Outcome::Done));
        assert_eq!(kinds(&history, i64::MAX), [Kind::TooLow]);
    }
}
