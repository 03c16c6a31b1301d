//! Stored items: a user's key or a hidden one, with the seq that wrote it.

use crate::ids::Seq;
use bytes::Bytes;

/// What namespace a record belongs to. Users reach only [`RecordKind::User`]. The numbers are on disk: never reuse one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum RecordKind {
    /// A key that a client wrote.
    User = 0,
    /// Request ids and their results, many to a record (P28).
    Requests = 1,
    /// What a partition has locked and staged for an attempt at a transaction, one record each (P25).
    Prepared = 8,
    /// A transaction that has happened and of which not every participant has said that it has its part (P26).
    Decision = 9,
    /// The newest fencing token that came with a write, by the name of its lock.
    Fence = 16,
    /// How long the value of the key of this name lives ([`crate::Expiry`]).
    Expiry = 24,
}

impl RecordKind {
    /// All of them, in order.
    pub const ALL: [RecordKind; 6] = [
        RecordKind::User,
        RecordKind::Requests,
        RecordKind::Prepared,
        RecordKind::Decision,
        RecordKind::Fence,
        RecordKind::Expiry,
    ];

    /// The kind with this number, if there is one.
    pub fn from_number(number: u8) -> Option<RecordKind> {
        RecordKind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A record's full name within its partition.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RecordKey {
    /// The namespace.
    pub kind: RecordKind,
    /// The name within it; for a user's record the key itself.
    pub name: Bytes,
}

impl RecordKey {
    /// The record of a user's key.
    pub fn user(key: Bytes) -> RecordKey {
        RecordKey { kind: RecordKind::User, name: key }
    }
}

/// A stored value and the seq of the entry that wrote it: the key's version.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Record {
    /// The entry that wrote it.
    pub seq: Seq,
    /// The bytes as written.
    pub value: Bytes,
}
