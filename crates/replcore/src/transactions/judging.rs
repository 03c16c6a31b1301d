//! What a partition finds for its part of a transaction: judged against what is applied and everything appended (P12).

use crate::event::{Effect, State};
use crate::replica::{Replica, user};
use bytes::Bytes;
use std::collections::BTreeMap;
use types::{
    Change, OperationResult, Record, RecordKey, Seq, TransactionOperation, TransactionOutcome, TransactionPart,
};

/// What a partition says it found: for each branch its operations' results, with their places in the whole branch.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Judgement {
    /// Whether this partition's conditions hold.
    pub holds: bool,
    /// What `then` would do; of no use where the conditions do not hold.
    pub then: Vec<(u32, OperationResult)>,
    /// What `otherwise` would do.
    pub otherwise: Vec<(u32, OperationResult)>,
}

impl Judgement {
    /// The results of one branch.
    pub(crate) fn branch(&self, succeeded: bool) -> &[(u32, OperationResult)] {
        if succeeded { &self.then } else { &self.otherwise }
    }

    /// Bytes of values that were read, of both branches.
    pub(crate) fn read_bytes(&self) -> usize {
        self.then.iter().chain(&self.otherwise).map(|(_, result)| read_bytes(result)).sum()
    }

    /// Whether a branch changes anything here.
    pub(crate) fn changes(&self, succeeded: bool) -> bool {
        self.branch(succeeded).iter().any(|(_, result)| {
            matches!(result, OperationResult::Put { .. } | OperationResult::Deleted { existed: true })
        })
    }
}

/// A judgement with all that follows from it here.
#[derive(Clone, Hash, Debug)]
pub(super) struct Judged {
    pub(super) found: Judgement,
    /// What each branch writes.
    pub(super) then: Vec<Change>,
    pub(super) otherwise: Vec<Change>,
    /// The newest entry that it looked at.
    pub(super) seen: Seq,
}

impl Judged {
    pub(super) fn into_branch(self, succeeded: bool) -> Vec<Change> {
        if succeeded { self.then } else { self.otherwise }
    }
}

/// Bytes of the value, where one was read.
pub(super) fn read_bytes(result: &OperationResult) -> usize {
    match result {
        OperationResult::Found(record) => record.value.len(),
        _ => 0,
    }
}

/// Puts the parts' results into the order of the whole branch. Writes here get `version`.
pub(super) fn outcome<'a>(
    succeeded: bool,
    home: &Judgement,
    version: Option<Seq>,
    others: impl Iterator<Item = &'a Judgement>,
) -> TransactionOutcome {
    let mut results: Vec<(u32, OperationResult)> = home.branch(succeeded).to_vec();
    for (_, result) in &mut results {
        if let OperationResult::Put { version: written, .. } = result {
            *written = version;
        }
    }
    results.extend(others.flat_map(|judgement| judgement.branch(succeeded).iter().cloned()));
    results.sort_unstable_by_key(|(index, _)| *index);
    TransactionOutcome { succeeded, results: results.into_iter().map(|(_, result)| result).collect() }
}

impl Replica {
    /// Judges a part. `None`: the state turned out to be damaged.
    pub(super) fn judge(
        &mut self,
        part: &TransactionPart,
        state: &dyn State,
        effects: &mut Vec<Effect>,
    ) -> Option<Judged> {
        let mut seen = Seq(0);
        let mut found: BTreeMap<&Bytes, Option<Record>> = BTreeMap::new();
        for key in part.keys().into_keys() {
            let (record, at) = self.newest(&user(key), state, effects)?;
            seen = seen.max(at);
            found.insert(key, record);
        }
        let current = |key: &Bytes| found.get(key).and_then(Option::as_ref);
        let holds = part.conditions.iter().all(|(key, condition)| crate::primary::holds(condition, current(key)));
        let branch = |operations: &[(u32, TransactionOperation)]| {
            let mut changes = Vec::new();
            let results = operations.iter().map(|(index, operation)| {
                let before = current(operation.key());
                let result = match operation {
                    TransactionOperation::Get { .. } => {
                        before.map_or(OperationResult::NotFound, |record| OperationResult::Found(record.clone()))
                    }
                    TransactionOperation::Put { key, value } => {
                        changes.push(Change { key: RecordKey::user(key.clone()), value: Some(value.clone()) });
                        OperationResult::Put { version: None, replaced: before.is_some() }
                    }
                    TransactionOperation::Delete { key } => {
                        if before.is_some() {
                            changes.push(Change { key: RecordKey::user(key.clone()), value: None });
                        }
                        OperationResult::Deleted { existed: before.is_some() }
                    }
                };
                (*index, result)
            });
            (results.collect::<Vec<_>>(), changes)
        };
        let (then, then_changes) = if holds { branch(&part.then) } else { Default::default() };
        let (otherwise, otherwise_changes) = branch(&part.otherwise);
        Some(Judged {
            found: Judgement { holds, then, otherwise },
            then: then_changes,
            otherwise: otherwise_changes,
            seen,
        })
    }
}
