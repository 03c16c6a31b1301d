//! Counters that everybody increments by reading, adding one and comparing the version: every read, and the value in
//! the end, lies between what was acknowledged and that plus what is unknown.

use super::record::{Outcome, Timed, get, put};
use super::{Seat, Workload, never_read_back, read_all};
use crate::error::Error;
use bytes::Bytes;
use check::counters::{Action, Operation};
use check::report::WorkloadResult;
use client::{Client, PutOutcome};
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use types::Condition;

const COUNTERS: usize = 3;

struct Counters {
    prefix: String,
    history: Mutex<Vec<Operation>>,
    /// Each counter in the end, once it has been read.
    at_end: Mutex<Option<BTreeMap<Bytes, i64>>>,
}

pub(super) fn make(prefix: &str) -> Arc<dyn Workload> {
    Arc::new(Counters { prefix: prefix.to_owned(), history: Mutex::default(), at_end: Mutex::default() })
}

impl Workload for Counters {
    fn client(self: Arc<Self>, mut seat: Seat) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            while seat.next().await {
                let key = self.key(seat.random.below(COUNTERS));
                self.increment(&seat, &key).await;
            }
        })
    }

    fn read_back<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let keys = self.keys();
            let found = read_all(client, keys.clone()).await?;
            let value = |found: Option<client::Found>| found.map_or(0, |found| number(&found.value));
            let at_end = keys.into_iter().zip(found).map(|(key, found)| (key.into(), value(found))).collect();
            *self.at_end.lock().unwrap_or_else(PoisonError::into_inner) = Some(at_end);
            Ok(())
        })
    }

    fn verdict(&self, name: &str) -> WorkloadResult {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let at_end = self.at_end.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at_end) = at_end.as_ref() else {
            return never_read_back(name, history.len());
        };
        WorkloadResult::judged(name, history.len() as u64, &check::counters::check(&history, at_end))
    }

    fn effects(&self) -> usize {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let is_done = |operation: &&Operation| operation.outcome == check::Outcome::Done;
        history.iter().filter(is_done).filter(|operation| matches!(operation.action, Action::Add(_))).count()
    }
}

impl Counters {
    fn keys(&self) -> Vec<String> {
        (0..COUNTERS).map(|which| self.key(which)).collect()
    }

    fn key(&self, which: usize) -> String {
        format!("{}counter-{which}", self.prefix)
    }

    /// One read, and one attempt to write what is one more.
    async fn increment(&self, seat: &Seat, key: &str) {
        let read = get(seat, key).await;
        let Outcome::Done(found) = &read.outcome else { return };
        let value = found.as_ref().map_or(0, |found| number(&found.value));
        self.write_down(seat, key, &read, Action::Read(value), check::Outcome::Done);
        let condition = found.as_ref().map_or(Condition::Absent, |found| Condition::Version(found.version));
        let written = put(seat, key, (value + 1).to_string(), condition).await;
        let outcome = match &written.outcome {
            Outcome::Done(PutOutcome::Done(_)) => check::Outcome::Done,
            Outcome::Done(PutOutcome::ConditionFailed(_)) | Outcome::NotDone => check::Outcome::NotDone,
            Outcome::Unknown => check::Outcome::Unknown,
        };
        self.write_down(seat, key, &written, Action::Add(1), outcome);
    }

    fn write_down<T>(&self, seat: &Seat, key: &str, timed: &Timed<T>, action: Action, outcome: check::Outcome) {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).push(Operation {
            client: seat.number,
            key: key.to_owned().into(),
            called_at: timed.called_us,
            answered_at: timed.answered_at(),
            action,
            outcome,
        });
    }
}

/// What is no number is none that a counter can have.
fn number(value: &[u8]) -> i64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(i64::MIN)
}
