//! The thread that reads the state for snapshots (P23), no faster than the cluster allows.
//!
//! Away from the shards, because a page takes the store a while, and one thread for all of them, so that the throttle
//! counts for the node as a whole. Pages that wait are bounded by the snapshots under way: each has one. The snapshot that
//! began first goes first: one that is complete can be put to use, and the receiver's store takes what lies together
//! faster than a bit of everything.

use crate::error::Error;
use crate::fatal::Fatal;
use crate::shard::Completion;
use engine::{Engine, EngineError, Keyspace};
use replcore::SnapshotId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;
use types::{NodeId, PartitionId, Record, RecordKey, RecordKind};

/// Kinds of records that are read from the state, in order: all but requests, which come from the replica's memory.
fn kinds() -> impl Iterator<Item = RecordKind> {
    RecordKind::ALL.into_iter().filter(|kind| *kind != RecordKind::Requests)
}

/// Most records in a page.
const PAGE_RECORDS_MAX: usize = 4096;
/// The throttle sleeps so long at a time: it may be opened meanwhile.
const NAP_MAX: Duration = Duration::from_millis(50);
/// What may be read at once after a pause, in seconds of the allowed rate.
const BURST_SECONDS: f64 = 0.1;

/// One page to read.
#[derive(Debug)]
pub(crate) struct Page {
    /// Of which generation of which partition.
    pub(crate) keyspace: Keyspace,
    /// For whom.
    pub(crate) to: NodeId,
    /// For which snapshot.
    pub(crate) snapshot: SnapshotId,
    /// Where to go on.
    pub(crate) after: Option<RecordKey>,
    /// About how much.
    pub(crate) bytes_max: usize,
}

/// How shards reach the thread. The last clone's end ends it.
#[derive(Clone, Debug)]
pub(crate) struct Filler {
    pages: mpsc::Sender<(Page, UnboundedSender<Completion>)>,
    /// Bytes per second; 0: no limit.
    rate: Arc<AtomicU64>,
    filled_bytes: Arc<AtomicU64>,
}

impl Filler {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::System`] where the system starts none.
    pub(crate) fn spawn(engine: Arc<dyn Engine>, fatal: Arc<Fatal>) -> Result<(Filler, JoinHandle<()>), Error> {
        let (pages, queue) = mpsc::channel();
        let (rate, filled_bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let throttle = Throttle { rate: rate.clone(), allowance: 0.0, since: Instant::now() };
        let filled = filled_bytes.clone();
        let thread = std::thread::Builder::new()
            .name("filler".to_owned())
            .spawn(move || {
                if let Err(error) = work(engine.as_ref(), &queue, throttle, &filled) {
                    fatal.end(error.into());
                }
            })
            .map_err(|error| Error::System { action: "start a thread", reason: error.to_string() })?;
        Ok((Filler { pages, rate, filled_bytes }, thread))
    }

    /// Reads a page; `done` hears of it.
    pub(crate) fn read(&self, page: Page, done: UnboundedSender<Completion>) {
        // The thread goes only after a failure that ends the node.
        let _ended = self.pages.send((page, done));
    }

    /// From now on at most so many bytes per second; 0: as fast as it goes.
    pub(crate) fn set_rate(&self, bytes_per_second: u64) {
        self.rate.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Bytes read so far.
    pub(crate) fn filled_bytes(&self) -> u64 {
        self.filled_bytes.load(Ordering::Relaxed)
    }
}

fn work(
    engine: &dyn Engine,
    queue: &mpsc::Receiver<(Page, UnboundedSender<Completion>)>,
    mut throttle: Throttle,
    filled_bytes: &AtomicU64,
) -> Result<(), EngineError> {
    let mut waiting = Waiting::default();
    while let Some((page, done)) = waiting.next(queue) {
        let partition = page.keyspace.partition;
        let completion = match read(engine, &page) {
            Ok(records) => {
                let bytes: usize = records.iter().map(|(key, record)| key.name.len() + record.value.len()).sum();
                filled_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                metrics::counter!("storaged_fill_bytes_total").increment(bytes as u64);
                throttle.wait_for(bytes);
                Completion::StateRead { partition, to: page.to, snapshot: page.snapshot, records }
            }
            Err(EngineError::Corrupt { keyspace: Some(damaged), what }) => {
                tracing::error!(%damaged, what, "the state is damaged");
                Completion::Damaged(partition)
            }
            Err(error) => return Err(error),
        };
        // A shard goes only when the node ends.
        let _ended = done.send(completion);
    }
    Ok(())
}

/// Pages that were asked for, by when their snapshots began.
#[derive(Default)]
struct Waiting {
    pages: BTreeMap<u64, (Page, UnboundedSender<Completion>)>,
    /// Each receiver's last snapshot of each partition, and its place; and how many there were.
    began: BTreeMap<(PartitionId, NodeId), (SnapshotId, u64)>,
    begun: u64,
}

impl Waiting {
    /// The next page to read; waits for one. `None` once nobody can ask any more.
    fn next(
        &mut self,
        queue: &mpsc::Receiver<(Page, UnboundedSender<Completion>)>,
    ) -> Option<(Page, UnboundedSender<Completion>)> {
        if self.pages.is_empty() {
            self.add(queue.recv().ok()?);
        }
        while let Ok(asked) = queue.try_recv() {
            self.add(asked);
        }
        self.pages.pop_first().map(|(_, asked)| asked)
    }

    fn add(&mut self, (page, done): (Page, UnboundedSender<Completion>)) {
        let whose = (page.keyspace.partition, page.to);
        let known = self.began.get(&whose).filter(|(snapshot, _)| *snapshot == page.snapshot).map(|(_, place)| *place);
        let place = known.unwrap_or(self.begun);
        if known.is_none() {
            self.begun += 1;
            self.began.insert(whose, (page.snapshot, place));
        }
        self.pages.insert(place, (page, done));
    }
}

fn read(engine: &dyn Engine, page: &Page) -> Result<Vec<(RecordKey, Record)>, EngineError> {
    let (first, mut after) = match &page.after {
        Some(key) => (key.kind, Some(key.name.clone())),
        None => (RecordKind::User, None),
    };
    for kind in kinds().filter(|kind| *kind >= first) {
        let records = engine.scan(page.keyspace, kind, after.as_deref(), PAGE_RECORDS_MAX, page.bytes_max)?;
        if !records.is_empty() {
            return Ok(records.into_iter().map(|(name, record)| (RecordKey { kind, name }, record)).collect());
        }
        after = None;
    }
    Ok(Vec::new())
}

/// A bucket of bytes that fills at the allowed rate.
struct Throttle {
    rate: Arc<AtomicU64>,
    /// What may be read now; below 0 what was read too early.
    allowance: f64,
    since: Instant,
}

impl Throttle {
    fn wait_for(&mut self, bytes: usize) {
        self.allowance -= bytes as f64;
        loop {
            let rate = self.rate.load(Ordering::Relaxed) as f64;
            let now = Instant::now();
            if rate == 0.0 {
                (self.allowance, self.since) = (0.0, now);
                return;
            }
            let earned = now.duration_since(self.since).as_secs_f64() * rate;
            self.allowance = (self.allowance + earned).min(rate * BURST_SECONDS);
            self.since = now;
            if self.allowance >= 0.0 {
                return;
            }
            std::thread::sleep(Duration::from_secs_f64(-self.allowance / rate).min(NAP_MAX));
        }
    }
}
