//! Few hot keys that everybody reads, writes, deletes and compares: every key's history is linearizable.
//!
//! The keys are others every few seconds, so that no key's history grows beyond what can be judged: an unknown write
//! stays open to its end.

use super::record::{Outcome, Timed, get, put, timed};
use super::{Seat, Workload, read_all};
use crate::error::Error;
use bytes::Bytes;
use check::register::{Action, Heard, Operation, STEPS_MAX, judge};
use check::report::WorkloadResult;
use client::{Client, DeleteOutcome, PutOutcome};
use futures::future::BoxFuture;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use types::{Condition, MutationKind, Record, Seq, WriteOutcome};

/// Keys at a time.
const KEYS: usize = 4;
/// How long before other keys take their place.
const GENERATION_US: u64 = 4_000_000;

struct Registers {
    prefix: String,
    history: Mutex<Vec<Operation>>,
}

pub(super) fn make(prefix: &str) -> Arc<dyn Workload> {
    Arc::new(Registers { prefix: prefix.to_owned(), history: Mutex::default() })
}

impl Workload for Registers {
    fn client(self: Arc<Self>, seat: Seat) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.ask(seat).await })
    }

    fn read_back<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let keys = self.keys();
            let called_at = self.now();
            let found = read_all(client, keys.clone()).await?;
            // After everything that was answered.
            for (key, found) in keys.into_iter().zip(found) {
                let heard = found.map_or(Heard::NotFound, heard_found);
                self.write_down(Operation {
                    client: u64::MAX,
                    key: key.into(),
                    called_at,
                    answered_at: called_at + 1,
                    action: Action::Get,
                    heard,
                });
            }
            Ok(())
        })
    }

    fn verdict(&self, name: &str) -> WorkloadResult {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        judge(name, &history, STEPS_MAX)
    }

    fn effects(&self) -> usize {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.iter().filter(|operation| matches!(operation.heard, Heard::Written(_))).count()
    }
}

impl Registers {
    fn keys(&self) -> Vec<String> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: BTreeSet<&Bytes> = history.iter().map(|operation| &operation.key).collect();
        keys.into_iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
    }

    /// Later than every answer so far.
    fn now(&self) -> u64 {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.iter().map(|operation| operation.answered_at).max().unwrap_or(0) + 1
    }

    fn write_down(&self, operation: Operation) {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }

    async fn ask(&self, mut seat: Seat) {
        let mut number = 0u64;
        // What this client saw last: what it compares with.
        let mut seen: Option<(String, Bytes, Seq)> = None;
        while seat.next().await {
            let generation = seat.load.now_us() / GENERATION_US;
            let key = format!("{}register-{generation}-{}", self.prefix, seat.random.below(KEYS));
            let known = seen.take().filter(|(of, ..)| *of == key);
            let choice = seat.random.below(100);
            if choice < 40 {
                let read = get(&seat, &key).await;
                if let Outcome::Done(found) = &read.outcome {
                    seen = found.as_ref().map(|found| (key.clone(), found.value.clone(), found.version));
                    let heard = found.clone().map_or(Heard::NotFound, heard_found);
                    self.answered(&seat, &key, &read, Action::Get, heard);
                }
                continue;
            }
            let condition = match (choice % 5, known) {
                (0, _) => Condition::Absent,
                (1, Some((_, _, version))) => Condition::Version(version),
                (2, Some((_, value, _))) => Condition::Value(value),
                (3, _) => Condition::Present,
                _ => Condition::None,
            };
            if choice >= 92 {
                let deleted = timed(&seat, seat.client.delete(key.clone(), condition.clone())).await;
                let heard = match &deleted.outcome {
                    Outcome::Done(DeleteOutcome::Done(written)) => heard_written(written),
                    Outcome::Done(DeleteOutcome::NotFound) => Heard::NotFound,
                    Outcome::Done(DeleteOutcome::ConditionFailed(version)) => Heard::ConditionFailed(*version),
                    Outcome::Unknown => Heard::Unknown,
                    // It does not belong into a history at all.
                    Outcome::NotDone => continue,
                };
                self.answered(&seat, &key, &deleted, Action::Mutate { kind: MutationKind::Delete, condition }, heard);
                continue;
            }
            number += 1;
            let value = format!("{}-{number}", seat.number);
            let kind = MutationKind::Put(value.clone().into());
            let written = put(&seat, &key, value.clone(), condition.clone()).await;
            let heard = match &written.outcome {
                Outcome::Done(PutOutcome::Done(written)) => {
                    seen = Some((key.clone(), value.into(), written.version));
                    heard_written(written)
                }
                Outcome::Done(PutOutcome::ConditionFailed(version)) => Heard::ConditionFailed(*version),
                Outcome::Unknown => Heard::Unknown,
                Outcome::NotDone => continue,
            };
            self.answered(&seat, &key, &written, Action::Mutate { kind, condition }, heard);
        }
    }

    fn answered<T>(&self, seat: &Seat, key: &str, timed: &Timed<T>, action: Action, heard: Heard) {
        self.write_down(Operation {
            client: seat.number,
            key: key.to_owned().into(),
            called_at: timed.called_us,
            answered_at: timed.answered_us,
            action,
            heard,
        });
    }
}

fn heard_written(written: &client::Written) -> Heard {
    Heard::Written(WriteOutcome { version: written.version, replaced: written.replaced })
}

fn heard_found(found: client::Found) -> Heard {
    Heard::Found(Record { seq: found.version, value: found.value })
}
