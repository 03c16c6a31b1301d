//! Transactions: what a client asks of several keys at once, what it hears, and how it is split by partition.
//!
//! A transaction is one shot: conditions, a list of operations for when all of them hold, and another for when one does
//! not. It happens as a whole at one instant, or not at all. Reads see what was before the transaction, and each branch
//! writes a key at most once, so the order of a branch's operations is the order of its results and nothing else.
//!
//! The version of a write is the seq of the entry that writes it. Keys of the first key's partition, the *home*, are
//! written by the decision itself; those of other partitions later, after the answer: their versions are not in it.

use crate::entry::{MalformedBatch, put_varint, take_varint};
use crate::ids::{PartitionId, Seq, Term};
use crate::limits::{
    KEY_BYTES_MAX, TRANSACTION_BYTES_MAX, TRANSACTION_KEYS_MAX, TRANSACTION_STEPS_MAX, VALUE_BYTES_MAX,
};
use crate::position::PartitionCount;
use crate::record::Record;
use crate::request::{Condition, Fence};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeSet;
use std::fmt;

/// Names one attempt at a transaction over several partitions, its messages, locks and staged values (P24).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// The partition of the first key; its primary coordinates.
    pub home: PartitionId,
    /// The home's term that began the attempt, and the only one that can decide it.
    pub term: Term,
    /// Counts the attempts of that term.
    pub counter: u64,
}

impl AttemptId {
    /// The name of the attempt's hidden records: sorts like the id.
    pub fn to_name(self) -> Bytes {
        let mut out = BytesMut::with_capacity(20);
        out.put_u32(self.home.0);
        out.put_u64(self.term.0);
        out.put_u64(self.counter);
        out.freeze()
    }

    /// The attempt that a hidden record is named by.
    pub fn from_name(name: &[u8]) -> Option<AttemptId> {
        let name: [u8; 20] = name.try_into().ok()?;
        let (home, rest) = name.split_first_chunk::<4>()?;
        let (term, counter) = rest.split_first_chunk::<8>()?;
        let counter: [u8; 8] = counter.try_into().ok()?;
        Some(AttemptId {
            home: PartitionId(u32::from_be_bytes(*home)),
            term: Term(u64::from_be_bytes(*term)),
            counter: u64::from_be_bytes(counter),
        })
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.home, self.term, self.counter)
    }
}

impl fmt::Debug for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One thing that a transaction does to one key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum TransactionOperation {
    /// Give the key this value.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Take the key's value away.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Read the key's value as of before the transaction.
    Get {
        /// The key.
        key: Bytes,
    },
}

impl TransactionOperation {
    /// The key.
    pub fn key(&self) -> &Bytes {
        match self {
            TransactionOperation::Put { key, .. }
            | TransactionOperation::Delete { key }
            | TransactionOperation::Get { key } => key,
        }
    }

    /// Whether it changes the key.
    pub fn writes(&self) -> bool {
        !matches!(self, TransactionOperation::Get { .. })
    }
}

/// Conditions, what to do if all hold, and what to do otherwise.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Transaction {
    /// What must hold, all of it, for `then`.
    pub conditions: Vec<(Bytes, Condition)>,
    /// Done if every condition holds.
    pub then: Vec<TransactionOperation>,
    /// Done if one does not.
    pub otherwise: Vec<TransactionOperation>,
    /// The lock that its sender believes to hold: refused if one of its partitions has seen a newer grant of it.
    pub fence: Option<Fence>,
}

/// A transaction that breaks a limit; said to whoever wrote it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidTransaction {
    /// It names no key.
    #[error("the transaction names no key; give it a condition or an operation")]
    Empty,
    /// Too many different keys.
    #[error("the transaction names {0} keys, of {TRANSACTION_KEYS_MAX} that it may; split it")]
    TooManyKeys(usize),
    /// Too many conditions and operations.
    #[error("the transaction has {0} conditions and operations, of {TRANSACTION_STEPS_MAX} that it may; split it")]
    TooManySteps(usize),
    /// Too many bytes.
    #[error("the transaction's keys and values have {0} bytes, of {TRANSACTION_BYTES_MAX} that they may; split it")]
    TooManyBytes(usize),
    /// A key is empty or too long.
    #[error("a key has {0} bytes; keys have 1 to {KEY_BYTES_MAX}")]
    KeyLength(usize),
    /// A value is too long.
    #[error("a value has {0} bytes, of {VALUE_BYTES_MAX} that it may")]
    ValueLength(usize),
    /// One branch writes a key twice.
    #[error("one branch writes the key {0} twice; keep the last write")]
    WrittenTwice(String),
}

