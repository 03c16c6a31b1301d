//! What "correct" means to clients: every key is a register whose history is linearizable, and transactions are strictly
//! serializable.
//!
//! A history is a list of [`Operation`]s with the instants at which each was called and answered. It is correct if each
//! operation can be given one instant between the two, so that, one after another, they do to a single register exactly
//! what their answers say. Keys are independent of each other, so each is searched alone; but keys that one transaction
//! names are one object.
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
mod several;
mod shrink;
mod stuck;

use crate::report::{Piece, Verdict, WorkloadResult};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use types::{Condition, MutationKind, Record, Seq, Transaction, TransactionOutcome, WriteOutcome};

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
    /// Several keys at once.
    Transact(Transaction),
}

impl Action {
    /// Whether it may change anything.
    pub fn changes(&self) -> bool {
        match self {
            Action::Get => false,
            Action::Mutate { .. } => true,
            Action::Transact(transaction) => !transaction.is_read_only(),
        }
    }
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
    /// What a transaction did.
    Transacted(TransactionOutcome),
}

/// One operation of a history. Instants are of one clock, in any unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Who asked, for people.
    pub client: u64,
    /// Of which key; of a transaction the first.
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
    for object in objects(history) {
        checked.keys += object.keys;
        checked.operations += object.operations.len();
        checked.steps += object.search(steps_max).map_err(|failure| {
            let key = object.key.escape_ascii().to_string();
            let operations = &object.operations;
            match failure {
                Failure::Undecided => Rejection::Undecided { key, operations: operations.len(), steps_max },
                Failure::Register(stuck) => Rejection::NotLinearizable { key, explanation: stuck.explain(operations) },
                Failure::Several(stuck) => Rejection::NotLinearizable { key, explanation: stuck.explain(operations) },
            }
        })?;
    }
    Ok(checked)
}

/// Checks a history like [`check`], all keys of it, and finds the smallest piece of the first violation; of keys that
/// transactions tie together, the place at which no order goes on. A violation counts for more than a key that was not
/// decided.
pub fn judge(name: &str, history: &[Operation], steps_max: u64) -> WorkloadResult {
    let (mut violated, mut undecided) = (Vec::new(), Vec::new());
    let objects = objects(history);
    for object in &objects {
        match object.search(steps_max) {
            Ok(_) => {}
            Err(Failure::Undecided) => undecided.push(object.key),
            Err(failure) => violated.push((object, failure)),
        }
    }
    let (verdict, sentence, violation) = if let Some((object, failure)) = violated.first() {
        let (piece, why) = object.piece(failure, steps_max);
        let mut sentence = format!("key {} is not linearizable: {why}", object.key.escape_ascii());
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
        let (keys, operations) = (objects.iter().map(|object| object.keys).sum::<usize>(), history.len());
        (Verdict::Held, format!("{operations} operations on {keys} keys are linearizable"), None)
    };
    WorkloadResult { name: name.to_owned(), operations: history.len() as u64, verdict, sentence, violation }
}

/// One key, or several that transactions tie together.
struct Object<'a> {
    /// The key, or the least of them.
    key: &'a Bytes,
    keys: usize,
    operations: Vec<&'a Operation>,
    has_transactions: bool,
}

/// Why an object's search found nothing.
enum Failure {
    Undecided,
    Register(stuck::Stuck),
    Several(several::Stuck),
}

impl Object<'_> {
    fn search(&self, steps_max: u64) -> Result<u64, Failure> {
        if self.has_transactions {
            several::search(&self.operations, steps_max).map_err(|failure| match failure {
                several::Failure::Undecided => Failure::Undecided,
                several::Failure::Impossible(stuck) => Failure::Several(stuck),
            })
        } else {
            search::search(&self.operations, steps_max).map_err(|failure| match failure {
                search::Failure::Undecided => Failure::Undecided,
                search::Failure::Impossible(stuck) => Failure::Register(stuck),
            })
        }
    }

    /// What to show of a violation, and what is wrong with it in one line.
    fn piece(&self, failure: &Failure, steps_max: u64) -> (Vec<Operation>, String) {
        match failure {
            Failure::Register(stuck) => shrink::smallest(&self.operations, stuck, steps_max),
            Failure::Several(stuck) => {
                let piece = stuck.piece().into_iter().map(|index| self.operations[index].clone()).collect();
                (piece, stuck.sentence(&self.operations))
            }
            Failure::Undecided => (Vec::new(), "it was not decided".to_owned()),
        }
    }
}

/// The history by object, each under its least key.
fn objects(history: &[Operation]) -> Vec<Object<'_>> {
    // For each key the least of those that transactions tie it to.
    let mut least: BTreeMap<&Bytes, &Bytes> = BTreeMap::new();
    for operation in history {
        least.entry(&operation.key).or_insert(&operation.key);
        let Action::Transact(transaction) = &operation.action else { continue };
        let tied: BTreeSet<&Bytes> = transaction.keys().map(|key| *least.entry(key).or_insert(key)).collect();
        if let (Some(first), true) = (tied.first(), tied.len() > 1) {
            least.values_mut().filter(|of| tied.contains(*of)).for_each(|of| *of = first);
        }
    }
    let mut objects: BTreeMap<&Bytes, Object<'_>> = BTreeMap::new();
    for key in least.values() {
        let empty = Object { key, keys: 0, operations: Vec::new(), has_transactions: false };
        objects.entry(key).or_insert(empty).keys += 1;
    }
    for operation in history {
        if let Some(object) = objects.get_mut(least[&operation.key]) {
            object.operations.push(operation);
            object.has_transactions |= matches!(operation.action, Action::Transact(_));
        }
    }
    objects.into_values().collect()
}

#[cfg(test)]
mod tests;
