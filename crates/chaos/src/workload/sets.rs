//! Elements added all over the key space, one key each: at the end every acknowledged one is there, and none that was
//! definitely not added.

use super::record::{Outcome, put};
use super::{Found, Judged, Seat, Workload, read_all};
use crate::error::Error;
use client::{Client, PutOutcome};
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex, PoisonError};
use types::Condition;

struct Sets {
    prefix: String,
    elements: Mutex<Vec<Element>>,
}

/// An element that somebody wanted to add.
#[derive(Clone, Debug)]
struct Element {
    key: String,
    outcome: Outcome<()>,
    /// Whether it is there in the end.
    there: Option<bool>,
}

pub(super) fn make(prefix: &str) -> Arc<dyn Workload> {
    Arc::new(Sets { prefix: prefix.to_owned(), elements: Mutex::default() })
}

impl Workload for Sets {
    fn client(self: Arc<Self>, mut seat: Seat) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut number = 0u64;
            while seat.next().await {
                number += 1;
                let key = format!("{}element-{}-{number}", self.prefix, seat.number);
                let added = put(&seat, &key, number.to_string(), Condition::Absent).await;
                let outcome = match added.outcome {
                    Outcome::Done(PutOutcome::Done(_)) => Outcome::Done(()),
                    Outcome::Unknown => Outcome::Unknown,
                    // Nobody else adds it: who says that it is there already has done it twice, and is found out.
                    Outcome::Done(PutOutcome::ConditionFailed(_)) | Outcome::NotDone => Outcome::NotDone,
                };
                let element = Element { key, outcome, there: None };
                self.elements.lock().unwrap_or_else(PoisonError::into_inner).push(element);
            }
        })
    }

    fn read_back<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let found = read_all(client, self.keys()).await?;
            let mut elements = self.elements.lock().unwrap_or_else(PoisonError::into_inner);
            elements.iter_mut().zip(found).for_each(|(element, found)| element.there = Some(found.is_some()));
            Ok(())
        })
    }

    fn verdict(&self) -> Judged {
        let elements = self.elements.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = elements.iter().find(|e| e.outcome == Outcome::Done(()) && e.there != Some(true));
        let risen = elements.iter().find(|e| e.outcome == Outcome::NotDone && e.there == Some(true));
        let (found, sentence) = match (lost, risen) {
            (Some(lost), _) => (Found::Violated, format!("{} was acknowledged and is not there", lost.key)),
            (None, Some(risen)) => (Found::Violated, format!("{} was not done, and is there", risen.key)),
            (None, None) => {
                let acknowledged = elements.iter().filter(|e| e.outcome == Outcome::Done(())).count();
                (Found::Held, format!("{acknowledged} elements acknowledged, all there"))
            }
        };
        Judged { operations: elements.len() as u64, found, sentence }
    }

    fn keys(&self) -> Vec<String> {
        let elements = self.elements.lock().unwrap_or_else(PoisonError::into_inner);
        elements.iter().map(|element| element.key.clone()).collect()
    }
}
