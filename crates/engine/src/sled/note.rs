//! How far sled's log was durable at the last checkpoint, in a file of our own.
//!
//! Two slots, written in turn and each with a checksum, so that a torn write leaves the one before.

use crate::EngineError;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SLOT_BYTES: usize = 36;
/// Slots lie so far apart that no disk writes both at once.
const SLOT_STRIDE_BYTES: u64 = 4096;

/// What is known of sled's log, whatever happens after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Note {
    /// Sled's log is durable through this lsn; -1 for not at all.
    pub stable_lsn: i64,
    /// How far the snapshot reaches that the log is replayed on.
    pub snapshot_lsn: Option<i64>,
}

impl Note {
    /// Before anything was durable.
    const NOTHING: Note = Note { stable_lsn: -1, snapshot_lsn: None };
}

/// The file that holds the newest note.
#[derive(Debug)]
pub(super) struct NoteFile {
    file: File,
    /// Number of the newest slot, and what it holds.
    newest: (u64, Note),
}

impl NoteFile {
    /// Begins a file without a note in it.
    pub(super) fn create(path: &Path) -> Result<NoteFile, EngineError> {
        let file = File::options().create(true).truncate(true).read(true).write(true).open(path);
        Ok(NoteFile { file: file.map_err(EngineError::io("create", path))?, newest: (0, Note::NOTHING) })
    }

    /// Opens a file that holds a note.
    pub(super) fn open(path: &Path) -> Result<NoteFile, EngineError> {
        let file = match File::options().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(EngineError::corrupt(format!("{} is missing", path.display())));
            }
            file => file.map_err(EngineError::io("open", path))?,
        };
        let newest = [read_slot(&file, path, 0)?, read_slot(&file, path, 1)?].into_iter().flatten().max_by_key(|s| s.0);
        match newest {
            Some(newest) => Ok(NoteFile { file, newest }),
            None => Err(EngineError::corrupt(format!("{} does not match its checksum", path.display()))),
        }
    }

    /// Replaces the note, durably.
    pub(super) fn write(&mut self, note: &Note) -> io::Result<()> {
        let count = self.newest.0 + 1;
        self.file.write_all_at(&encode(count, note), (count % 2) * SLOT_STRIDE_BYTES)?;
        self.file.sync_data()?;
        self.newest = (count, *note);
        Ok(())
    }

    /// The last note that was made.
    pub(super) fn newest(&self) -> &Note {
        &self.newest.1
    }
}

fn encode(count: u64, note: &Note) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[4..12].copy_from_slice(&count.to_le_bytes());
    slot[12..20].copy_from_slice(&note.stable_lsn.to_le_bytes());
    slot[20..28].copy_from_slice(&u64::from(note.snapshot_lsn.is_some()).to_le_bytes());
    slot[28..].copy_from_slice(&note.snapshot_lsn.unwrap_or(0).to_le_bytes());
    let crc = crc32c::crc32c(&slot[4..]);
    slot[..4].copy_from_slice(&crc.to_le_bytes());
    slot
}

/// A slot's count and note; `None` if it was never written whole.
fn read_slot(file: &File, path: &Path, index: u64) -> Result<Option<(u64, Note)>, EngineError> {
    let mut slot = [0; SLOT_BYTES];
    match file.read_exact_at(&mut slot, index * SLOT_STRIDE_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result.map_err(EngineError::io("read", path))?,
    }
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&slot[at..at + 8]);
        i64::from_le_bytes(bytes)
    };
    let note = Note { stable_lsn: number(12), snapshot_lsn: (number(20) != 0).then(|| number(28)) };
    let count = number(4) as u64;
    Ok((encode(count, &note) == slot).then_some((count, note)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a torn or damaged write that takes the older note with it, or is believed.
    #[test]
    fn a_damaged_slot_leaves_the_note_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("note");
        let notes = [(7, None), (8, Some(3)), (-1, Some(i64::MAX))]
            .map(|(stable_lsn, snapshot_lsn)| Note { stable_lsn, snapshot_lsn });
        let mut file = NoteFile::create(&path).unwrap();
        for note in &notes {
            file.write(note).unwrap();
            assert_eq!(NoteFile::open(&path).unwrap().newest(), note);
        }
        let whole = std::fs::read(&path).unwrap();
        let newest = SLOT_STRIDE_BYTES as usize;
        for bit in 0..SLOT_BYTES * 8 {
            let mut damaged = whole.clone();
            damaged[newest + bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(*NoteFile::open(&path).unwrap().newest(), notes[1], "bit {bit}");
        }
        std::fs::write(&path, b"").unwrap();
        assert!(matches!(NoteFile::open(&path), Err(EngineError::Corrupt { .. })));
    }
}
