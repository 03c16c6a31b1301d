//! Watchers: who is told what was committed, as it is committed.
//!
//! ```text
//! stream ◄── watcher (a bounded queue) ◄── feeds, one for each watched partition, in its shard ◄── the replica's log
//!    └──────── room again ───────────────────────▲
//! ```
//!
//! A partition's log is read once for all its watchers: what was committed since the last burst is decoded, each change
//! goes to those who watch its key, and those who watch a prefix of it. A watcher whose queue is full is left where it
//! is: once its client has read, it goes on from its own place in the log, until it has caught up. If the log no longer
//! has that place, it is told so. So a slow client costs a queue of [`watcher::QUEUE_BYTES_MAX`] and nothing else.
//!
//! Invariants: each part begins where the one before it ended; a part's changes are those of whole entries; a
//! subscription ends with a word why.

pub(crate) mod feeds;
pub(crate) mod service;
pub(crate) mod watcher;
