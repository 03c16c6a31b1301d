//! The engine on sled 0.34.7.
//!
//! One tree holds every keyspace ([`layout`]); there is nothing per partition but a header in memory. What its source
//! says about this version, and what is done about it:
//!
//! - On Linux `flush()` uses `sync_file_range`, which is no fsync: [`checkpoint`](SledEngine::checkpoint) follows it with
//!   an `fdatasync` through a descriptor opened before the first write.
//! - Its background flusher only logs an error: there is none, the server calls `checkpoint`. Cleaning of segments does
//!   not need it, it goes along with writes.
//! - A failed write in one of its threads may leave `flush()` waiting for ever, and its threads may wait for each other:
//!   [`waiting`] watches for the error, and gives up in the end.
//! - A tree node over a quarter of a segment goes to a file that is never fsynced. With up to 20 items in a leaf that is
//!   far less than 128 KiB in each: segments are larger than the default, chunks smaller ([`layout`] does the sum).
//! - A crash while opening can leave `snap.*.generating`, which every later open would refuse: removed before opening.
//! - `apply_batch` blocks every reader of the process until it is done, and whoever applies without a pause takes the lock
//!   again before they wake up: a call ends only when those that waited for it have their turn ([`turns`]).
//! - `Config::mode` is read nowhere.
//!
//! A put reads the record that it replaces: that says how many chunks to remove and keeps the counts exact. It costs
//! nothing, because the insert then finds its page at hand; and without a read between batches sled's garbage is not
//! collected (measured: 500 MiB resident after 400,000 puts instead of 50).
//!
//! Measured with `cargo run --release -p engine --example measure -- KEYS 256 500` on two cores, 256-byte values over 256
//! partitions, processor time of all threads:
//!
//! | | 50,000 keys: in the cache | 200,000 keys: twice the cache |
//! | --- | --- | --- |
//! | put | 16 µs, 55,000–70,000/s | 26–31 µs, 25,000–30,000/s |
//! | get | 2–3 µs | 13 µs |
//! | scan, per record | 1 µs | 2 µs |
//! | open again | 0.1 s for 69 MiB | 0.4 s for 336 MiB |
//! | resident | 33 MiB | 58 MiB |
//!
//! A call of 500 changes takes 7–20 ms in which nobody reads, one of 50 takes 2 ms or less. Rewriting 20,000 keys two
//! million times leaves the file at 45 MiB. Long values cost their chunks: 100 KB take 0.5 ms, and while many are being
//! written memory goes past the cache's size (170 MiB at 120 MB/s).

mod audit;
mod directory;
mod failure;
mod headers;
mod layout;
mod note;
#[cfg(test)]
mod tests;
mod turns;
mod waiting;
mod write;

pub use directory::quarantine;

use crate::{ApplyBatch, Engine, EngineError, Keyspace, Statistics};
use ::sled::Db;
use bytes::Bytes;
use directory::{Contents, Directory};
use failure::{Failure, corrupt_record, sled_error, write_panicked};
use headers::{Header, Slot, Slots};
use layout::{Content, StoredRecord};
use note::NoteFile;
use std::fmt;
use std::fs::File;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError, RwLockReadGuard};
use std::time::{Duration, Instant};
use turns::Turns;
use types::{EntryId, Record, RecordKey, RecordKind};
use waiting::Caller;

/// Sled's unit of writing and reuse; stored with the data, so it can't be changed later.
const SEGMENT_BYTES: usize = 2 << 20;
/// How long sled's threads of an engine that was just dropped may keep its file locked.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// What may be chosen for a [`SledEngine`].
#[derive(Clone, Debug)]
pub struct SledOptions {
    /// Memory for pages read or written lately, in bytes. Sled takes somewhat more in all.
    pub cache_bytes: u64,
}

impl Default for SledOptions {
    fn default() -> SledOptions {
        SledOptions { cache_bytes: 32 << 20 }
    }
}

