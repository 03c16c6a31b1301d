//! The file layer under the log: the few operations it needs, so that tests can put a disk below that fails and forgets.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A directory's files. Clones are handles to the same files.
pub trait Files: Clone + Send + 'static {
    /// An open file.
    type File: File;

    /// Makes the directory and its parents where they are missing, durably.
    fn create_directory(&self, directory: &Path) -> io::Result<()>;
    /// The names of the directory's files, in any order. Names that are not UTF-8 are left out.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Creates an empty file for reading and writing; an existing one is emptied.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// Renames within one directory; durable after [`Files::sync_directory`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; durable after [`Files::sync_directory`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the directory's creations, renames and removals durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// An open file, read and written at offsets.
pub trait File: Send + 'static {
    /// The length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Reads until `buffer` is full or the file ends; returns how many bytes were read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes`; durable after [`File::sync_data`].
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes content and length durable (`fdatasync`). After a failure what was written is in doubt for good.
    fn sync_data(&self) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl Files for RealFiles {
    type File = fs::File;

    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        if directory.is_dir() {
            return Ok(());
        }
        let parent = match directory.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        self.create_directory(parent)?;
        match fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        self.sync_directory(parent)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<fs::File> {
        fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
    }

    fn open(&self, path: &Path) -> io::Result<fs::File> {
        fs::OpenOptions::new().read(true).write(true).open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        fs::File::open(directory)?.sync_all()
    }
}

impl File for fs::File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match FileExt::read_at(self, &mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(feature = "faults")]
        faults::before_write()?;
        self.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        #[cfg(feature = "faults")]
        faults::before_sync()?;
        fs::File::sync_data(self)
    }
}
