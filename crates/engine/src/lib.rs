//! The storage of applied state behind one trait: [`sled`](SledEngine), [in memory](MemoryEngine), and
//! [faulty](FaultyEngine).
//!
//! An engine holds committed entries only, so nothing here is ever undone. The write-ahead log is the truth: what an
//! engine loses behind its last [`checkpoint`](Engine::checkpoint) is replayed from the log, and what it finds damaged
//! is rebuilt from other replicas.
//!
//! Invariants, held by [`conformance::check`] for every engine:
//! - P1: `applied` moves in the same atomic batch as the changes it counts, and never backwards.
//! - P3: damage is reported ([`EngineError::Corrupt`]), never served.
//! - P5: a keyspace is one generation of one partition; deleting one touches no other.
//!
//! Deliberately absent: conditions, request ids, logs and views (an engine stores what it is told to), transactions
//! (one writer per keyspace, in log order), and any clock or random source.

pub mod conformance;
mod error;
mod faulty;
mod memory;
mod mutants;
mod sled;

pub use crate::error::EngineError;
pub use crate::faulty::{Fault, FaultyEngine, Operation};
pub use crate::memory::MemoryEngine;
pub use crate::sled::{SledEngine, SledOptions, quarantine};

use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use types::{EntryId, Generation, PartitionId, Record, RecordKey, RecordKind, Seq};

/// Longest record name that an engine stores, in bytes: a user's key, with room for what hidden records put around one.
pub const NAME_BYTES_MAX: usize = types::limits::KEY_BYTES_MAX + 64;
/// Longest value that an engine stores, in bytes: hidden records may hold more than a user's value.
pub const VALUE_BYTES_MAX: usize = types::limits::MESSAGE_BYTES_MAX;

/// One life of one partition on this node (P4, P5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Keyspace {
    /// Which partition.
    pub partition: PartitionId,
    /// Which of its lives on this node; never used again once deleted.
    pub generation: Generation,
}

impl fmt::Display for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.partition, self.generation)
    }
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What one keyspace gets in one [`Engine::apply`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApplyBatch {
    /// Where the changes go; it begins to exist with its first batch.
    pub keyspace: Keyspace,
    /// The last entry whose changes are among these: becomes `applied` (P1). Never below what is applied already.
    pub through: EntryId,
    /// In log order; where one record is named more than once the last change wins.
    pub changes: Vec<VersionedChange>,
}

/// A change with the entry that wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionedChange {
    /// Which record.
    pub key: RecordKey,
    /// Its new value; `None` deletes it.
    pub value: Option<Bytes>,
    /// The entry that wrote it: the record's version.
    pub seq: Seq,
}

/// Where applied state is kept. Calls block; any thread may make them.
///
/// Every error but those that [say otherwise](EngineError) leaves the engine as it was.
pub trait Engine: Send + Sync {
    /// The record of that name, if there is one.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] where what is stored can't be trusted.
    fn get(&self, keyspace: Keyspace, key: &RecordKey) -> Result<Option<Record>, EngineError>;

    /// The last entry whose changes the keyspace holds; [`EntryId::ZERO`] for a keyspace that does not exist.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] where what is stored can't be trusted.
    fn applied(&self, keyspace: Keyspace) -> Result<EntryId, EngineError>;

    /// Makes the changes of all batches visible and, at the next checkpoint, durable: after a crash all of them are
    /// there or none (P1). Readers wait for the whole call: keep calls to a few hundred changes where reads must be fast.
    ///
    /// # Errors
    /// [`EngineError::Backwards`], [`EngineError::Deleting`] and [`EngineError::TooLarge`] for batches that break the
    /// contract, [`EngineError::Corrupt`], [`EngineError::Io`].
    fn apply(&self, batches: &[ApplyBatch]) -> Result<(), EngineError>;

    /// Records of one kind in the order of their names (as bytes), those after `after`: at most `limit_records`, and no
    /// more once names and values together have `limit_bytes`, but at least one if there is one and `limit_records` is
    /// not 0. An empty page is the end. Each page is consistent in itself; between pages writes go on (P23).
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] where what is stored can't be trusted.
    fn scan(
        &self,
        keyspace: Keyspace,
        kind: RecordKind,
        after: Option<&[u8]>,
        limit_records: usize,
        limit_bytes: usize,
    ) -> Result<Vec<(Bytes, Record)>, EngineError>;

    /// Every keyspace that exists, in order: those with a batch applied and not yet wholly deleted, damaged ones too.
    ///
    /// # Errors
    /// [`EngineError::Io`].
    fn keyspaces(&self) -> Result<Vec<Keyspace>, EngineError>;

    /// One bounded step of deleting one generation of one partition, and no other (P5); true once nothing is left. From the
    /// first step on the keyspace reads as empty and refuses batches. After a crash in the middle it is still listed by
    /// [`Engine::keyspaces`]: go on. Deleting what does not exist does nothing.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`], [`EngineError::Io`].
    fn delete_step(&self, keyspace: Keyspace) -> Result<bool, EngineError>;

    /// [`Engine::delete_step`] until nothing is left.
    ///
    /// # Errors
    /// As that.
    fn delete(&self, keyspace: Keyspace) -> Result<(), EngineError> {
        while !self.delete_step(keyspace)? {}
        Ok(())
    }

    /// When this returns, everything applied before the call is durable; the log may be trimmed that far (P23).
    ///
    /// # Errors
    /// [`EngineError::Io`]: the process must end, nothing may be tried again (P2).
    fn checkpoint(&self) -> Result<(), EngineError>;

    /// Counters that cost little to read.
    fn statistics(&self) -> Statistics;
}

/// Counters of an engine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// By keyspace; those that are damaged or being deleted are left out.
    pub keyspaces: BTreeMap<Keyspace, KeyspaceStatistics>,
    /// What the store takes on disk; 0 in memory.
    pub disk_bytes: u64,
}

/// Counters of one keyspace: exact as of the last batch applied, hidden records not counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeyspaceStatistics {
    /// Users' keys that have a value.
    pub user_records: u64,
    /// Their keys' and values' bytes.
    pub user_bytes: u64,
}

impl KeyspaceStatistics {
    /// Counts one record's change from `old` to `new` value length, where it has one.
    fn count(&mut self, key: &RecordKey, old: Option<usize>, new: Option<usize>) {
        if key.kind != RecordKind::User {
            return;
        }
        if let Some(value_bytes) = old {
            // Saturating: a count is not worth a crash, and damage elsewhere must not become one.
            self.user_records = self.user_records.saturating_sub(1);
            self.user_bytes = self.user_bytes.saturating_sub((key.name.len() + value_bytes) as u64);
        }
        if let Some(value_bytes) = new {
            self.user_records += 1;
            self.user_bytes += (key.name.len() + value_bytes) as u64;
        }
    }
}

/// Refuses what no engine may store, before anything of the call is done.
fn check_sizes(batches: &[ApplyBatch]) -> Result<(), EngineError> {
    for batch in batches {
        for change in &batch.changes {
            let (name_bytes, value_bytes) = (change.key.name.len(), change.value.as_ref().map_or(0, Bytes::len));
            if name_bytes > NAME_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
                return Err(EngineError::TooLarge { keyspace: batch.keyspace, name_bytes, value_bytes });
            }
        }
    }
    Ok(())
}
