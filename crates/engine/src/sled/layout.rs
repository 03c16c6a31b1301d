//! How records lie in sled: its keys and values, and what is checked when they are read.
//!
//! ```text
//! keyspace = partition u32 BE, generation u64 BE
//! headers  = 0, block u32 BE, part u32 BE                       of neighbouring partitions
//! record   = 1, keyspace, 0, kind u8, name                      in the order of names
//! chunk    = 1, keyspace, 1, kind u8, name length u16 BE, name, index u32 BE
//!
//! every value = crc32c u32 LE of the full key and what follows, then what follows:
//! headers     = headers, one after the other ([`headers`](super::headers))
//! record      = seq u64, 0, value                               up to CHUNK_BYTES_MAX
//!             | seq u64, 1, total length u32                    longer: the value is in chunks 0, 1, …
//! chunk       = seq u64, part of the value
//! ```
//!
//! A chunk's key holds the name's length, so no name's chunks are another's, whatever bytes names hold; records are apart
//! from chunks, so a scan of records meets nothing else. A chunk carries its record's seq: parts of two values never join.

use super::SEGMENT_BYTES;
use crate::mutants::{Mutant, on};
use crate::{Keyspace, NAME_BYTES_MAX};
use bytes::Bytes;
use types::{Generation, PartitionId, RecordKey, RecordKind, Seq};

/// Longest part of a value in one item of sled.
pub(super) const CHUNK_BYTES_MAX: usize = 16 << 10;

/// Sled writes a tree node that is longer than a quarter of a segment to a file of its own, which it never fsyncs. No
/// node gets there: a leaf is split at its 17th item, and before that a merge may bring it 3 more (`tree.rs`, `node.rs`);
/// an inner node is split at its 257th key.
const _: () = {
    let inline_max = SEGMENT_BYTES / 4 - 20 - 32;
    let key_max = KEYSPACE_PREFIX_BYTES + 1 + 1 + 2 + NAME_BYTES_MAX + 4;
    let lengths = 2 * 9;
    let bounds = 2 * (key_max + 9) + 64;
    assert!(24 * (key_max + CRC_BYTES + 8 + 1 + CHUNK_BYTES_MAX + lengths) + bounds < inline_max);
    assert!(264 * (key_max + lengths) + bounds < inline_max);
};

const KEYSPACE_PREFIX_BYTES: usize = 1 + 4 + 8;
const CRC_BYTES: usize = 4;
const SPACE_HEADERS: u8 = 0;
const SPACE_RECORDS: u8 = 1;
const TAG_RECORD: u8 = 0;
const TAG_CHUNK: u8 = 1;
const FORM_INLINE: u8 = 0;
const FORM_CHUNKED: u8 = 1;

/// Smaller than every key of a record or chunk, greater than every key of headers.
pub(super) const RECORDS_BEGIN: [u8; 1] = [SPACE_RECORDS];

/// The key of one part of a block of headers.
pub(super) fn headers_key(block: u32, part: u32) -> Vec<u8> {
    [&[SPACE_HEADERS], &block.to_be_bytes()[..], &part.to_be_bytes()[..]].concat()
}

/// The stored form of headers.
pub(super) fn encode_headers(key: &[u8], content: &[u8]) -> Vec<u8> {
    let mut body = vec![0; CRC_BYTES];
    body.extend_from_slice(content);
    sealed(key, body)
}

/// The headers in an item.
pub(super) fn decode_headers<'a>(key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], &'static str> {
    opened(key, stored)
}

/// Where a keyspace's keys begin.
pub(super) fn keyspace_prefix(keyspace: Keyspace) -> [u8; KEYSPACE_PREFIX_BYTES] {
    let mut prefix = [SPACE_RECORDS; KEYSPACE_PREFIX_BYTES];
    prefix[1..5].copy_from_slice(&keyspace.partition.0.to_be_bytes());
    prefix[5..].copy_from_slice(&keyspace.generation.0.to_be_bytes());
    prefix
}

/// The keyspace that the key of a record or chunk belongs to; `None` for a key that this program never wrote.
pub(super) fn keyspace_of(key: &[u8]) -> Option<Keyspace> {
    let (partition, rest) = key.strip_prefix(&RECORDS_BEGIN)?.split_first_chunk()?;
    let (generation, _) = rest.split_first_chunk()?;
    Some(Keyspace {
        partition: PartitionId(u32::from_be_bytes(*partition)),
        generation: Generation(u64::from_be_bytes(*generation)),
    })
}

