//! Locks on leases, and keys that only the holder writes, with its fencing token and without looking whether it still
//! may: a write under an older token never follows one under a newer token. Some holders oversleep their lease. Those that
//! do not look at it before each write: while it can be counted on, nobody else may have been granted the lock.

use super::record::{Outcome, Timed, in_line, timed};
use super::{Seat, Workload, never_read_back, read_all};
use crate::error::Error;
use bytes::Bytes;
use check::locks::{Action, Operation};
use check::report::WorkloadResult;
use client::{Claimed, Client, Lease, LockGuard, PutOutcome};
use futures::future::BoxFuture;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use types::limits::LEASE_TTL_MIN;
use types::{Condition, Fence};

const LOCKS: usize = 3;
/// Keys that each lock guards: fences are enforced by partition, so each key is judged alone.
const KEYS: usize = 2;
/// How long to wait in line.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Writes of one holder at most.
const WRITES_MAX: usize = 12;
/// Of a hundred holders so many oversleep, of every second client: the others always ask for something.
const SLEEPERS_PERCENT: u64 = 50;
/// How long: longer than a lease is.
const SLEEP: (Duration, Duration) = (Duration::from_millis(1_100), Duration::from_millis(2_500));

struct Locks {
    prefix: String,
    history: Mutex<Vec<Entry>>,
    was_read_back: AtomicBool,
}

/// What was asked of a lock; `operation.lock` is its name.
#[derive(Clone, Debug)]
struct Entry {
    operation: Operation,
    /// What was written, and its version, if it was done.
    write: Option<(Bytes, Option<u64>)>,
}

pub(super) fn make(prefix: &str) -> Arc<dyn Workload> {
    Arc::new(Locks { prefix: prefix.to_owned(), history: Mutex::default(), was_read_back: AtomicBool::new(false) })
}

impl Workload for Locks {
    fn client(self: Arc<Self>, mut seat: Seat) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            for turn in 0u64.. {
                if !seat.next().await {
                    break;
                }
                // The same name again would be the same holder.
                let holder = format!("{}-{turn}", seat.number);
                self.hold(&mut seat, &holder).await;
            }
        })
    }

    fn read_back<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            for lock in (0..LOCKS).map(|lock| self.lock(lock)) {
                let keys: Vec<String> = (0..KEYS).map(|key| guarded(&lock, key)).collect();
                let found = read_all(client, keys.clone()).await?;
                for (key, found) in keys.into_iter().zip(found) {
                    if let Some(found) = found {
                        self.found(&lock, key.into(), &found);
                    }
                }
            }
            self.was_read_back.store(true, Ordering::Relaxed);
            Ok(())
        })
    }

    fn verdict(&self, name: &str) -> WorkloadResult {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.was_read_back.load(Ordering::Relaxed) {
            return never_read_back(name, history.len());
        }
        let mut anomalies = check::locks::check(&as_heard(&history));
        anomalies.extend(check::locks::check(&as_ordered(&history)));
        let asked = history.iter().filter(|entry| !matches!(entry.operation.action, Action::Hold(_))).count();
        WorkloadResult::judged(name, asked as u64, &anomalies)
    }

    fn effects(&self) -> usize {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.iter().filter(|entry| matches!(entry.write, Some((_, Some(_))))).count()
    }
}

impl Locks {
    fn lock(&self, which: usize) -> String {
        format!("{}lock-{which}", self.prefix)
    }

    /// Takes a lock, writes under its token, and gives it back; or oversleeps in the middle of it.
    async fn hold(&self, seat: &mut Seat, holder: &str) {
        let lock = self.lock(seat.random.below(LOCKS));
        let granted = timed(seat, seat.coordination.grant(LEASE_TTL_MIN)).await;
        let Outcome::Done(lease) = granted.outcome else { return };
        let claimed = Claimed { client: holder.to_owned(), bound: true, value: Bytes::new(), wait: Some(WAIT_MAX) };
        let claimed = in_line(seat, seat.coordination.lock(&lock, &lease, claimed)).await;
        let token = match &claimed.outcome {
            Outcome::Done(guard) => Some(guard.token.0),
            Outcome::NotDone | Outcome::Unknown => None,
        };
        self.write_down(seat, &lock, &claimed, Action::Acquire(token), claimed.outcome.checked(), None);
        let lease = match claimed.outcome {
            Outcome::Done(guard) => self.write_and_release(seat, &guard, lease).await,
            Outcome::NotDone | Outcome::Unknown => Some(lease),
        };
        if let Some(lease) = lease {
            timed(seat, lease.revoke()).await;
        }
    }

