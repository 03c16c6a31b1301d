//! Keys that transactions tie together, as one object: a register each, all of which a transaction sees at one instant.
//!
//! What a transaction was answered says which branch was taken, what was read, and whether writes replaced something. A
//! condition on a version that is not known yet is taken to hold where the transaction succeeded, or where nobody heard of
//! its outcome; where it failed, anything else may have failed it. Transactions with such conditions and an unknown outcome
//! must therefore do nothing where they fail.

mod search;
mod stuck;

pub(super) use search::{Failure, search};
pub(super) use stuck::Stuck;

use super::{Action, Heard, Operation};
use bytes::Bytes;
use types::{Condition, MutationKind, OperationResult, TransactionOperation};

/// One key.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Cell {
    value: Option<Bytes>,
    /// Whether `floor` is the value's own version, or the key has no value.
    bound: bool,
    /// The highest version known so far.
    floor: u64,
}

/// A register for each key, in the order of the keys.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Registers {
    cells: Vec<(Bytes, Cell)>,
}

impl Registers {
    /// What the operation at `index` leaves behind, or `None` if the answer can't be given here. An operation whose outcome
    /// is unknown must have an effect: that it has none is the same as that it never happens.
    fn after(&self, operations: &[&Operation], index: usize) -> Option<Registers> {
        let operation = operations[index];
        let mut after = self.clone();
        match &operation.action {
            Action::Transact(transaction) => {
                let outcome = match &operation.heard {
                    Heard::Transacted(outcome) => Some(outcome),
                    _ => None,
                };
                let holds = after.bind_conditions(&transaction.conditions);
                let succeeded = match outcome {
                    None => holds,
                    Some(outcome) if outcome.succeeded => holds.then_some(true)?,
                    Some(_) => {
                        after = self.clone();
                        self.may_fail(&transaction.conditions).then_some(false)?
                    }
                };
                if !succeeded && outcome.is_none() {
                    after = self.clone();
                }
                let branch = if succeeded { &transaction.then } else { &transaction.otherwise };
                let mut written = after.clone();
                for (at, step) in branch.iter().enumerate() {
                    let result = match outcome {
                        None => None,
                        Some(outcome) => Some(outcome.results.get(at)?),
                    };
                    after.step(step, result, &mut written)?;
                }
                // Reads have bound versions in `after`; writes stand in `written`.
                for (key, cell) in &after.cells {
                    if !branch.iter().any(|step| step.writes() && step.key() == key) {
                        *written.cell(key) = cell.clone();
                    }
                }
                (outcome.is_some() || written != *self).then_some(written)
            }
            Action::Get => {
                let cell = after.cell(&operation.key);
                match &operation.heard {
                    Heard::Found(record) => cell.found(&record.value, record.seq.0)?,
                    Heard::NotFound => cell.value.is_none().then_some(())?,
                    _ => return None,
                }
                Some(after)
            }
            Action::Mutate { kind, condition } => {
                let cell = after.cell(&operation.key);
                match &operation.heard {
                    Heard::NotFound if *kind == MutationKind::Delete => cell.value.is_none().then_some(())?,
                    Heard::ConditionFailed(version) => {
                        match version {
                            None => cell.value.is_none().then_some(())?,
                            Some(version) => cell.value.is_some().then(|| cell.bind(version.0))??,
                        }
                        (!cell.clone().when(condition)).then_some(())?;
                    }
                    heard => {
                        cell.when(condition).then_some(())?;
                        let had = cell.value.is_some();
                        cell.value = match kind.value() {
                            Some(value) => Some(value.clone()),
                            None => had.then_some(None)?,
                        };
                        match heard {
                            Heard::Written(outcome) => {
                                (outcome.replaced == had && outcome.version.0 > cell.floor).then_some(())?;
                                (cell.bound, cell.floor) = (true, outcome.version.0);
                            }
                            Heard::Unknown => cell.bound = cell.value.is_none(),
                            _ => return None,
                        }
                    }
                }
                Some(after)
            }
        }
    }

