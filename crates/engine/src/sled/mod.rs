//! The engine on sled 0.34.7.
//!
//! One tree holds every keyspace ([`layout`]); there is nothing per partition but a header in memory. What its source
//! says about this version, and what is done about it:
//!
//! - On Linux `flush()` uses `sync_file_range`, which is no fsync: [`checkpoint`](SledEngine::checkpoint) follows it with
//!   an `fdatasync` through a descriptor opened before the first write.
//! - Its background flusher only logs an error: there is none, the server calls `checkpoint`. Cleaning of segments does
//!   not need it, it goes along with writes.
//! - A failed write in one of its threads may leave `flush()` waiting for ever: [`flush`] watches for the error.
//! - A tree node over a quarter of a segment goes to a file that is never fsynced. With up to 20 items in a leaf that is
//!   far less than 128 KiB in each: segments are larger than the default, chunks smaller ([`layout`] does the sum).
//! - A crash while opening can leave `snap.*.generating`, which every later open would refuse: removed before opening.
//! - `apply_batch` blocks every reader of the process until it is done.
//! - `Config::mode` is read nowhere.
//!
//! A put reads the record that it replaces: that says how many chunks to remove, keeps the counts exact, and costs
//! nothing, because the insert then finds its page in the processor's cache; without those reads sled's garbage also
//! outgrows the store's own cache (500 MiB after 400,000 puts).

mod audit;
mod directory;
mod flush;
mod headers;
mod layout;
mod note;
#[cfg(test)]
mod tests;

pub use directory::quarantine;

use crate::{ApplyBatch, Engine, EngineError, Keyspace, Statistics, VersionedChange, check_sizes};
use ::sled::{Batch, Db};
use bytes::Bytes;
use directory::{Contents, Directory};
use headers::{Changes, Header, Slot, Slots};
use layout::{Content, StoredRecord};
use note::{Note, NoteFile};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};
use types::{EntryId, Record, RecordKey, RecordKind};

/// Sled's unit of writing and reuse; stored with the data, so it can't be changed later.
const SEGMENT_BYTES: usize = 2 << 20;
/// Items of sled that one step of a deletion removes: readers wait for a step.
const DELETE_STEP_ITEMS: usize = 256;
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

