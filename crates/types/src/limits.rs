//! Limits, checked at the door, and the defaults that several parts must agree on.

use std::time::Duration;

/// Longest key, in bytes. The shortest has one byte.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest value, in bytes. An empty value is a value.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most partitions of a cluster; always a power of two.
pub const PARTITIONS_MAX: u32 = 65_536;
/// Partitions of a cluster unless its bootstrap says otherwise.
pub const PARTITIONS_DEFAULT: u32 = 256;
/// Replicas of a partition unless its bootstrap says otherwise.
pub const REPLICATION_DEFAULT: u8 = 3;
/// Most replicas of a partition.
pub const REPLICATION_MAX: u8 = 9;
/// Storage nodes that must have registered before the first partition map is committed.
pub const EXPECTED_NODES_DEFAULT: u32 = 3;
/// How far behind the clock `forgotten_before` stays: a retry within this time gets its first answer (P28).
pub const REQUEST_MEMORY: Duration = Duration::from_secs(60);
/// Longest value of a mutation's comparison (`--if-value`), in bytes.
pub const COMPARED_VALUE_BYTES_MAX: usize = VALUE_BYTES_MAX;
/// Most records in a page of a scan.
pub const PAGE_RECORDS_MAX: usize = 4096;
/// Bytes of a page of a scan, unless it asks for others; the most is [`VALUE_BYTES_MAX`].
pub const PAGE_BYTES_DEFAULT: usize = 256 << 10;
/// Longest time that a value may be given to live.
pub const TTL_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Largest message between processes, in bytes: a batch is cut before it reaches this.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Shortest time that a lease can be granted for: shorter than an election would be lost in every one.
pub const LEASE_TTL_MIN: Duration = Duration::from_secs(1);
/// Longest time that a lease can be granted for.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Most leases of a cluster at a time.
pub const LEASES_MAX: usize = 100_000;
/// Longest name of a lock, and of one of its clients, in bytes.
pub const LOCK_NAME_BYTES_MAX: usize = 255;
/// Longest value of an election, in bytes.
pub const LOCK_VALUE_BYTES_MAX: usize = 1024;
/// Most clients that wait for one lock.
pub const LOCK_QUEUE_MAX: usize = 1024;
/// Most clients that hold or wait, over all locks; also the most locks.
pub const LOCK_CLAIMS_MAX: usize = 100_000;
/// Most different keys of a transaction.
pub const TRANSACTION_KEYS_MAX: usize = 128;
/// Most conditions and operations of a transaction, of both branches together.
pub const TRANSACTION_STEPS_MAX: usize = 1024;
/// Most bytes of a transaction's keys and values together, conditions included.
pub const TRANSACTION_BYTES_MAX: usize = 1 << 20;
/// Most bytes of the values that a transaction or a collection may read: they travel in one message.
pub const TRANSACTION_READ_BYTES_MAX: usize = 8 << 20;
/// Most bytes of the values that a transaction which writes may read: they are remembered with its request (P28).
pub const TRANSACTION_RESULT_BYTES_MAX: usize = 64 << 10;