impl Transaction {
    /// The key whose partition is the home: the first one named.
    pub fn first_key(&self) -> Option<&Bytes> {
        self.keys().next()
    }

    /// Every key named, as often as it is.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        let conditions = self.conditions.iter().map(|(key, _)| key);
        conditions.chain(self.then.iter().chain(&self.otherwise).map(TransactionOperation::key))
    }

    /// Whether neither branch writes.
    pub fn is_read_only(&self) -> bool {
        !self.then.iter().chain(&self.otherwise).any(TransactionOperation::writes)
    }

    /// Checks every limit: whoever takes a transaction in from outside does this first.
    ///
    /// # Errors
    /// [`InvalidTransaction`] with the first limit that is broken.
    pub fn check(&self) -> Result<(), InvalidTransaction> {
        let value_of_condition = |(_, condition): &(Bytes, Condition)| match condition {
            Condition::Value(value) => value.len(),
            _ => 0,
        };
        let value_of_operation = |operation: &TransactionOperation| match operation {
            TransactionOperation::Put { value, .. } => value.len(),
            _ => 0,
        };
        let operations = || self.then.iter().chain(&self.otherwise);
        let values = || self.conditions.iter().map(value_of_condition).chain(operations().map(value_of_operation));
        let steps = self.conditions.len() + self.then.len() + self.otherwise.len();
        if steps > TRANSACTION_STEPS_MAX {
            return Err(InvalidTransaction::TooManySteps(steps));
        }
        if let Some(key) = self.keys().find(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
            return Err(InvalidTransaction::KeyLength(key.len()));
        }
        if let Some(bytes) = values().find(|bytes| *bytes > VALUE_BYTES_MAX) {
            return Err(InvalidTransaction::ValueLength(bytes));
        }
        let keys = self.keys().collect::<BTreeSet<_>>().len();
        if keys == 0 {
            return Err(InvalidTransaction::Empty);
        }
        if keys > TRANSACTION_KEYS_MAX {
            return Err(InvalidTransaction::TooManyKeys(keys));
        }
        let bytes = self.keys().map(Bytes::len).sum::<usize>() + values().sum::<usize>();
        if bytes > TRANSACTION_BYTES_MAX {
            return Err(InvalidTransaction::TooManyBytes(bytes));
        }
        for branch in [&self.then, &self.otherwise] {
            let mut written = BTreeSet::new();
            if let Some(twice) = branch.iter().filter(|op| op.writes()).find(|op| !written.insert(op.key())) {
                return Err(InvalidTransaction::WrittenTwice(twice.key().escape_ascii().to_string()));
            }
        }
        Ok(())
    }

    /// The parts by partition, the home's first.
    pub fn split(&self, count: PartitionCount) -> Vec<(PartitionId, TransactionPart)> {
        let mut parts: Vec<(PartitionId, TransactionPart)> = Vec::new();
        let mut part_of = |key: &Bytes| {
            let partition = count.partition_of(key);
            parts.iter().position(|(p, _)| *p == partition).unwrap_or_else(|| {
                parts.push((partition, TransactionPart { fence: self.fence.clone(), ..TransactionPart::default() }));
                parts.len() - 1
            })
        };
        let conditions: Vec<usize> = self.conditions.iter().map(|(key, _)| part_of(key)).collect();
        let then: Vec<usize> = self.then.iter().map(|op| part_of(op.key())).collect();
        let otherwise: Vec<usize> = self.otherwise.iter().map(|op| part_of(op.key())).collect();
        for (condition, at) in self.conditions.iter().zip(conditions) {
            parts[at].1.conditions.push(condition.clone());
        }
        for (index, (operation, at)) in (0..).zip(self.then.iter().zip(then)) {
            parts[at].1.then.push((index, operation.clone()));
        }
        for (index, (operation, at)) in (0..).zip(self.otherwise.iter().zip(otherwise)) {
            parts[at].1.otherwise.push((index, operation.clone()));
        }
        parts
    }
}

