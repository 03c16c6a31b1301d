//! The log on a thread of its own: whatever waits when a sync returns becomes the next frame (group commit, P2).
//!
//! There is no timer: under load the group grows by itself while the sync before it runs, and a lone submission waits
//! for nothing. Submitting never blocks; who submits bounds what it has on the way, see [`Counters::waiting_bytes`].
//! Where time is simulated, [`Writer::inline`] does without the thread: a sync then takes no time that passes there.

use crate::files::Files;
use crate::log::Wal;
use crate::records::Records;
use crate::{SegmentNumber, WalError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// The writer thread's name.
const THREAD: &str = "wal-writer";

/// What the writer has done and what waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Groups made durable, marks included: each is one frame, one write and one sync.
    pub groups: u64,
    /// Submissions made durable.
    pub submissions: u64,
    /// Records made durable.
    pub records: u64,
    /// Bytes of frames written.
    pub bytes: u64,
    /// Bytes of submissions not yet durable.
    pub waiting_bytes: u64,
    /// Bytes of disk that hold records not released.
    pub retained_bytes: u64,
    /// The lowest segment not released.
    pub first_segment: SegmentNumber,
    /// The segment being written.
    pub current_segment: SegmentNumber,
}

/// A handle to the log's thread. Clones are handles to the same; when the last is gone, the thread writes what waits,
/// closes the log and ends.
#[derive(Clone)]
pub struct Writer {
    owner: Arc<Owner>,
}

struct Owner {
    shared: Arc<Shared>,
    work: Work,
}

/// Who writes what was submitted.
enum Work {
    Thread(Mutex<Option<JoinHandle<()>>>),
    /// Whoever submits, by calling this.
    Inline(Mutex<WriteWaiting>),
}

type WriteWaiting = Box<dyn FnMut(&Shared) + Send>;

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

struct Queue {
    submissions: Vec<Submission>,
    release: Option<SegmentNumber>,
    state: State,
    /// The thread sleeps and has to be woken.
    asleep: bool,
    counters: Counters,
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.submissions.is_empty() && self.release.is_none()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing more is taken; what waits is still written.
    Closing,
    Closed,
    /// Nothing more is taken or acknowledged.
    Failed,
}

struct Submission {
    records: Records,
    done: Box<dyn FnOnce(SegmentNumber) + Send>,
}

impl Writer {
    /// Starts the thread. If the log fails, `on_failure` is called once, from the thread; nothing is acknowledged after
    /// that, and the process should end with the error's line (P2).
    ///
    /// # Errors
    ///
    /// When the operating system starts no thread.
    pub fn spawn<F: Files>(
        wal: Wal<F>,
        on_failure: impl FnOnce(WalError) + Send + 'static,
    ) -> Result<Writer, WalError> {
        let shared = Arc::new(Shared::of(&wal));
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name(THREAD.into())
            .spawn(move || of_thread.run(wal, on_failure))
            .map_err(|error| WalError::io("start a thread for", Path::new("the log"), error))?;
        Ok(Writer { owner: Arc::new(Owner { shared, work: Work::Thread(Mutex::new(Some(thread))) }) })
    }

    /// As [`Writer::spawn`] without a thread: whoever submits waits for the sync and runs `done`. When the last handle is
    /// gone without [`Writer::shutdown`], the log is left as a crash would leave it.
    pub fn inline<F: Files>(wal: Wal<F>, on_failure: impl FnOnce(WalError) + Send + 'static) -> Writer {
        let shared = Arc::new(Shared::of(&wal));
        let mut open = Some((wal, on_failure));
        let work = move |shared: &Shared| {
            let Some((wal, _)) = &mut open else { return };
            let written = shared.write_waiting(wal, &mut Vec::new());
            let is_open = shared.lock().state == State::Open;
            if let (true, Ok(())) = (is_open, &written) {
                return;
            }
            if let Some((wal, on_failure)) = open.take() {
                shared.end(wal, written, on_failure);
            }
        };
        Writer { owner: Arc::new(Owner { shared, work: Work::Inline(Mutex::new(Box::new(work))) }) }
    }

    /// Appends `records`. Once they are durable, `done` is called from the log's thread with the segment that holds the
    /// first of them; calls come in the order of submission. It must be quick: the next sync waits for it.
    ///
    /// After a failure or a shutdown `done` is dropped without having been called.
    pub fn submit(&self, records: Records, done: impl FnOnce(SegmentNumber) + Send + 'static) {
        let submission = Submission { records, done: Box::new(done) };
        let mut queue = self.owner.shared.lock();
        if queue.state != State::Open {
            // What the closure owns may run code when it is dropped: not under the lock.
            drop(queue);
            drop(submission);
            return;
        }
        queue.counters.waiting_bytes += submission.records.bytes() as u64;
        queue.submissions.push(submission);
        self.owner.have_done(queue);
    }

    /// Says that the records of all segments below `number` are not needed any longer; see [`Wal::release_before`].
    pub fn release_before(&self, number: SegmentNumber) {
        let mut queue = self.owner.shared.lock();
        queue.release = queue.release.max(Some(number));
        self.owner.have_done(queue);
    }

    /// What has been done and what waits.
    pub fn counters(&self) -> Counters {
        self.owner.shared.lock().counters
    }

