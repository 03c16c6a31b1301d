//! The smallest piece of a history that still shows the violation.
//!
//! Leaving out a write that somebody saw would make a violation of its own, so nothing is left out that way. Instead an
//! operation is *weakened*: an answer that only looked is dropped, and a write that was answered becomes one of which
//! nobody knows, which may have happened at any time after its call, or never. Whatever order explained the history
//! before also explains the weakened one; so what still has no order shows the same violation, whatever the others did.
//! What is left is made smaller by delta debugging (Zeller and Hildebrandt, 2002), starting from what was near in time.
//! At the end, the writes that the piece's answers saw are put beside them, for people.

use super::search::{self, Failure};
use super::stuck::Stuck;
use super::{Action, Heard, Operation};
use types::MutationKind;

/// Answers to begin with: those nearest in time.
const NEAR_MIN: usize = 16;
/// Searches at most; what is left then is shown, though it may not be the smallest.
const SEARCHES_MAX: usize = 1_000;

/// The piece, by ascending call, and what is wrong with it in one line.
pub(super) fn smallest(operations: &[&Operation], stuck: &Stuck, steps_max: u64) -> (Vec<Operation>, String) {
    let mut shrinking = Shrinking { operations, steps_max: steps_max.min(200_000), searches_left: SEARCHES_MAX };
    let mut answered: Vec<usize> =
        (0..operations.len()).filter(|index| operations[*index].heard != Heard::Unknown).collect();
    let around = stuck.around(operations);
    answered.sort_by_key(|index| {
        let operation = operations[*index];
        let (begin, end) = (operation.called_at, operation.answer().unwrap_or(u64::MAX));
        begin.saturating_sub(around).max(around.saturating_sub(end))
    });
    let mut near = NEAR_MIN;
    while near < answered.len() && shrinking.why(&answered[..near]).is_none() {
        near *= 2;
    }
    answered.truncate(near);
    let (kept, why) = shrinking.reduce(answered);
    let why = why.unwrap_or_else(|| stuck.sentence(operations));
    let mut shown: Vec<usize> = kept.iter().copied().chain(seen_by(operations, &kept)).collect();
    shown.sort_by_key(|index| (operations[*index].called_at, *index));
    shown.dedup();
    (shown.into_iter().map(|index| operations[index].clone()).collect(), why)
}

struct Shrinking<'a> {
    operations: &'a [&'a Operation],
    steps_max: u64,
    searches_left: usize,
}

impl Shrinking<'_> {
    /// What is wrong where only these answers are kept, if anything still is.
    fn why(&mut self, kept: &[usize]) -> Option<String> {
        self.searches_left = self.searches_left.checked_sub(1)?;
        let mut is_kept = vec![false; self.operations.len()];
        for index in kept {
            is_kept[*index] = true;
        }
        // What was called after the last answer kept explains none of them.
        let last = kept.iter().filter_map(|index| self.operations[*index].answer()).max()?;
        let weakened: Vec<Operation> = (self.operations.iter().zip(is_kept))
            .filter_map(|(operation, is_kept)| match (&operation.action, &operation.heard) {
                _ if is_kept => Some((*operation).clone()),
                _ if operation.called_at > last => None,
                (Action::Mutate { .. }, Heard::Written(_) | Heard::Unknown) => {
                    Some(Operation { heard: Heard::Unknown, ..(*operation).clone() })
                }
                _ => None,
            })
            .collect();
        let weakened: Vec<&Operation> = weakened.iter().collect();
        match search::search(&weakened, self.steps_max) {
            Err(Failure::Impossible(stuck)) => Some(stuck.sentence(&weakened)),
            // What is not decided shows nothing.
            Err(Failure::Undecided) | Ok(_) => None,
        }
    }

    /// Leaves out more and more, in halves first, then in ever smaller parts, as long as the violation remains.
    fn reduce(&mut self, mut kept: Vec<usize>) -> (Vec<usize>, Option<String>) {
        let mut why = self.why(&kept);
        let mut part = kept.len().div_ceil(2);
        while part > 0 && self.searches_left > 0 {
            let mut from = 0;
            let mut is_smaller = false;
            while from < kept.len() {
                let rest: Vec<usize> = kept
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| !(from..from + part).contains(at))
                    .map(|(_, i)| *i)
                    .collect();
                if let Some(still) = self.why(&rest) {
                    (kept, why, is_smaller) = (rest, Some(still), true);
                } else {
                    from += part;
                }
            }
            // The last round is repeated until nothing more can go: one that goes may free another.
            part = if part == 1 && is_smaller { 1 } else { part / 2 };
        }
        (kept, why)
    }
}

/// The writes that these operations saw.
fn seen_by(operations: &[&Operation], kept: &[usize]) -> Vec<usize> {
    let wrote = |index: &usize, of: &Operation| match (&operations[*index].action, &operations[*index].heard, &of.heard)
    {
        (Action::Mutate { .. }, Heard::Written(outcome), Heard::Found(record)) => outcome.version == record.seq,
        (Action::Mutate { .. }, Heard::Written(outcome), Heard::ConditionFailed(Some(version))) => {
            outcome.version == *version
        }
        (Action::Mutate { kind: MutationKind::Put(value), .. }, Heard::Unknown, Heard::Found(record)) => {
            *value == record.value
        }
        _ => false,
    };
    let writer = |of: &usize| (0..operations.len()).find(|index| wrote(index, operations[*of]));
    kept.iter().filter_map(writer).collect()
}
