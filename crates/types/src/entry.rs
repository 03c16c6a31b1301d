//! What a partition's log holds: entries, each a batch of changes already decided by the primary.
//!
//! A batch is encoded once, at the primary; the log on disk, every message and the state's keys and values share those
//! bytes. Layout, integers as LEB128 varints:
//!
//! ```text
//! version u8 = 1
//! flags u8                        bit 0: request, bit 1: forgotten_before, bit 2: transaction
//! [request: client, counter, stamp, version, replaced u8]
//! [forgotten_before]
//! [transaction: length, outcome]
//! count, then per change: kind u8, key length, key, value length + 1 or 0 for a delete, value
//! ```

use crate::ids::{Seq, Term};
use crate::record::{RecordKey, RecordKind};
use crate::request::{RequestId, Stamp, WriteOutcome};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::fmt;

/// `(term, seq)` of an entry, or of the end of a log: compared by term, then seq. The default is before everything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct EntryId {
    /// The term of the primary that appended it.
    pub term: Term,
    /// Its place in the log.
    pub seq: Seq,
}

impl EntryId {
    /// Before the first entry of any log.
    pub const ZERO: EntryId = EntryId { term: Term(0), seq: Seq(0) };
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.term, self.seq)
    }
}

/// One place of a log: its id and its batch, encoded. The payload has been checked to decode.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Term and seq.
    pub id: EntryId,
    /// A [`Batch`], encoded.
    pub payload: Bytes,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({}B)", self.id, self.payload.len())
    }
}

/// One change of one record: a value, or none for a delete.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Change {
    /// Which record.
    pub key: RecordKey,
    /// Its new value; `None` deletes it.
    pub value: Option<Bytes>,
}

/// A request that an entry carries out, remembered with the answer it got (P28).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Remembered {
    /// The request.
    pub id: RequestId,
    /// Its client's stamp.
    pub stamp: Stamp,
    /// What it was answered.
    pub outcome: WriteOutcome,
}

/// What one entry does to the state; replicas evaluate nothing. The default is the empty entry that begins a term.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Batch {
    /// At most one change per record.
    pub changes: Vec<Change>,
    /// The request it carries out, if any.
    pub request: Option<Remembered>,
    /// From here on the partition forgets requests with an older stamp, and refuses them (P28).
    pub forgotten_before: Option<Stamp>,
    /// What the request was answered where it is a transaction: a [`crate::TransactionOutcome`], encoded.
    pub transaction: Option<Bytes>,
}

