//! What clients heard: second by second, how many and how long they waited; and by workload, while each fault lasted.

use check::report::Operations;
use hdrhistogram::Histogram;
use std::sync::{Mutex, MutexGuard, PoisonError};
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

/// One operation that has just ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    /// The place of its workload in the run's list.
    pub(crate) workload: usize,
    /// When it was called, since the run began.
    pub(crate) called: Duration,
    pub(crate) ended: Ended,
    /// Whether it was waited for in line, so that how long it took says nothing of the store.
    pub(crate) in_line: bool,
}

/// Counts since the run began.
#[derive(Debug)]
pub(crate) struct Meter {
    began: Instant,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    seconds: Vec<Cell>,
    /// Done so far, by workload.
    done: Vec<u64>,
    /// By ascending begin; one ends before the next begins.
    faults: Vec<During>,
}

/// What was under way while a fault lasted.
#[derive(Debug)]
struct During {
    ended: Option<Duration>,
    by_workload: Vec<Operations>,
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
    pub(crate) fn new(began: Instant, workloads: usize) -> Meter {
        let counts = Counts { seconds: Vec::new(), done: vec![0; workloads], faults: Vec::new() };
        Meter { began, counts: Mutex::new(counts) }
    }

    /// An operation has ended now.
    pub(crate) fn record(&self, heard: Heard) {
        self.counts().record(heard, self.began.elapsed());
    }

    /// From now on something is broken.
    pub(crate) fn fault_begins(&self) {
        self.counts().fault_begins();
    }

    /// It is to repair itself from now on; nothing if that was said before.
    pub(crate) fn fault_ends(&self) {
        self.counts().fault_ends(self.began.elapsed());
    }

    /// Of each fault so far, by workload, the operations that were under way at some time while it lasted.
    pub(crate) fn during_faults(&self) -> Vec<Vec<Operations>> {
        self.counts().faults.iter().map(|during| during.by_workload.clone()).collect()
    }

    /// What was done so far, by workload.
    pub(crate) fn done(&self) -> Vec<u64> {
        self.counts().done.clone()
    }

    /// Every second so far.
    pub(crate) fn seconds(&self) -> Vec<Second> {
        self.counts().seconds.iter().map(Cell::summary).collect()
    }

    /// The last whole second.
    pub(crate) fn last(&self) -> Second {
        let now = self.began.elapsed().as_secs() as usize;
        let counts = self.counts();
        now.checked_sub(1).and_then(|last| counts.seconds.get(last)).map(Cell::summary).unwrap_or_default()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn record(&mut self, heard: Heard, now: Duration) {
        let Heard { workload, called, ended, in_line } = heard;
        let at = now.as_secs() as usize;
        while self.seconds.len() <= at {
            self.seconds.push(Cell { done: 0, not_done: 0, unknown: 0, latency_us: histogram() });
        }
        let cell = &mut self.seconds[at];
        match ended {
            Ended::Done => cell.done += 1,
            Ended::NotDone => cell.not_done += 1,
            Ended::Unknown => cell.unknown += 1,
        }
        if !in_line {
            cell.latency_us.saturating_record(now.saturating_sub(called).as_micros() as u64);
        }
        self.done[workload] += u64::from(ended == Ended::Done);
        let lasting = |during: &&mut During| during.ended.is_none_or(|ended| called < ended);
        for during in self.faults.iter_mut().rev().take_while(lasting) {
            let operations = &mut during.by_workload[workload];
            match ended {
                Ended::Done => operations.done += 1,
                Ended::NotDone => operations.not_done += 1,
                Ended::Unknown => operations.unknown += 1,
            }
        }
    }

    fn fault_begins(&mut self) {
        self.faults.push(During { ended: None, by_workload: vec![Operations::default(); self.done.len()] });
    }

    fn fault_ends(&mut self, now: Duration) {
        if let Some(last) = self.faults.last_mut() {
            last.ended.get_or_insert(now);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against operations that count for a fault that was over before they were called, or began after them.
    #[test]
    fn what_was_under_way_counts_for_its_fault() {
        let meter = Meter::new(Instant::now(), 2);
        let mut counts = meter.counts();
        let at = Duration::from_millis;
        let heard = |counts: &mut Counts, workload, called, now| {
            counts.record(Heard { workload, called: at(called), ended: Ended::Done, in_line: false }, at(now));
        };
        heard(&mut counts, 0, 5, 10);
        counts.fault_begins();
        heard(&mut counts, 0, 9, 20);
        heard(&mut counts, 1, 15, 20);
        counts.fault_ends(at(30));
        counts.fault_ends(at(90));
        heard(&mut counts, 0, 29, 35);
        heard(&mut counts, 0, 30, 35);
        counts.fault_begins();
        heard(&mut counts, 1, 29, 1_040);
        drop(counts);
        let done: Vec<Vec<u64>> = meter
            .during_faults()
            .iter()
            .map(|during| during.iter().map(|operations| operations.done).collect())
            .collect();
        assert_eq!(done, [[2, 2], [0, 1]]);
        assert_eq!(meter.done(), [4, 2]);
        assert_eq!(meter.seconds().iter().map(|second| second.done).collect::<Vec<_>>(), [5, 1]);
    }
}
