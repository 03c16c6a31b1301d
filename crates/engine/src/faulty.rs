//! An engine that fails on command, around any other.

use crate::{ApplyBatch, Engine, EngineError, Keyspace, Statistics};
use bytes::Bytes;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use types::{EntryId, Record, RecordKey, RecordKind};

/// What an engine is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// [`Engine::get`].
    Get,
    /// [`Engine::applied`].
    Applied,
    /// [`Engine::apply`].
    Apply,
    /// [`Engine::scan`].
    Scan,
    /// [`Engine::keyspaces`].
    Keyspaces,
    /// [`Engine::delete`].
    Delete,
    /// [`Engine::checkpoint`].
    Checkpoint,
}

/// How an operation fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// [`EngineError::Io`] of this kind; nothing is done.
    Io(io::ErrorKind),
    /// The same, but the operation has been done: what a failed write leaves is unknown.
    IoAfter(io::ErrorKind),
    /// [`EngineError::Corrupt`] of the whole store; nothing is done, now or later.
    Corrupt,
}

/// Passes calls to the engine within, unless told to fail.
#[derive(Debug)]
pub struct FaultyEngine<E> {
    engine: E,
    faults: Mutex<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    scheduled: Vec<Scheduled>,
    corrupt_keyspaces: Vec<Keyspace>,
    corrupt: bool,
}

#[derive(Debug)]
struct Scheduled {
    operation: Operation,
    calls_before: u64,
    fault: Fault,
}

impl<E: Engine> FaultyEngine<E> {
    /// An engine that does not fail yet.
    pub fn new(engine: E) -> FaultyEngine<E> {
        FaultyEngine { engine, faults: Mutex::default() }
    }

    /// The engine within.
    pub fn inner(&self) -> &E {
        &self.engine
    }

    /// Lets `calls_before` more calls of `operation` pass and the one after them fail, once.
    pub fn fail(&self, operation: Operation, calls_before: u64, fault: Fault) {
        self.lock().scheduled.push(Scheduled { operation, calls_before, fault });
    }

    /// From now on a keyspace is damaged: reads and batches of it give [`EngineError::Corrupt`], until it is deleted.
    pub fn corrupt(&self, keyspace: Keyspace) {
        self.lock().corrupt_keyspaces.push(keyspace);
    }

    fn lock(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<T>(
        &self,
        operation: Operation,
        keyspaces: &[Keyspace],
        call: impl FnOnce(&E) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let fault = self.lock().next(operation, keyspaces)?;
        let error = |kind| EngineError::io("reach", "the faulty engine")(io::Error::from(kind));
        match fault {
            None => call(&self.engine),
            Some(Fault::Io(kind)) => Err(error(kind)),
            Some(Fault::IoAfter(kind)) => call(&self.engine).and(Err(error(kind))),
            Some(Fault::Corrupt) => {
                self.lock().corrupt = true;
                Err(whole_store())
            }
        }
    }
}

impl Faults {
    fn next(&mut self, operation: Operation, keyspaces: &[Keyspace]) -> Result<Option<Fault>, EngineError> {
        if self.corrupt {
            return Err(whole_store());
        }
        if let Some(damaged) = keyspaces.iter().find(|keyspace| self.corrupt_keyspaces.contains(keyspace)) {
            return Err(EngineError::corrupt_in(*damaged, "damaged on command"));
        }
        let mut due = None;
        self.scheduled.retain_mut(|scheduled| {
            if scheduled.operation != operation || due.is_some() {
                return true;
            }
            if scheduled.calls_before == 0 {
                due = Some(scheduled.fault);
                return false;
            }
            scheduled.calls_before -= 1;
            true
        });
        Ok(due)
    }
}

fn whole_store() -> EngineError {
    EngineError::corrupt("damaged on command")
}

impl<E: Engine> Engine for FaultyEngine<E> {
    fn get(&self, keyspace: Keyspace, key: &RecordKey) -> Result<Option<Record>, EngineError> {
        self.call(Operation::Get, &[keyspace], |engine| engine.get(keyspace, key))
    }

