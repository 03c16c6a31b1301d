//! Raft's log and vote on the write-ahead log.
//!
//! The write-ahead log is a sequence of [`Record`]s; replaying them gives the vote and the entries, which are kept in
//! memory: after every snapshot all but the last few are purged. What is purged leaves the disk a segment at a time,
//! once the records that must survive (the vote, how far was purged and committed) have been written again behind it.
//!
//! Invariants: an entry is acknowledged, and [`RaftLogStorage::save_vote`] returns, only after an fsync (P2). After a
//! failed one nothing is acknowledged any more, and the process ends.

use super::codec;
use super::{Entry, GroupTypes, LogId, StorageError, Vote};
use crate::Error;
use crate::mutants::{Mutant, on};
use bytes::Bytes;
use openraft::StorageIOError;
use openraft::storage::{LogFlushed, LogState, RaftLogReader, RaftLogStorage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use wal::{Files, Records, SegmentNumber, Wal, WalError, Writer};

/// A group's log is small: so are its segments.
const SEGMENT_BYTES: u64 = 8 << 20;
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;
/// Entries read at once for one message to a member, in encoded bytes. The first is read whatever its size.
const READ_BYTES_MAX: usize = 256 << 10;

/// What the write-ahead log holds, in the order in which it was decided.
#[derive(Debug, Serialize, Deserialize)]
enum Record {
    Vote(Vote),
    Entry(Entry),
    /// Entries from this index on are gone.
    Truncated(u64),
    /// Entries up to this one are in a snapshot and gone.
    Purged(LogId),
    /// Entries up to this one are committed: they can be applied again before the group is reached.
    Committed(LogId),
}

#[derive(Debug)]
struct Kept {
    entry: Entry,
    encoded_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Kept>,
    /// The highest index that was ever written to each segment, also of entries truncated since.
    segments: BTreeMap<SegmentNumber, u64>,
}

impl State {
    fn replay(&mut self, segment: SegmentNumber, bytes: &Bytes) -> Result<(), String> {
        let record: Record = codec::decode(bytes).map_err(|error| error.to_string())?;
        match record {
            Record::Vote(_) if on(Mutant::VoteForgotten) => {}
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Committed(id) => self.committed = self.committed.max(Some(id)),
            Record::Truncated(from) => {
                self.entries.split_off(&from);
            }
            Record::Purged(id) => self.purge(id),
            Record::Entry(entry) => {
                let index = entry.log_id.index;
                self.wrote(segment, index);
                if self.purged.is_none_or(|purged| index > purged.index) {
                    self.entries.insert(index, Kept { entry, encoded_bytes: bytes.len() });
                }
            }
        }
        Ok(())
    }

    fn wrote(&mut self, segment: SegmentNumber, index: u64) {
        let highest = self.segments.entry(segment).or_default();
        *highest = index.max(*highest);
    }

    fn purge(&mut self, id: LogId) {
        self.entries = self.entries.split_off(&(id.index + 1));
        self.purged = self.purged.max(Some(id));
    }

    /// Whether the entries follow each other, and what was purged; and forgets a commit beyond the end, which only a log
    /// that lost its end can have.
    fn check(&mut self) -> Result<(), String> {
        let mut expected = self.purged.map(|id| id.index + 1);
        for index in self.entries.keys() {
            if expected.is_some_and(|expected| expected != *index) {
                return Err(format!("has a hole before entry {index}"));
            }
            expected = Some(index + 1);
        }
        if self.purged.is_none() && self.entries.keys().next().is_some_and(|first| *first != 0) {
            return Err("does not begin with entry 0".into());
        }
        self.committed = self.committed.min(self.last());
        Ok(())
    }

    fn last(&self) -> Option<LogId> {
        self.entries.last_key_value().map(|(_, kept)| kept.entry.log_id).or(self.purged)
    }

    /// Forgets the segments whose entries are all purged; answers the lowest one still needed, of those up to `newest`.
    fn first_needed(&mut self, newest: SegmentNumber) -> SegmentNumber {
        let purged = self.purged.map(|id| id.index);
        self.segments.retain(|_, highest| purged.is_none_or(|purged| *highest > purged));
        self.segments.keys().next().copied().unwrap_or(newest).min(newest)
    }
}

/// The log of one member. Clones share it.
#[derive(Clone)]
pub(super) struct LogStore {
    state: Arc<Mutex<State>>,
    writer: Writer,
}

impl LogStore {
    /// Opens the log in `directory`; a thread writes it, or who has something to write. `on_failure` is called once, when
    /// a write fails later (P2).
    pub(super) fn open(
        files: impl Files,
        directory: &Path,
        has_thread: bool,
        on_failure: impl FnOnce(WalError) + Send + 'static,
    ) -> Result<LogStore, Error> {
        let mut state = State::default();
        let options = wal::Options {
            segment_bytes: SEGMENT_BYTES,
            first_segment_bytes: FIRST_SEGMENT_BYTES,
            background: has_thread,
            ..wal::Options::default()
        };
        let wal = Wal::open(files, directory, options, &mut |segment, bytes| state.replay(segment, &bytes))?;
        state.check().map_err(|what| Error::Raft(format!("its log in {} {what}", directory.display())))?;
        let writer = if has_thread { Writer::spawn(wal, on_failure)? } else { Writer::inline(wal, on_failure) };
        Ok(LogStore { state: Arc::new(Mutex::new(state)), writer })
    }

    /// The index up to which entries were purged: a snapshot must hold them.
    pub(super) fn purged_index(&self) -> Option<u64> {
        self.state().purged.map(|id| id.index)
    }

    /// Whether nothing was ever written: no vote, no entry.
    pub(super) fn is_new(&self) -> bool {
        let state = self.state();
        state.vote.is_none() && state.purged.is_none() && state.entries.is_empty()
    }

    /// Writes what is waiting and closes the log with its mark.
    pub(super) fn close(&self) -> Result<(), WalError> {
        self.writer.shutdown()
    }

    /// Where the log ends: its last entry, or what was purged last.
    pub(super) fn last_id(&self) -> Option<LogId> {
        self.state().last()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands records to the writer in the order of the calls.
    fn write(
        &self,
        records: &[Record],
        done: impl FnOnce(SegmentNumber) + Send + 'static,
    ) -> Result<(), codec::CodecError> {
        let mut encoded = Records::new();
        for record in records {
            encoded.push(&codec::encode(record)?);
        }
        self.writer.submit(encoded, done);
        Ok(())
    }

    /// As [`LogStore::write`], and waits until the records are durable.
    async fn write_durably(&self, records: &[Record]) -> Result<SegmentNumber, WriteFailed> {
        let (done, written) = oneshot::channel();
        self.write(records, move |segment| {
            // Nobody waits any longer only when Raft itself is being dropped.
            let _abandoned = done.send(segment);
        })?;
        written.await.map_err(|_| WriteFailed::Log)
    }
}

#[derive(Debug, thiserror::Error)]
enum WriteFailed {
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
    #[error("the write-ahead log failed")]
    Log,
}

fn log_error(error: &(impl std::error::Error + 'static)) -> StorageError {
    StorageIOError::write_logs(error).into()
}

impl RaftLogReader<GroupTypes> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        if is_empty(&range) {
            return Ok(Vec::new());
        }
        Ok(self.state().entries.range(range).map(|(_, kept)| kept.entry.clone()).collect())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let mut bytes = 0;
        let state = self.state();
        let within = |kept: &&Kept| {
            bytes += kept.encoded_bytes;
            bytes == kept.encoded_bytes || bytes <= READ_BYTES_MAX
        };
        Ok(state.entries.range(start..end).map(|(_, kept)| kept).take_while(within).map(|k| k.entry.clone()).collect())
    }
}

/// `BTreeMap::range` panics on a range that ends before it starts.
fn is_empty(range: &impl RangeBounds<u64>) -> bool {
    match (range.start_bound(), range.end_bound()) {
        (Bound::Included(start), Bound::Excluded(end)) => start >= end,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Excluded(start), Bound::Excluded(end) | Bound::Included(end)) => start >= end,
        _ => false,
    }
}

