//! What "correct" means to clients: every key is a register whose history is linearizable.
//!
//! A history is a list of [`Operation`]s with the instants at which each was called and answered. It is correct if each
//! operation can be given one instant between the two, so that, one after another, they do to a single register exactly
//! what their answers say. Keys are independent of each other, so each is searched alone.
//!
//! * An operation without an answer may have happened at any time after its call, or never: it stays open for ever.
//! * What was definitely not done, and a read that was not answered, do not belong into a history at all.
//! * Versions are part of the answers: they name writes, and rise in the order in which writes take effect.
//! * A history that the search does not decide within its bound is reported as such, and counts as a failure.
//!
//! The simulator and the chaos harness both use this: one definition of correct. [`check`] decides; [`judge`] also finds
//! the smallest piece that shows what is wrong.

mod display;
mod model;
mod plan;
mod search;
mod shrink;
mod stuck;

use crate::report::{Piece, Verdict, WorkloadResult};
use bytes::Bytes;
use std::collections::BTreeMap;
use types::{Condition, MutationKind, Record, Seq, WriteOutcome};

/// What a client asked of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Read it.
    Get,
    /// Change it if the condition holds.
    Mutate {
        /// How.
        kind: MutationKind,
        /// What must hold.
        condition: Condition,
    },
}

/// What the client heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Nothing that tells: a change that may happen at any later time, or never.
    Unknown,
    /// The change was done.
    Written(WriteOutcome),
    /// The key's value.
    Found(Record),
    /// The key has no value; a delete that said so did nothing.
    NotFound,
    /// The condition did not hold, the key's version being this.
    ConditionFailed(Option<Seq>),
}

/// One operation of a history. Instants are of one clock, in any unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Who asked, for people.
    pub client: u64,
    /// Of which key.
    pub key: Bytes,
    /// When it was called.
    pub called_at: u64,
    /// When it was answered; without meaning where the answer is [`Heard::Unknown`].
    pub answered_at: u64,
    /// What was asked.
    pub action: Action,
    /// What was heard.
    pub heard: Heard,
}

/// Why a history is not accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rejection {
    /// No order of the key's operations explains the answers.
    #[error("the history of key {key} is not linearizable:\n{explanation}")]
    NotLinearizable {
        /// Which key.
        key: String,
        /// The longest explained part's end, and what could not follow it; many lines.
        explanation: String,
    },
    /// The search was given up.
    #[error("the history of key {key} ({operations} operations) was not decided within {steps_max} steps")]
    Undecided {
        /// Which key.
        key: String,
        /// How many operations it has.
        operations: usize,
        /// The bound.
        steps_max: u64,
    },
}

/// What was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// Keys with at least one operation.
    pub keys: usize,
    /// Operations in all.
    pub operations: usize,
    /// Steps that the searches took.
    pub steps: u64,
}

/// Steps that the search of one key's history takes at most: seconds, and 200 MB.
pub const STEPS_MAX: u64 = 2_000_000;

/// Checks a history, key by key; each search takes at most `steps_max` steps.
///
/// # Errors
/// The first key's [`Rejection`], by ascending key.
pub fn check(history: &[Operation], steps_max: u64) -> Result<Checked, Rejection> {
    let mut checked = Checked::default();
    for (key, operations) in by_key(history) {
        checked.keys += 1;
        checked.operations += operations.len();
        checked.steps += search::search(&operations, steps_max).map_err(|failure| {
            let key = key.escape_ascii().to_string();
            match failure {
                search::Failure::Undecided => Rejection::Undecided { key, operations: operations.len(), steps_max },
                search::Failure::Impossible(stuck) => {
                    Rejection::NotLinearizable { key, explanation: stuck.explain(&operations) }
                }
            }
        })?;
    }
    Ok(checked)
}

/// Checks a history like [`check`], all keys of it, and finds the smallest piece of the first violation. A violation
/// counts for more than a key that was not decided.
pub fn judge(name: &str, history: &[Operation], steps_max: u64) -> WorkloadResult {
    let (mut violated, mut undecided) = (Vec::new(), Vec::new());
    let keys = by_key(history);
    for (key, operations) in &keys {
        match search::search(operations, steps_max) {
            Ok(_) => {}
            Err(search::Failure::Undecided) => undecided.push(*key),
            Err(search::Failure::Impossible(stuck)) => violated.push((*key, operations, stuck)),
        }
    }
    let (verdict, sentence, violation) = if let Some((key, operations, stuck)) = violated.first() {
        let (piece, why) = shrink::smallest(operations, stuck, steps_max);
        let mut sentence = format!("key {} is not linearizable: {why}", key.escape_ascii());
        let operations = piece.iter().map(|operation| operation.drawn()).collect();
        let violation = Piece { title: sentence.clone(), operations };
        if violated.len() > 1 {
            sentence += &format!(" (and {} more keys)", violated.len() - 1);
        }
        (Verdict::Violated, sentence, Some(violation))
    } else if let Some(key) = undecided.first() {
        let (key, count) = (key.escape_ascii(), undecided.len());
        let sentence = format!("{count} keys were not decided within {steps_max} steps each, the first of them {key}");
        (Verdict::Undecided, sentence, None)
    } else {
        let (keys, operations) = (keys.len(), history.len());
        (Verdict::Held, format!("{operations} operations on {keys} keys are linearizable"), None)
    };
    WorkloadResult { name: name.to_owned(), operations: history.len() as u64, verdict, sentence, violation }
}

fn by_key(history: &[Operation]) -> BTreeMap<&Bytes, Vec<&Operation>> {
    let mut by_key: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        by_key.entry(&operation.key).or_default().push(operation);
    }
    by_key
}

#[cfg(test)]
mod tests;
