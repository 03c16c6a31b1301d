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
//! The simulator and the chaos harness both use this: one definition of correct.

mod model;
mod search;
mod several;

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use types::{
    Condition, MutationKind, OperationResult, Record, Seq, Transaction, TransactionOperation, TransactionOutcome,
    WriteOutcome,
};

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

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:>9} ", self.called_at)?;
        match self.heard {
            Heard::Unknown => write!(f, "{:>9}", "…")?,
            _ => write!(f, "{:>9}", self.answered_at)?,
        }
        write!(f, "] client {} {} ", self.client, self.key.escape_ascii())?;
        match &self.action {
            Action::Get => write!(f, "get")?,
            Action::Transact(transaction) => show(f, transaction)?,
            Action::Mutate { kind, condition } => {
                match kind {
                    MutationKind::Put(value) => write!(f, "put {}", value.escape_ascii())?,
                    MutationKind::Delete => write!(f, "delete")?,
                }
                match condition {
                    Condition::None => {}
                    Condition::Absent => write!(f, " if absent")?,
                    Condition::Present => write!(f, " if present")?,
                    Condition::Version(version) => write!(f, " if version {version}")?,
                    Condition::Value(value) => write!(f, " if value {}", value.escape_ascii())?,
                }
            }
        }
        match &self.heard {
            Heard::Unknown => write!(f, " -> unknown"),
            Heard::Transacted(outcome) => {
                write!(f, " -> {}", if outcome.succeeded { "then" } else { "otherwise" })?;
                outcome.results.iter().try_for_each(|result| match result {
                    OperationResult::Put { version, replaced } => {
                        write!(f, ", written {version:?} replaced {replaced}")
                    }
                    OperationResult::Deleted { existed } => write!(f, ", deleted {existed}"),
                    OperationResult::Found(record) => {
                        write!(f, ", found {} {}", record.seq, record.value.escape_ascii())
                    }
                    OperationResult::NotFound => write!(f, ", not found"),
                })
            }
            Heard::Written(outcome) => write!(f, " -> written {} replaced {}", outcome.version, outcome.replaced),
            Heard::Found(record) => write!(f, " -> found {} {}", record.seq, record.value.escape_ascii()),
            Heard::NotFound => write!(f, " -> not found"),
            Heard::ConditionFailed(None) => write!(f, " -> condition failed, absent"),
            Heard::ConditionFailed(Some(version)) => write!(f, " -> condition failed at {version}"),
        }
    }
}

fn show(f: &mut fmt::Formatter<'_>, transaction: &Transaction) -> fmt::Result {
    write!(f, "if")?;
    for (key, condition) in &transaction.conditions {
        write!(f, " {} {condition:?}", key.escape_ascii())?;
    }
    for (name, branch) in [("then", &transaction.then), ("otherwise", &transaction.otherwise)] {
        write!(f, " {name}")?;
        for operation in branch {
            match operation {
                TransactionOperation::Put { key, value } => {
                    write!(f, " put {} {}", key.escape_ascii(), value.escape_ascii())?;
                }
                TransactionOperation::Delete { key } => write!(f, " delete {}", key.escape_ascii())?,
                TransactionOperation::Get { key } => write!(f, " get {}", key.escape_ascii())?,
            }
        }
    }
    Ok(())
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

/// Steps that the search of one key's history takes at most: about a second, and 100 MB.
pub const STEPS_MAX: u64 = 2_000_000;

/// Checks a history, key by key; each search takes at most `steps_max` steps.
///
/// # Errors
/// The first key's [`Rejection`], by ascending key.
pub fn check(history: &[Operation], steps_max: u64) -> Result<Checked, Rejection> {
    let objects = objects(history);
    let mut by_object: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        by_object.entry(objects[&operation.key]).or_default().push(operation);
    }
    let mut checked = Checked { keys: objects.len(), ..Checked::default() };
    for (key, operations) in by_object {
        checked.operations += operations.len();
        let has_transactions = operations.iter().any(|operation| matches!(operation.action, Action::Transact(_)));
        let searched = if has_transactions {
            search::search::<several::Registers>(&operations, steps_max)
        } else {
            search::search::<model::Register>(&operations, steps_max)
        };
        checked.steps += searched.map_err(|failure| {
            let key = key.escape_ascii().to_string();
            match failure {
                search::Failure::Undecided => Rejection::Undecided { key, operations: operations.len(), steps_max },
                search::Failure::Impossible(explanation) => Rejection::NotLinearizable { key, explanation },
            }
        })?;
    }
    Ok(checked)
}

/// For each key the least of those that transactions tie it to.
fn objects(history: &[Operation]) -> BTreeMap<&Bytes, &Bytes> {
    let mut objects: BTreeMap<&Bytes, &Bytes> = BTreeMap::new();
    for operation in history {
        objects.entry(&operation.key).or_insert(&operation.key);
        let Action::Transact(transaction) = &operation.action else { continue };
        let tied: BTreeSet<&Bytes> = transaction.keys().map(|key| *objects.entry(key).or_insert(key)).collect();
        if let (Some(least), true) = (tied.first(), tied.len() > 1) {
            objects.values_mut().filter(|object| tied.contains(*object)).for_each(|object| *object = least);
        }
    }
    objects
}

#[cfg(test)]
mod tests;