    /// Whether the answer names a version that is past already: then it can't be given any more.
    fn is_past(&self, operation: &Operation) -> bool {
        let floor = |key: &Bytes| self.cells.iter().find(|(known, _)| known == key).map_or(0, |(_, cell)| cell.floor);
        match (&operation.action, &operation.heard) {
            (_, Heard::Written(outcome)) => outcome.version.0 <= floor(&operation.key),
            (_, Heard::Found(record)) => record.seq.0 < floor(&operation.key),
            (_, Heard::ConditionFailed(Some(version))) => version.0 < floor(&operation.key),
            (Action::Transact(transaction), Heard::Transacted(outcome)) => {
                let branch = if outcome.succeeded { &transaction.then } else { &transaction.otherwise };
                branch.iter().zip(&outcome.results).any(|(step, result)| match result {
                    OperationResult::Found(record) => record.seq.0 < floor(step.key()),
                    OperationResult::Put { version: Some(version), .. } => version.0 <= floor(step.key()),
                    _ => false,
                })
            }
            _ => false,
        }
    }

    /// For people.
    fn describe(&self) -> String {
        let one = |(key, cell): &(Bytes, Cell)| {
            let key = key.escape_ascii();
            match &cell.value {
                None => format!("{key} no value, last version {}", cell.floor),
                Some(value) if cell.bound => format!("{key} {} at version {}", value.escape_ascii(), cell.floor),
                Some(value) => format!("{key} {} at a version above {}", value.escape_ascii(), cell.floor),
            }
        };
        self.cells.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    fn cell(&mut self, key: &Bytes) -> &mut Cell {
        let at = self.cells.binary_search_by(|(known, _)| known.cmp(key)).unwrap_or_else(|at| {
            self.cells.insert(at, (key.clone(), Cell { bound: true, ..Cell::default() }));
            at
        });
        &mut self.cells[at].1
    }

    /// Whether all hold; what they tell of versions is then known.
    fn bind_conditions(&mut self, conditions: &[(Bytes, Condition)]) -> bool {
        conditions.iter().all(|(key, condition)| self.cell(key).when(condition))
    }

    /// Whether one may not hold.
    fn may_fail(&self, conditions: &[(Bytes, Condition)]) -> bool {
        let mut registers = self.clone();
        conditions.iter().any(|(key, condition)| {
            let cell = registers.cell(key);
            matches!(condition, Condition::Version(_)) && !cell.bound || !cell.clone().when(condition)
        })
    }

    /// One operation of a branch: looks at `self`, writes to `written`.
    fn step(
        &mut self,
        step: &TransactionOperation,
        result: Option<&OperationResult>,
        written: &mut Registers,
    ) -> Option<()> {
        let before = self.cell(step.key());
        match (step, result) {
            (TransactionOperation::Get { .. }, None) => Some(()),
            (TransactionOperation::Get { .. }, Some(OperationResult::Found(record))) => {
                before.found(&record.value, record.seq.0)
            }
            (TransactionOperation::Get { .. }, Some(OperationResult::NotFound)) => before.value.is_none().then_some(()),
            (TransactionOperation::Put { key, value }, result) => {
                let (had, floor) = (before.value.is_some(), before.floor);
                let version = match result {
                    None => None,
                    Some(OperationResult::Put { version, replaced }) if *replaced == had => *version,
                    Some(_) => return None,
                };
                version.is_none_or(|version| version.0 > floor).then_some(())?;
                *written.cell(key) = Cell {
                    value: Some(value.clone()),
                    bound: version.is_some(),
                    floor: version.map_or(floor, |version| version.0),
                };
                Some(())
            }
            (TransactionOperation::Delete { key }, result) => {
                let (had, floor) = (before.value.is_some(), before.floor);
                match result {
                    None => {}
                    Some(OperationResult::Deleted { existed }) if *existed == had => {}
                    Some(_) => return None,
                }
                *written.cell(key) = Cell { value: None, bound: true, floor };
                Some(())
            }
            (TransactionOperation::Get { .. }, Some(_)) => None,
        }
    }
}

impl Cell {
    fn found(&mut self, value: &Bytes, version: u64) -> Option<()> {
        (self.value.as_ref()? == value).then_some(())?;
        self.bind(version)
    }

    /// The present value has this version.
    fn bind(&mut self, version: u64) -> Option<()> {
        let fits = if self.bound { self.floor == version } else { version > self.floor };
        fits.then(|| (self.bound, self.floor) = (true, version))
    }

    fn when(&mut self, condition: &Condition) -> bool {
        match condition {
            Condition::None => true,
            Condition::Absent => self.value.is_none(),
            Condition::Present => self.value.is_some(),
            Condition::Version(version) => self.value.is_some() && self.bind(version.0).is_some(),
            Condition::Value(value) => self.value.as_ref() == Some(value),
        }
    }
}

#[cfg(test)]
mod tests;
