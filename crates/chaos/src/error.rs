//! Why a run can't go on, or a fault did not happen.

use daemon::{Exit, Failure};
use std::path::PathBuf;

/// What went wrong; each reads as one line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A fault was injected, and nothing shows that it took effect.
    #[error("{0}")]
    NotLanded(String),
    /// The cluster misbehaved: it does not become whole, or one of its processes ended by itself.
    #[error("{0}")]
    Cluster(String),
    /// This machine refuses something.
    #[error("cannot {action}: {why}")]
    Machine { action: String, why: String },
    /// A file can't be read or written.
    #[error("cannot use {}: {source}; check the disk and its permissions", path.display())]
    File { path: PathBuf, source: std::io::Error },
    /// The cluster can't be talked to.
    #[error(transparent)]
    Client(#[from] client::Error),
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }

    pub(crate) fn machine(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let action = action.into();
        move |error| Error::Machine { action, why: error.to_string() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::new(Exit::Unavailable, error.to_string())
    }
}
