//! An engine in memory: the model for the others, and the simulator's disk.
//!
//! Deterministic: ordered maps, no clock, no randomness. It remembers what was done since the last checkpoint, so that
//! [`MemoryEngine::crash`] can lose any suffix of it, as a disk may. Cloning gives an independent engine and shares the
//! records until one of the two changes them: cheap to keep and to go back to.

use crate::{ApplyBatch, Engine, EngineError, Keyspace, KeyspaceStatistics, Statistics, VersionedChange, check_sizes};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use types::{EntryId, Record, RecordKey, RecordKind};

/// An engine that forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    inner: Mutex<Inner>,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    now: State,
    durable: State,
    /// What leads from `durable` to `now`.
    since: Vec<Step>,
}

type State = BTreeMap<Keyspace, Arc<Stored>>;

#[derive(Clone, Debug, Default, PartialEq)]
struct Stored {
    applied: EntryId,
    deleting: bool,
    records: BTreeMap<RecordKey, Record>,
    counts: KeyspaceStatistics,
}

/// What a crash may keep or lose, whole.
#[derive(Clone, Debug)]
enum Step {
    Apply(Arc<[ApplyBatch]>),
    BeginDelete(Keyspace),
    FinishDelete(Keyspace),
}

impl MemoryEngine {
    /// An engine without keyspaces.
    pub fn new() -> MemoryEngine {
        MemoryEngine::default()
    }

    /// What a crash leaves: everything up to the last checkpoint, and of the steps since then a prefix whose length is
    /// `choice` modulo one more than their number. So 0 keeps the checkpoint alone, and every outcome can be asked for.
    /// What is left is durable. A deletion is two steps: it may have begun only.
    pub fn crash(&self, choice: u64) {
        let mut inner = self.lock();
        let kept = (choice % (inner.since.len() as u64 + 1)) as usize;
        let mut state = std::mem::take(&mut inner.durable);
        for step in inner.since.drain(..).take(kept) {
            step.take(&mut state);
        }
        inner.durable = state.clone();
        inner.now = state;
    }