/// What a transaction asks of one partition. Operations carry their places in the whole transaction's branches.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct TransactionPart {
    /// Conditions on this partition's keys.
    pub conditions: Vec<(Bytes, Condition)>,
    /// This partition's operations of `then`.
    pub then: Vec<(u32, TransactionOperation)>,
    /// And of `otherwise`.
    pub otherwise: Vec<(u32, TransactionOperation)>,
    /// The whole transaction's.
    pub fence: Option<Fence>,
}

impl TransactionPart {
    /// The operations of one branch.
    pub fn branch(&self, succeeded: bool) -> &[(u32, TransactionOperation)] {
        if succeeded { &self.then } else { &self.otherwise }
    }

    /// Every key with whether either branch writes it, each once, by key.
    pub fn keys(&self) -> std::collections::BTreeMap<&Bytes, bool> {
        let mut keys = std::collections::BTreeMap::new();
        for (key, _) in &self.conditions {
            keys.entry(key).or_insert(false);
        }
        for (_, operation) in self.then.iter().chain(&self.otherwise) {
            *keys.entry(operation.key()).or_insert(false) |= operation.writes();
        }
        keys
    }
}

/// What one operation of the branch that was taken did.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum OperationResult {
    /// The key has the value.
    Put {
        /// Its version, where the home wrote it; elsewhere it is written after the answer.
        version: Option<Seq>,
        /// Whether it had a value before.
        replaced: bool,
    },
    /// The key has no value.
    Deleted {
        /// Whether it had one before.
        existed: bool,
    },
    /// The key's value before the transaction.
    Found(Record),
    /// The key had no value before the transaction.
    NotFound,
}

/// What a transaction that happened did: the answer that a retry gets again.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct TransactionOutcome {
    /// Whether every condition held, and `then` was done.
    pub succeeded: bool,
    /// What each operation of the branch did, in the branch's order.
    pub results: Vec<OperationResult>,
}

