//! Keys that transactions tie together, as one object: a register each, all of which a transaction sees at one instant.
//!
//! What a transaction was answered says which branch was taken, what was read, and whether writes replaced something. A
//! condition on a version that is not known yet is taken to hold where the transaction succeeded, or where nobody heard of
//! its outcome; where it failed, anything else may have failed it. Transactions with such conditions and an unknown outcome
//! must therefore do nothing where they fail.

use super::search::Model;
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

impl Model for Registers {
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
                        cell.value = match kind {
                            MutationKind::Put(value) => Some(value.clone()),
                            MutationKind::Delete => had.then_some(None)?,
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

    fn describe(&self, _: &[&Operation]) -> String {
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
}

impl Registers {
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
mod tests {
    use super::super::{Action, Heard, Operation, Rejection, STEPS_MAX, check};
    use bytes::Bytes;
    use types::{Condition, OperationResult, Record, Seq, Transaction, TransactionOperation, TransactionOutcome};

    fn key(name: &str) -> Bytes {
        Bytes::copy_from_slice(name.as_bytes())
    }

    /// A transaction from `called_at` to `answered_at`; `results` as heard, or none.
    fn transact(
        at: (u64, u64),
        conditions: &[(&str, Condition)],
        steps: &[(&str, Option<&str>)],
        heard: Option<(bool, Vec<OperationResult>)>,
    ) -> Operation {
        let step = |(name, value): &(&str, Option<&str>)| match value {
            Some(value) => TransactionOperation::Put { key: key(name), value: key(value) },
            None => TransactionOperation::Get { key: key(name) },
        };
        let conditions = conditions.iter().map(|(name, condition)| (key(name), condition.clone())).collect();
        let transaction = Transaction { conditions, then: steps.iter().map(step).collect(), otherwise: Vec::new() };
        let heard = heard.map_or(Heard::Unknown, |(succeeded, results)| {
            Heard::Transacted(TransactionOutcome { succeeded, results })
        });
        let of = transaction.first_key().cloned().unwrap_or_default();
        Operation {
            client: 1,
            key: of,
            called_at: at.0,
            answered_at: at.1,
            action: Action::Transact(transaction),
            heard,
        }
    }

    fn wrote(version: Option<u64>, replaced: bool) -> OperationResult {
        OperationResult::Put { version: version.map(Seq), replaced }
    }

    fn found(version: u64, value: &str) -> OperationResult {
        OperationResult::Found(Record { seq: Seq(version), value: key(value) })
    }

    fn get(at: (u64, u64), name: &str, heard: Heard) -> Operation {
        Operation { client: 2, key: key(name), called_at: at.0, answered_at: at.1, action: Action::Get, heard }
    }

    fn is_explained(history: &[Operation]) -> bool {
        match check(history, STEPS_MAX) {
            Ok(_) => true,
            Err(Rejection::NotLinearizable { .. }) => false,
            Err(undecided) => panic!("{undecided}"),
        }
    }

    /// Guards against half a transaction that passes for a whole one.
    #[test]
    fn half_of_it_is_not_seen() {
        let written = transact(
            (0, 10),
            &[],
            &[("a", Some("1")), ("b", Some("1"))],
            Some((true, vec![wrote(Some(5), false), wrote(None, false)])),
        );
        let both = |b| transact((20, 30), &[], &[("a", None), ("b", None)], Some((true, vec![found(5, "1"), b])));
        assert!(is_explained(&[written.clone(), both(found(9, "1"))]));
        assert!(!is_explained(&[written.clone(), both(OperationResult::NotFound)]));
        // Nor by two plain reads, one after the other.
        let a = get((20, 30), "a", Heard::Found(Record { seq: Seq(5), value: key("1") }));
        assert!(!is_explained(&[written, a, get((40, 50), "b", Heard::NotFound)]));
    }

    /// Guards against two that each look at what the other writes.
    #[test]
    fn nobody_looks_past_another() {
        let one = |at, looks: &str, writes: &str| {
            transact(
                at,
                &[(looks, Condition::Absent)],
                &[(writes, Some(writes))],
                Some((true, vec![wrote(Some(3), false)])),
            )
        };
        assert!(is_explained(&[one((0, 10), "a", "b")]));
        assert!(!is_explained(&[one((0, 10), "a", "b"), one((0, 10), "b", "a")]));
    }

    /// Guards against an outcome that nobody heard of and that is taken for certain, in either way.
    #[test]
    fn an_unknown_one_may_have_happened() {
        let unknown = || transact((0, 0), &[], &[("a", Some("1")), ("b", Some("1"))], None);
        let reads = |a, b| transact((20, 30), &[], &[("a", None), ("b", None)], Some((true, vec![a, b])));
        let none = || OperationResult::NotFound;
        assert!(is_explained(&[unknown(), reads(none(), none())]));
        assert!(is_explained(&[unknown(), reads(found(2, "1"), found(7, "1"))]));
        assert!(!is_explained(&[unknown(), reads(found(2, "1"), none())]));
    }

    /// Guards against a condition that is not looked at.
    #[test]
    fn a_condition_that_held_did_not_fail() {
        let written = || {
            transact(
                (0, 10),
                &[],
                &[("a", Some("1")), ("b", Some("1"))],
                Some((true, vec![wrote(Some(5), false), wrote(None, false)])),
            )
        };
        let if_a = |value: &str, succeeded, results| {
            transact((20, 30), &[("a", Condition::Value(key(value)))], &[("b", None)], Some((succeeded, results)))
        };
        assert!(is_explained(&[written(), if_a("1", true, vec![found(9, "1")])]));
        assert!(!is_explained(&[written(), if_a("1", false, vec![])]));
        assert!(!is_explained(&[written(), if_a("2", true, vec![found(9, "1")])]));
        assert!(is_explained(&[written(), if_a("2", false, vec![])]));
    }
}
