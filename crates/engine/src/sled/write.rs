//! Everything that changes the store.

use super::failure::{corrupt_record, write_panicked};
use super::headers::{self, Changes, Header, Slot};
use super::layout::{self, StoredRecord};
use super::note::{Note, NoteFile};
use super::{SledEngine, audit, waiting};
use crate::mutants::{Mutant, on};
use crate::{ApplyBatch, EngineError, Keyspace, VersionedChange, check_sizes};
use ::sled::Batch;
use std::collections::BTreeMap;

/// Items of sled that one step of a deletion removes: readers wait for a step.
const DELETE_STEP_ITEMS: usize = 128;

impl SledEngine {
    /// See [`Engine::apply`](crate::Engine::apply).
    pub(super) fn apply_batches(&self, batches: &[ApplyBatch]) -> Result<(), EngineError> {
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
            if *through < header.applied && !on(Mutant::P1Backwards) {
                return Err(EngineError::Backwards { keyspace: *keyspace, applied: header.applied, through: *through });
            }
            let applied = if on(Mutant::P1Applied) { header.applied } else { *through };
            headers.insert(*keyspace, Header { applied, ..header });
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

    /// One step of a deletion; whether it was the last.
    pub(super) fn delete_some(&self, keyspace: Keyspace) -> Result<bool, EngineError> {
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
        let mut prefix = &layout::keyspace_prefix(keyspace)[..];
        if on(Mutant::P5Generations) {
            prefix = &prefix[..prefix.len() - size_of_val(&keyspace.generation)];
        }
        for key in self.db.scan_prefix(prefix).keys().take(DELETE_STEP_ITEMS) {
            batch.remove(key.map_err(|error| self.read_error(keyspace, error))?);
            items += 1;
        }
        let last = items == 0;
        // The header goes last: until then the keyspace is listed, and a deletion that a crash cut short is resumed.
        let header = (!last).then_some(Header { deleting: true, ..header });
        self.write(batch, [(keyspace, header)].into())?;
        Ok(last)
    }

    /// The header that a batch for this keyspace starts from.
    fn header_to_write(&self, keyspace: Keyspace) -> Result<Header, EngineError> {
        match self.slots.read().map_err(|_| write_panicked())?.get(&keyspace) {
            None => Ok(Header::default()),
            Some(Slot::Headless) => Err(EngineError::corrupt_in(keyspace, "its header is missing")),
            Some(Slot::Sound(header)) if header.deleting => Err(EngineError::Deleting { keyspace }),
            Some(Slot::Sound(header)) => Ok(*header),
        }
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
        let applied = self.caller.wait_for(&self.db, waiting::LOOKS_MAX, |db| db.apply_batch(batch));
        applied.map_err(|error| self.fail("write", error))?;
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
    pub(super) fn make_durable(&self, note_file: &mut NoteFile) -> Result<(), EngineError> {
        // Read before the sync: what is written now is what the sync makes durable.
        let note = Note { stable_lsn: self.written_lsn(), snapshot_lsn: self.snapshot_lsn };
        self.file.sync_data().map_err(|error| self.fail("sync", error.into()))?;
        note_file.write(&note).map_err(|error| self.fail("note what is durable of", error.into()))
    }

    /// Sled has written its log through this lsn.
    fn written_lsn(&self) -> i64 {
        self.db.context.pagecache.log.stable_offset()
    }
}
