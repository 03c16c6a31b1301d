//! Histories whose verdict is known, and histories that are compared with trying every order.

use super::*;
use crate::random::Random;
use std::collections::BTreeMap;

fn append(key: &str, element: u64) -> Step {
    Step::Append { key: Bytes::copy_from_slice(key.as_bytes()), element }
}

fn read(key: &str, list: &[u64]) -> Step {
    Step::Read { key: Bytes::copy_from_slice(key.as_bytes()), list: Some(list.to_vec()) }
}

/// Done within these two instants.
fn done(called_at: u64, answered_at: u64, operations: &[Step]) -> Transaction {
    let (operations, outcome) = (operations.to_vec(), Outcome::Done);
    Transaction { client: called_at, called_at, answered_at: Some(answered_at), operations, outcome }
}

/// All at one time, so that time orders nothing.
fn at_once(operations: &[Step]) -> Transaction {
    done(0, 100, operations)
}

fn kinds(history: &[Transaction]) -> Vec<Kind> {
    check(history).into_iter().map(|anomaly| anomaly.kind).collect()
}

/// Guards against a checker that rejects what is right.
#[test]
fn what_is_serializable_is_accepted() {
    assert_eq!(kinds(&[]), []);
    assert_eq!(
        kinds(&[done(0, 1, &[append("x", 1)]), done(2, 3, &[read("x", &[1]), append("x", 2), read("x", &[1, 2])])]),
        []
    );
    assert_eq!(
        kinds(&[at_once(&[read("x", &[]), append("y", 1)]), at_once(&[append("x", 1), read("y", &[])])]),
        [Kind::G2]
    );
    assert_eq!(kinds(&[at_once(&[read("x", &[]), append("y", 1)]), at_once(&[append("x", 1), read("y", &[1])])]), []);
    let unknown = Transaction { outcome: Outcome::Unknown, answered_at: None, ..done(0, 0, &[append("x", 1)]) };
    assert_eq!(kinds(&[unknown.clone(), done(5, 6, &[read("x", &[])]), done(7, 8, &[read("x", &[1])])]), []);
    assert_eq!(kinds(&[unknown, done(5, 6, &[read("x", &[])])]), []);
}

/// Guards against cycles being missed, or told by another name than they have.
#[test]
fn cycles_have_their_names() {
    let (t1, t2) = (at_once(&[append("x", 1), append("y", 1)]), at_once(&[append("x", 2), append("y", 2)]));
    assert_eq!(kinds(&[t1, t2, at_once(&[read("x", &[1, 2]), read("y", &[2, 1])])]), [Kind::G0]);

    let (t1, t2) = (at_once(&[append("x", 1), read("y", &[1])]), at_once(&[append("y", 1), read("x", &[1])]));
    assert_eq!(kinds(&[t1, t2]), [Kind::G1c]);

    let (writer, reader) = (at_once(&[append("x", 1), append("y", 1)]), at_once(&[read("x", &[1]), read("y", &[])]));
    let last = at_once(&[read("y", &[1])]);
    assert_eq!(kinds(&[writer.clone(), reader.clone(), last]), [Kind::GSingle]);
    assert_eq!(kinds(&[writer, reader]), [Kind::GSingle], "an acknowledged append counts, though nobody read it");

    let (t1, t2) = (at_once(&[read("x", &[]), append("y", 1)]), at_once(&[read("y", &[]), append("x", 1)]));
    assert_eq!(kinds(&[t1, t2, at_once(&[read("x", &[1]), read("y", &[1])])]), [Kind::G2]);
}