    /// Returns the lease, unless it was overslept.
    async fn write_and_release(&self, seat: &mut Seat, guard: &LockGuard, lease: Lease) -> Option<Lease> {
        let mut lease = Some(lease);
        let writes = 1 + seat.random.below(WRITES_MAX);
        let oversleeps = seat.number % 2 == 1 && seat.random.percent(SLEEPERS_PERCENT);
        let sleeps_before = oversleeps.then_some(writes / 2);
        for turn in 0..writes {
            if sleeps_before == Some(turn)
                && let Some(mut lease) = lease.take()
            {
                // As of a process that is stopped: nobody renews, nobody revokes, and nobody knows when it goes on.
                lease.leave();
                drop(lease);
                tokio::time::sleep(seat.random.between(SLEEP.0, SLEEP.1)).await;
            }
            if let Some(lease) = &lease {
                self.look(seat, guard, lease);
            }
            let key = seat.random.below(KEYS);
            if !self.write(seat, guard, key).await || !seat.next().await {
                break;
            }
        }
        if let Some(lease) = &lease {
            self.look(seat, guard, lease);
        }
        let released = timed(seat, seat.coordination.release(&guard.name, &guard.client, guard.token)).await;
        let action = Action::Release(guard.token.0);
        self.write_down(seat, &guard.name, &released, action, released.outcome.checked(), None);
        lease
    }

    /// Writes down that the lease can be counted on, if it can.
    fn look(&self, seat: &Seat, guard: &LockGuard, lease: &Lease) {
        // Before the look: what can be counted on now could be then.
        let now = seat.load.now_us();
        if lease.is_held() {
            let looked = Timed { called_us: now, answered_us: now, outcome: Outcome::Done(()) };
            self.write_down(seat, &guard.name, &looked, Action::Hold(guard.token.0), check::Outcome::Done, None);
        }
    }