/// An engine on disk. See the [module's documentation](self) for what it relies on.
pub struct SledEngine {
    db: Db,
    /// For `fdatasync`: open since before the first write, so that no write error is missed.
    file: File,
    path: PathBuf,
    /// How far the snapshot reaches that the next start will replay the log on.
    snapshot_lsn: Option<i64>,
    /// One writer at a time; held before `slots` is.
    writer: Mutex<()>,
    /// What is known to be durable; one sync at a time.
    note_file: Mutex<NoteFile>,
    /// Held for writing while a batch goes into sled: records and their chunks are read under it, so they match.
    slots: RwLock<Slots>,
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

/// An error, kept to be given again.
#[derive(Debug)]
enum Failure {
    Corrupt(String),
    Io(&'static str, ErrorKind, String),
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
        let engine = SledEngine {
            slots: RwLock::new(headers::read(&db, &path)?),
            db,
            file,
            path,
            snapshot_lsn: audit::newest_snapshot(&directory)?,
            writer: Mutex::new(()),
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

    /// Adds one change to `batch` and counts it, given what is stored under its key now.
    fn add_change(
        &self,
        batch: &mut Batch,
        header: &mut Header,
        keyspace: Keyspace,
        stored_key: Vec<u8>,
        change: &VersionedChange,
    ) -> Result<(), EngineError> {
        let old = self.db.get(&stored_key).map_err(|error| self.read_error(keyspace, error))?;
        let old_bytes = match &old {
            None => None,
            Some(stored) => {
                let decoded = StoredRecord::decode(&stored_key, stored)
                    .map_err(|what| corrupt_record(keyspace, (change.key.kind, &change.key.name), what))?;
                Some(decoded.content.value_bytes())
            }
        };
        let value = change.value.as_deref();
        header.counts.count(&change.key, old_bytes, value.map(<[u8]>::len));
        let chunk_key = |index| layout::chunk_key(keyspace, change.key.kind, &change.key.name, index);
        let chunks = value.map_or(0, |value| layout::chunks_of(value.len()));
        match value {
            Some(value) => {
                if chunks > 0 {
                    for (index, part) in (0u32..).zip(value.chunks(layout::CHUNK_BYTES_MAX)) {
                        let key = chunk_key(index);
                        let stored = layout::encode_chunk(&key, change.seq, part);
                        batch.insert(key, stored);
                    }
                }
                let stored = StoredRecord::encode(&stored_key, change.seq, value);
                batch.insert(stored_key, stored);
            }
            None if old.is_some() => batch.remove(stored_key),
            None => {}
        }
        for surplus in chunks..old_bytes.map_or(0, layout::chunks_of) {
            batch.remove(chunk_key(surplus));
        }
        Ok(())
    }

    /// Gives a batch to sled, with the headers that go with it, and those to readers at the same instant.
    fn write(&self, mut batch: Batch, changes: Changes) -> Result<(), EngineError> {
        // Looked for here, because a reader may wait for ever for the write that failed, and this then for the reader.
        self.db.context.global_error().map_err(|error| self.fail("write", error))?;
        self.note_progress()?;
        let mut slots = self.slots.write().map_err(|_| write_panicked())?;
        headers::add(&mut batch, &slots, &changes);
        // Sled has no way back from a batch that is half done: after an error nothing here can be trusted.
        self.db.apply_batch(batch).map_err(|error| self.fail("write", error))?;
        for (keyspace, header) in changes {
            match header {
                Some(header) => slots.insert(keyspace, Slot::Sound(header)),
                None => slots.remove(&keyspace),
            };
        }
        Ok(())
    }

    /// Sees to it that a note is made in every segment of sled's log, which [`audit`] relies on: what sled gives away
    /// during a batch are segments from before the one in which its log stood when the batch began.
    fn note_progress(&self) -> Result<(), EngineError> {
        let mut note_file = self.note_file.lock().map_err(|_| write_panicked())?;
        if audit::segment_of(self.written_lsn()) > audit::segment_of(note_file.newest().stable_lsn) {
            self.make_durable(&mut note_file)?;
        }
        Ok(())
    }

    /// Makes durable what sled has written so far, and notes how far that is.
    fn make_durable(&self, note_file: &mut NoteFile) -> Result<(), EngineError> {
        // Read before the sync: what is written now is what the sync makes durable.
        let note = Note { stable_lsn: self.written_lsn(), snapshot_lsn: self.snapshot_lsn };
        self.file.sync_data().map_err(|error| self.fail("sync", error.into()))?;
        note_file.write(&note).map_err(|error| self.fail("note what is durable of", error.into()))
    }

    /// Sled has written its log through this lsn.
    fn written_lsn(&self) -> i64 {
        self.db.context.pagecache.log.stable_offset()
    }

    /// One step of a deletion; whether it was the last.
    fn delete_step(&self, keyspace: Keyspace) -> Result<bool, EngineError> {
        self.usable()?;
        let _writing = self.writer.lock().map_err(|_| write_panicked())?;
        let header = match self.slots.read().map_err(|_| write_panicked())?.get(&keyspace) {
            None => return Ok(true),
            Some(Slot::Sound(header)) => *header,
            // Damage hinders no deletion.
            Some(Slot::Headless) => Header::default(),
        };
        let mut batch = Batch::default();
        let mut items = 0;
        for key in self.db.scan_prefix(layout::keyspace_prefix(keyspace)).keys().take(DELETE_STEP_ITEMS) {
            batch.remove(key.map_err(|error| self.read_error(keyspace, error))?);
            items += 1;
        }
        let last = items == 0;
        // The header goes last: until then the keyspace is listed, and a deletion that a crash cut short is resumed.
        let header = (!last).then_some(Header { deleting: true, ..header });
        self.write(batch, [(keyspace, header)].into())?;
        Ok(last)
    }

    fn usable(&self) -> Result<(), EngineError> {
        match self.failed.get() {
            None => Ok(()),
            Some(Failure::Corrupt(what)) => Err(EngineError::corrupt(what.clone())),
            Some(Failure::Io(action, kind, text)) => {
                Err(EngineError::io(action, &self.path)(io::Error::new(*kind, text.clone())))
            }
        }
    }

    /// The error of a read: that keyspace's own.
    fn read_error(&self, keyspace: Keyspace, error: ::sled::Error) -> EngineError {
        match sled_error("read", &self.path, error) {
            EngineError::Corrupt { what, .. } => EngineError::corrupt_in(keyspace, what),
            other => other,
        }
    }

    /// The error of a write: the store's end.
    fn fail(&self, action: &'static str, error: ::sled::Error) -> EngineError {
        let error = sled_error(action, &self.path, error);
        self.failed.get_or_init(|| match &error {
            EngineError::Io { action, source, .. } => Failure::Io(action, source.kind(), source.to_string()),
            EngineError::Corrupt { what, .. } => Failure::Corrupt(what.clone()),
            other => Failure::Corrupt(other.to_string()),
        });
        error
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
        check_sizes(batches)?;
        self.usable()?;
        let _writing = self.writer.lock().map_err(|_| write_panicked())?;
        let mut headers = BTreeMap::new();
        let mut changes = Vec::with_capacity(batches.iter().map(|batch| batch.changes.len()).sum());
        for ApplyBatch { keyspace, through, changes: of_batch } in batches {
            let header = match headers.get(keyspace) {
                Some(header) => *header,
                None => self.header_to_write(*keyspace)?,
            };
            if *through < header.applied {
                return Err(EngineError::Backwards { keyspace: *keyspace, applied: header.applied, through: *through });
            }
            headers.insert(*keyspace, Header { applied: *through, ..header });
            changes
                .extend(of_batch.iter().map(|change| (layout::record_key(*keyspace, &change.key), *keyspace, change)));
        }
        // In the order of the tree, so that neighbours share a page; of one record's changes the last stays.
        changes.sort_by(|a, b| a.0.cmp(&b.0));
        let mut batch = Batch::default();
        let mut changes = changes.into_iter().peekable();
        while let Some((stored_key, keyspace, change)) = changes.next() {
            if changes.peek().is_some_and(|next| next.0 == stored_key) {
                continue;
            }
            if let Some(header) = headers.get_mut(&keyspace) {
                self.add_change(&mut batch, header, keyspace, stored_key, change)?;
            }
        }
        self.write(batch, headers.into_iter().map(|(keyspace, header)| (keyspace, Some(header))).collect())
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

    fn delete(&self, keyspace: Keyspace) -> Result<(), EngineError> {
        while !self.delete_step(keyspace)? {}
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), EngineError> {
        self.usable()?;
        flush::flush(&self.db).map_err(|error| self.fail("write", error))?;
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

impl SledEngine {
    /// The header that a batch for this keyspace starts from.
    fn header_to_write(&self, keyspace: Keyspace) -> Result<Header, EngineError> {
        match self.slots.read().map_err(|_| write_panicked())?.get(&keyspace) {
            None => Ok(Header::default()),
            Some(Slot::Headless) => Err(EngineError::corrupt_in(keyspace, "its header is missing")),
            Some(Slot::Sound(header)) if header.deleting => Err(EngineError::Deleting { keyspace }),
            Some(Slot::Sound(header)) => Ok(*header),
        }
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

fn corrupt_record(keyspace: Keyspace, (kind, name): (RecordKind, &[u8]), what: &str) -> EngineError {
    EngineError::corrupt_in(keyspace, format!("{kind:?} \"{}\": {what}", name.escape_ascii()))
}

fn write_panicked() -> EngineError {
    EngineError::corrupt("a write to it panicked half-way")
}

fn sled_error(action: &'static str, path: &Path, error: ::sled::Error) -> EngineError {
    match error {
        // A file that ends before what it must hold is damaged; the system read it well.
        ::sled::Error::Io(error) if error.kind() != ErrorKind::UnexpectedEof => {
            // What sled passes from its threads is the system's error written out; its kind says it better.
            let told_twice = error.raw_os_error().is_none() && error.kind() != ErrorKind::Other;
            EngineError::io(action, path)(if told_twice { error.kind().into() } else { error })
        }
        other => EngineError::corrupt(format!("{}: {other}", path.display())),
    }
}