/// An engine on disk. What it relies on of sled stands at the top of its module.
pub struct SledEngine {
    db: Db,
    /// For `fdatasync`: open since before the first write, so that no write error is missed.
    file: File,
    path: PathBuf,
    /// How far the snapshot reaches that the next start will replay the log on.
    snapshot_lsn: Option<i64>,
    /// One writer at a time; held before `slots` is.
    writer: Mutex<()>,
    /// Makes the writer's calls.
    caller: Caller,
    /// What is known to be durable; one sync at a time.
    note_file: Mutex<NoteFile>,
    /// Held for writing while a batch goes into sled: records and their chunks are read under it, so they match.
    slots: Turns<Slots>,
    /// After a failure that leaves the store in doubt nothing is answered.
    failed: OnceLock<Failure>,
    /// Last, so that the lock goes after everything else.
    directory: Directory,
}

impl fmt::Debug for SledEngine {
    /// The place only: sled would print every record.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledEngine").field("directory", &self.directory()).finish_non_exhaustive()
    }
}

impl SledEngine {
    /// Opens the store in `directory`, or creates one there.
    ///
    /// # Errors
    /// [`EngineError::InUse`], [`EngineError::Version`], [`EngineError::Io`], and [`EngineError::Corrupt`] for a store
    /// that must not be served: [`quarantine`] it, and open an empty one.
    pub fn open(directory: &Path, options: &SledOptions) -> Result<SledEngine, EngineError> {
        let directory = Directory::lock(directory)?;
        let contents = directory.prepare()?;
        directory.remove_unfinished_snapshots()?;
        let path = directory.sled_file();
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(EngineError::io("open", &path))?;
        let note_file = match contents {
            Contents::Fresh => NoteFile::create(&directory.note_file())?,
            Contents::Store => NoteFile::open(&directory.note_file())?,
        };
        if contents == Contents::Store {
            audit::audit(&directory, &file, note_file.newest())?;
        }
        let db = open_sled(&directory, options)?;
        if db.context.pagecache.log.stable_offset() < note_file.newest().stable_lsn {
            return Err(EngineError::corrupt(format!("sled went back behind what was durable in {}", path.display())));
        }
        directory.sync()?;
        let caller = Caller::start("sled-write").map_err(EngineError::io("start a thread for", &path))?;
        let engine = SledEngine {
            slots: Turns::new(headers::read(&db, &path)?),
            db,
            file,
            path,
            snapshot_lsn: audit::newest_snapshot(&directory)?,
            writer: Mutex::new(()),
            caller,
            note_file: Mutex::new(note_file),
            failed: OnceLock::new(),
            directory,
        };
        engine.checkpoint()?;
        if contents == Contents::Fresh {
            engine.directory.complete()?;
        }
        Ok(engine)
    }

    /// Where the store is.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The keyspace's header and a lock under which nothing changes; `None` if it reads as empty.
    fn reading(&self, keyspace: Keyspace) -> Result<Option<(Reading<'_>, Header)>, EngineError> {
        self.usable()?;
        let slots = self.slots.read().map_err(|_| write_panicked())?;
        match slots.get(&keyspace) {
            None => Ok(None),
            Some(Slot::Headless) => Err(EngineError::corrupt_in(keyspace, "its header is missing")),
            Some(Slot::Sound(header)) if header.deleting => Ok(None),
            Some(Slot::Sound(header)) => {
                let header = *header;
                Ok(Some((slots, header)))
            }
        }
    }

    fn record(
        &self,
        keyspace: Keyspace,
        key: (RecordKind, &[u8]),
        stored: &StoredRecord<'_>,
    ) -> Result<Record, EngineError> {
        let seq = stored.seq;
        let value = match &stored.content {
            Content::Inline(value) => Bytes::copy_from_slice(value),
            Content::Chunked { value_bytes } => layout::join_chunks(keyspace, key, seq, *value_bytes, |chunk| {
                self.db.get(chunk).map_err(|error| self.read_error(keyspace, error))
            })?,
        };
        Ok(Record { seq, value })
    }
}

type Reading<'a> = RwLockReadGuard<'a, Slots>;

