//! Counters that everybody increments by reading, adding one and comparing the version: in the end each lies between
//! what was acknowledged and that plus what is unknown.

use super::record::{Outcome, get, put};
use super::{Found, Judged, Seat, Workload, read_all};
use crate::error::Error;
use client::{Client, PutOutcome};
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex, PoisonError};
use types::Condition;

const COUNTERS: usize = 3;

struct Counters {
    prefix: String,
    counters: Mutex<[Counter; COUNTERS]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    acknowledged: u64,
    unknown: u64,
    operations: u64,
    /// What it was in the end.
    last: Option<u64>,
    /// A read below what had been acknowledged before it was called: how much was read, and how much was due.
    stale: Option<(u64, u64)>,
}

pub(super) fn make(prefix: &str) -> Arc<dyn Workload> {
    Arc::new(Counters { prefix: prefix.to_owned(), counters: Mutex::default() })
}

impl Workload for Counters {
    fn client(self: Arc<Self>, mut seat: Seat) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            while seat.next().await {
                let which = seat.random.below(COUNTERS);
                self.increment(&seat, which).await;
            }
        })
    }

    fn read_back<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            for (which, found) in read_all(client, self.keys()).await?.into_iter().enumerate() {
                let last = found.map_or(Some(0), |found| number(&found.value));
                self.with(which, |counter| counter.last = last);
            }
            Ok(())
        })
    }

    fn verdict(&self) -> Judged {
        let counters = *self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let operations = counters.iter().map(|counter| counter.operations).sum();
        let wrong = counters.iter().enumerate().find_map(|(which, counter)| {
            let Counter { acknowledged, unknown, last, stale, .. } = *counter;
            let bounds = acknowledged..=acknowledged + unknown;
            match (last, stale) {
                (_, Some((read, due))) => Some(format!("counter {which} read {read} when {due} were acknowledged")),
                (Some(last), None) if bounds.contains(&last) => None,
                (last, None) => {
                    Some(format!("counter {which} is {last:?}, {acknowledged} acknowledged, {unknown} unknown"))
                }
            }
        });
        let total: u64 = counters.iter().map(|counter| counter.acknowledged).sum();
        match wrong {
            Some(sentence) => Judged { operations, found: Found::Violated, sentence },
            None => Judged {
                operations,
                found: Found::Held,
                sentence: format!("{total} increments acknowledged, each counted once"),
            },
        }
    }

    fn keys(&self) -> Vec<String> {
        (0..COUNTERS).map(|which| self.key(which)).collect()
    }
}

impl Counters {
    fn key(&self, which: usize) -> String {
        format!("{}counter-{which}", self.prefix)
    }

    fn with<T>(&self, which: usize, change: impl FnOnce(&mut Counter) -> T) -> T {
        change(&mut self.counters.lock().unwrap_or_else(PoisonError::into_inner)[which])
    }

    /// One read, and one attempt to write what is one more.
    async fn increment(&self, seat: &Seat, which: usize) {
        let due = self.with(which, |counter| counter.acknowledged);
        let Outcome::Done(found) = get(seat, &self.key(which)).await.outcome else { return };
        let (value, condition) = match found {
            None => (0, Condition::Absent),
            Some(found) => (number(&found.value).unwrap_or(0), Condition::Version(found.version)),
        };
        if value < due {
            self.with(which, |counter| counter.stale = Some((value, due)));
        }
        // Before the attempt: it may be seen before it is answered.
        self.with(which, |counter| counter.operations += 2);
        let written = put(seat, &self.key(which), (value + 1).to_string(), condition).await;
        self.with(which, |counter| match written.outcome {
            Outcome::Done(PutOutcome::Done(_)) => counter.acknowledged += 1,
            Outcome::Unknown => counter.unknown += 1,
            Outcome::Done(PutOutcome::ConditionFailed(_)) | Outcome::NotDone => {}
        });
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