/// A batch that does not decode: damage, or a peer of another version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed batch: {0}")]
pub struct MalformedBatch(pub &'static str);

const VERSION: u8 = 1;
const HAS_REQUEST: u8 = 1;
const HAS_FORGOTTEN: u8 = 2;
const HAS_TRANSACTION: u8 = 4;

impl Batch {
    /// The bytes of this batch.
    pub fn encode(&self) -> Bytes {
        let content: usize =
            self.changes.iter().map(|c| c.key.name.len() + c.value.as_ref().map_or(0, Bytes::len) + 12).sum();
        let mut out = BytesMut::with_capacity(content + 56 + self.transaction.as_ref().map_or(0, Bytes::len));
        out.put_u8(VERSION);
        let flags = if self.request.is_some() { HAS_REQUEST } else { 0 }
            | if self.forgotten_before.is_some() { HAS_FORGOTTEN } else { 0 }
            | if self.transaction.is_some() { HAS_TRANSACTION } else { 0 };
        out.put_u8(flags);
        if let Some(request) = &self.request {
            put_varint(&mut out, request.id.client);
            put_varint(&mut out, request.id.counter);
            put_varint(&mut out, request.stamp.0);
            put_varint(&mut out, request.outcome.version.0);
            out.put_u8(u8::from(request.outcome.replaced));
        }
        if let Some(stamp) = self.forgotten_before {
            put_varint(&mut out, stamp.0);
        }
        if let Some(outcome) = &self.transaction {
            put_varint(&mut out, outcome.len() as u64);
            out.put_slice(outcome);
        }
        put_varint(&mut out, self.changes.len() as u64);
        for change in &self.changes {
            out.put_u8(change.key.kind as u8);
            put_varint(&mut out, change.key.name.len() as u64);
            out.put_slice(&change.key.name);
            match &change.value {
                None => put_varint(&mut out, 0),
                Some(value) => {
                    put_varint(&mut out, value.len() as u64 + 1);
                    out.put_slice(value);
                }
            }
        }
        out.freeze()
    }

    /// Reads what [`Batch::encode`] wrote; keys and values share `payload`'s memory.
    ///
    /// # Errors
    /// [`MalformedBatch`] for anything else; never panics, whatever the bytes.
    pub fn decode(payload: &Bytes) -> Result<Batch, MalformedBatch> {
        let mut input = payload.clone();
        if take_byte(&mut input)? != VERSION {
            return Err(MalformedBatch("unknown version"));
        }
        let flags = take_byte(&mut input)?;
        if flags & !(HAS_REQUEST | HAS_FORGOTTEN | HAS_TRANSACTION) != 0 {
            return Err(MalformedBatch("unknown flags"));
        }
        let request = if flags & HAS_REQUEST != 0 {
            let id = RequestId { client: take_varint(&mut input)?, counter: take_varint(&mut input)? };
            let stamp = Stamp(take_varint(&mut input)?);
            let version = Seq(take_varint(&mut input)?);
            let replaced = match take_byte(&mut input)? {
                0 => false,
                1 => true,
                _ => return Err(MalformedBatch("replaced is neither 0 nor 1")),
            };
            Some(Remembered { id, stamp, outcome: WriteOutcome { version, replaced } })
        } else {
            None
        };
        let forgotten_before = if flags & HAS_FORGOTTEN != 0 { Some(Stamp(take_varint(&mut input)?)) } else { None };
        let transaction = if flags & HAS_TRANSACTION != 0 {
            let bytes = take_varint(&mut input)?;
            Some(take_bytes(&mut input, bytes)?)
        } else {
            None
        };
        let count = take_varint(&mut input)?;
        let mut changes = Vec::new();
        for _ in 0..count {
            let kind = RecordKind::from_number(take_byte(&mut input)?).ok_or(MalformedBatch("unknown record kind"))?;
            let key_bytes = take_varint(&mut input)?;
            let name = take_bytes(&mut input, key_bytes)?;
            let value = match take_varint(&mut input)? {
                0 => None,
                bytes => Some(take_bytes(&mut input, bytes - 1)?),
            };
            changes.push(Change { key: RecordKey { kind, name }, value });
        }
        if input.has_remaining() {
            return Err(MalformedBatch("bytes after the end"));
        }
        Ok(Batch { changes, request, forgotten_before, transaction })
    }
}

/// Appends `number` as a LEB128 varint.
pub fn put_varint(out: &mut impl BufMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

/// Takes a LEB128 varint off the front.
///
/// # Errors
/// [`MalformedBatch`] if the input ends or the number has more than 64 bits.
pub fn take_varint(input: &mut Bytes) -> Result<u64, MalformedBatch> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(input)?;
        if shift == 63 && byte > 1 {
            break;
        }
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(MalformedBatch("a number of more than 64 bits"))
}

fn take_byte(input: &mut Bytes) -> Result<u8, MalformedBatch> {
    if input.has_remaining() { Ok(input.get_u8()) } else { Err(MalformedBatch("ends too early")) }
}

fn take_bytes(input: &mut Bytes, count: u64) -> Result<Bytes, MalformedBatch> {
    let count = usize::try_from(count).map_err(|_| MalformedBatch("a length beyond memory"))?;
    if count > input.len() {
        return Err(MalformedBatch("ends too early"));
    }
    Ok(input.split_to(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batches() -> impl Strategy<Value = Batch> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
        let change = (any::<bool>(), bytes(), proptest::option::of(bytes())).prop_map(|(user, name, value)| Change {
            key: RecordKey { kind: if user { RecordKind::User } else { RecordKind::Requests }, name },
            value,
        });
        let request =
            (any::<[u64; 4]>(), any::<bool>()).prop_map(|([client, counter, stamp, seq], replaced)| Remembered {
                id: RequestId { client, counter },
                stamp: Stamp(stamp),
                outcome: WriteOutcome { version: Seq(seq), replaced },
            });
        (
            proptest::collection::vec(change, 0..5),
            proptest::option::of(request),
            proptest::option::of(any::<u64>().prop_map(Stamp)),
            proptest::option::of(bytes()),
        )
            .prop_map(|(changes, request, forgotten_before, transaction)| Batch {
                changes,
                request,
                forgotten_before,
                transaction,
            })
    }

    proptest! {
        /// Guards against an encoder and a decoder that disagree.
        #[test]
        fn what_is_encoded_is_decoded(batch in batches()) {
            prop_assert_eq!(Batch::decode(&batch.encode()), Ok(batch));
        }

        /// Guards against a panic or a huge allocation on garbage.
        #[test]
        fn garbage_is_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut payload = vec![VERSION];
            payload.extend(bytes);
            // Either answer is right.
            let _ = Batch::decode(&Bytes::from(payload));
        }

        /// Guards against a cut batch that passes for a whole one.
        #[test]
        fn a_cut_batch_is_refused(batch in batches(), cut in any::<prop::sample::Index>()) {
            let whole = batch.encode();
            let cut = cut.index(whole.len());
            prop_assert!(Batch::decode(&whole.slice(..cut)).is_err());
        }
    }
}