/// What all keys of one kind's records begin with.
pub(super) fn records_prefix(keyspace: Keyspace, kind: RecordKind) -> Vec<u8> {
    let mut key = Vec::with_capacity(KEYSPACE_PREFIX_BYTES + 2);
    key.extend_from_slice(&keyspace_prefix(keyspace));
    key.extend_from_slice(&[TAG_RECORD, kind as u8]);
    key
}

/// The key of a record.
pub(super) fn record_key(keyspace: Keyspace, key: &RecordKey) -> Vec<u8> {
    let mut stored = Vec::with_capacity(KEYSPACE_PREFIX_BYTES + 2 + key.name.len());
    stored.extend_from_slice(&keyspace_prefix(keyspace));
    stored.extend_from_slice(&[TAG_RECORD, key.kind as u8]);
    stored.extend_from_slice(&key.name);
    stored
}

/// The name in the key of a record of a kind whose [`records_prefix`] this key begins with.
pub(super) fn record_name(key: &[u8]) -> &[u8] {
    &key[KEYSPACE_PREFIX_BYTES + 2..]
}

/// The key of a part of a record's value.
pub(super) fn chunk_key(keyspace: Keyspace, kind: RecordKind, name: &[u8], index: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(KEYSPACE_PREFIX_BYTES + 8 + name.len());
    key.extend_from_slice(&keyspace_prefix(keyspace));
    key.extend_from_slice(&[TAG_CHUNK, kind as u8]);
    // Names are at most NAME_BYTES_MAX, checked where they come in.
    key.extend_from_slice(&(name.len() as u16).to_be_bytes());
    key.extend_from_slice(name);
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// How many chunks a value of this length has; 0 if it lies in its record.
pub(super) fn chunks_of(value_bytes: usize) -> u32 {
    if value_bytes <= CHUNK_BYTES_MAX { 0 } else { value_bytes.div_ceil(CHUNK_BYTES_MAX) as u32 }
}

/// A record as stored: its value, or how long the value is that its chunks hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct StoredRecord<'a> {
    pub seq: Seq,
    pub content: Content<'a>,
}

/// Where a record's value is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Content<'a> {
    Inline(&'a [u8]),
    Chunked { value_bytes: usize },
}

impl Content<'_> {
    pub(super) fn value_bytes(&self) -> usize {
        match self {
            Content::Inline(value) => value.len(),
            Content::Chunked { value_bytes } => *value_bytes,
        }
    }
}

impl StoredRecord<'_> {
    /// The stored form of a record whose value is `value`; the chunks of a long one go beside it.
    pub(super) fn encode(key: &[u8], seq: Seq, value: &[u8]) -> Vec<u8> {
        let inline = chunks_of(value.len()) == 0;
        let mut body = Vec::with_capacity(CRC_BYTES + 9 + if inline { value.len() } else { 4 });
        body.extend_from_slice(&[0; CRC_BYTES]);
        body.extend_from_slice(&seq.0.to_le_bytes());
        if inline {
            body.push(FORM_INLINE);
            body.extend_from_slice(value);
        } else {
            body.push(FORM_CHUNKED);
            // Values are at most VALUE_BYTES_MAX, checked where they come in.
            body.extend_from_slice(&(value.len() as u32).to_le_bytes());
        }
        sealed(key, body)
    }

    pub(super) fn decode<'a>(key: &[u8], stored: &'a [u8]) -> Result<StoredRecord<'a>, &'static str> {
        let mut body = opened(key, stored)?;
        let seq = Seq(u64::from_le_bytes(take(&mut body)?));
        let content = match take::<1>(&mut body)?[0] {
            FORM_INLINE => Content::Inline(body),
            FORM_CHUNKED => {
                let value_bytes = u32::from_le_bytes(take(&mut body)?) as usize;
                if !body.is_empty() || chunks_of(value_bytes) == 0 {
                    return Err("a record of another format");
                }
                Content::Chunked { value_bytes }
            }
            _ => return Err("a record of another format"),
        };
        Ok(StoredRecord { seq, content })
    }
}

/// The stored form of a chunk.
pub(super) fn encode_chunk(key: &[u8], seq: Seq, part: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(CRC_BYTES + 8 + part.len());
    body.extend_from_slice(&[0; CRC_BYTES]);
    body.extend_from_slice(&seq.0.to_le_bytes());
    body.extend_from_slice(part);
    sealed(key, body)
}