impl TransactionOutcome {
    /// The bytes of this outcome, as they stand beside its request's id.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(u8::from(self.succeeded));
        put_varint(&mut out, self.results.len() as u64);
        for result in &self.results {
            match result {
                OperationResult::Put { version, replaced } => {
                    out.put_u8(u8::from(*replaced));
                    put_varint(&mut out, version.map_or(0, |version| version.0));
                }
                OperationResult::Deleted { existed } => out.put_u8(2 + u8::from(*existed)),
                OperationResult::Found(record) => {
                    out.put_u8(4);
                    put_varint(&mut out, record.seq.0);
                    put_varint(&mut out, record.value.len() as u64);
                    out.put_slice(&record.value);
                }
                OperationResult::NotFound => out.put_u8(5),
            }
        }
        out.freeze()
    }

    /// Reads what [`TransactionOutcome::encode`] wrote.
    ///
    /// # Errors
    /// [`MalformedBatch`] for anything else; never panics, whatever the bytes.
    pub fn decode(mut input: Bytes) -> Result<TransactionOutcome, MalformedBatch> {
        let input = &mut input;
        let byte = |input: &mut Bytes| input.try_get_u8().map_err(|_| MalformedBatch("an outcome ends too early"));
        let succeeded = byte(input)? == 1;
        let count = take_varint(input)?;
        let mut results = Vec::new();
        for _ in 0..count {
            results.push(match byte(input)? {
                replaced @ (0 | 1) => {
                    let version = take_varint(input)?;
                    OperationResult::Put { version: (version > 0).then_some(Seq(version)), replaced: replaced == 1 }
                }
                existed @ (2 | 3) => OperationResult::Deleted { existed: existed == 3 },
                4 => {
                    let seq = Seq(take_varint(input)?);
                    let bytes = take_varint(input)?;
                    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= input.len());
                    let bytes = bytes.ok_or(MalformedBatch("an outcome ends too early"))?;
                    OperationResult::Found(Record { seq, value: input.split_to(bytes) })
                }
                5 => OperationResult::NotFound,
                _ => return Err(MalformedBatch("unknown result of an operation")),
            });
        }
        if input.has_remaining() {
            return Err(MalformedBatch("bytes after an outcome's end"));
        }
        Ok(TransactionOutcome { succeeded, results })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(name: &str) -> Bytes {
        Bytes::copy_from_slice(name.as_bytes())
    }

    fn put(name: &str) -> TransactionOperation {
        TransactionOperation::Put { key: key(name), value: key("v") }
    }

    /// Guards against a limit that is not looked at.
    #[test]
    fn what_breaks_a_limit_is_refused() {
        let of = |then: Vec<TransactionOperation>| Transaction { then, ..Transaction::default() }.check();
        assert_eq!(of(vec![]), Err(InvalidTransaction::Empty));
        assert_eq!(of(vec![put("")]), Err(InvalidTransaction::KeyLength(0)));
        assert_eq!(of(vec![put("a"), put("a")]), Err(InvalidTransaction::WrittenTwice("a".into())));
        assert_eq!(of(vec![put("a"), TransactionOperation::Get { key: key("a") }]), Ok(()));
        let many = (0..=TRANSACTION_KEYS_MAX).map(|n| put(&n.to_string())).collect();
        assert_eq!(of(many), Err(InvalidTransaction::TooManyKeys(TRANSACTION_KEYS_MAX + 1)));
        let reads = (0..=TRANSACTION_STEPS_MAX).map(|_| TransactionOperation::Get { key: key("a") }).collect();
        assert_eq!(of(reads), Err(InvalidTransaction::TooManySteps(TRANSACTION_STEPS_MAX + 1)));
        let big = TransactionOperation::Put { key: key("a"), value: vec![0; VALUE_BYTES_MAX].into() };
        assert_eq!(of(vec![big]), Err(InvalidTransaction::TooManyBytes(VALUE_BYTES_MAX + 1)));
    }

    /// Guards against a part that gets lost, is twice there, or a home that is not the first key's partition.
    #[test]
    fn the_parts_are_the_whole() {
        let count = PartitionCount::new(4).unwrap();
        let names: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
        let transaction = Transaction {
            conditions: names.iter().map(|name| (key(name), Condition::Absent)).collect(),
            then: names.iter().map(|name| put(name)).collect(),
            otherwise: vec![TransactionOperation::Delete { key: key("z") }],
            fence: None,
        };
        let parts = transaction.split(count);
        assert_eq!(parts[0].0, count.partition_of(b"k0"));
        let mut then: Vec<_> = parts.iter().flat_map(|(_, part)| part.then.clone()).collect();
        then.sort_by_key(|(index, _)| *index);
        assert_eq!(then.into_iter().map(|(_, op)| op).collect::<Vec<_>>(), transaction.then);
        assert_eq!(parts.iter().map(|(_, part)| part.conditions.len()).sum::<usize>(), 20);
        for (partition, part) in &parts {
            assert!(part.keys().keys().all(|key| count.partition_of(key) == *partition));
        }
    }

    proptest! {
        /// Guards against an encoder and a decoder that disagree, and against a name that does not name.
        #[test]
        fn what_is_encoded_is_decoded(succeeded: bool, kinds in proptest::collection::vec((0u8..6, 1u64..9), 0..9)) {
            let results = kinds.iter().map(|(kind, seq)| match kind {
                0 => OperationResult::Put { version: None, replaced: true },
                1 => OperationResult::Put { version: Some(Seq(*seq)), replaced: false },
                2 => OperationResult::Deleted { existed: seq % 2 == 0 },
                3 => OperationResult::Found(Record { seq: Seq(*seq), value: vec![7; *seq as usize].into() }),
                _ => OperationResult::NotFound,
            });
            let outcome = TransactionOutcome { succeeded, results: results.collect() };
            let bytes = outcome.encode();
            prop_assert_eq!(TransactionOutcome::decode(bytes.clone()), Ok(outcome));
            for cut in 0..bytes.len() {
                prop_assert!(TransactionOutcome::decode(bytes.slice(..cut)).is_err());
            }
        }

        #[test]
        fn a_name_names_its_attempt(home: u32, term: u64, counter: u64) {
            let attempt = AttemptId { home: PartitionId(home), term: Term(term), counter };
            prop_assert_eq!(AttemptId::from_name(&attempt.to_name()), Some(attempt));
        }
    }
}
