//! Watching: every committed change of a key, or of all keys with a prefix, once, and for each key in order.
//!
//! Each partition has a log whose seqs go on through all terms, so all that a watch must remember of a partition is a
//! seq: its *cursor*. The partition's primary tells what was committed after it. When another becomes primary, or a
//! stream breaks, the watch goes on there after the cursor; nothing is missing and nothing comes twice. Between
//! partitions there is no order.
//!
//! A log is not kept for ever. Where what comes next is gone, a watch that began with what is there
//! ([`WatchFrom::Current`]) reads it again and says so ([`WatchEvent::Restarted`]); any other ends with
//! [`Error::Compacted`].
//!
//! # What is there, and then what changes
//!
//! A partition is read in pages while it changes: page *i* is what it was at seq *sᵢ*. It is then followed after *s₁*, and a
//! change of a key that was on page *i*, or would have been, is left out through *sᵢ*: the page has it. So each key's
//! value is told once, and after it every change.
//!
//! A caller that does not take events holds up the nodes' streams; what may wait on the way is bounded.

mod begin;
mod follow;
mod node;
mod views;

pub use views::WatchViews;

use crate::client::Client;
use crate::error::Error;
use bytes::Bytes;
use follow::{Follower, Told};
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use types::limits::KEY_BYTES_MAX;
use types::{ErrorCode, PartitionId, Seq};
use wire::convert::check_key;

/// Batches of events that may wait for the caller.
const TOLD_LENGTH: usize = 64;

/// Which keys to watch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchWhat {
    /// One.
    Key(Bytes),
    /// All that begin with this; all there are where it is empty.
    Prefix(Bytes),
}

/// Where to begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchFrom {
    /// With what is acknowledged after [`WatchEvent::Watching`].
    Now,
    /// After a cursor, as [`Watch::cursor`] gave it. Partitions that it does not name are watched from now on.
    After(Cursor),
    /// With what is there now ([`WatchEvent::Present`]), and then every change.
    Current,
}

/// How far a watch is: for each partition the last seq of which everything was told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    /// By partition.
    pub positions: BTreeMap<PartitionId, Seq>,
}

/// What a watch tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchEvent {
    /// Once: every partition has been asked where it is. What is acknowledged from now on is told.
    Watching,
    /// A key's value as it is at the beginning ([`WatchFrom::Current`]).
    Present {
        /// The key.
        key: Bytes,
        /// Its value.
        value: Bytes,
        /// The seq of the entry that wrote it.
        version: Seq,
    },
    /// A key has changed.
    Changed {
        /// The key.
        key: Bytes,
        /// Its new value; `None`: it was deleted, or its time was over.
        value: Option<Bytes>,
        /// The seq of the entry that did it.
        version: Seq,
    },
    /// The history of this partition was no longer kept ([`WatchFrom::Current`]): forget what was told of its keys; what is
    /// there now follows.
    Restarted {
        /// Which one.
        partition: PartitionId,
    },
}

/// A watch under way. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    told: mpsc::Receiver<Result<Told, Error>>,
    /// Events to be given, each with what the cursor is after it.
    waiting: VecDeque<(WatchEvent, Option<(PartitionId, Seq)>)>,
    cursor: Cursor,
    failed: Option<Error>,
    follower: JoinHandle<()>,
}

impl Client {
    /// Begins to watch.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::NotDone`] before the cluster has a partition map.
    pub fn watch(&self, what: WatchWhat, from: WatchFrom) -> Result<Watch, Error> {
        match &what {
            WatchWhat::Key(key) => check_key(key).map_err(|error| Error::Invalid(error.to_string()))?,
            WatchWhat::Prefix(prefix) if prefix.len() > KEY_BYTES_MAX => {
                return Err(Error::Invalid(format!("the prefix is longer than a key's {KEY_BYTES_MAX} bytes")));
            }
            WatchWhat::Prefix(_) => {}
        }
        let view = self.view();
        if !view.has_map() {
            let message = "the cluster has no partition map yet; start the other storage nodes".to_owned();
            return Err(Error::NotDone { code: ErrorCode::NotBootstrapped, message });
        }
        let partitions: Vec<PartitionId> = match &what {
            WatchWhat::Key(key) => vec![view.partition_of(key)],
            WatchWhat::Prefix(_) => view.partition_count.ids().collect(),
        };
        let cursor = match &from {
            WatchFrom::After(cursor) => cursor.clone(),
            WatchFrom::Now | WatchFrom::Current => Cursor::default(),
        };
        let (sender, told) = mpsc::channel(TOLD_LENGTH);
        let follower = Follower::new(self.clone(), what, from, &partitions, sender);
        let follower = tokio::spawn(follower.run());
        Ok(Watch { told, waiting: VecDeque::new(), cursor, failed: None, follower })
    }
}

impl Watch {
    /// The next event; waits for it as long as it takes. Safe to cancel.
    ///
    /// # Errors
    /// [`Error::Compacted`], and what [`Client::get`] says where a partition can't be asked where it is. The watch is over.
    pub async fn next(&mut self) -> Result<WatchEvent, Error> {
        loop {
            if let Some((event, position)) = self.waiting.pop_front() {
                self.cursor.positions.extend(position);
                return Ok(event);
            }
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            match self.told.recv().await {
                Some(Ok(told)) => self.take(told),
                Some(Err(error)) => self.failed = Some(error),
                None => {
                    let message = "the watch was given up".to_owned();
                    self.failed = Some(Error::NotDone { code: ErrorCode::Internal, message });
                }
            }
        }
    }

    /// How far the events that were given reach: a later watch goes on from here. A partition of which what is there
    /// has not been told whole is not in it.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    fn take(&mut self, told: Told) {
        let Told { partition, events, through } = told;
        let Some(through) = through else {
            self.waiting.extend(events.into_iter().map(|event| (event, None)));
            return;
        };
        // An entry may have changed several keys: the cursor moves when all of them are told.
        let mut events = events.into_iter().peekable();
        if events.peek().is_none() {
            match self.waiting.back_mut() {
                None => drop(self.cursor.positions.insert(partition, through)),
                Some((_, position)) if position.is_none_or(|(of, _)| of == partition) => {
                    *position = Some((partition, through));
                }
                Some(_) => {}
            }
        }
        while let Some(event) = events.next() {
            let position = match (&event, events.peek()) {
                (_, None) => Some(through),
                (WatchEvent::Changed { version, .. }, Some(WatchEvent::Changed { version: next, .. })) => {
                    (version != next).then_some(*version)
                }
                _ => None,
            };
            self.waiting.push_back((event, position.map(|position| (partition, position))));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.follower.abort();
    }
}
