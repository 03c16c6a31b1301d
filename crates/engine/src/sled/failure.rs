//! What sled's errors mean, and the failure after which an engine answers nothing any more.

use super::SledEngine;
use crate::{EngineError, Keyspace};
use std::io::{self, ErrorKind};
use std::path::Path;
use types::RecordKind;

/// An error, kept to be given again.
#[derive(Debug)]
pub(super) enum Failure {
    Corrupt(String),
    Io(&'static str, ErrorKind, String),
}

impl SledEngine {
    /// Whether nothing has failed yet that leaves the store in doubt.
    pub(super) fn usable(&self) -> Result<(), EngineError> {
        match self.failed.get() {
            None => Ok(()),
            Some(Failure::Corrupt(what)) => Err(EngineError::corrupt(what.clone())),
            Some(Failure::Io(action, kind, text)) => {
                Err(EngineError::io(action, &self.path)(io::Error::new(*kind, text.clone())))
            }
        }
    }

    /// The error of a read: that keyspace's own.
    pub(super) fn read_error(&self, keyspace: Keyspace, error: ::sled::Error) -> EngineError {
        match sled_error("read", &self.path, error) {
            EngineError::Corrupt { what, .. } => EngineError::corrupt_in(keyspace, what),
            other => other,
        }
    }

    /// The error of a write: the store's end.
    pub(super) fn fail(&self, action: &'static str, error: ::sled::Error) -> EngineError {
        let error = sled_error(action, &self.path, error);
        self.failed.get_or_init(|| match &error {
            EngineError::Io { action, source, .. } => Failure::Io(action, source.kind(), source.to_string()),
            EngineError::Corrupt { what, .. } => Failure::Corrupt(what.clone()),
            other => Failure::Corrupt(other.to_string()),
        });
        error
    }
}

/// A record that is not as it was written.
pub(super) fn corrupt_record(keyspace: Keyspace, (kind, name): (RecordKind, &[u8]), what: &str) -> EngineError {
    EngineError::corrupt_in(keyspace, format!("{kind:?} \"{}\": {what}", name.escape_ascii()))
}

/// For locks: who held one may have left things half done.
pub(super) fn write_panicked() -> EngineError {
    EngineError::corrupt("a write to it panicked half-way")
}

/// What an error of sled means for the store.
pub(super) fn sled_error(action: &'static str, path: &Path, error: ::sled::Error) -> EngineError {
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
