//! One key as a register with versions: what an operation's answer says about the register before it, and what it
//! leaves behind.

use super::{Action, Heard, Operation};
use bytes::Bytes;
use types::{Condition, MutationKind};

/// The register. The value is that of the operation which wrote it, by its index in the history.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Register {
    /// Index of the put whose value stands here, plus one; 0: no value.
    writer: u32,
    /// Whether `floor` is the value's own version. Writes that nobody heard of have one that is not known at first.
    bound: bool,
    /// The highest version known so far: every later one is greater.
    floor: u64,
}

impl Register {
    /// The register after the operation at `index`, or `None` if the answer can't be given here. An operation whose
    /// outcome is unknown must have an effect: that it has none is the same as that it never happens.
    pub(super) fn after(self, operations: &[&Operation], index: usize) -> Option<Register> {
        let operation = operations[index];
        match (&operation.action, &operation.heard) {
            (Action::Get, Heard::Found(record)) => {
                (self.value(operations)? == &record.value).then_some(())?;
                self.bind(record.seq.0)
            }
            (Action::Get, Heard::NotFound) => (self.writer == 0).then_some(self),
            // Keys of transactions are searched as one object, which this is not.
            (Action::Get | Action::Transact(_), _) => None,
            (Action::Mutate { kind: MutationKind::Delete, .. }, Heard::NotFound) => (self.writer == 0).then_some(self),
            (Action::Mutate { .. }, Heard::NotFound | Heard::Found(_) | Heard::Transacted(_)) => None,
            (Action::Mutate { condition, .. }, Heard::ConditionFailed(version)) => {
                let register = match version {
                    None => (self.writer == 0).then_some(self)?,
                    Some(version) => self.value(operations).and_then(|_| self.bind(version.0))?,
                };
                register.when(condition, operations).is_none().then_some(register)
            }
            (Action::Mutate { kind, condition }, heard) => {
                let before = self.when(condition, operations)?;
                let writer = match kind {
                    MutationKind::Put(_) | MutationKind::PutExpiring { .. } => index as u32 + 1,
                    MutationKind::Delete => (before.writer != 0).then_some(0)?,
                };
                match heard {
                    Heard::Written(outcome) => {
                        let fits = outcome.replaced == (before.writer != 0) && outcome.version.0 > before.floor;
                        fits.then_some(Register { writer, bound: true, floor: outcome.version.0 })
                    }
                    _ => Some(Register { writer, bound: writer == 0, floor: before.floor }),
                }
            }
        }
    }

    /// Whether the answer names a version that this register has gone past: then it can't be given any more.
    pub(super) fn is_past(&self, operation: &Operation) -> bool {
        match &operation.heard {
            Heard::Written(outcome) => outcome.version.0 <= self.floor,
            Heard::Found(record) => record.seq.0 < self.floor,
            Heard::ConditionFailed(Some(version)) => version.0 < self.floor,
            Heard::ConditionFailed(None) | Heard::NotFound | Heard::Unknown | Heard::Transacted(_) => false,
        }
    }

    /// The register, with its version bound where the condition tells it; `None` where the condition does not hold.
    fn when(self, condition: &Condition, operations: &[&Operation]) -> Option<Register> {
        match condition {
            Condition::None => Some(self),
            Condition::Absent => (self.writer == 0).then_some(self),
            Condition::Present => (self.writer != 0).then_some(self),
            Condition::Version(version) => self.value(operations).and_then(|_| self.bind(version.0)),
            Condition::Value(value) => (self.value(operations)? == value).then_some(self),
        }
    }

    pub(super) fn value<'a>(&self, operations: &[&'a Operation]) -> Option<&'a Bytes> {
        match &operations[self.writer.checked_sub(1)? as usize].action {
            Action::Mutate { kind: MutationKind::Put(value), .. } => Some(value),
            _ => None,
        }
    }

    /// What the change at `index` leaves behind, done at `version`; `None` for what only looks.
    pub(super) fn written(operations: &[&Operation], index: usize, version: u64) -> Option<Register> {
        match (&operations[index].action, &operations[index].heard) {
            (Action::Mutate { kind, .. }, Heard::Written(_) | Heard::Unknown) => {
                let writer = if matches!(kind, MutationKind::Put(_)) { index as u32 + 1 } else { 0 };
                Some(Register { writer, bound: true, floor: version })
            }
            _ => None,
        }
    }

    /// The same, with the value of the put at `index`.
    pub(super) fn written_by(self, index: usize) -> Register {
        Register { writer: index as u32 + 1, ..self }
    }

    /// Whether the key has no value.
    pub(super) fn is_absent(&self) -> bool {
        self.writer == 0
    }

    /// The highest version known so far.
    pub(super) fn last_version(&self) -> u64 {
        self.floor
    }

    /// The versions that the present value may have: its own, or any above the last one known.
    pub(super) fn versions(&self) -> std::ops::RangeInclusive<u64> {
        if self.bound { self.floor..=self.floor } else { self.floor.saturating_add(1)..=u64::MAX }
    }

    /// The register with this version for its value, or `None` if it can't have it.
    pub(super) fn bind(self, version: u64) -> Option<Register> {
        if self.bound {
            (self.floor == version).then_some(self)
        } else {
            (version > self.floor).then_some(Register { bound: true, floor: version, ..self })
        }
    }

    pub(super) fn describe(&self, operations: &[&Operation]) -> String {
        match self.value(operations) {
            None => format!("no value, last version {}", self.floor),
            Some(value) if self.bound => format!("{} at version {}", value.escape_ascii(), self.floor),
            Some(value) => format!("{} at a version above {}", value.escape_ascii(), self.floor),
        }
    }
}
