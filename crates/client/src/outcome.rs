//! What a caller hears when a request was answered.

use bytes::Bytes;
use types::{NodeId, OperationResult, PartitionId, Seq, Term};

/// A key's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The value.
    pub value: Bytes,
    /// The seq of the entry that wrote it.
    pub version: Seq,
}

/// A write that is done and stays done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// The key's version now.
    pub version: Seq,
    /// Whether the key had a value before.
    pub replaced: bool,
    /// Replicas that had it on disk when it was answered.
    pub durable_on: u32,
    /// The term in which it was written.
    pub term: Term,
    /// The primary that answered.
    pub node: NodeId,
}

/// A transaction that has happened and stays so; or, where it had nothing to change, what it saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transacted {
    /// Whether every condition held: then the first branch was done, otherwise the other one.
    pub succeeded: bool,
    /// What each step of that branch did, in its order.
    pub results: Vec<OperationResult>,
    /// Replicas of the first key's partition that had it on disk when it was answered; 0 where nothing was written.
    pub durable_on: u32,
    /// That partition's term; 0 where keys were read together without locks.
    pub term: Term,
    /// The primary that answered; 0 where keys were read together without locks.
    pub node: NodeId,
}

/// What a collection found of one key. Two that are equal, the second asked for after the first was answered, mean that
/// nothing happened to the key between.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum CollectedKey {
    Found(Found),
    /// Names the absence; `None`: this time it has no name, and nothing can be said.
    Absent(Option<u64>),
}

/// How a put ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PutOutcome {
    /// Written.
    Done(Written),
    /// The condition was false: nothing was changed. The key's version, if it has a value.
    ConditionFailed(Option<Seq>),
}

/// How a delete ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeleteOutcome {
    /// Deleted.
    Done(Written),
    /// The key had no value.
    NotFound,
    /// The condition was false: nothing was changed. The key's version, if it has a value.
    ConditionFailed(Option<Seq>),
}

/// Where a key lives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// The key's SHA-1, in hexadecimal.
    pub position: String,
    /// Its partition.
    pub partition: PartitionId,
    /// The partition's term.
    pub term: Term,
    /// The replicas, the primary first, each with its address and whether it is believed alive.
    pub replicas: Vec<(NodeId, String, bool)>,
}
