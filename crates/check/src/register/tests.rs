//! Histories whose verdict is known.

use super::*;

fn put(value: &str) -> Action {
    put_if(value, Condition::None)
}

fn put_if(value: &str, condition: Condition) -> Action {
    Action::Mutate { kind: MutationKind::Put(Bytes::copy_from_slice(value.as_bytes())), condition }
}

fn delete() -> Action {
    Action::Mutate { kind: MutationKind::Delete, condition: Condition::None }
}

fn written(version: u64, replaced: bool) -> Heard {
    Heard::Written(WriteOutcome { version: Seq(version), replaced })
}

fn found(version: u64, value: &str) -> Heard {
    Heard::Found(Record { seq: Seq(version), value: Bytes::copy_from_slice(value.as_bytes()) })
}

fn operation(called_at: u64, answered_at: u64, action: Action, heard: Heard) -> Operation {
    Operation { client: 1, key: Bytes::from_static(b"k"), called_at, answered_at, action, heard }
}

fn accepts(history: &[Operation]) {
    if let Err(rejection) = check(history, STEPS_MAX) {
        panic!("{rejection}");
    }
}

fn rejects(history: &[Operation]) {
    match check(history, STEPS_MAX) {
        Err(Rejection::NotLinearizable { .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// Guards against a checker that rejects what is right: overlapping operations may happen in either order.
#[test]
fn either_order_of_what_overlaps() {
    for seen in [found(1, "a"), Heard::NotFound] {
        accepts(&[operation(0, 10, put("a"), written(1, false)), operation(5, 6, Action::Get, seen)]);
    }
}

/// Guards against stale reads being accepted.
#[test]
fn a_stale_read() {
    let writes = [operation(0, 1, put("a"), written(1, false)), operation(2, 3, put("b"), written(2, true))];
    let with = |read| [writes[0].clone(), writes[1].clone(), operation(4, 5, Action::Get, read)];
    accepts(&with(found(2, "b")));
    rejects(&with(found(1, "a")));
    rejects(&with(Heard::NotFound));
    rejects(&with(found(3, "b")));
}

/// Guards against two reads that go back in time.
#[test]
fn new_then_old() {
    rejects(&[
        operation(0, 1, put("a"), written(1, false)),
        operation(2, 20, put("b"), written(2, true)),
        operation(3, 4, Action::Get, found(2, "b")),
        operation(5, 6, Action::Get, found(1, "a")),
    ]);
}

/// Guards against an unknown write being taken for one that failed, or for one that happened at once, or twice.
#[test]
fn an_unknown_write_happens_late_or_never_but_once() {
    let unknown = operation(0, 0, put("a"), Heard::Unknown);
    accepts(&[unknown.clone(), operation(5, 6, Action::Get, Heard::NotFound)]);
    accepts(&[
        unknown.clone(),
        operation(5, 6, Action::Get, Heard::NotFound),
        operation(7, 8, Action::Get, found(1, "a")),
    ]);
    rejects(&[
        unknown.clone(),
        operation(5, 6, Action::Get, found(1, "a")),
        operation(7, 8, delete(), written(2, true)),
        operation(9, 10, Action::Get, found(3, "a")),
    ]);
    rejects(&[operation(5, 6, Action::Get, found(1, "a")), operation(7, 7, put("a"), Heard::Unknown)]);
}

/// Guards against versions being ignored.
#[test]
fn versions_rise_and_name_one_write() {
    rejects(&[operation(0, 1, put("a"), written(5, false)), operation(2, 3, put("b"), written(4, true))]);
    rejects(&[
        operation(0, 0, put("a"), Heard::Unknown),
        operation(1, 2, Action::Get, found(3, "a")),
        operation(3, 4, Action::Get, found(4, "a")),
    ]);
    rejects(&[operation(0, 1, put("a"), written(1, true))]);
}

/// Guards against two compare-and-sets of one value both succeeding.
#[test]
fn one_of_two_compare_and_sets() {
    let first = operation(0, 1, put("a"), written(1, false));
    let cas = |value: &str, condition, heard| operation(2, 9, put_if(value, condition), heard);
    let on_value = || Condition::Value(Bytes::from_static(b"a"));
    for condition in [on_value(), Condition::Version(Seq(1))] {
        rejects(&[first.clone(), cas("b", on_value(), written(2, true)), cas("c", condition, written(3, true))]);
    }
    accepts(&[
        first.clone(),
        cas("b", on_value(), written(2, true)),
        cas("c", Condition::Version(Seq(1)), Heard::ConditionFailed(Some(Seq(2)))),
    ]);
    rejects(&[first.clone(), cas("c", on_value(), Heard::ConditionFailed(Some(Seq(1))))]);
    rejects(&[first, cas("c", Condition::Absent, Heard::ConditionFailed(None))]);
}

/// Guards against a delete of nothing, or a lost delete.
#[test]
fn deletes() {
    accepts(&[
        operation(0, 1, delete(), Heard::NotFound),
        operation(2, 3, put("a"), written(1, false)),
        operation(4, 5, delete(), written(2, true)),
        operation(6, 7, put("b"), written(3, false)),
    ]);
    rejects(&[operation(0, 1, put("a"), written(1, false)), operation(2, 3, delete(), Heard::NotFound)]);
}

/// Guards against a search that never ends, and against its bound being taken for an acceptance.
#[test]
fn what_is_not_decided_is_said_so() {
    let history: Vec<_> = (1..25).map(|i| operation(i, i, put(&format!("v{i}")), written(i, i > 1))).collect();
    assert!(matches!(check(&history, 20), Err(Rejection::Undecided { operations: 24, steps_max: 20, .. })));
    assert_eq!(judge("registers", &history, 20).verdict, Verdict::Undecided);
    accepts(&history);
    let mut history: Vec<_> = (0..24).map(|i| operation(0, 0, put(&format!("v{i}")), Heard::Unknown)).collect();
    history.push(operation(1, 2, Action::Get, found(1, "other")));
    rejects(&history);
}

/// Guards against a search that takes time squared: long histories of a few busy clients.
#[test]
fn a_long_history_is_decided_in_a_line() {
    let mut history = Vec::new();
    for i in 0..20_000u64 {
        history.push(operation(i * 10, i * 10 + 25, put(&format!("v{i}")), written(i + 1, i > 0)));
        history.push(operation(i * 10 + 1, i * 10 + 9, Action::Get, found(i + 1, &format!("v{i}"))));
    }
    let checked = check(&history, STEPS_MAX).unwrap();
    assert!(checked.steps < 400_000, "{checked:?}");
}

/// Guards against keys being mixed up.
#[test]
fn keys_are_independent() {
    let mut other = operation(2, 3, Action::Get, Heard::NotFound);
    other.key = Bytes::from_static(b"other");
    accepts(&[operation(0, 1, put("a"), written(1, false)), other]);
}

/// Every order of some operations, tried one by one: what the search must agree with.
fn has_an_order(operations: &[&Operation], done: &mut Vec<usize>, register: model::Register) -> bool {
    let answered = |i: usize| operations[i].heard != Heard::Unknown;
    let left: Vec<usize> = (0..operations.len()).filter(|i| !done.contains(i)).collect();
    if !left.iter().any(|i| answered(*i)) {
        return true;
    }
    let first_answer = left.iter().filter(|i| answered(**i)).map(|i| operations[*i].answered_at).min().unwrap();
    left.iter().filter(|i| operations[**i].called_at <= first_answer).any(|i| {
        let Some(after) = register.after(operations, *i) else { return false };
        done.push(*i);
        let found = has_an_order(operations, done, after);
        done.pop();
        found
    })
}

/// A history that some register went through, with an answer here and there replaced.
fn random_history(random: &mut crate::random::Random) -> Vec<Operation> {
    let count = random.between(2, 7);
    let values = ["a", "b", "c"];
    let value = |random: &mut crate::random::Random| Bytes::from_static(values[random.index(3)].as_bytes());
    let (mut present, mut version): (Option<Record>, u64) = (None, 0);
    let mut history = Vec::new();
    for at in 0..count {
        let condition = match random.below(8) {
            0 => Condition::Absent,
            1 => Condition::Present,
            2 => Condition::Value(value(random)),
            3 => Condition::Version(Seq(random.between(1, 6))),
            _ => Condition::None,
        };
        let kind = if random.chance(300) { MutationKind::Delete } else { MutationKind::Put(value(random)) };
        let action = if random.chance(300) { Action::Get } else { Action::Mutate { kind, condition } };
        let heard = match (&action, &present) {
            (Action::Transact(_), _) => unreachable!("none is drawn"),
            (Action::Get, None) => Heard::NotFound,
            (Action::Get, Some(record)) => Heard::Found(record.clone()),
            (Action::Mutate { kind, condition }, _) => {
                let holds = match condition {
                    Condition::None => true,
                    Condition::Absent => present.is_none(),
                    Condition::Present => present.is_some(),
                    Condition::Version(v) => present.as_ref().is_some_and(|r| r.seq == *v),
                    Condition::Value(v) => present.as_ref().is_some_and(|r| r.value == *v),
                };
                if !holds {
                    Heard::ConditionFailed(present.as_ref().map(|r| r.seq))
                } else if *kind == MutationKind::Delete && present.is_none() {
                    Heard::NotFound
                } else {
                    version += random.between(1, 2);
                    let replaced = present.is_some();
                    present = match kind {
                        MutationKind::Put(value) | MutationKind::PutExpiring { value, .. } => {
                            Some(Record { seq: Seq(version), value: value.clone() })
                        }
                        MutationKind::Delete => None,
                    };
                    written(version, replaced)
                }
            }
        };
        let heard = match random.below(20) {
            0..5 if action != Action::Get => Heard::Unknown,
            5 if action != Action::Get => written(random.between(1, 6), random.chance(500)),
            6 => Heard::NotFound,
            7 if action == Action::Get => found(random.between(1, 6), values[random.index(3)]),
            _ => heard,
        };
        let (early, late) = (random.between(0, 12), random.between(0, 12));
        history.push(operation((at * 10).saturating_sub(early), at * 10 + late, action, heard));
    }
    history
}

/// Guards against a search that leaves out too much: it must agree with trying every order.
#[test]
fn the_search_agrees_with_trying_everything() {
    let mut random = crate::random::Random::new(7);
    let mut rejected = 0;
    for _ in 0..60_000 {
        let history = random_history(&mut random);
        let operations: Vec<&Operation> = history.iter().collect();
        let expected = has_an_order(&operations, &mut Vec::new(), model::Register::default());
        rejected += u32::from(!expected);
        assert_eq!(check(&history, STEPS_MAX).is_ok(), expected, "{history:#?}");
    }
    assert!((6_000..54_000).contains(&rejected), "{rejected} of 60000 have no order: too one-sided to prove anything");
}
