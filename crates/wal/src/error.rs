//! What can go wrong with a log, each in one line: what failed, where, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// Why the log could not be opened, or ended.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The disk is full. What was acknowledged is safe.
    #[error("disk full: cannot {operation} {}: {source}; nothing acknowledged is lost: free some space, then start again", file.display())]
    DiskFull {
        /// What was being done, as a verb.
        operation: &'static str,
        /// The file or directory it was done to.
        file: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// A file operation failed. It is not tried again (P2): whether it had an effect is not known before a restart.
    #[error("cannot {operation} {}: {source}; check the disk and its permissions, then start again", file.display())]
    Io {
        /// What was being done, as a verb.
        operation: &'static str,
        /// The file or directory it was done to.
        file: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// Something that was durable is no longer what was written (P3). Nothing was changed.
    #[error("write-ahead log damaged: {} at byte {offset}: {what}; nothing was changed: keep the directory for inspection and start with an empty one, to be rebuilt from the other replicas", file.display())]
    Damaged {
        /// The segment's file.
        file: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The segment was written by a program with another format.
    #[error("{} has log format {version}, this program knows {known}; nothing was changed: start the program that wrote it", file.display())]
    UnknownVersion {
        /// The segment's file.
        file: PathBuf,
        /// The version found.
        version: u32,
        /// The version known here.
        known: u32,
    },
    /// A record is sound, but whoever replays the log refused it.
    #[error("record {record} of the frame at byte {offset} of {} was refused: {reason}; nothing was changed: start the program that wrote it", file.display())]
    Refused {
        /// The segment's file.
        file: PathBuf,
        /// Where the record's frame begins, in bytes.
        offset: u64,
        /// The record's place in its frame, from 0.
        record: usize,
        /// The reason given.
        reason: String,
    },
    /// A record is longer than [`crate::RECORD_BYTES_MAX`]. Nothing of its group was written.
    #[error("a record of {bytes} bytes is longer than the log takes ({max}); this is a bug in its caller")]
    RecordTooLong {
        /// The record's length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The log failed before and takes nothing more (P2).
    #[error("the write-ahead log failed before and takes nothing more; start again")]
    Failed,
    /// A thread of the log ended by a panic.
    #[error("the write-ahead log's thread {thread} panicked; this is a bug: start again")]
    Panicked {
        /// The thread's name.
        thread: &'static str,
    },
}

impl WalError {
    /// Wraps what the file layer said; a full disk gets its own variant.
    pub(crate) fn io(operation: &'static str, file: &Path, source: io::Error) -> WalError {
        let file = file.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => WalError::DiskFull { operation, file, source },
            _ => WalError::Io { operation, file, source },
        }
    }

    pub(crate) fn damaged(file: &Path, offset: u64, what: impl Into<String>) -> WalError {
        WalError::Damaged { file: file.to_path_buf(), offset, what: what.into() }
    }
}
