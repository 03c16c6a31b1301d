//! Operations as lines for people.

use super::{Action, Heard, Operation};
use crate::report::PieceOperation;
use std::fmt;
use types::{Condition, MutationKind};

impl Operation {
    /// What was asked and heard, in one line without the instants.
    pub(super) fn text(&self) -> String {
        let key = self.key.escape_ascii();
        let asked = match &self.action {
            Action::Get => format!("get {key}"),
            Action::Mutate { kind, condition } => {
                let what = match kind {
                    MutationKind::Put(value) => format!("put {key} = {}", value.escape_ascii()),
                    MutationKind::PutExpiring { value, ttl_ms } => {
                        format!("put {key} = {} for {ttl_ms} ms", value.escape_ascii())
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
            Heard::Unknown => format!("{asked} → unknown"),
            Heard::Written(outcome) if outcome.replaced => format!("{asked} → version {}", outcome.version),
            Heard::Written(outcome) => format!("{asked} → version {}, was absent", outcome.version),
            Heard::Found(record) => format!("{asked} → {} at version {}", record.value.escape_ascii(), record.seq),
            Heard::NotFound => format!("{asked} → not found"),
            Heard::ConditionFailed(None) => format!("{asked} → condition failed, absent"),
            Heard::ConditionFailed(Some(version)) => format!("{asked} → condition failed at version {version}"),
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
