//! Lists that everybody appends to, by reading the list and comparing its version: strictly serializable, as far as
//! lists show it.

use super::record::{Outcome, get, put};
use super::{Seat, Workload, read_all};
use crate::error::Error;
use check::append::{Step, Transaction};
use check::report::WorkloadResult;
use client::{Client, PutOutcome};
use futures::future::BoxFuture;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use types::Condition;

/// Lists at a time, and how long before others take their place: lists travel as a whole.
const LISTS: usize = 4;
const GENERATION_US: u64 = 2_000_000;
/// An element's number: its client's, then its own.
const CLIENT_SHIFT: u32 = 40;

struct Appends {
    prefix: String,
    history: Mutex<Vec<Transaction>>,
}

pub(super) fn make(prefix: &str) -> Arc<dyn Workload> {
    Arc::new(Appends { prefix: prefix.to_owned(), history: Mutex::default() })
}

impl Workload for Appends {
    fn client(self: Arc<Self>, mut seat: Seat) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut element = seat.number << CLIENT_SHIFT;
            while seat.next().await {
                element += 1;
                let generation = seat.load.now_us() / GENERATION_US;
                let key = format!("{}list-{generation}-{}", self.prefix, seat.random.below(LISTS));
                self.append(&seat, key, element).await;
            }
        })
    }

    fn read_back<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let keys = self.keys();
            let called_at = self.later_than_all();
            let found = read_all(client, keys.clone()).await?;
            for (key, found) in keys.into_iter().zip(found) {
                let list = found.map_or(Vec::new(), |found| elements(&found.value));
                let read = Step::Read { key: key.into(), list: Some(list) };
                self.write_down(u64::MAX, called_at, Some(called_at + 1), vec![read], check::Outcome::Done);
            }
            Ok(())
        })
    }

    fn verdict(&self, name: &str) -> WorkloadResult {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        WorkloadResult::judged(name, history.len() as u64, &check::append::check(&history))
    }

    fn effects(&self) -> usize {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let done = history.iter().filter(|transaction| transaction.outcome == check::Outcome::Done);
        done.filter(|it| it.operations.iter().any(|step| matches!(step, Step::Append { .. }))).count()
    }
}

impl Appends {
    fn keys(&self) -> Vec<String> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = history.iter().flat_map(|transaction| &transaction.operations);
        let keys: BTreeSet<_> = steps.map(|(Step::Append { key, .. } | Step::Read { key, .. })| key).collect();
        keys.into_iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
    }

    async fn append(&self, seat: &Seat, key: String, element: u64) {
        let read = get(seat, &key).await;
        let Outcome::Done(found) = &read.outcome else { return };
        let list = found.as_ref().map_or(Vec::new(), |found| elements(&found.value));
        let condition = found.as_ref().map_or(Condition::Absent, |found| Condition::Version(found.version));
        let longer: Vec<String> = list.iter().chain([&element]).map(u64::to_string).collect();
        let written = put(seat, &key, longer.join(","), condition).await;
        let append = Step::Append { key: key.clone().into(), element };
        let read_step = Step::Read { key: key.into(), list: Some(list) };
        let outcome = match &written.outcome {
            // The comparison makes the two one transaction.
            Outcome::Done(PutOutcome::Done(_)) => {
                let both = vec![read_step, append];
                self.write_down(seat.number, read.called_us, written.answered_at(), both, check::Outcome::Done);
                return;
            }
            Outcome::Done(PutOutcome::ConditionFailed(_)) | Outcome::NotDone => check::Outcome::NotDone,
            Outcome::Unknown => check::Outcome::Unknown,
        };
        self.write_down(seat.number, read.called_us, read.answered_at(), vec![read_step], check::Outcome::Done);
        self.write_down(seat.number, written.called_us, written.answered_at(), vec![append], outcome);
    }

    fn write_down(
        &self,
        client: u64,
        called_at: u64,
        answered_at: Option<u64>,
        operations: Vec<Step>,
        outcome: check::Outcome,
    ) {
        let transaction = Transaction { client, called_at, answered_at, operations, outcome };
        self.history.lock().unwrap_or_else(PoisonError::into_inner).push(transaction);
    }

    fn later_than_all(&self) -> u64 {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.iter().filter_map(|transaction| transaction.answered_at).max().unwrap_or(0) + 1
    }
}

/// What is no list has an element that nobody has appended.
fn elements(value: &[u8]) -> Vec<u64> {
    let text = String::from_utf8_lossy(value);
    text.split(',').map(|element| element.parse().unwrap_or(u64::MAX)).collect()
}
