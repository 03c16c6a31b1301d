//! The clients of a bench.

use super::{BenchFlags, Workload};
use crate::failure::kind_of;
use bytes::Bytes;
use client::{Client, Error};
use daemon::Failure;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use types::{Condition, PartitionId};

/// Longest latency that the histogram tells apart; a request that takes longer counts as this.
const LATENCY_US_MAX: u64 = 600_000_000;
/// A hundredth of a value is precise enough, and ten thousand clients have a histogram each.
const LATENCY_DIGITS: u8 = 2;

/// What all clients of a bench share.
pub(super) struct Load {
    client: Client,
    workload: Workload,
    clients: u32,
    value: Bytes,
    keys: Vec<Bytes>,
    /// By key: what goes with it into a transaction; a key of the same partition, or of another.
    partners: Vec<Bytes>,
    started: Instant,
    operations: AtomicU64,
    errors: AtomicU64,
    /// Nanoseconds from `started` to the last success of any client.
    last_success_ns: AtomicU64,
}

/// What has happened so far.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Progress {
    pub(super) operations: u64,
    pub(super) errors: u64,
}

/// What the clients of a bench saw.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) operations: u64,
    pub(super) elapsed: Duration,
    /// Microseconds, of successes.
    pub(super) latency_us: Histogram<u64>,
    /// The longest time without a success of any client, and of the client that waited longest.
    pub(super) longest_gap: Duration,
    pub(super) longest_gap_of_one: Duration,
    pub(super) errors: BTreeMap<&'static str, u64>,
}

/// A bench under way.
pub(super) struct Running {
    load: Arc<Load>,
    started: Instant,
    workers: JoinSet<Seen>,
    seen: Seen,
    failed: Option<Failure>,
}

impl Seen {
    fn nothing() -> Seen {
        let latency_us = Histogram::new_with_max(LATENCY_US_MAX, LATENCY_DIGITS)
            .expect("bounds and digits that the histogram allows");
        Seen {
            operations: 0,
            elapsed: Duration::ZERO,
            latency_us,
            longest_gap: Duration::ZERO,
            longest_gap_of_one: Duration::ZERO,
            errors: BTreeMap::new(),
        }
    }

    fn add(&mut self, other: Seen) {
        self.operations += other.operations;
        self.latency_us.add(&other.latency_us).expect("histograms of the same bounds");
        self.longest_gap = self.longest_gap.max(other.longest_gap);
        self.longest_gap_of_one = self.longest_gap_of_one.max(other.longest_gap_of_one);
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
    }
}

impl Load {
    pub(super) fn new(client: Client, flags: &BenchFlags) -> Load {
        let keys: Vec<Bytes> = (0..flags.keys).map(|number| Bytes::from(format!("bench-{number:08}"))).collect();
        let partners = match flags.workload {
            Workload::Txn1 | Workload::Txn2 | Workload::Read2 => partners(&client, &keys, flags.workload),
            Workload::Put | Workload::Get | Workload::Mixed | Workload::Txn => Vec::new(),
        };
        Load {
            client,
            workload: flags.workload,
            clients: flags.clients,
            value: Bytes::from(vec![b'v'; flags.value_bytes as usize]),
            keys,
            partners,
            started: Instant::now(),
            operations: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_success_ns: AtomicU64::new(0),
        }
    }

    /// Gives every key a value.
    pub(super) async fn preload(self: &Arc<Load>) -> Result<(), Error> {
        let mut writers = JoinSet::new();
        for writer in 0..self.clients as usize {
            let load = self.clone();
            writers.spawn(async move {
                for key in load.keys.iter().skip(writer).step_by(load.clients as usize) {
                    load.client.put(key.clone(), load.value.clone(), Condition::None).await?;
                }
                Ok(())
            });
        }
        while let Some(ended) = writers.join_next().await {
            ended.map_err(|error| Error::Usage(format!("a writer ended early: {error}")))??;
        }
        Ok(())
    }

    /// Starts the clients.
    pub(super) fn start(self: Arc<Load>, duration: Duration) -> Running {
        let started = Instant::now();
        self.last_success_ns.store(self.since_start_ns(started), Ordering::Relaxed);
        let mut workers = JoinSet::new();
        for number in 0..self.clients {
            workers.spawn(work(self.clone(), number, started + duration));
        }
        Running { load: self, started, workers, seen: Seen::nothing(), failed: None }
    }

    fn since_start_ns(&self, at: Instant) -> u64 {
        at.duration_since(self.started).as_nanos() as u64
    }