    fn applied(&self, keyspace: Keyspace) -> Result<EntryId, EngineError> {
        self.call(Operation::Applied, &[keyspace], |engine| engine.applied(keyspace))
    }

    fn apply(&self, batches: &[ApplyBatch]) -> Result<(), EngineError> {
        let keyspaces: Vec<_> = batches.iter().map(|batch| batch.keyspace).collect();
        self.call(Operation::Apply, &keyspaces, |engine| engine.apply(batches))
    }

    fn scan(
        &self,
        keyspace: Keyspace,
        kind: RecordKind,
        after: Option<&[u8]>,
        limit_records: usize,
        limit_bytes: usize,
    ) -> Result<Vec<(Bytes, Record)>, EngineError> {
        self.call(Operation::Scan, &[keyspace], |engine| engine.scan(keyspace, kind, after, limit_records, limit_bytes))
    }

    fn keyspaces(&self) -> Result<Vec<Keyspace>, EngineError> {
        self.call(Operation::Keyspaces, &[], |engine| engine.keyspaces())
    }

    fn delete_step(&self, keyspace: Keyspace) -> Result<bool, EngineError> {
        let last = self.call(Operation::Delete, &[], |engine| engine.delete_step(keyspace))?;
        if last {
            self.lock().corrupt_keyspaces.retain(|damaged| *damaged != keyspace);
        }
        Ok(last)
    }

    fn checkpoint(&self) -> Result<(), EngineError> {
        self.call(Operation::Checkpoint, &[], |engine| engine.checkpoint())
    }

    fn statistics(&self) -> Statistics {
        self.engine.statistics()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryEngine;
    use types::{Generation, PartitionId, Seq, Term};

    const GOOD: Keyspace = Keyspace { partition: PartitionId(1), generation: Generation(1) };
    const BAD: Keyspace = Keyspace { partition: PartitionId(1), generation: Generation(2) };

    fn batch(keyspace: Keyspace) -> [ApplyBatch; 1] {
        [ApplyBatch { keyspace, through: EntryId { term: Term(1), seq: Seq(1) }, changes: Vec::new() }]
    }

    /// Guards against a fault that comes too early, too late or twice.
    #[test]
    fn a_scheduled_fault_comes_once_and_on_time() {
        let engine = FaultyEngine::new(MemoryEngine::new());
        engine.fail(Operation::Apply, 1, Fault::Io(io::ErrorKind::StorageFull));
        engine.apply(&batch(GOOD)).unwrap();
        engine.checkpoint().unwrap();
        assert!(matches!(engine.apply(&batch(BAD)), Err(EngineError::Io { .. })));
        assert_eq!(engine.keyspaces().unwrap(), [GOOD], "nothing is done");
        engine.fail(Operation::Apply, 0, Fault::IoAfter(io::ErrorKind::StorageFull));
        assert!(matches!(engine.apply(&batch(BAD)), Err(EngineError::Io { .. })));
        assert_eq!(engine.keyspaces().unwrap(), [GOOD, BAD], "done all the same");
        engine.apply(&batch(GOOD)).unwrap();
    }

    /// Guards against damage that spreads to other keyspaces, and against damage that heals by itself (P3).
    #[test]
    fn damage_stays_where_it_is() {
        let engine = FaultyEngine::new(MemoryEngine::new());
        engine.apply(&batch(BAD)).unwrap();
        engine.corrupt(BAD);
        for _ in 0..2 {
            assert!(matches!(engine.applied(BAD), Err(EngineError::Corrupt { keyspace: Some(BAD), .. })));
            engine.apply(&batch(GOOD)).unwrap();
        }
        engine.delete(BAD).unwrap();
        assert_eq!(engine.applied(BAD).unwrap(), EntryId::ZERO);
        engine.fail(Operation::Get, 0, Fault::Corrupt);
        let key = RecordKey::user(Bytes::new());
        assert!(matches!(engine.get(GOOD, &key), Err(EngineError::Corrupt { keyspace: None, .. })));
        assert!(matches!(engine.checkpoint(), Err(EngineError::Corrupt { keyspace: None, .. })));
    }
}
