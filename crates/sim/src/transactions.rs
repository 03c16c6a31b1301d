//! What clients do with several keys at once: transactions over a few hot keys that lie in different partitions, and
//! consistent reads of them without locks.

use crate::plan::Plan;
use crate::random::Random;
use bytes::Bytes;
use replcore::Collected;
use std::collections::BTreeMap;
use types::{
    Condition, OperationResult, PartitionCount, PartitionId, Record, Transaction, TransactionOperation,
    TransactionOutcome,
};

/// How often keys are collected until a transaction that locks takes over.
const COLLECTS_MAX: usize = 5;

/// Keys that transactions fight over: as many partitions as there are take turns.
pub(crate) fn hot_keys(partitions: u32, count: usize) -> Vec<Bytes> {
    let turns = (0..count as u32).map(|turn| PartitionId(turn % partitions));
    let partitions = PartitionCount::new(partitions).expect("a plan's partitions are a power of two");
    let mut keys: Vec<Bytes> = Vec::new();
    for wanted in turns {
        let mut names = (0u32..).map(|number| Bytes::from(format!("h{number}")));
        let found = names.find(|key| partitions.partition_of(key) == wanted && !keys.contains(key));
        keys.extend(found);
    }
    keys
}

/// A transaction on some of the hot keys; `value` is what it writes, made different for each key.
pub(crate) fn draw(random: &mut Random, plan: &Plan, seen: &BTreeMap<Bytes, Record>, value: &str) -> Transaction {
    let mut keys = plan.hot.clone();
    while keys.len() > 2 && random.chance(600) {
        keys.remove(random.index(keys.len()));
    }
    // The home is whose key comes first.
    let turn = random.index(keys.len());
    keys.rotate_left(turn);
    if random.chance(150) {
        let then = keys.into_iter().map(|key| TransactionOperation::Get { key }).collect();
        return Transaction { then, ..Transaction::default() };
    }
    let mut transaction = Transaction::default();
    let by_version = random.chance(400);
    for key in &keys {
        let condition = match (random.below(10), seen.get(key)) {
            (0, _) => Condition::Absent,
            (1, _) => Condition::Present,
            (2..=5, Some(record)) if by_version => Condition::Version(record.seq),
            (2..=5, Some(record)) => Condition::Value(record.value.clone()),
            _ => continue,
        };
        transaction.conditions.push((key.clone(), condition));
    }
    // A version may be one that nobody has heard of: then what was not done must do nothing (see the checker).
    let otherwise = !by_version && random.chance(500);
    for key in keys {
        // No two operations write the same.
        let value = |branch: &str| Bytes::from(format!("{value}.{}{branch}", key.escape_ascii()));
        if otherwise && random.chance(500) {
            let (key, value) = (key.clone(), value(".else"));
            transaction.otherwise.push(match random.below(3) {
                0 => TransactionOperation::Get { key },
                _ => TransactionOperation::Put { key, value },
            });
        }
        let value = value("");
        transaction.then.push(match random.below(10) {
            0 | 1 => TransactionOperation::Get { key },
            2 => TransactionOperation::Delete { key },
            _ => TransactionOperation::Put { key, value },
        });
    }
    transaction
}

/// Whether a transaction that was answered so has changed anything.
pub(crate) fn has_changed(outcome: &TransactionOutcome) -> bool {
    outcome
        .results
        .iter()
        .any(|result| matches!(result, OperationResult::Put { .. } | OperationResult::Deleted { existed: true }))
}

/// Two collections of the same keys, partition by partition.
#[derive(Clone, Debug)]
pub(crate) struct Collecting {
    parts: Vec<(PartitionId, Vec<Bytes>)>,
    /// What the collection before found; then what this one has found so far.
    before: Option<Vec<Vec<Collected>>>,
    found: Vec<Vec<Collected>>,
    collections: usize,
}

/// What follows from an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Another partition's keys, or the same again.
    Ask,
    /// All keys at one instant.
    Done(TransactionOutcome),
    /// They change too quickly.
    GiveUp,
}

impl Collecting {
    pub(crate) fn new(partitions: u32, keys: &[Bytes]) -> Collecting {
        let partitions = PartitionCount::new(partitions).expect("a plan's partitions are a power of two");
        let mut parts: BTreeMap<PartitionId, Vec<Bytes>> = BTreeMap::new();
        for key in keys {
            parts.entry(partitions.partition_of(key)).or_default().push(key.clone());
        }
        Collecting { parts: parts.into_iter().collect(), before: None, found: Vec::new(), collections: 0 }
    }

    /// What is to be asked next.
    pub(crate) fn part(&self) -> &(PartitionId, Vec<Bytes>) {
        &self.parts[self.found.len()]
    }

    /// Takes an answer to [`Collecting::part`]; `keys` is the order in which they are wanted.
    pub(crate) fn take(&mut self, found: Vec<Collected>, keys: impl Iterator<Item = Bytes>) -> Next {
        self.found.push(found);
        if self.found.len() < self.parts.len() {
            return Next::Ask;
        }
        self.collections += 1;
        let found = std::mem::take(&mut self.found);
        let is_certain = |found: &Collected| !matches!(found, Collected::Absent { since: None });
        // One partition's keys are as of one instant anyway.
        let same = self.before.as_ref() == Some(&found) && found.iter().flatten().all(is_certain);
        if same || self.parts.len() == 1 {
            let by_key: BTreeMap<&Bytes, &Collected> =
                self.parts.iter().flat_map(|(_, keys)| keys).zip(found.iter().flatten()).collect();
            let results = keys.map(|key| match by_key.get(&key) {
                Some(Collected::Found(record)) => OperationResult::Found(record.clone()),
                _ => OperationResult::NotFound,
            });
            return Next::Done(TransactionOutcome { succeeded: true, results: results.collect() });
        }
        self.before = Some(found);
        if self.collections < COLLECTS_MAX { Next::Ask } else { Next::GiveUp }
    }
}