/// The part of a value that a chunk of the record written by `seq` holds.
pub(super) fn decode_chunk<'a>(key: &[u8], stored: &'a [u8], seq: Seq) -> Result<&'a [u8], &'static str> {
    let mut body = opened(key, stored)?;
    if u64::from_le_bytes(take(&mut body)?) != seq.0 {
        return Err("a chunk of another write");
    }
    Ok(body)
}

/// Writes the checksum into the room left for it.
fn sealed(key: &[u8], mut body: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &body[CRC_BYTES..]);
    body[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    body
}

/// What the checksum covers, if it holds.
fn opened<'a>(key: &[u8], mut stored: &'a [u8]) -> Result<&'a [u8], &'static str> {
    let crc = u32::from_le_bytes(take(&mut stored)?);
    if crc != crc32c::crc32c_append(crc32c::crc32c(key), stored) && !on(Mutant::P3Checksum) {
        return Err("a checksum that does not match");
    }
    Ok(stored)
}

/// Takes bytes off the front.
pub(super) fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], &'static str> {
    let (taken, rest) = input.split_first_chunk().ok_or("an item that ends too early")?;
    *input = rest;
    Ok(*taken)
}

/// Joins a value of `value_bytes` from its parts; `part` gives the item of sled with that key.
pub(super) fn join_chunks<I: AsRef<[u8]>>(
    keyspace: Keyspace,
    key: (RecordKind, &[u8]),
    seq: Seq,
    value_bytes: usize,
    mut part: impl FnMut(&[u8]) -> Result<Option<I>, crate::EngineError>,
) -> Result<Bytes, crate::EngineError> {
    let corrupt = |index: u32, what: &str| {
        let name = key.1.escape_ascii();
        crate::EngineError::corrupt_in(keyspace, format!("chunk {index} of {:?} \"{name}\": {what}", key.0))
    };
    // Grows with what is there: a length is believed only as far as chunks bear it out.
    let mut value = Vec::new();
    for index in 0..chunks_of(value_bytes) {
        let chunk_key = chunk_key(keyspace, key.0, key.1, index);
        let stored = part(&chunk_key)?.ok_or_else(|| corrupt(index, "missing"))?;
        let part = decode_chunk(&chunk_key, stored.as_ref(), seq).map_err(|what| corrupt(index, what))?;
        if part.len() != CHUNK_BYTES_MAX.min(value_bytes - value.len()) {
            return Err(corrupt(index, "of another length"));
        }
        value.extend_from_slice(part);
    }
    Ok(Bytes::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYSPACE: Keyspace = Keyspace { partition: PartitionId(7), generation: Generation(9) };

    /// Guards against a checksum that leaves a byte of key or value out: every flipped bit must be noticed.
    #[test]
    fn every_bit_is_covered() {
        let key = record_key(KEYSPACE, &RecordKey::user(Bytes::from_static(b"name")));
        let stored = StoredRecord::encode(&key, Seq(5), b"value");
        let whole = StoredRecord { seq: Seq(5), content: Content::Inline(b"value") };
        assert_eq!(StoredRecord::decode(&key, &stored), Ok(whole));
        for bit in 0..stored.len() * 8 {
            let mut damaged = stored.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(StoredRecord::decode(&key, &damaged).is_err(), "bit {bit} of the value");
        }
        for bit in 0..key.len() * 8 {
            let mut other = key.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(StoredRecord::decode(&other, &stored).is_err(), "bit {bit} of the key");
        }
    }

    /// Guards against names whose chunks collide: with fixed-length ends, `a` + index and `a` + 4 bytes would be one key.
    #[test]
    fn chunk_keys_are_distinct() {
        let names: [&[u8]; 5] = [b"", b"\0", b"\0\0\0\0", b"\0\0\0\0\0\0\0\0", b"\0\x01\0\0\0\0"];
        let mut keys: Vec<_> = names
            .iter()
            .flat_map(|name| (0..4).map(|index| chunk_key(KEYSPACE, RecordKind::User, name, index << 8 | index)))
            .collect();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }

    /// Guards against a chunk of an older value in a newer one.
    #[test]
    fn a_chunk_belongs_to_one_write() {
        let key = chunk_key(KEYSPACE, RecordKind::User, b"name", 0);
        let stored = encode_chunk(&key, Seq(4), b"part");
        assert_eq!(decode_chunk(&key, &stored, Seq(4)), Ok(&b"part"[..]));
        assert!(decode_chunk(&key, &stored, Seq(5)).is_err());
    }
}
