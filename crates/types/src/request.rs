//! What a client asks of a partition, and what it hears.

use crate::expiry::Lifetime;
use crate::ids::{FencingToken, Seq};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Names one mutation for ever: a retry carries the same id and gets the first answer (P28).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// Random, drawn once per client process.
    pub client: u64,
    /// That client's own count.
    pub counter: u64,
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}/{}", self.client, self.counter)
    }
}

/// Milliseconds since 1970 by a clock: only ever compared with a partition's replicated `forgotten_before` (P28).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Stamp(pub u64);

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

/// What must hold for a mutation to happen.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Condition {
    /// Always.
    #[default]
    None,
    /// The key has no value.
    Absent,
    /// The key has a value.
    Present,
    /// The key has a value of this version.
    Version(Seq),
    /// The key has exactly this value.
    Value(Bytes),
}

/// A change of one key, if its condition holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Mutation {
    /// 1 to 1,024 bytes.
    pub key: Bytes,
    /// Set or delete.
    pub kind: MutationKind,
    /// What must hold.
    pub condition: Condition,
    /// The lock that its sender believes to hold: refused if the partition has seen a newer grant of it.
    pub fence: Option<Fence>,
}

/// A lock's name and the token of one of its grants.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Fence {
    /// 1 to 255 bytes.
    pub name: Bytes,
    /// Never 0.
    pub token: FencingToken,
}

/// What a mutation does to its key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum MutationKind {
    /// Give the key this value.
    Put(Bytes),
    /// Give the key this value for so long; then it is deleted, unless it was written again.
    PutExpiring {
        /// The value.
        value: Bytes,
        /// How long.
        lifetime: Lifetime,
    },
    /// Take the key's value away. Of a key without one: nothing, answered as not found.
    Delete,
}

impl MutationKind {
    /// The value that it gives the key.
    pub fn value(&self) -> Option<&Bytes> {
        match self {
            MutationKind::Put(value) | MutationKind::PutExpiring { value, .. } => Some(value),
            MutationKind::Delete => None,
        }
    }
}

/// What a mutation that happened did: the answer that a retry gets again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct WriteOutcome {
    /// The key's version now (of a delete: the seq of the delete).
    pub version: Seq,
    /// Whether the key had a value before.
    pub replaced: bool,
}