    /// How many steps a crash may lose.
    pub fn steps_since_checkpoint(&self) -> usize {
        self.lock().since.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A step is taken whole or, where it panics, the state is replaced by none of it: nothing torn to protect.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for MemoryEngine {
    fn clone(&self) -> MemoryEngine {
        MemoryEngine { inner: Mutex::new(self.lock().clone()) }
    }
}

impl Inner {
    fn perform(&mut self, step: Step) {
        step.take(&mut self.now);
        self.since.push(step);
    }

    /// The keyspace as readers see it.
    fn visible(&self, keyspace: Keyspace) -> Option<&Stored> {
        self.now.get(&keyspace).map(Arc::as_ref).filter(|stored| !stored.deleting)
    }
}

impl Step {
    fn take(&self, state: &mut State) {
        match self {
            Step::Apply(batches) => {
                for batch in batches.iter() {
                    let stored = Arc::make_mut(state.entry(batch.keyspace).or_default());
                    stored.applied = batch.through;
                    batch.changes.iter().for_each(|change| stored.change(change));
                }
            }
            Step::BeginDelete(keyspace) => {
                state.insert(*keyspace, Arc::new(Stored { deleting: true, ..Stored::default() }));
            }
            Step::FinishDelete(keyspace) => {
                state.remove(keyspace);
            }
        }
    }
}

impl Stored {
    fn change(&mut self, change: &VersionedChange) {
        let new = change.value.as_ref().map(Bytes::len);
        let old = match &change.value {
            Some(value) => self.records.insert(change.key.clone(), Record { seq: change.seq, value: value.clone() }),
            None => self.records.remove(&change.key),
        };
        self.counts.count(&change.key, old.map(|record| record.value.len()), new);
    }
}

impl Engine for MemoryEngine {
    fn get(&self, keyspace: Keyspace, key: &RecordKey) -> Result<Option<Record>, EngineError> {
        Ok(self.lock().visible(keyspace).and_then(|stored| stored.records.get(key).cloned()))
    }

    fn applied(&self, keyspace: Keyspace) -> Result<EntryId, EngineError> {
        Ok(self.lock().visible(keyspace).map_or(EntryId::ZERO, |stored| stored.applied))
    }

    fn apply(&self, batches: &[ApplyBatch]) -> Result<(), EngineError> {
        check_sizes(batches)?;
        let mut inner = self.lock();
        let mut ends = BTreeMap::new();
        for ApplyBatch { keyspace, through, .. } in batches {
            let stored = inner.now.get(keyspace);
            if stored.is_some_and(|stored| stored.deleting) {
                return Err(EngineError::Deleting { keyspace: *keyspace });
            }
            let end = ends.entry(*keyspace).or_insert(stored.map_or(EntryId::ZERO, |stored| stored.applied));
            if *through < *end {
                return Err(EngineError::Backwards { keyspace: *keyspace, applied: *end, through: *through });
            }
            *end = *through;
        }
        inner.perform(Step::Apply(batches.into()));
        Ok(())
    }

    fn scan(
        &self,
        keyspace: Keyspace,
        kind: RecordKind,
        after: Option<&[u8]>,
        limit_records: usize,
        limit_bytes: usize,
    ) -> Result<Vec<(Bytes, Record)>, EngineError> {
        let inner = self.lock();
        let Some(stored) = inner.visible(keyspace) else { return Ok(Vec::new()) };
        let key = |name: &[u8]| RecordKey { kind, name: Bytes::copy_from_slice(name) };
        let start = after.map_or(Bound::Included(key(&[])), |name| Bound::Excluded(key(name)));
        let mut page = Vec::new();
        let mut bytes = 0;
        for (key, record) in stored.records.range((start, Bound::Unbounded)).take_while(|(key, _)| key.kind == kind) {
            if page.len() >= limit_records || (bytes >= limit_bytes && !page.is_empty()) {
                break;
            }
            bytes += key.name.len() + record.value.len();
            page.push((key.name.clone(), record.clone()));
        }
        Ok(page)
    }

    fn keyspaces(&self) -> Result<Vec<Keyspace>, EngineError> {
        Ok(self.lock().now.keys().copied().collect())
    }

    fn delete_step(&self, keyspace: Keyspace) -> Result<bool, EngineError> {
        let mut inner = self.lock();
        if inner.now.contains_key(&keyspace) {
            inner.perform(Step::BeginDelete(keyspace));
            inner.perform(Step::FinishDelete(keyspace));
        }
        Ok(true)
    }

    fn checkpoint(&self) -> Result<(), EngineError> {
        let mut inner = self.lock();
        inner.durable = inner.now.clone();
        inner.since.clear();
        Ok(())
    }

    fn statistics(&self) -> Statistics {
        let inner = self.lock();
        let visible = inner.now.iter().filter(|(_, stored)| !stored.deleting);
        Statistics { keyspaces: visible.map(|(keyspace, stored)| (*keyspace, stored.counts)).collect(), disk_bytes: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Generation, PartitionId, Seq, Term};

    const KEYSPACE: Keyspace = Keyspace { partition: PartitionId(3), generation: Generation(1) };

    fn put(engine: &MemoryEngine, seq: u64) {
        let key = RecordKey::user(Bytes::from(seq.to_string()));
        let change = VersionedChange { key, value: Some(Bytes::from_static(b"v")), seq: Seq(seq) };
        let through = EntryId { term: Term(1), seq: Seq(seq) };
        engine.apply(&[ApplyBatch { keyspace: KEYSPACE, through, changes: vec![change] }]).unwrap();
    }

    /// Guards against a crash that loses what a checkpoint made durable, keeps a suffix, or can't reach an outcome.
    #[test]
    fn a_crash_keeps_the_checkpoint_and_a_prefix() {
        let engine = MemoryEngine::new();
        put(&engine, 1);
        engine.checkpoint().unwrap();
        put(&engine, 2);
        put(&engine, 3);
        assert_eq!(engine.steps_since_checkpoint(), 2);
        for choice in 0..6 {
            let crashed = engine.clone();
            crashed.crash(choice);
            let applied = crashed.applied(KEYSPACE).unwrap().seq;
            assert_eq!(applied, Seq(1 + choice % 3));
            let names = crashed.scan(KEYSPACE, RecordKind::User, None, 10, 1000).unwrap();
            assert_eq!(names.len() as u64, applied.0, "P1: data and applied agree");
            crashed.crash(u64::MAX);
            assert_eq!(crashed.applied(KEYSPACE).unwrap().seq, applied, "what is left is durable");
        }
    }

    /// Guards against clones that share what they change.
    #[test]
    fn a_clone_is_independent() {
        let engine = MemoryEngine::new();
        put(&engine, 1);
        let saved = engine.clone();
        put(&engine, 2);
        assert_eq!(saved.applied(KEYSPACE).unwrap().seq, Seq(1));
        assert_eq!(engine.applied(KEYSPACE).unwrap().seq, Seq(2));
    }

    /// Guards against a half-done deletion that is forgotten, or that serves what is left.
    #[test]
    fn a_crash_in_the_middle_of_a_deletion_leaves_it_listed_and_empty() {
        let engine = MemoryEngine::new();
        put(&engine, 1);
        engine.checkpoint().unwrap();
        engine.delete(KEYSPACE).unwrap();
        engine.crash(1);
        assert_eq!(engine.keyspaces().unwrap(), [KEYSPACE]);
        assert_eq!(engine.applied(KEYSPACE).unwrap(), EntryId::ZERO);
        assert_eq!(engine.scan(KEYSPACE, RecordKind::User, None, 10, 1000).unwrap(), []);
        engine.delete(KEYSPACE).unwrap();
        assert_eq!(engine.keyspaces().unwrap(), []);
    }
}
