//! Operations as lines for people.

use super::{Action, Heard, Operation};
use crate::report::PieceOperation;
use std::fmt;
use types::{Condition, MutationKind, OperationResult, Transaction, TransactionOperation, TransactionOutcome};

impl Operation {
    /// What was asked and heard, in one line without the instants.
    pub(super) fn text(&self) -> String {
        let key = self.key.escape_ascii();
        let question = match &self.action {
            Action::Get => format!("get {key}"),
            Action::Transact(transaction) => asked(transaction),
            Action::Mutate { kind, condition } => {
                let what = match kind {
                    MutationKind::Put(value) => format!("put {key} = {}", value.escape_ascii()),
                    MutationKind::PutExpiring { value, .. } => {
                        format!("put {key} = {} for a time", value.escape_ascii())
                    }
                    MutationKind::Delete => format!("delete {key}"),
                };
                match condition {
                    Condition::None => what,
                    Condition::Absent => format!("{what} if absent"),
                    Condition::Present => format!("{what} if present"),
                    Condition::Version(version) => format!("{what} if version {version}"),
                    Condition::Value(value) => format!("{what} if value {}", value.escape_ascii()),
                }
            }
        };
        match &self.heard {
            Heard::Unknown => format!("{question} → unknown"),
            Heard::Transacted(outcome) => format!("{question} → {}", answered(outcome)),
            Heard::Written(outcome) if outcome.replaced => format!("{question} → version {}", outcome.version),
            Heard::Written(outcome) => format!("{question} → version {}, was absent", outcome.version),
            Heard::Found(record) => format!("{question} → {} at version {}", record.value.escape_ascii(), record.seq),
            Heard::NotFound => format!("{question} → not found"),
            Heard::ConditionFailed(None) => format!("{question} → condition failed, absent"),
            Heard::ConditionFailed(Some(version)) => format!("{question} → condition failed at version {version}"),
        }
    }

    /// When it was answered, if it was.
    pub(super) fn answer(&self) -> Option<u64> {
        // An answer before its call is a clock's fault: it can't mean more than that the two are one instant.
        (self.heard != Heard::Unknown).then(|| self.answered_at.max(self.called_at))
    }

    pub(super) fn drawn(&self) -> PieceOperation {
        PieceOperation { client: self.client, began_us: self.called_at, ended_us: self.answer(), text: self.text() }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:>9} ", self.called_at)?;
        match self.answer() {
            None => write!(f, "{:>9}", "…")?,
            Some(at) => write!(f, "{at:>9}")?,
        }
        write!(f, "] client {} {}", self.client, self.text())
    }
}

fn asked(transaction: &Transaction) -> String {
    let conditions: Vec<String> = transaction
        .conditions
        .iter()
        .map(|(key, condition)| {
            let key = key.escape_ascii();
            match condition {
                Condition::None => format!("{key} whatever"),
                Condition::Absent => format!("{key} absent"),
                Condition::Present => format!("{key} present"),
                Condition::Version(version) => format!("{key} at {version}"),
                Condition::Value(value) => format!("{key} = {}", value.escape_ascii()),
            }
        })
        .collect();
    let branch = |operations: &[TransactionOperation]| {
        let one = |operation: &TransactionOperation| match operation {
            TransactionOperation::Put { key, value } => {
                format!("put {} = {}", key.escape_ascii(), value.escape_ascii())
            }
            TransactionOperation::Delete { key } => format!("delete {}", key.escape_ascii()),
            TransactionOperation::Get { key } => format!("get {}", key.escape_ascii()),
        };
        operations.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let mut text = match conditions.as_slice() {
        [] => format!("transaction: {}", branch(&transaction.then)),
        _ => format!("transaction if {}: {}", conditions.join(" and "), branch(&transaction.then)),
    };
    if !transaction.otherwise.is_empty() {
        text += &format!("; otherwise {}", branch(&transaction.otherwise));
    }
    text
}

fn answered(outcome: &TransactionOutcome) -> String {
    let one = |result: &OperationResult| match result {
        OperationResult::Put { version: Some(version), replaced: true } => format!("version {version}"),
        OperationResult::Put { version: Some(version), replaced: false } => format!("version {version}, was absent"),
        OperationResult::Put { version: None, replaced: true } => "written".to_owned(),
        OperationResult::Put { version: None, replaced: false } => "written, was absent".to_owned(),
        OperationResult::Deleted { existed: true } => "deleted".to_owned(),
        OperationResult::Deleted { existed: false } => "was absent".to_owned(),
        OperationResult::Found(record) => format!("{} at version {}", record.value.escape_ascii(), record.seq),
        OperationResult::NotFound => "not found".to_owned(),
    };
    let branch = if outcome.succeeded { "done" } else { "otherwise" };
    let results: Vec<String> = outcome.results.iter().map(one).collect();
    if results.is_empty() { branch.to_owned() } else { format!("{branch}: {}", results.join("; ")) }
}
