//! What can go wrong in an engine, and what its owner does about it.

use crate::{Keyspace, NAME_BYTES_MAX, VALUE_BYTES_MAX};
use std::io;
use std::path::PathBuf;
use types::EntryId;

/// Why an engine did not do what it was asked.
///
/// *Deterministic* errors are the same on every replica that is given the same calls; the others belong to this node.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// What is stored can't be trusted. With a keyspace: that partition goes out of service (P3), the rest is fine.
    /// Without one: the whole store does; [`quarantine`](crate::quarantine) it and rebuild from other replicas. An
    /// engine that has answered this without a keyspace answers nothing else any more. Not deterministic.
    #[error("the store{} is corrupt: {what}; it is not served: quarantine it, and its data is rebuilt from other replicas", of(.keyspace))]
    Corrupt {
        /// Whose data, where that is known.
        keyspace: Option<Keyspace>,
        /// What was found, and where.
        what: String,
    },
    /// A read, write or fsync failed, or the disk is full. What was being applied may be there or not; the process
    /// ends, an fsync is never tried again (P2). Not deterministic.
    #[error("can't {action} {}: {source}; check the disk and start again", .path.display())]
    Io {
        /// What was tried, an infinitive.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process, or another engine of this one, has the directory. Not deterministic.
    #[error("{} is in use by another process; stop that one, or choose another directory", .directory.display())]
    InUse {
        /// The store's directory.
        directory: PathBuf,
    },
    /// The store was written in a format that this program does not know. Nothing was changed. Not deterministic.
    #[error("{} has format {found:?}, this program knows {known:?}; start the version that wrote it", .path.display())]
    Version {
        /// The format marker.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What it should say.
        known: &'static str,
    },
    /// A batch would move `applied` backwards (P1): a bug of the caller. Deterministic.
    #[error("{keyspace} has applied {applied:?}, a batch through {through:?} is behind that")]
    Backwards {
        /// Where.
        keyspace: Keyspace,
        /// What is applied.
        applied: EntryId,
        /// What the batch says.
        through: EntryId,
    },
    /// A batch for a generation whose deletion has begun: a bug of the caller. Not deterministic.
    #[error("{keyspace} is being deleted; a later life of the partition needs a new generation")]
    Deleting {
        /// Where.
        keyspace: Keyspace,
    },
    /// A name or value beyond what an engine stores: a bug of the caller, limits are checked at the door. Deterministic.
    #[error(
        "{keyspace}: a record of {name_bytes} + {value_bytes} bytes, the limits are {NAME_BYTES_MAX} + {VALUE_BYTES_MAX}"
    )]
    TooLarge {
        /// Where.
        keyspace: Keyspace,
        /// The name's length.
        name_bytes: usize,
        /// The value's length.
        value_bytes: usize,
    },
}

fn of(keyspace: &Option<Keyspace>) -> String {
    keyspace.map_or(String::new(), |keyspace| format!(" of {keyspace}"))
}

impl EngineError {
    /// The whole store can't be trusted.
    pub(crate) fn corrupt(what: impl Into<String>) -> EngineError {
        EngineError::Corrupt { keyspace: None, what: what.into() }
    }

    /// One keyspace can't be trusted.
    pub(crate) fn corrupt_in(keyspace: Keyspace, what: impl Into<String>) -> EngineError {
        EngineError::Corrupt { keyspace: Some(keyspace), what: what.into() }
    }

    /// For `map_err` on the system's calls.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> EngineError {
        let path = path.into();
        move |source| EngineError::Io { action, path, source }
    }
}