/// Guards against a checker that forgets that time orders too.
#[test]
fn time_orders() {
    let writes = [done(0, 1, &[append("x", 1)]), done(2, 3, &[append("x", 2)])];
    let with =
        |more: Transaction| kinds(&[writes[0].clone(), writes[1].clone(), more, done(20, 21, &[read("x", &[1, 2])])]);
    assert_eq!(with(done(4, 5, &[read("x", &[1])])), [Kind::GSingle], "a stale read");
    assert_eq!(with(done(1, 5, &[read("x", &[1])])), []);
    assert_eq!(kinds(&[writes[0].clone(), writes[1].clone(), done(4, 5, &[read("x", &[2, 1])])]), [Kind::G0]);
    let early = done(0, 1, &[read("x", &[7])]);
    assert_eq!(kinds(&[early, done(2, 3, &[append("x", 7)])]), [Kind::G1c], "read before it was asked for");
}

/// Guards against anomalies without cycles being missed.
#[test]
fn what_lists_show_by_themselves() {
    let writes = [done(0, 1, &[append("x", 1), append("x", 2)]), done(2, 3, &[append("x", 3)])];
    let with = |more: &[Transaction]| kinds(&[&writes[..], more].concat());
    assert_eq!(with(&[done(4, 5, &[read("x", &[1, 2, 3])])]), []);
    assert_eq!(with(&[done(4, 5, &[read("x", &[1, 2])])]), [Kind::LostAppend]);
    assert_eq!(with(&[done(4, 5, &[read("x", &[1, 2, 3, 3])])]), [Kind::Duplicate]);
    assert_eq!(with(&[done(4, 5, &[read("x", &[1, 2, 3, 9])])]), [Kind::Invented]);
    assert_eq!(
        with(&[done(0, 5, &[read("x", &[1])]), done(6, 7, &[read("x", &[1, 2, 3])])]),
        [Kind::G1b, Kind::GSingle]
    );
    let orders = [done(1, 5, &[read("x", &[3, 1, 2])]), done(6, 7, &[read("x", &[1, 2, 3])])];
    assert!(with(&orders).contains(&Kind::IncompatibleOrder));
    let refused = Transaction { outcome: Outcome::NotDone, ..done(4, 5, &[append("x", 4)]) };
    assert_eq!(with(&[refused, done(6, 7, &[read("x", &[1, 2, 3, 4])])]), [Kind::G1a]);
    for wrong in [[read("x", &[1, 2, 3]), read("x", &[1, 2])], [append("x", 5), read("x", &[1, 2, 3])]] {
        assert!(with(&[done(2, 9, &wrong), done(10, 11, &[read("x", &[1, 2, 3, 5])])]).contains(&Kind::Internal));
    }
}

/// Guards against a cycle told in words that don't fit it.
#[test]
fn a_cycle_in_words() {
    let history = [done(0, 1, &[append("x", 1)]), done(4, 5, &[read("x", &[])]), done(8, 9, &[read("x", &[1])])];
    let found = check(&history);
    assert_eq!(
        found[0].sentence,
        "G-single (read skew): T1 read x without 1 of T2 (rw), and T2 was answered before T1 was called (time)"
    );
    let texts: Vec<&str> = found[0].piece.operations.iter().map(|operation| operation.text.as_str()).collect();
    assert_eq!(texts, ["T2: append 1 to x → done", "T1: read x = [] → done"]);
}

