//! What clients do, and what must hold of what they heard.
//!
//! A workload is clients that ask and write down every answer, a last reading once everything is healed, and a verdict
//! over what was written down. What was not answered stays *unknown* for ever: it may have happened, may still happen,
//! or may never.
//!
//! To add one: a file with a type that is a [`Workload`], and a line in `WORKLOADS`.

mod appends;
mod bank;
mod counters;
mod locks;
mod record;
mod registers;
mod sets;
mod watches;

use crate::error::Error;
use crate::meter::{Ended, Heard, Meter};
use crate::random::Random;
use check::report::{Verdict, WorkloadResult};
use client::{Client, Coordination};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt, TryStreamExt};
use record::Outcome;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A kind of load with a definition of correct.
pub(crate) trait Workload: Send + Sync {
    /// One client: asks until the load ends.
    fn client(self: Arc<Self>, seat: Seat) -> BoxFuture<'static, ()>;

    /// Reads what must be read once nothing changes any more.
    fn read_back<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<(), Error>>;

    /// What holds of everything that was heard. Slow; blocks.
    fn verdict(&self, name: &str) -> WorkloadResult;

    /// How many answers say that something was changed, or a change heard of: a load without any shows nothing.
    fn effects(&self) -> usize;
}

/// Makes a workload whose keys begin with a prefix.
type Make = fn(prefix: &str) -> Arc<dyn Workload>;

/// All workloads: name, what it does, and how to make one.
pub(crate) const WORKLOADS: &[(&str, &str, Make)] = &[
    ("registers", "reads, writes, deletes and compare-and-set of few hot keys: linearizable", registers::make),
    ("counters", "increments by compare-and-set, retried: every acknowledged one counts, none twice", counters::make),
    ("sets", "elements added all over the key space: every acknowledged one is there at the end", sets::make),
    (
        "locks",
        "locks on leases, and writes with their tokens by holders that oversleep: no older one's counts",
        locks::make,
    ),
    ("watches", "few keys, written and watched, with cursors: every change once and in order", watches::make),
    ("bank", "transfers between accounts in transactions, and reads of all: no money appears or is lost", bank::make),
    ("appends", "lists that grow by compare-and-set: no element lost, doubled or out of order", appends::make),
];

/// The load as one client of a workload sees it.
#[derive(Clone)]
pub(crate) struct Seat {
    pub(crate) client: Client,
    pub(crate) coordination: Coordination,
    /// The place of its workload in the run's list.
    pub(crate) workload: usize,
    /// Which one of its workload's clients.
    pub(crate) number: u64,
    pub(crate) random: Random,
    pub(crate) load: Arc<Load>,
}

/// What all clients share.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) began: Instant,
    pub(crate) meter: Meter,
    stopped: AtomicBool,
}

/// Between an answer and the next question: clients that never rest would make histories that take longer to judge
/// than to make.
const REST: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(10));
/// How many keys are read at a time in the end.
const READ_AT_A_TIME: usize = 128;

impl Load {
    pub(crate) fn new(began: Instant, workloads: usize) -> Load {
        Load { began, meter: Meter::new(began, workloads), stopped: AtomicBool::new(false) }
    }

    /// Clients finish what they are at.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }
}

impl Seat {
    /// Rests a moment; false when the load is over.
    pub(crate) async fn next(&mut self) -> bool {
        let rest = self.random.between(REST.0, REST.1);
        tokio::time::sleep(rest).await;
        !self.load.has_ended()
    }

    /// Counts an answer; one that was waited for in line says nothing of how quick the store is.
    pub(crate) fn count<T>(&self, outcome: &Outcome<T>, called_us: u64, in_line: bool) {
        let ended = match outcome {
            Outcome::Done(_) => Ended::Done,
            Outcome::NotDone => Ended::NotDone,
            Outcome::Unknown => Ended::Unknown,
        };
        let called = Duration::from_micros(called_us);
        self.load.meter.record(Heard { workload: self.workload, called, ended, in_line });
    }
}

/// Without the last reading nothing can be said of what must be there in the end.
fn never_read_back(name: &str, operations: usize) -> WorkloadResult {
    WorkloadResult {
        name: name.to_owned(),
        operations: operations as u64,
        verdict: Verdict::Undecided,
        sentence: "the end was never read".to_owned(),
        violation: None,
    }
}

/// Reads many keys, in order.
async fn read_all(client: &Client, keys: Vec<String>) -> Result<Vec<Option<client::Found>>, Error> {
    let read = |key: String| async move { client.get(key).await.map_err(Error::from) };
    stream::iter(keys).map(read).buffered(READ_AT_A_TIME).try_collect().await
}
