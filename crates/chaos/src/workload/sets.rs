//! Elements added all over the key space, one key each: at the end every acknowledged one is there, and none that was
//! definitely not added.

use super::record::{Outcome, put};
use super::{Seat, Workload, never_read_back, read_all};
use crate::error::Error;
use bytes::Bytes;
use check::report::WorkloadResult;
use check::sets::Add;
use client::{Client, PutOutcome};
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use types::Condition;

/// An element's number: its client's, then its own.
const CLIENT_SHIFT: u32 = 40;

struct Sets {
    prefix: String,
    history: Mutex<Vec<Add>>,
    /// What is there in the end, once it has been read.
    there: Mutex<Option<Vec<u64>>>,
}

pub(super) fn make(prefix: &str) -> Arc<dyn Workload> {
    Arc::new(Sets { prefix: prefix.to_owned(), history: Mutex::default(), there: Mutex::default() })
}

impl Workload for Sets {
    fn client(self: Arc<Self>, mut seat: Seat) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut element = seat.number << CLIENT_SHIFT;
            while seat.next().await {
                element += 1;
                let added = put(&seat, &self.key(element), element.to_string(), Condition::Absent).await;
                let outcome = match added.outcome {
                    Outcome::Done(PutOutcome::Done(_)) => check::Outcome::Done,
                    Outcome::Unknown => check::Outcome::Unknown,
                    // Nobody else adds it: who says that it is there already has done it twice, and is found out.
                    Outcome::Done(PutOutcome::ConditionFailed(_)) | Outcome::NotDone => check::Outcome::NotDone,
                };
                let (client, key, called_at) = (seat.number, self.set(), added.called_us);
                let add = Add { client, key, element, called_at, answered_at: added.answered_at(), outcome };
                self.history.lock().unwrap_or_else(PoisonError::into_inner).push(add);
            }
        })
    }

    fn read_back<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let found = read_all(client, self.keys()).await?;
            // Elements begin with 1: what is no number at all was added by nobody, and is found out as such.
            let number = |found: client::Found| str::from_utf8(&found.value).ok()?.parse().ok();
            let there = found.into_iter().flatten().map(|found| number(found).unwrap_or(0)).collect();
            *self.there.lock().unwrap_or_else(PoisonError::into_inner) = Some(there);
            Ok(())
        })
    }

    fn verdict(&self, name: &str) -> WorkloadResult {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(there) = self.there.lock().unwrap_or_else(PoisonError::into_inner).clone() else {
            return never_read_back(name, history.len());
        };
        let anomalies = check::sets::check(&history, &BTreeMap::from([(self.set(), there)]));
        WorkloadResult::judged(name, history.len() as u64, &anomalies)
    }

    fn effects(&self) -> usize {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.iter().filter(|add| add.outcome == check::Outcome::Done).count()
    }
}

impl Sets {
    fn keys(&self) -> Vec<String> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.iter().map(|add| self.key(add.element)).collect()
    }

    /// The set's name.
    fn set(&self) -> Bytes {
        format!("{}elements", self.prefix).into()
    }

    fn key(&self, element: u64) -> String {
        format!("{}element-{element}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use check::report::Verdict;

    /// Guards against elements that count as lost because nobody has looked, and a loss that nobody notices.
    #[test]
    fn what_was_never_read_is_not_lost() {
        let sets = Sets { prefix: String::new(), history: Mutex::default(), there: Mutex::default() };
        let outcome = check::Outcome::Done;
        let add = Add { client: 1, key: sets.set(), element: 7, called_at: 1, answered_at: Some(2), outcome };
        sets.history.lock().unwrap().push(add);
        assert_eq!(sets.verdict("sets").verdict, Verdict::Undecided);
        *sets.there.lock().unwrap() = Some(vec![7]);
        assert_eq!(sets.verdict("sets").verdict, Verdict::Held);
        *sets.there.lock().unwrap() = Some(Vec::new());
        assert_eq!(sets.verdict("sets").verdict, Verdict::Violated);
    }
}
