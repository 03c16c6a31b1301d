//! The store's directory: who has it, which format it has, and moving it out of the way.
//!
//! ```text
//! lock         held by the one process that has the store open
//! format       what wrote it; says "creating" until the store is complete for the first time
//! checkpoint   how far sled's log was durable at the last checkpoint
//! sled/        sled's own files
//! ```

use crate::EngineError;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

const FORMAT: &str = "ringleader engine sled 1\n";
const CREATING: &str = "ringleader engine sled 1 creating\n";

/// A store's directory, locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

/// Whether there is a store yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Contents {
    /// Nothing, or what an interrupted creation left; nothing was ever stored.
    Fresh,
    /// A store of the format that this program knows.
    Store,
}

impl Directory {
    /// Locks `path`, which is created if need be.
    pub(super) fn lock(path: &Path) -> Result<Directory, EngineError> {
        if !path.exists() {
            fs::create_dir_all(path).map_err(EngineError::io("create", path))?;
            sync_directory(parent(path))?;
        }
        let lock_path = path.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(EngineError::io("open", &lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Directory { path: path.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(EngineError::InUse { directory: path.to_owned() }),
            Err(errno) => Err(EngineError::io("lock", lock_path)(errno.into())),
        }
    }

    /// The directory itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where sled's files are.
    pub(super) fn sled(&self) -> PathBuf {
        self.path.join("sled")
    }

    /// Sled's one data file.
    pub(super) fn sled_file(&self) -> PathBuf {
        self.sled().join("db")
    }

    /// Where the last checkpoint is noted.
    pub(super) fn note_file(&self) -> PathBuf {
        self.path.join("checkpoint")
    }

    /// Reads the format marker; where there is no store yet, makes room for one.
    pub(super) fn prepare(&self) -> Result<Contents, EngineError> {
        let path = self.path.join("format");
        match fs::read_to_string(&path) {
            Ok(found) if found == FORMAT => {
                if let Some(missing) = [self.sled_file(), self.sled().join("conf")].iter().find(|file| !file.exists()) {
                    return Err(EngineError::corrupt(format!("{} is missing", missing.display())));
                }
                Ok(Contents::Store)
            }
            Ok(found) if found == CREATING => {
                self.make_room()?;
                Ok(Contents::Fresh)
            }
            Ok(found) => {
                Err(EngineError::Version { path, found: found.trim_end().to_owned(), known: FORMAT.trim_end() })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if self.sled().exists() {
                    // A marker precedes every store, so this one lost it: what wrote the rest is unknown.
                    return Err(EngineError::corrupt(format!("{} is missing", path.display())));
                }
                self.mark(CREATING)?;
                self.make_room()?;
                Ok(Contents::Fresh)
            }
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                Err(EngineError::corrupt(format!("{} is not text", path.display())))
            }
            Err(error) => Err(EngineError::io("read", path)(error)),
        }
    }

    /// The store is complete: from now on its loss is damage.
    pub(super) fn complete(&self) -> Result<(), EngineError> {
        self.mark(FORMAT)
    }

    /// Makes the names of sled's files durable, and what sled writes without an fsync of its own.
    pub(super) fn sync(&self) -> Result<(), EngineError> {
        sync_file(&self.sled().join("conf"))?;
        sync_directory(&self.sled())?;
        sync_directory(&self.path)
    }

    /// Removes what a crash left while sled was writing a snapshot: it would take it for the newest one, and refuse.
    pub(super) fn remove_unfinished_snapshots(&self) -> Result<(), EngineError> {
        let sled = self.sled();
        for file in fs::read_dir(&sled).map_err(EngineError::io("list", &sled))? {
            let path = file.map_err(EngineError::io("list", &sled))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("snap.") && name.ends_with(".generating") {
                tracing::info!(file = %path.display(), "removing a snapshot that a crash left unfinished");
                fs::remove_file(&path).map_err(EngineError::io("remove", &path))?;
            }
        }
        sync_directory(&sled)
    }

    fn make_room(&self) -> Result<(), EngineError> {
        let sled = self.sled();
        match fs::remove_dir_all(&sled) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(EngineError::io("remove", &sled)(error)),
            _ => fs::create_dir(&sled).map_err(EngineError::io("create", sled))?,
        }
        sync_directory(&self.path)
    }

    fn mark(&self, format: &str) -> Result<(), EngineError> {
        let (path, beside) = (self.path.join("format"), self.path.join("format.new"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&beside)?;
            file.write_all(format.as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, &path)
        };
        write().map_err(EngineError::io("write", &path))?;
        sync_directory(&self.path)
    }
}

/// Renames a store's directory to a free name beside it, which is returned. For a store that is
/// [corrupt](EngineError::Corrupt): its owner then opens an empty one under the old name, and people may look at the old.
///
/// # Errors
/// [`EngineError::InUse`] if it is open, [`EngineError::Io`] if there is no such directory or renaming fails.
pub fn quarantine(directory: &Path) -> Result<PathBuf, EngineError> {
    fs::metadata(directory).map_err(EngineError::io("quarantine", directory))?;
    let _locked = Directory::lock(directory)?;
    let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut number = 1;
    let aside = loop {
        let aside = directory.with_file_name(format!("{name}.quarantine-{number}"));
        if !aside.exists() {
            break aside;
        }
        number += 1;
    };
    fs::rename(directory, &aside).map_err(EngineError::io("rename", directory))?;
    sync_directory(parent(directory))?;
    Ok(aside)
}

/// The directory that a path's last name is in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_file(path: &Path) -> Result<(), EngineError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(EngineError::io("sync", path))
}

fn sync_directory(path: &Path) -> Result<(), EngineError> {
    sync_file(path)
}
