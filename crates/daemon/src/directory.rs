//! The data directory: one process at a time, and small files that are whole or absent.
//!
//! A small file is written beside its place, synced, renamed and its directory synced: a crash leaves the old one or the
//! new one. Its first line carries a checksum of the rest, so that damage is never taken for content:
//!
//! ```text
//! ringleader 1 crc32c 9ae2c1f0
//! (content)
//! ```

use crate::Error;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

const LOCK_FILE: &str = "LOCK";
const HEADER: &str = "ringleader 1 crc32c ";
const HEADER_BYTES: usize = HEADER.len() + 8 + 1;

/// A data directory that this process holds until the value is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Creates the directory if need be and takes its lock.
    ///
    /// # Errors
    /// [`Error::DirectoryInUse`] if another process has it; [`Error::Io`].
    pub fn open(path: impl Into<PathBuf>) -> Result<DataDirectory, Error> {
        let path = path.into();
        create_durably(&path)?;
        let lock_path = path.join(LOCK_FILE);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|source| Error::Io { action: "open", path: lock_path.clone(), source })?;
        let failed = |source| Error::Io { action: "lock", path: lock_path.clone(), source };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // The pid only serves the message: without it the message is shorter.
                let pid = lock.read_to_string(&mut holder).ok().and_then(|_| holder.trim().parse().ok());
                return Err(Error::DirectoryInUse { path, pid });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        lock.set_len(0).map_err(failed)?;
        lock.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(failed)?;
        Ok(DataDirectory { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes `content` the small file `name`: durable when this returns, whole or absent after a crash.
    ///
    /// # Errors
    /// [`Error::Io`]; the file is then what it was.
    pub fn write_small(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let mut whole = format!("{HEADER}{:08x}\n", crc32c::crc32c(content)).into_bytes();
        whole.extend_from_slice(content);
        write_atomically(&self.path.join(name), &whole)
    }

    /// The content of the small file `name`; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not what [`DataDirectory::write_small`] wrote; [`Error::Io`].
    pub fn read_small(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path.join(name);
        let whole = match std::fs::read(&path) {
            Ok(whole) => whole,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { action: "read", path, source }),
        };
        let corrupt = |reason| Error::Corrupt { path: path.clone(), reason };
        if whole.len() < HEADER_BYTES || !whole.starts_with(HEADER.as_bytes()) || whole[HEADER_BYTES - 1] != b'\n' {
            return Err(corrupt("its first line is not a header of this version"));
        }
        let content = &whole[HEADER_BYTES..];
        if whole[HEADER.len()..HEADER_BYTES - 1] != *format!("{:08x}", crc32c::crc32c(content)).as_bytes() {
            return Err(corrupt("its checksum is wrong"));
        }
        Ok(Some(content.to_vec()))
    }
}

/// Makes `content` the file at `path`, without a checksum (files that others read): durable when this returns.
///
/// # Errors
/// [`Error::Io`]; the file is then what it was.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let failed = |action| {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    };
    let mut file = File::create(&beside).map_err(failed("create"))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed("write"))?;
    std::fs::rename(&beside, path).map_err(failed("replace"))?;
    sync_directory(parent_of(path))
}

/// Makes renames, creations and removals in a directory durable.
///
/// # Errors
/// [`Error::Io`].
pub fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|source| Error::Io {
        action: "sync",
        path: path.to_owned(),
        source,
    })
}

/// Creates a directory and those above it, each durable in its parent.
fn create_durably(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    if parent != path {
        create_durably(parent)?;
    }
    match std::fs::create_dir(path) {
        Ok(()) => sync_directory(parent),
        Err(_) if path.is_dir() => Ok(()),
        Err(source) => Err(Error::Io { action: "create", path: path.to_owned(), source }),
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against two processes writing one directory; the message names the other.
    #[test]
    fn a_directory_has_one_process() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let held = DataDirectory::open(&path).unwrap();
        let error = DataDirectory::open(&path).unwrap_err().to_string();
        assert!(error.contains("in use") && error.contains(&std::process::id().to_string()), "{error}");
        drop(held);
        DataDirectory::open(&path).unwrap();
    }

    /// Guards against damage that is taken for content, or for an absent file.
    #[test]
    fn every_flipped_or_missing_byte_of_a_small_file_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(root.path()).unwrap();
        assert_eq!(directory.read_small("identity").unwrap(), None);
        directory.write_small("identity", b"old").unwrap();
        directory.write_small("identity", b"node = 7\n").unwrap();
        assert_eq!(directory.read_small("identity").unwrap().as_deref(), Some(&b"node = 7\n"[..]));
        let path = root.path().join("identity");
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            assert!(matches!(directory.read_small("identity"), Err(Error::Corrupt { .. })), "flipped at {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(matches!(directory.read_small("identity"), Err(Error::Corrupt { .. })), "cut at {at}");
        }
    }

    /// Guards against a file in the directory's place reported as anything but that.
    #[test]
    fn a_file_in_the_way_is_said() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        let error = DataDirectory::open(&path).unwrap_err().to_string();
        assert!(error.contains("a file is in the way"), "{error}");
    }
}
