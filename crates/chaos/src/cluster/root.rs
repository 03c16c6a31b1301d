//! The directory of a run: everything that its processes write. Removed at the end, kept where the run found something.

use crate::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use tempfile::TempDir;

/// The directory. Dropping it removes it, unless it is to be kept.
#[derive(Debug)]
pub(crate) struct Root {
    directory: Option<TempDir>,
    path: PathBuf,
}

/// What a panic would leave behind: it ends the process before anything is dropped.
static LEFT_BY_A_PANIC: Mutex<Option<PathBuf>> = Mutex::new(None);
/// Whether a panic would leave namespaces, too.
static NAMESPACES_LEFT: AtomicBool = AtomicBool::new(false);

impl Root {
    pub(super) fn new() -> Result<Root, Error> {
        let directory = tempfile::Builder::new()
            .prefix("dht-chaos-")
            .tempdir()
            .map_err(Error::machine("make a temporary directory; set TMPDIR to where there is room"))?;
        let path = directory.path().to_owned();
        *LEFT_BY_A_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.clone());
        Ok(Root { directory: Some(directory), path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it where it is, for whoever wants to see what happened.
    pub(crate) fn keep(&mut self) -> &Path {
        if let Some(directory) = self.directory.take() {
            self.path = directory.keep();
        }
        &self.path
    }
}

/// From now on there are namespaces that a panic would leave behind.
pub(super) fn there_are_namespaces() {
    NAMESPACES_LEFT.store(true, Ordering::Relaxed);
}

/// A panic removes the directory, and namespaces where there are any, before it ends the process. The processes end with this one.
pub(crate) fn clean_up_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let left = LEFT_BY_A_PANIC.try_lock().ok().and_then(|mut left| left.take());
        if let Some(path) = left {
            // What can't be removed now stays in the directory for temporary files.
            let _left = std::fs::remove_dir_all(path);
        }
        if NAMESPACES_LEFT.load(Ordering::Relaxed) {
            crate::netns::delete_all();
        }
        before(panic);
    }));
}

/// The last line of a log: on its way out a server says why there.
pub(super) fn last_line(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().last().unwrap_or("it left no word").to_owned()
}
