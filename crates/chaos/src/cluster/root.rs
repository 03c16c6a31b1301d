//! The directory of a run: everything that its processes write. Removed at the end, kept where the run found something.

use crate::error::Error;
use rustix::process::{Pid, Signal};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// How often it is looked whether what was killed has gone, before a panic goes on without it.
const KILLED_WITHIN_LOOKS: usize = 200;
const LOOK_EVERY: Duration = Duration::from_millis(10);

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

/// A panic kills the processes, and removes their directory, and namespaces where there are any, before it ends this one.
pub(crate) fn clean_up_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        kill_children();
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

/// Kills every process that this one has started, and waits until they have closed their files.
fn kill_children() {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<i32> =
        children.flat_map(|pids| pids.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        // It may have ended meanwhile.
        let _gone = rustix::process::kill_process(pid, Signal::KILL);
    }
    // One that nobody has waited for has no files any more.
    let runs = |pid: &i32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok();
    for _ in 0..KILLED_WITHIN_LOOKS {
        if !pids.iter().any(runs) {
            break;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The last line of a log: on its way out a server says why there.
pub(super) fn last_line(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().last().unwrap_or("it left no word").to_owned()
}