    /// False once a newer holder has written.
    async fn write(&self, seat: &Seat, guard: &LockGuard, key: usize) -> bool {
        let key = guarded(&guard.name, key);
        let token = guard.token;
        let fence = Fence { name: guard.name.clone().into(), token };
        let put = seat.client.put_fenced(key.clone(), token.0.to_string(), Condition::None, Some(fence));
        let written = timed(seat, async {
            match put.await {
                Ok(PutOutcome::Done(written)) => Ok(Some(written.version.0)),
                // There was no condition: who says so has written nothing, or is found out in the end.
                Ok(PutOutcome::ConditionFailed(_)) | Err(client::Error::Fenced { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await;
        let (outcome, version) = match written.outcome {
            Outcome::Done(Some(version)) => (check::Outcome::Done, Some(version)),
            Outcome::Done(None) | Outcome::NotDone => (check::Outcome::NotDone, None),
            Outcome::Unknown => (check::Outcome::Unknown, None),
        };
        let write = Some((key.into(), version));
        self.write_down(seat, &guard.name, &written, Action::Write(token.0), outcome, write);
        !matches!(written.outcome, Outcome::Done(None))
    }

    fn write_down<T>(
        &self,
        seat: &Seat,
        lock: &str,
        timed: &Timed<T>,
        action: Action,
        outcome: check::Outcome,
        write: Option<(Bytes, Option<u64>)>,
    ) {
        let (client, lock) = (seat.number, lock.to_owned().into());
        let (called_at, answered_at) = (timed.called_us, timed.answered_at());
        let operation = Operation { client, lock, called_at, answered_at, action, outcome };
        self.history.lock().unwrap_or_else(PoisonError::into_inner).push(Entry { operation, write });
    }

    /// What is there in the end was written by whoever got its token, after everything else.
    fn found(&self, lock: &str, key: Bytes, found: &client::Found) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        // What is no token is older than any, and nobody's.
        let token = std::str::from_utf8(&found.value).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let of_token = history.iter().find(|entry| entry.operation.action == Action::Acquire(Some(token)));
        let client = of_token.map_or(u64::MAX, |entry| entry.operation.client);
        let latest = |entry: &Entry| entry.operation.answered_at.unwrap_or(entry.operation.called_at);
        let called_at = history.iter().map(latest).max().unwrap_or(0) + 1;
        let operation = Operation {
            client,
            lock: lock.to_owned().into(),
            called_at,
            answered_at: Some(called_at + 1),
            action: Action::Write(token),
            outcome: check::Outcome::Done,
        };
        history.push(Entry { operation, write: Some((key, Some(found.version.0))) });
    }
}

/// The key with this number of those that a lock guards.
fn guarded(lock: &str, key: usize) -> String {
    format!("{lock}-key-{key}")
}

/// Every key's writes as their clients heard of them, with all grants of its lock.
fn as_heard(history: &[Entry]) -> Vec<Operation> {
    let mut heard = Vec::new();
    for Entry { operation, write } in history {
        match write {
            Some((key, _)) => heard.push(Operation { lock: key.clone(), ..operation.clone() }),
            None => {
                let lock = String::from_utf8_lossy(&operation.lock);
                let keys = (0..KEYS).map(|key| Bytes::from(guarded(&lock, key)));
                heard.extend(keys.map(|lock| Operation { lock, ..operation.clone() }));
            }
        }
    }
    heard
}

/// Every key's writes one after the other, as the store has ordered them: it decided about those that overlap, too.
fn as_ordered(history: &[Entry]) -> Vec<Operation> {
    let ordered = |entry: &Entry| {
        let (key, version) = entry.write.clone()?;
        let called_at = 2 * version?;
        Some(Operation { lock: key, called_at, answered_at: Some(called_at + 1), ..entry.operation.clone() })
    };
    history.iter().filter_map(ordered).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use check::report::Verdict;
    use types::Seq;

    fn locks() -> Locks {
        Locks { prefix: String::new(), history: Mutex::default(), was_read_back: AtomicBool::new(true) }
    }

    fn entry(client: u64, called_at: u64, answered_at: u64, action: Action, version: Option<u64>) -> Entry {
        let (lock, answered_at, outcome) = (Bytes::from("lock-0"), Some(answered_at), check::Outcome::Done);
        let key = || (Bytes::from(guarded("lock-0", 0)), version);
        let write = matches!(action, Action::Write(_)).then(key);
        Entry { operation: Operation { client, lock, called_at, answered_at, action, outcome }, write }
    }

    /// Two holders; the first one's last write overlaps the second one's.
    fn overlapping(last_version: u64) -> Vec<Entry> {
        vec![
            entry(1, 0, 1, Action::Acquire(Some(4)), None),
            entry(1, 2, 3, Action::Write(4), Some(10)),
            entry(2, 4, 5, Action::Acquire(Some(5)), None),
            entry(2, 6, 20, Action::Write(5), Some(12)),
            entry(1, 7, 19, Action::Write(4), Some(last_version)),
        ]
    }

    /// Guards against an older holder's write that passes unseen because it overlapped the newer one's.
    #[test]
    fn overlapping_writes_are_judged_by_their_versions() {
        let locks = locks();
        *locks.history.lock().unwrap() = overlapping(11);
        assert_eq!(locks.verdict("locks").verdict, Verdict::Held);
        *locks.history.lock().unwrap() = overlapping(13);
        assert_eq!(locks.verdict("locks").verdict, Verdict::Violated);
    }

    /// Guards against an older holder's write of which nobody knew, and which is what is there in the end.
    #[test]
    fn what_is_there_in_the_end_is_by_the_newest_holder() {
        let found = |token: &'static str, version| client::Found { value: token.into(), version: Seq(version) };
        for (token, version, verdict) in [("5", 12, Verdict::Held), ("4", 13, Verdict::Violated)] {
            let locks = locks();
            *locks.history.lock().unwrap() = overlapping(11);
            locks.found("lock-0", guarded("lock-0", 0).into(), &found(token, version));
            assert_eq!(locks.verdict("locks").verdict, verdict, "{token}");
        }
        let unread = Locks { was_read_back: AtomicBool::new(false), ..locks() };
        assert_eq!(unread.verdict("locks").verdict, Verdict::Undecided);
    }
}
