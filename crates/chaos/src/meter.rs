//! What clients heard, second by second: how many, and how long they waited.

use hdrhistogram::Histogram;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longer waits than this count as this.
const LATENCY_US_MAX: u64 = 120_000_000;

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    Done,
    NotDone,
    Unknown,
}

/// Counts since the run began.
#[derive(Debug)]
pub(crate) struct Meter {
    began: Instant,
    seconds: Mutex<Vec<Cell>>,
}

#[derive(Clone, Debug)]
struct Cell {
    done: u64,
    not_done: u64,
    unknown: u64,
    latency_us: Histogram<u32>,
}

/// One second of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Second {
    pub(crate) done: u64,
    pub(crate) not_done: u64,
    pub(crate) unknown: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) max_us: u64,
}

impl Meter {
    pub(crate) fn new(began: Instant) -> Meter {
        Meter { began, seconds: Mutex::default() }
    }

    /// An operation has ended now, after this long.
    pub(crate) fn record(&self, ended: Ended, took: Duration) {
        let at = self.began.elapsed().as_secs() as usize;
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        while seconds.len() <= at {
            seconds.push(Cell { done: 0, not_done: 0, unknown: 0, latency_us: histogram() });
        }
        let cell = &mut seconds[at];
        match ended {
            Ended::Done => cell.done += 1,
            Ended::NotDone => cell.not_done += 1,
            Ended::Unknown => cell.unknown += 1,
        }
        cell.latency_us.saturating_record(took.as_micros() as u64);
    }

    /// Every second so far.
    pub(crate) fn seconds(&self) -> Vec<Second> {
        let seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        seconds.iter().map(Cell::summary).collect()
    }

    /// The last whole second.
    pub(crate) fn last(&self) -> Second {
        let now = self.began.elapsed().as_secs() as usize;
        let seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        now.checked_sub(1).and_then(|last| seconds.get(last)).map(Cell::summary).unwrap_or_default()
    }
}

impl Cell {
    fn summary(&self) -> Second {
        let at = |quantile| self.latency_us.value_at_quantile(quantile);
        let (p50_us, p99_us, max_us) = (at(0.5), at(0.99), self.latency_us.max());
        Second { done: self.done, not_done: self.not_done, unknown: self.unknown, p50_us, p99_us, max_us }
    }
}

fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 2).expect("1 < 2 · 1 ≤ the most, and 2 digits are allowed")
}