/// Transactions that a store did one by one, each at an instant between its call and its answer; then one that reads
/// everything, so that every order is known. Some answers are lost; some lists are then changed.
fn random_history(random: &mut Random, transactions: u64, change: bool) -> Vec<Transaction> {
    let keys = ["x", "y"];
    let mut store: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let mut history = Vec::new();
    for number in 0..transactions {
        let mut operations = Vec::new();
        let outcome =
            [Outcome::Done, Outcome::Done, Outcome::Done, Outcome::Unknown, Outcome::NotDone][random.index(5)];
        let takes_place = outcome == Outcome::Done || outcome == Outcome::Unknown && random.chance(500);
        let before = store.clone();
        for step in 0..random.between(1, 3) {
            let key = keys[random.index(2)];
            let list = store.entry(key).or_default();
            operations.push(if random.chance(500) {
                list.push(number * 10 + step);
                append(key, number * 10 + step)
            } else {
                read(key, list)
            });
        }
        if !takes_place {
            store = before;
        }
        let called_at = (number * 10).saturating_sub(random.below(25));
        let answered_at = (outcome != Outcome::Unknown).then(|| number * 10 + random.below(25));
        history.push(Transaction { client: number, called_at, answered_at, operations, outcome });
    }
    let list = |key: &str| read(key, store.get(key).map_or(&[], Vec::as_slice));
    history.push(done(transactions * 10 + 30, transactions * 10 + 31, &[list("x"), list("y")]));
    if change {
        let index = random.index(history.len());
        let lists = history[index].operations.iter_mut().filter_map(|step| match step {
            Step::Read { list: Some(list), .. } => Some(list),
            _ => None,
        });
        let mut lists: Vec<_> = lists.collect();
        let which = random.index(lists.len().max(1));
        if let Some(list) = lists.get_mut(which).filter(|list| !list.is_empty()) {
            let (one, other) = (random.index(list.len()), random.index(list.len()));
            match random.below(4) {
                0 => drop(list.pop()),
                1 => list.swap(one, other),
                2 => list.truncate(one),
                _ => drop(list.remove(one)),
            }
        }
    }
    history
}

/// Whether some order of what was done, and of any of what nobody knows, explains everything.
fn has_an_order(history: &[Transaction], left: &mut Vec<usize>, store: &BTreeMap<Bytes, Vec<u64>>) -> bool {
    if !left.iter().any(|index| history[*index].outcome == Outcome::Done) {
        return true;
    }
    let answers = left.iter().filter(|index| history[**index].outcome == Outcome::Done);
    let first_answer = answers.filter_map(|index| history[*index].answered_at).min().unwrap();
    for at in 0..left.len() {
        let transaction = &history[left[at]];
        if transaction.called_at > first_answer {
            continue;
        }
        let mut after = store.clone();
        let fits = transaction.operations.iter().all(|step| match step {
            Step::Append { key, element } => {
                after.entry(key.clone()).or_default().push(*element);
                true
            }
            Step::Read { key, list } => {
                let there = after.get(key).map_or(&[][..], Vec::as_slice);
                transaction.outcome != Outcome::Done || list.as_ref().is_none_or(|list| list == there)
            }
        });
        if fits {
            let index = left.remove(at);
            let found = has_an_order(history, left, &after);
            left.insert(at, index);
            if found {
                return true;
            }
        }
    }
    false
}

/// Guards against an anomaly that is none, and against one that is missed: compared with trying every order.
#[test]
fn the_graph_agrees_with_trying_everything() {
    let mut random = Random::new(11);
    let mut rejected = 0;
    for round in 0..20_000 {
        let count = random.between(1, 6);
        let history = random_history(&mut random, count, round % 2 == 0);
        let mut possible: Vec<usize> =
            (0..history.len()).filter(|index| history[*index].outcome != Outcome::NotDone).collect();
        let expected = has_an_order(&history, &mut possible, &BTreeMap::new());
        let found = check(&history);
        rejected += u32::from(!expected);
        assert_eq!(found.is_empty(), expected, "{found:#?}\n{history:#?}");
    }
    assert!((2_000..18_000).contains(&rejected), "{rejected} of 20000 have no order: too one-sided to prove anything");
}

/// Guards against a checker whose time or memory grows with the square of the history, or whose stack ends.
#[test]
fn a_long_history() {
    let mut store: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut history = Vec::new();
    for number in 0..60_000u64 {
        // A new key every thousand transactions, as lists must not grow for ever.
        let key = number / 1000 * 4 + number % 4;
        let (name, list) = (format!("k{key}"), store.entry(key).or_default());
        let step = match number % 3 {
            0 => read(&name, list),
            _ => {
                list.push(number);
                append(&name, number)
            }
        };
        history.push(done(number * 10, number * 10 + 400, &[step]));
    }
    assert_eq!(kinds(&history), []);
}
