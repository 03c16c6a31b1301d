//! Segments made ready before they are needed and recycled when they no longer are, away from the writer.
//!
//! A new segment is a temporary file filled with zeros in small synced steps, so that no large write-back stands in the
//! way of the writer's own syncs; then it gets its header and, when that is durable, its name. A released segment of
//! full size becomes a spare, and a spare becomes a segment by a new header and a new name: no filling. Each rename and
//! removal is made durable before the next, so that a crash leaves no gap in the numbers.

use crate::files::{File, Files};
use crate::format::{SECTOR_BYTES, SegmentHeader};
use crate::mutants::{Mutant, on};
use crate::{SegmentNumber, WalError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// The helper thread's name.
const THREAD: &str = "wal-segments";

/// What a file of the log's directory is, by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FileKind {
    /// A segment, ready or in use.
    Segment,
    /// A released segment, kept to be used again.
    Spare,
    /// A segment that was being filled.
    Unfinished,
}

impl FileKind {
    const ALL: [FileKind; 3] = [FileKind::Segment, FileKind::Spare, FileKind::Unfinished];

    fn extension(self) -> &'static str {
        match self {
            FileKind::Segment => "wal",
            FileKind::Spare => "spare",
            FileKind::Unfinished => "tmp",
        }
    }

    /// The file's path in `directory`.
    pub(crate) fn path(self, directory: &Path, number: SegmentNumber) -> PathBuf {
        directory.join(format!("{:012}.{}", number.0, self.extension()))
    }

    /// What `name` stands for; nothing if the log has no such files.
    pub(crate) fn parse(name: &str) -> Option<(FileKind, SegmentNumber)> {
        let (stem, extension) = name.split_once('.')?;
        let kind = FileKind::ALL.into_iter().find(|kind| kind.extension() == extension)?;
        if stem.len() < 12 || !stem.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some((kind, SegmentNumber(stem.parse().ok()?)))
    }
}

/// An open segment: full length, header and directory entry durable.
pub(crate) struct Segment<T> {
    pub(crate) number: SegmentNumber,
    pub(crate) bytes: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: T,
}

/// Does the work, on whichever thread.
pub(crate) struct Workshop<F: Files> {
    files: F,
    directory: PathBuf,
    log_id: u64,
    /// Only segments of this size are kept as spares.
    full_bytes: u64,
    spares_max: usize,
    fill_step_bytes: u64,
    spares: Vec<(PathBuf, u64)>,
    /// A directory sync failed: no later one proves anything, so no segment can be made ready any more (P2).
    directory_in_doubt: bool,
    /// Set when nobody waits for a new segment any longer.
    stop: Arc<AtomicBool>,
}

