//! A few keys that everybody writes and watches: whoever follows them, across faults and from cursors that are seconds
//! old, hears of every change once and in order, or is told that it must start over.
//!
//! Each client writes and watches. What a watcher hears of a key is judged alone: between keys there is no order, and
//! where a partition's history was gone, what it hears of that partition's keys begins anew.

mod watcher;

use super::record::{Outcome, Timed, put, timed};
use super::{Seat, Workload};
use crate::error::Error;
use crate::random::Random;
use bytes::Bytes;
use check::report::{Verdict, WorkloadResult};
use check::watches::{Watch, Write};
use client::{Client, DeleteOutcome, PutOutcome};
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use types::Condition;
use watcher::Watcher;

const KEYS: usize = 6;
/// Rests between two writes of a client: every watcher remembers every change.
const RESTS: usize = 3;
/// Of a hundred writes so many are deletes.
const DELETES_PERCENT: u64 = 8;

#[derive(Debug, Default)]
struct Watches {
    prefix: String,
    writes: Mutex<Vec<Write>>,
    /// The acknowledged write of each key that has the highest version: what every watcher waits for in the end.
    newest: Mutex<BTreeMap<Bytes, Write>>,
    heard: Mutex<Heard>,
    /// Clients that may still write.
    writing: AtomicUsize,
}

/// What watchers heard, and what became of their watches.
#[derive(Debug, Default)]
struct Heard {
    /// Each of one key, without a gap.
    pieces: Vec<Watch>,
    /// Watches that were begun after a cursor.
    resumed: u64,
    /// Watches, and partitions of watches, whose history was gone.
    started_over: u64,
}

pub(super) fn make(prefix: &str) -> Arc<dyn Workload> {
    Arc::new(Watches { prefix: format!("{prefix}watched-"), ..Watches::default() })
}

impl Workload for Watches {
    fn client(self: Arc<Self>, mut seat: Seat) -> BoxFuture<'static, ()> {
        self.writing.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let random = Random::new(seat.random.next());
            let watcher = Watcher::new(&self, Seat { random, ..seat.clone() });
            tokio::join!(self.write(seat), watcher.run());
        })
    }

    fn read_back<'a>(&'a self, _client: &'a Client) -> BoxFuture<'a, Result<(), Error>> {
        // Every watcher has waited for the last change.
        Box::pin(async { Ok(()) })
    }

    fn verdict(&self, name: &str) -> WorkloadResult {
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let changes: usize = heard.pieces.iter().map(|piece| piece.events.len()).sum();
        let anomalies = check::watches::check(&writes, &heard.pieces);
        let mut judged = WorkloadResult::judged(name, (writes.len() + changes) as u64, &anomalies);
        if judged.verdict == Verdict::Held {
            let Heard { resumed, started_over, .. } = *heard;
            let more =
                format!("; {changes} of them heard, {resumed} watches resumed, {started_over} times started over");
            judged.sentence.push_str(&more);
        }
        judged
    }

    fn effects(&self) -> usize {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.pieces.iter().map(|piece| piece.events.len()).sum()
    }
}

impl Watches {
    fn key(&self, which: usize) -> String {
        format!("{}{which}", self.prefix)
    }

    async fn write(&self, mut seat: Seat) {
        for number in 0u64.. {
            for _ in 1..RESTS {
                seat.next().await;
            }
            if !seat.next().await {
                break;
            }
            let key = self.key(seat.random.below(KEYS));
            if seat.random.percent(DELETES_PERCENT) {
                let deleted = timed(&seat, seat.client.delete(key.clone(), Condition::None)).await;
                let version = match &deleted.outcome {
                    Outcome::Done(DeleteOutcome::Done(written)) => Some(written.version.0),
                    _ => None,
                };
                self.write_down(&seat, key, None, &deleted, version);
                continue;
            }
            let value = format!("{}-{number}", seat.number);
            let written = put(&seat, &key, value.clone(), Condition::None).await;
            let version = match &written.outcome {
                Outcome::Done(PutOutcome::Done(written)) => Some(written.version.0),
                _ => None,
            };
            self.write_down(&seat, key, Some(value.into()), &written, version);
        }
        self.writing.fetch_sub(1, Ordering::Release);
    }

    fn write_down<T>(&self, seat: &Seat, key: String, value: Option<Bytes>, timed: &Timed<T>, version: Option<u64>) {
        let outcome = match (&timed.outcome, version) {
            (Outcome::Done(_), Some(_)) => check::Outcome::Done,
            // There was nothing to delete.
            (Outcome::Done(_), None) | (Outcome::NotDone, _) => check::Outcome::NotDone,
            (Outcome::Unknown, _) => check::Outcome::Unknown,
        };
        let write = Write {
            client: seat.number,
            key: key.into(),
            value,
            version,
            called_at: timed.called_us,
            answered_at: timed.answered_at(),
            outcome,
        };
        self.remember(write);
    }

    fn remember(&self, write: Write) {
        if write.version.is_some() {
            let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
            let of_key = newest.entry(write.key.clone()).or_insert_with(|| write.clone());
            if of_key.version < write.version {
                *of_key = write.clone();
            }
        }
        self.writes.lock().unwrap_or_else(PoisonError::into_inner).push(write);
    }

    /// Whether everything that is ever written has been answered.
    fn are_written(&self) -> bool {
        self.writing.load(Ordering::Acquire) == 0
    }

    /// The newest acknowledged write of a key.
    fn newest(&self, key: &Bytes) -> Option<Write> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against watchers that stop before the last change, and against such that wait for one that may never come.
    #[test]
    fn the_newest_acknowledged_write_of_each_key_is_remembered() {
        let watches = Watches::default();
        let write = |key: &'static str, version: Option<u64>| Write {
            client: 1,
            key: key.into(),
            value: None,
            version,
            called_at: 1,
            answered_at: Some(2),
            outcome: if version.is_some() { check::Outcome::Done } else { check::Outcome::Unknown },
        };
        // Answers need not come in the order of the writes.
        for (key, version) in [("a", Some(2)), ("b", Some(9)), ("a", Some(5)), ("a", None), ("a", Some(4)), ("c", None)]
        {
            watches.remember(write(key, version));
        }
        let newest = |key: &'static str| watches.newest(&key.into()).map(|write| write.version);
        assert_eq!([newest("a"), newest("b"), newest("c")], [Some(Some(5)), Some(Some(9)), None]);
        assert_eq!(watches.writes.lock().unwrap().len(), 6);
    }
}