impl RaftLogStorage<GroupTypes> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<GroupTypes>, StorageError> {
        let state = self.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last() })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    // P2: the vote is durable before anybody hears of it.
    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        if on(Mutant::VoteUnsynced) {
            self.write(&[Record::Vote(*vote)], |_| {}).map_err(|error| StorageIOError::write_vote(&error))?;
            self.state().vote = Some(*vote);
            return Ok(());
        }
        let written = self.write_durably(&[Record::Vote(*vote)]).await;
        written.map_err(|error| StorageError::from(StorageIOError::write_vote(&error)))?;
        self.state().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.state().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        if let Some(id) = committed {
            // A hint that saves time at the next start: nobody waits for it.
            self.write(&[Record::Committed(id)], |_| {}).map_err(|error| log_error(&error))?;
            self.state().committed = Some(id);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.state().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<GroupTypes>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut records = Records::new();
        let mut highest = 0;
        {
            let mut state = self.state();
            for entry in entries {
                let record = Record::Entry(entry);
                let encoded = codec::encode(&record).map_err(|error| log_error(&error))?;
                records.push(&encoded);
                let Record::Entry(entry) = record else { continue };
                highest = entry.log_id.index;
                state.entries.insert(highest, Kept { entry, encoded_bytes: encoded.len() });
            }
        }
        let shared = self.state.clone();
        if on(Mutant::EntriesUnsynced) {
            callback.log_io_completed(Ok(()));
            let wrote = move |segment| shared.lock().unwrap_or_else(PoisonError::into_inner).wrote(segment, highest);
            self.writer.submit(records, wrote);
            return Ok(());
        }
        self.writer.submit(records, move |segment| {
            shared.lock().unwrap_or_else(PoisonError::into_inner).wrote(segment, highest);
            callback.log_io_completed(Ok(()));
        });
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.state().entries.split_off(&log_id.index);
        // Ordered before whatever is appended next, and needed by nobody before that.
        self.write(&[Record::Truncated(log_id.index)], |_| {}).map_err(|error| log_error(&error))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let mut survivors = vec![Record::Purged(log_id)];
        {
            let mut state = self.state();
            state.purge(log_id);
            survivors.extend(state.vote.filter(|_| !on(Mutant::VotePurged)).map(Record::Vote));
            survivors.extend(state.committed.map(Record::Committed));
        }
        let segment = self.write_durably(&survivors).await.map_err(|error| log_error(&error))?;
        let first_needed = self.state().first_needed(segment);
        self.writer.release_before(first_needed);
        Ok(())
    }
}
