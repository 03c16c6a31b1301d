//! Sets: every acknowledged element is there at the end, and nothing that was not asked for or was refused.
//!
//! Left out: reads before the end. An element that is there at the end can't have been lost before.

use crate::report::PieceOperation;
use crate::{Anomaly, Outcome};
use bytes::Bytes;
use std::collections::BTreeMap;

/// One element put into a set. Instants are microseconds of one clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Add {
    /// Who asked, for people.
    pub client: u64,
    /// Which set.
    pub key: Bytes,
    /// What. Asked for several times, it must be there if one of them was done.
    pub element: u64,
    /// When it was called.
    pub called_at: u64,
    /// When it was answered; `None` where no answer came.
    pub answered_at: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
}

/// What can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Acknowledged, and not there.
    Lost,
    /// There, though it was definitely not done.
    NotDoneButThere,
    /// There, though nobody asked for it.
    Invented,
    /// There more than once.
    Twice,
}

/// Compares what was asked for with what each set had at the end, when everything was quiet. A set that is not in
/// `at_end` was empty. Returns at most one anomaly per element, by ascending set and element.
pub fn check(history: &[Add], at_end: &BTreeMap<Bytes, Vec<u64>>) -> Vec<Anomaly<Kind>> {
    // Both sides of each element: who asked for it, and how often it was there.
    let mut elements: BTreeMap<(&Bytes, u64), (Vec<&Add>, usize)> = BTreeMap::new();
    for add in history {
        elements.entry((&add.key, add.element)).or_default().0.push(add);
    }
    for (key, found) in at_end {
        for element in found {
            elements.entry((key, *element)).or_default().1 += 1;
        }
    }
    elements.into_iter().filter_map(|((key, element), (asked, there))| judge(key, element, &asked, there)).collect()
}

fn judge(key: &Bytes, element: u64, asked: &[&Add], there: usize) -> Option<Anomaly<Kind>> {
    let set = key.escape_ascii();
    let any = |outcome| asked.iter().any(|add| add.outcome == outcome);
    let (kind, sentence) = if there == 0 {
        any(Outcome::Done).then_some(())?;
        (Kind::Lost, format!("element {element} of set {set} was acknowledged and is lost"))
    } else if asked.is_empty() {
        (Kind::Invented, format!("element {element} of set {set} is there, and nobody asked for it"))
    } else if !any(Outcome::Done) && !any(Outcome::Unknown) {
        (Kind::NotDoneButThere, format!("element {element} of set {set} is there, though it was answered as not done"))
    } else if there > 1 {
        (Kind::Twice, format!("element {element} of set {set} is there {there} times"))
    } else {
        return None;
    };
    Some(Anomaly::new(kind, sentence, asked.iter().map(|add| drawn(add))))
}

fn drawn(add: &Add) -> PieceOperation {
    PieceOperation {
        client: add.client,
        began_us: add.called_at,
        ended_us: add.answered_at,
        text: format!("add {} to {} → {}", add.element, add.key.escape_ascii(), add.outcome.word()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(element: u64, outcome: Outcome) -> Add {
        let answered_at = (outcome != Outcome::Unknown).then_some(element * 10 + 5);
        Add { client: 1, key: Bytes::from_static(b"s"), element, called_at: element * 10, answered_at, outcome }
    }

    fn kinds(history: &[Add], there: &[u64]) -> Vec<Kind> {
        let at_end = BTreeMap::from([(Bytes::from_static(b"s"), there.to_vec())]);
        check(history, &at_end).into_iter().map(|anomaly| anomaly.kind).collect()
    }

    /// Guards against a checker that takes an unknown outcome for a failure or for a success.
    #[test]
    fn what_nobody_knows_may_be_there_or_not() {
        let history = [add(1, Outcome::Done), add(2, Outcome::NotDone), add(3, Outcome::Unknown)];
        assert_eq!(kinds(&history, &[1]), []);
        assert_eq!(kinds(&history, &[3, 1]), []);
        assert_eq!(kinds(&[add(1, Outcome::Unknown), add(1, Outcome::Done)], &[1]), []);
    }

    /// Guards against each anomaly passing unseen.
    #[test]
    fn each_anomaly_is_caught() {
        let history = [add(1, Outcome::Done), add(2, Outcome::NotDone), add(3, Outcome::Unknown)];
        assert_eq!(kinds(&history, &[]), [Kind::Lost]);
        assert_eq!(kinds(&history, &[1, 2]), [Kind::NotDoneButThere]);
        assert_eq!(kinds(&history, &[1, 9]), [Kind::Invented]);
        assert_eq!(kinds(&history, &[1, 3, 3]), [Kind::Twice]);
        assert_eq!(kinds(&[add(1, Outcome::Done), add(1, Outcome::NotDone)], &[]), [Kind::Lost]);
        assert_eq!(check(&history, &BTreeMap::new()).len(), 1, "a set that is not there at all has lost everything");
    }

    /// Guards against an anomaly that doesn't say which element, or doesn't show who asked.
    #[test]
    fn an_anomaly_names_and_shows_the_element() {
        let found = check(&[add(7, Outcome::Done)], &BTreeMap::new());
        assert_eq!(found[0].sentence, "element 7 of set s was acknowledged and is lost");
        assert_eq!(found[0].piece.operations[0].text, "add 7 to s → done");
    }
}