impl<F: Files> Workshop<F> {
    pub(crate) fn new(files: F, directory: &Path, log_id: u64, options: &crate::Options) -> Workshop<F> {
        Workshop {
            files,
            directory: directory.to_path_buf(),
            log_id,
            full_bytes: options.segment_bytes,
            spares_max: options.spares_max,
            fill_step_bytes: options.fill_step_bytes,
            spares: Vec::new(),
            directory_in_doubt: false,
            stop: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Takes over a spare that an earlier run left, or removes it if it is too small or one too many.
    pub(crate) fn adopt_spare(&mut self, path: PathBuf) -> Result<(), WalError> {
        let file = self.files.open(&path).map_err(|error| WalError::io("open", &path, error))?;
        let bytes = file.length().map_err(|error| WalError::io("read the length of", &path, error))?;
        if bytes == self.full_bytes && self.spares.len() < self.spares_max {
            self.spares.push((path, bytes));
            return Ok(());
        }
        self.files.remove(&path).map_err(|error| WalError::io("remove", &path, error))
    }

    /// Makes segment `number` ready, of at least `bytes`. Nothing if it was told to stop.
    pub(crate) fn prepare(&mut self, number: SegmentNumber, bytes: u64) -> Result<Option<Segment<F::File>>, WalError> {
        let spare = self.spares.iter().position(|&(_, spare_bytes)| spare_bytes >= bytes);
        let (source, file, bytes) = match spare.map(|at| self.spares.swap_remove(at)) {
            Some((path, bytes)) => {
                let file = self.files.open(&path).map_err(|error| WalError::io("open", &path, error))?;
                (path, file, bytes)
            }
            None => {
                let path = FileKind::Unfinished.path(&self.directory, number);
                match self.create_filled(&path, bytes) {
                    Ok(Some(file)) => (path, file, bytes),
                    outcome => {
                        // Half a segment is of no use, and on a full disk its space is.
                        if let Err(error) = self.files.remove(&path) {
                            tracing::warn!(file = %path.display(), %error, "cannot remove an unfinished log segment");
                        }
                        return outcome.map(|_| None);
                    }
                }
            }
        };
        let mut header = [0; SECTOR_BYTES as usize];
        let encoded = SegmentHeader { log_id: self.log_id, number, bytes }.encode();
        header[..encoded.len()].copy_from_slice(&encoded);
        file.write_at(&header, 0).map_err(|error| WalError::io("write", &source, error))?;
        file.sync_data().map_err(|error| WalError::io("sync", &source, error))?;
        let path = FileKind::Segment.path(&self.directory, number);
        self.files.rename(&source, &path).map_err(|error| WalError::io("rename", &source, error))?;
        self.sync_directory()?;
        Ok(Some(Segment { number, bytes, path, file }))
    }

    /// Turns a segment that is no longer needed into a spare, or removes it.
    pub(crate) fn release(&mut self, number: SegmentNumber, bytes: u64) -> Result<(), WalError> {
        let path = FileKind::Segment.path(&self.directory, number);
        if bytes == self.full_bytes && self.spares.len() < self.spares_max {
            let spare = FileKind::Spare.path(&self.directory, number);
            self.files.rename(&path, &spare).map_err(|error| WalError::io("rename", &path, error))?;
            self.spares.push((spare, bytes));
        } else {
            self.files.remove(&path).map_err(|error| WalError::io("remove", &path, error))?;
        }
        self.sync_directory()
    }

    /// A file of `bytes` zeros, durable. Nothing if it was told to stop.
    fn create_filled(&self, path: &Path, bytes: u64) -> Result<Option<F::File>, WalError> {
        let file = self.files.create(path).map_err(|error| WalError::io("create", path, error))?;
        let zeros = vec![0; self.fill_step_bytes.min(bytes) as usize];
        let mut filled = 0;
        while filled < bytes {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let step = (zeros.len() as u64).min(bytes - filled);
            file.write_at(&zeros[..step as usize], filled).map_err(|error| WalError::io("fill", path, error))?;
            file.sync_data().map_err(|error| WalError::io("sync", path, error))?;
            filled += step;
        }
        Ok(Some(file))
    }

    fn sync_directory(&mut self) -> Result<(), WalError> {
        if self.directory_in_doubt {
            return Err(WalError::Failed);
        }
        if on(Mutant::DirectoryUnsynced) {
            return Ok(());
        }
        self.files.sync_directory(&self.directory).map_err(|error| {
            self.directory_in_doubt = true;
            WalError::io("sync", &self.directory, error)
        })
    }
}

enum Job {
    Prepare { number: SegmentNumber, bytes: u64 },
    Release { number: SegmentNumber, bytes: u64 },
}

/// The workshop as the writer sees it: orders go in, ready segments come out.
pub(crate) struct Preparer<F: Files> {
    mode: Mode<F>,
    stop: Arc<AtomicBool>,
    ordered: bool,
}

enum Mode<F: Files> {
    /// Orders are done at once: the order of file operations is then the same in every run.
    Inline { workshop: Workshop<F>, ready: Option<Result<Segment<F::File>, WalError>>, failure: Option<WalError> },
    /// Orders are done by a helper thread.
    Thread {
        /// `None` once stopped.
        jobs: Option<Sender<Job>>,
        ready: Receiver<Result<Segment<F::File>, WalError>>,
        failure: Arc<Mutex<Option<WalError>>>,
        thread: Option<JoinHandle<()>>,
    },
}

impl<F: Files> Preparer<F> {
    pub(crate) fn inline(workshop: Workshop<F>) -> Preparer<F> {
        let stop = workshop.stop.clone();
        Preparer { mode: Mode::Inline { workshop, ready: None, failure: None }, stop, ordered: false }
    }

    pub(crate) fn spawn(workshop: Workshop<F>) -> Result<Preparer<F>, WalError> {
        let stop = workshop.stop.clone();
        let directory = workshop.directory.clone();
        let (jobs, job_queue) = channel();
        let (ready_queue, ready) = channel();
        let failure = Arc::new(Mutex::new(None));
        let failure_slot = failure.clone();
        let thread = std::thread::Builder::new()
            .name(THREAD.into())
            .spawn(move || work(workshop, &job_queue, &ready_queue, &failure_slot))
            .map_err(|error| WalError::io("start a thread for", &directory, error))?;
        let mode = Mode::Thread { jobs: Some(jobs), ready, failure, thread: Some(thread) };
        Ok(Preparer { mode, stop, ordered: false })
    }

    /// Whether a segment is ordered and not yet taken.
    pub(crate) fn is_ordered(&self) -> bool {
        self.ordered
    }

    /// Orders the next segment; there must be no other order open.
    pub(crate) fn order(&mut self, number: SegmentNumber, bytes: u64) {
        assert!(!self.ordered, "one segment is ordered at a time");
        self.ordered = true;
        match &mut self.mode {
            Mode::Inline { workshop, ready, .. } => *ready = workshop.prepare(number, bytes).transpose(),
            Mode::Thread { jobs, .. } => send(jobs.as_ref(), Job::Prepare { number, bytes }),
        }
    }

    /// The ordered segment; waits until it is ready.
    pub(crate) fn take(&mut self) -> Result<Segment<F::File>, WalError> {
        assert!(self.ordered, "a segment is taken only after it was ordered");
        self.ordered = false;
        match &mut self.mode {
            Mode::Inline { ready, .. } => ready.take().unwrap_or(Err(WalError::Failed)),
            Mode::Thread { ready, failure, .. } => match ready.recv() {
                Ok(outcome) => outcome,
                // The thread ended: by a failure it left behind, or by a panic.
                Err(_) => Err(take_failure(failure).unwrap_or(WalError::Panicked { thread: THREAD })),
            },
        }
    }

    /// Hands over a segment that is no longer needed. Lower ones must have been handed over before.
    pub(crate) fn release(&mut self, number: SegmentNumber, bytes: u64) {
        match &mut self.mode {
            Mode::Inline { workshop, failure, .. } => {
                if failure.is_none() {
                    *failure = workshop.release(number, bytes).err();
                }
            }
            Mode::Thread { jobs, .. } => send(jobs.as_ref(), Job::Release { number, bytes }),
        }
    }

    /// Fails if releasing a segment failed since.
    pub(crate) fn check(&mut self) -> Result<(), WalError> {
        let failure = match &mut self.mode {
            Mode::Inline { failure, .. } => failure.take(),
            Mode::Thread { failure, .. } => take_failure(failure),
        };
        failure.map_or(Ok(()), Err)
    }
}

impl<F: Files> Drop for Preparer<F> {
    /// Leaves no thread behind that still works in the directory. What it leaves undone is done at the next start.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Mode::Thread { jobs, thread, .. } = &mut self.mode {
            drop(jobs.take());
            if let Some(thread) = thread.take()
                && thread.join().is_err()
            {
                tracing::error!(thread = THREAD, "the thread panicked");
            }
        }
    }
}

