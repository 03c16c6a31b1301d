//! Lists that everybody appends to, by reading the list and comparing its version: every list that is ever read is the
//! beginning of the list in the end, and holds every element that was acknowledged before, once.

use super::record::{Outcome, get, put};
use super::{Found, Judged, Seat, Workload, read_all};
use crate::error::Error;
use client::{Client, PutOutcome};
use futures::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use types::Condition;

/// Lists at a time, and how long before others take their place: lists travel as a whole.
const LISTS: usize = 4;
const GENERATION_US: u64 = 2_000_000;

struct Appends {
    prefix: String,
    lists: Mutex<BTreeMap<String, List>>,
}

#[derive(Clone, Debug, Default)]
struct List {
    /// Elements whose append was acknowledged, and those whose is unknown.
    acknowledged: Vec<String>,
    /// What reads saw, and how many elements had been acknowledged when each was called.
    reads: Vec<(usize, String)>,
    last: String,
}

pub(super) fn make(prefix: &str) -> Arc<dyn Workload> {
    Arc::new(Appends { prefix: prefix.to_owned(), lists: Mutex::default() })
}

impl Workload for Appends {
    fn client(self: Arc<Self>, mut seat: Seat) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut number = 0u64;
            while seat.next().await {
                number += 1;
                let generation = seat.load.now_us() / GENERATION_US;
                let key = format!("{}list-{generation}-{}", self.prefix, seat.random.below(LISTS));
                self.append(&seat, key, format!("{}.{number}", seat.number)).await;
            }
        })
    }

    fn read_back<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let keys = self.keys();
            let found = read_all(client, keys.clone()).await?;
            for (key, found) in keys.iter().zip(found) {
                self.with(key, |list| list.last = found.map_or_else(String::new, |found| text(&found.value)));
            }
            Ok(())
        })
    }

    fn verdict(&self) -> Judged {
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let operations = lists.values().map(|list| list.reads.len() + list.acknowledged.len()).sum::<usize>() as u64;
        match lists.iter().find_map(|(key, list)| wrong(list).map(|what| format!("{key}: {what}"))) {
            Some(sentence) => Judged { operations, found: Found::Violated, sentence },
            None => {
                let elements: usize = lists.values().map(|list| list.acknowledged.len()).sum();
                let sentence = format!("{} lists, {elements} elements acknowledged, all in one order", lists.len());
                Judged { operations, found: Found::Held, sentence }
            }
        }
    }

    fn keys(&self) -> Vec<String> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

impl Appends {
    fn with<T>(&self, key: &str, change: impl FnOnce(&mut List) -> T) -> T {
        change(self.lists.lock().unwrap_or_else(PoisonError::into_inner).entry(key.to_owned()).or_default())
    }

    async fn append(&self, seat: &Seat, key: String, element: String) {
        let due = self.with(&key, |list| list.acknowledged.len());
        let Outcome::Done(found) = get(seat, &key).await.outcome else { return };
        let (list, condition) = match found {
            None => (String::new(), Condition::Absent),
            Some(found) => (text(&found.value), Condition::Version(found.version)),
        };
        self.with(&key, |seen| seen.reads.push((due, list.clone())));
        let longer = format!("{list}{element},");
        if let Outcome::Done(PutOutcome::Done(_)) = put(seat, &key, longer, condition).await.outcome {
            self.with(&key, |list| list.acknowledged.push(element));
        }
    }
}

/// What is wrong with a list, if anything.
fn wrong(list: &List) -> Option<String> {
    let elements: Vec<&str> = list.last.split_terminator(',').collect();
    let places: BTreeMap<&str, usize> = elements.iter().enumerate().map(|(place, element)| (*element, place)).collect();
    if places.len() < elements.len() {
        return Some("an element is there twice".to_owned());
    }
    if let Some(lost) = list.acknowledged.iter().find(|element| !places.contains_key(element.as_str())) {
        return Some(format!("{lost} was acknowledged and is not there"));
    }
    for (due, read) in &list.reads {
        if !list.last.starts_with(read.as_str()) {
            return Some(format!("somebody read a list that the last one does not begin with: {read}"));
        }
        let seen: BTreeSet<&str> = read.split_terminator(',').collect();
        if let Some(stale) = list.acknowledged[..*due].iter().find(|element| !seen.contains(element.as_str())) {
            return Some(format!("{stale} was acknowledged before a read that did not see it"));
        }
    }
    None
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}
