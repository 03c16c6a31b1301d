//! Histories of transactions that have an order, and such that have none.

use crate::register::{Action, Heard, Operation, Rejection, STEPS_MAX, check};
use bytes::Bytes;
use types::{Condition, OperationResult, Record, Seq, Transaction, TransactionOperation, TransactionOutcome};

fn key(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

/// A transaction from `called_at` to `answered_at`; `results` as heard, or none.
fn transact(
    at: (u64, u64),
    conditions: &[(&str, Condition)],
    steps: &[(&str, Option<&str>)],
    heard: Option<(bool, Vec<OperationResult>)>,
) -> Operation {
    let step = |(name, value): &(&str, Option<&str>)| match value {
        Some(value) => TransactionOperation::Put { key: key(name), value: key(value) },
        None => TransactionOperation::Get { key: key(name) },
    };
    let conditions = conditions.iter().map(|(name, condition)| (key(name), condition.clone())).collect();
    let transaction = Transaction { conditions, then: steps.iter().map(step).collect(), ..Transaction::default() };
    let heard = heard
        .map_or(Heard::Unknown, |(succeeded, results)| Heard::Transacted(TransactionOutcome { succeeded, results }));
    let of = transaction.first_key().cloned().unwrap_or_default();
    Operation { client: 1, key: of, called_at: at.0, answered_at: at.1, action: Action::Transact(transaction), heard }
}

fn wrote(version: Option<u64>, replaced: bool) -> OperationResult {
    OperationResult::Put { version: version.map(Seq), replaced }
}

fn found(version: u64, value: &str) -> OperationResult {
    OperationResult::Found(Record { seq: Seq(version), value: key(value) })
}

fn get(at: (u64, u64), name: &str, heard: Heard) -> Operation {
    Operation { client: 2, key: key(name), called_at: at.0, answered_at: at.1, action: Action::Get, heard }
}

fn is_explained(history: &[Operation]) -> bool {
    match check(history, STEPS_MAX) {
        Ok(_) => true,
        Err(Rejection::NotLinearizable { .. }) => false,
        Err(undecided) => panic!("{undecided}"),
    }
}

/// Guards against half a transaction that passes for a whole one.
#[test]
fn half_of_it_is_not_seen() {
    let written = transact(
        (0, 10),
        &[],
        &[("a", Some("1")), ("b", Some("1"))],
        Some((true, vec![wrote(Some(5), false), wrote(None, false)])),
    );
    let both = |b| transact((20, 30), &[], &[("a", None), ("b", None)], Some((true, vec![found(5, "1"), b])));
    assert!(is_explained(&[written.clone(), both(found(9, "1"))]));
    assert!(!is_explained(&[written.clone(), both(OperationResult::NotFound)]));
    // Nor by two plain reads, one after the other.
    let a = get((20, 30), "a", Heard::Found(Record { seq: Seq(5), value: key("1") }));
    assert!(!is_explained(&[written, a, get((40, 50), "b", Heard::NotFound)]));
}

/// Guards against two that each look at what the other writes.
#[test]
fn nobody_looks_past_another() {
    let one = |at, looks: &str, writes: &str| {
        transact(
            at,
            &[(looks, Condition::Absent)],
            &[(writes, Some(writes))],
            Some((true, vec![wrote(Some(3), false)])),
        )
    };
    assert!(is_explained(&[one((0, 10), "a", "b")]));
    assert!(!is_explained(&[one((0, 10), "a", "b"), one((0, 10), "b", "a")]));
}

/// Guards against an outcome that nobody heard of and that is taken for certain, in either way.
#[test]
fn an_unknown_one_may_have_happened() {
    let unknown = || transact((0, 0), &[], &[("a", Some("1")), ("b", Some("1"))], None);
    let reads = |a, b| transact((20, 30), &[], &[("a", None), ("b", None)], Some((true, vec![a, b])));
    let none = || OperationResult::NotFound;
    assert!(is_explained(&[unknown(), reads(none(), none())]));
    assert!(is_explained(&[unknown(), reads(found(2, "1"), found(7, "1"))]));
    assert!(!is_explained(&[unknown(), reads(found(2, "1"), none())]));
}

/// Guards against a condition that is not looked at.
#[test]
fn a_condition_that_held_did_not_fail() {
    let written = || {
        transact(
            (0, 10),
            &[],
            &[("a", Some("1")), ("b", Some("1"))],
            Some((true, vec![wrote(Some(5), false), wrote(None, false)])),
        )
    };
    let if_a = |value: &str, succeeded, results| {
        transact((20, 30), &[("a", Condition::Value(key(value)))], &[("b", None)], Some((succeeded, results)))
    };
    assert!(is_explained(&[written(), if_a("1", true, vec![found(9, "1")])]));
    assert!(!is_explained(&[written(), if_a("1", false, vec![])]));
    assert!(!is_explained(&[written(), if_a("2", true, vec![found(9, "1")])]));
    assert!(is_explained(&[written(), if_a("2", false, vec![])]));
}