fn work<F: Files>(
    mut workshop: Workshop<F>,
    jobs: &Receiver<Job>,
    ready: &Sender<Result<Segment<F::File>, WalError>>,
    failure: &Mutex<Option<WalError>>,
) {
    for job in jobs {
        if workshop.stop.load(Ordering::Relaxed) {
            return;
        }
        match job {
            Job::Prepare { number, bytes } => {
                let Some(outcome) = workshop.prepare(number, bytes).transpose() else { return };
                if let Err(error) = &outcome {
                    tracing::warn!(%error, segment = number.0, "the next log segment is not ready; trying again when it is needed");
                }
                if ready.send(outcome).is_err() {
                    return;
                }
            }
            Job::Release { number, bytes } => {
                if let Err(error) = workshop.release(number, bytes) {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return;
                }
            }
        }
    }
}

/// A thread that has ended left the reason in its failure slot, which the writer checks before each frame.
fn send(jobs: Option<&Sender<Job>>, job: Job) {
    if jobs.is_none_or(|jobs| jobs.send(job).is_err()) {
        tracing::debug!(thread = THREAD, "the thread has ended; the order is dropped");
    }
}

fn take_failure(failure: &Mutex<Option<WalError>>) -> Option<WalError> {
    failure.lock().unwrap_or_else(PoisonError::into_inner).take()
}