    async fn request(&self, at: usize, write: bool) -> Result<(), Error> {
        let key = self.keys[at].clone();
        if let Some(partner) = self.partners.get(at).cloned() {
            if self.workload == Workload::Read2 {
                return self.client.read_together(&[key, partner]).await.map(drop);
            }
            let transaction = self.client.transaction().put(key, self.value.clone()).put(partner, self.value.clone());
            return transaction.commit().await.map(drop);
        }
        if self.workload == Workload::Txn {
            self.client.transaction().put(key, self.value.clone()).commit().await.map(drop)
        } else if write {
            self.client.put(key, self.value.clone(), Condition::None).await.map(drop)
        } else {
            self.client.get(key).await.map(drop)
        }
    }
}

/// For each key another one: of the same partition for `txn1`, of another one otherwise. Where there is none of the same
/// partition a new one is found.
fn partners(client: &Client, keys: &[Bytes], workload: Workload) -> Vec<Bytes> {
    let count = client.view().partition_count;
    let same = workload == Workload::Txn1;
    let mut last: BTreeMap<PartitionId, Bytes> = BTreeMap::new();
    let mut partners = Vec::with_capacity(keys.len());
    for (number, key) in keys.iter().enumerate() {
        let partition = count.partition_of(key);
        let fits = |other: &Bytes| (count.partition_of(other) == partition) == same && other != key;
        let named = |attempt: u64| Bytes::from(format!("bench-{number:08}-{attempt}"));
        let partner = if same {
            last.insert(partition, key.clone()).or_else(|| (0..).map(named).find(fits))
        } else if count.get() == 1 {
            // There is no other partition.
            Some(named(0))
        } else {
            keys.iter()
                .cycle()
                .skip(number * 7 + 1)
                .take(64)
                .find(|other| fits(other))
                .cloned()
                .or_else(|| (0..).map(named).find(fits))
        };
        partners.push(partner.unwrap_or_else(|| named(0)));
    }
    partners
}

/// One client.
async fn work(load: Arc<Load>, number: u32, until: Instant) -> Seen {
    let mut seen = Seen::nothing();
    let mut random = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut asked = Instant::now();
    let mut last_success = asked;
    while asked < until {
        random = xorshift(random);
        let at = ((random >> 16) % load.keys.len() as u64) as usize;
        let write = match load.workload {
            Workload::Put | Workload::Txn | Workload::Txn1 | Workload::Txn2 => true,
            Workload::Get | Workload::Read2 => false,
            Workload::Mixed => random & 1 == 0,
        };
        let outcome = load.request(at, write).await;
        let now = Instant::now();
        match outcome {
            Ok(()) => {
                seen.operations += 1;
                load.operations.fetch_add(1, Ordering::Relaxed);
                seen.latency_us.saturating_record((now - asked).as_micros() as u64);
                let at_ns = load.since_start_ns(now);
                let before_ns = load.last_success_ns.fetch_max(at_ns, Ordering::Relaxed);
                seen.longest_gap = seen.longest_gap.max(Duration::from_nanos(at_ns.saturating_sub(before_ns)));
                seen.longest_gap_of_one = seen.longest_gap_of_one.max(now - last_success);
                last_success = now;
            }
            Err(error) => {
                *seen.errors.entry(kind_of(&error)).or_default() += 1;
                load.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
        asked = now;
    }
    // The time after the last success is a gap too.
    seen.longest_gap_of_one = seen.longest_gap_of_one.max(asked - last_success);
    seen
}

/// Marsaglia's 64-bit xorshift: never 0 from a seed that is not.
fn xorshift(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^ x << 17
}

impl Running {
    pub(super) fn progress(&self) -> Progress {
        Progress {
            operations: self.load.operations.load(Ordering::Relaxed),
            errors: self.load.errors.load(Ordering::Relaxed),
        }
    }

    /// Resolves when every client has ended.
    pub(super) async fn ended(&mut self) {
        while let Some(ended) = self.workers.join_next().await {
            match ended {
                Ok(seen) => self.seen.add(seen),
                Err(error) => self.failed = Some(Failure::bug(format!("a client of the bench ended early: {error}"))),
            }
        }
    }

    /// What all clients saw together.
    pub(super) async fn finish(mut self) -> Result<Seen, Failure> {
        self.ended().await;
        if let Some(failure) = self.failed {
            return Err(failure);
        }
        let mut seen = self.seen;
        seen.elapsed = self.started.elapsed();
        let last_ns = self.load.last_success_ns.load(Ordering::Relaxed);
        let after_last = self.load.started.elapsed().saturating_sub(Duration::from_nanos(last_ns));
        seen.longest_gap = seen.longest_gap.max(after_last);
        Ok(seen)
    }
}
