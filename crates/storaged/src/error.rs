//! What keeps a storage node from starting, or ends it: each reads as one line for the person who runs it.

use daemon::{Exit, Failure};
use std::path::PathBuf;

/// Why a storage node does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Settings, the data directory or a port.
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
    /// The write-ahead log is damaged or failed. It is never tried again (P2).
    #[error(transparent)]
    Wal(#[from] wal::WalError),
    /// The store of applied state failed.
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    /// An address in the settings is none.
    #[error("{flag}: `{address}` is not an address; give host:port")]
    BadAddress {
        /// The flag.
        flag: &'static str,
        /// What it said.
        address: String,
    },
    /// A setting that contradicts another, or makes no sense.
    #[error("{0}")]
    BadSetting(String),
    /// The identity file does not say what it should.
    #[error("cannot use {}: {reason}; restore the file from a copy, or start with an empty --data-dir to join as a new node", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Identity and write-ahead log are not of one life: starting would forget promises (P1).
    #[error("cannot use the data directory {}: {reason}; keep it for inspection, and start with an empty --data-dir to join as a new node", path.display())]
    Torn {
        /// The data directory.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The viewleaders will not have this node.
    #[error("the viewleaders refuse this node: {0}")]
    Refused(String),
    /// The node is not part of the cluster any more.
    #[error("{0} was removed from the cluster; start with an empty --data-dir to join as a new node")]
    Removed(types::NodeId),
    /// The system's random source, a thread or a signal handler.
    #[error("cannot {action}: {reason}; check the limits of this account")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        reason: String,
    },
    /// Serving gRPC failed.
    #[error("cannot serve on {address}: {reason}; check the network of this machine")]
    Serve {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// What cannot happen.
    #[error("a bug: {0}; please report it")]
    Bug(String),
}

impl Error {
    /// The exit code of a process that ends with this error.
    pub fn exit(&self) -> Exit {
        match self {
            Error::Daemon(error) => error.exit(),
            Error::BadAddress { .. } | Error::BadSetting(_) => Exit::Usage,
            Error::Refused(_) | Error::Removed(_) => Exit::Denied,
            Error::Bug(_) => Exit::Bug,
            Error::Wal(_)
            | Error::Engine(_)
            | Error::Identity { .. }
            | Error::Torn { .. }
            | Error::System { .. }
            | Error::Serve { .. } => Exit::Unavailable,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::new(error.exit(), error.to_string())
    }
}