    /// Writes what waits, closes the log cleanly and ends the thread. Not to be called from a `done`.
    ///
    /// # Errors
    ///
    /// [`WalError::Failed`] if the log failed, now or before; `on_failure` got the reason.
    pub fn shutdown(&self) -> Result<(), WalError> {
        let closing = self.owner.shared.begin_closing();
        self.owner.have_done(closing);
        if let Work::Thread(thread) = &self.owner.work
            && let Some(thread) = thread.lock().unwrap_or_else(PoisonError::into_inner).take()
            && thread.join().is_err()
        {
            return Err(WalError::Panicked { thread: THREAD });
        }
        match self.owner.shared.lock().state {
            State::Failed => Err(WalError::Failed),
            _ => Ok(()),
        }
    }
}

impl Owner {
    /// Has the queue's work done, by the thread or at once.
    fn have_done(&self, queue: MutexGuard<'_, Queue>) {
        match &self.work {
            Work::Thread(_) => self.shared.wake_if_asleep(queue),
            Work::Inline(work) => {
                drop(queue);
                // Held: this comes from a `done`, or from another thread. Whoever is at work looks again when it has let go.
                while let Ok(mut work) = work.try_lock() {
                    work(&self.shared);
                    drop(work);
                    let queue = self.shared.lock();
                    if queue.is_idle() || matches!(queue.state, State::Closed | State::Failed) {
                        break;
                    }
                }
            }
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let closing = self.shared.begin_closing();
        self.shared.wake_if_asleep(closing);
    }
}

impl Shared {
    fn of<F: Files>(wal: &Wal<F>) -> Shared {
        let counters = Counters {
            retained_bytes: wal.bytes(),
            first_segment: wal.first_segment(),
            current_segment: wal.current_segment(),
            ..Counters::default()
        };
        let queue = Queue { submissions: Vec::new(), release: None, state: State::Open, asleep: false, counters };
        Shared { queue: Mutex::new(queue), wake: Condvar::new() }
    }

    /// A panic in the thread ends the log, not the lock.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_if_asleep(&self, queue: MutexGuard<'_, Queue>) {
        let asleep = queue.asleep;
        drop(queue);
        if asleep {
            self.wake.notify_one();
        }
    }

    fn begin_closing(&self) -> MutexGuard<'_, Queue> {
        let mut queue = self.lock();
        if queue.state == State::Open {
            queue.state = State::Closing;
        }
        queue
    }

    fn run<F: Files>(&self, mut wal: Wal<F>, on_failure: impl FnOnce(WalError)) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.write_until_closing(&mut wal)));
        self.end(wal, outcome.unwrap_or(Err(WalError::Panicked { thread: THREAD })), on_failure);
    }

    /// Closes the log, or tells why nothing more is written.
    fn end<F: Files>(&self, wal: Wal<F>, outcome: Result<(), WalError>, on_failure: impl FnOnce(WalError)) {
        let (outcome, wal) = match outcome {
            Ok(()) => (wal.close(), None),
            // Kept open until the failure is told: closing waits for the file operations under way.
            Err(error) => (Err(error), Some(wal)),
        };
        let mut queue = self.lock();
        queue.state = if outcome.is_ok() { State::Closed } else { State::Failed };
        let never_acknowledged = std::mem::take(&mut queue.submissions);
        drop(queue);
        drop(never_acknowledged);
        if let Err(error) = outcome {
            on_failure(error);
        }
        drop(wal);
    }

    fn write_until_closing<F: Files>(&self, wal: &mut Wal<F>) -> Result<(), WalError> {
        let mut batch = Vec::new();
        loop {
            self.write_waiting(wal, &mut batch)?;
            let mut queue = self.lock();
            while queue.is_idle() {
                if queue.state != State::Open {
                    return Ok(());
                }
                queue.asleep = true;
                queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.asleep = false;
            }
        }
    }

    /// Writes and acknowledges until nothing waits; `batch` is room for what is being written.
    fn write_waiting<F: Files>(&self, wal: &mut Wal<F>, batch: &mut Vec<Submission>) -> Result<(), WalError> {
        loop {
            let release = {
                let mut queue = self.lock();
                if queue.is_idle() {
                    return Ok(());
                }
                std::mem::swap(&mut queue.submissions, batch);
                queue.release.take()
            };
            if let Some(number) = release {
                if batch.is_empty() {
                    wal.release_before(number)?;
                    self.publish(wal, 0, 0);
                } else {
                    wal.note_release(number);
                }
            }
            while !batch.is_empty() {
                self.write_group(wal, batch)?;
            }
        }
    }

    /// Writes the leading submissions that fit one frame together, and acknowledges them.
    fn write_group<F: Files>(&self, wal: &mut Wal<F>, batch: &mut Vec<Submission>) -> Result<(), WalError> {
        let mut bytes = batch[0].records.bytes();
        let mut count = 1;
        while let Some(next) = batch.get(count)
            && bytes + next.records.bytes() <= wal.frame_bytes_max()
        {
            bytes += next.records.bytes();
            count += 1;
        }
        let segment = match &batch[..count] {
            [one] => wal.append(&one.records)?,
            group => wal.append_group(group.iter().map(|submission| &submission.records))?,
        };
        self.publish(wal, count, bytes);
        for submission in batch.drain(..count) {
            (submission.done)(segment);
        }
        Ok(())
    }

    fn publish<F: Files>(&self, wal: &Wal<F>, submissions: usize, bytes: usize) {
        let work = wal.work();
        let counters = &mut self.lock().counters;
        counters.groups = work.frames;
        counters.submissions += submissions as u64;
        counters.records = work.records;
        counters.bytes = work.bytes;
        counters.waiting_bytes -= bytes as u64;
        counters.retained_bytes = wal.bytes();
        counters.first_segment = wal.first_segment();
        counters.current_segment = wal.current_segment();
    }
}