impl Engine for SledEngine {
    fn get(&self, keyspace: Keyspace, key: &RecordKey) -> Result<Option<Record>, EngineError> {
        let Some((_reading, _)) = self.reading(keyspace)? else { return Ok(None) };
        let stored_key = layout::record_key(keyspace, key);
        let Some(stored) = self.db.get(&stored_key).map_err(|error| self.read_error(keyspace, error))? else {
            return Ok(None);
        };
        let name = (key.kind, &key.name[..]);
        let decoded =
            StoredRecord::decode(&stored_key, &stored).map_err(|what| corrupt_record(keyspace, name, what))?;
        self.record(keyspace, name, &decoded).map(Some)
    }

    fn applied(&self, keyspace: Keyspace) -> Result<EntryId, EngineError> {
        Ok(self.reading(keyspace)?.map_or(EntryId::ZERO, |(_, header)| header.applied))
    }

    fn apply(&self, batches: &[ApplyBatch]) -> Result<(), EngineError> {
        self.apply_batches(batches)?;
        self.slots.let_readers_in();
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
        let Some((_reading, _)) = self.reading(keyspace)? else { return Ok(Vec::new()) };
        let prefix = layout::records_prefix(keyspace, kind);
        let start = match after {
            None => Bound::Included(prefix.clone()),
            Some(name) => Bound::Excluded([&prefix, name].concat()),
        };
        let mut page = Vec::new();
        let mut bytes = 0;
        let mut items = self.db.range((start, end_of(&prefix)));
        while page.len() < limit_records && (bytes < limit_bytes || page.is_empty()) {
            let Some(item) = items.next() else { break };
            let (stored_key, stored) = item.map_err(|error| self.read_error(keyspace, error))?;
            let name = layout::record_name(&stored_key);
            let decoded = StoredRecord::decode(&stored_key, &stored)
                .map_err(|what| corrupt_record(keyspace, (kind, name), what))?;
            let record = self.record(keyspace, (kind, name), &decoded)?;
            bytes += name.len() + record.value.len();
            page.push((Bytes::copy_from_slice(name), record));
        }
        Ok(page)
    }

    fn keyspaces(&self) -> Result<Vec<Keyspace>, EngineError> {
        self.usable()?;
        Ok(self.slots.read().map_err(|_| write_panicked())?.keys().copied().collect())
    }

    fn delete_step(&self, keyspace: Keyspace) -> Result<bool, EngineError> {
        let last = self.delete_some(keyspace)?;
        self.slots.let_readers_in();
        Ok(last)
    }

    fn checkpoint(&self) -> Result<(), EngineError> {
        self.usable()?;
        waiting::flush(&self.db).map_err(|error| self.fail("write", error))?;
        let mut note_file = self.note_file.lock().map_err(|_| write_panicked())?;
        self.make_durable(&mut note_file)
    }

    fn statistics(&self) -> Statistics {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let keyspaces = slots.iter().filter_map(|(keyspace, slot)| match slot {
            Slot::Sound(header) if !header.deleting => Some((*keyspace, header.counts)),
            _ => None,
        });
        let disk_bytes = self.file.metadata().map_or(0, |metadata| metadata.len());
        Statistics { keyspaces: keyspaces.collect(), disk_bytes }
    }
}

/// Opens sled itself. Its threads outlive an engine by a moment, and its own lock with them: who holds the directory's
/// lock waits for that.
fn open_sled(directory: &Directory, options: &SledOptions) -> Result<Db, EngineError> {
    let config = ::sled::Config::new()
        .path(directory.sled())
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(options.cache_bytes)
        .flush_every_ms(None)
        .use_compression(false);
    let begun = Instant::now();
    loop {
        match config.open() {
            Err(::sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock") && begun.elapsed() < RELEASE_TIMEOUT =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result.map_err(|error| sled_error("open", &directory.sled_file(), error)),
        }
    }
}

/// Where the keys that begin with `prefix` end.
fn end_of(prefix: &[u8]) -> Bound<Vec<u8>> {
    match prefix.iter().rposition(|byte| *byte != u8::MAX) {
        None => Bound::Unbounded,
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bound::Excluded(end)
        }
    }
}
