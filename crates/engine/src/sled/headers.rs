//! What a keyspace has besides its records: how far it is applied, its counts, and whether its deletion has begun.
//!
//! Headers are read once, when the store is opened, and kept in memory. On disk the headers of neighbouring partitions
//! lie in one item: a call of `apply` touches many partitions, and sled takes as long for a few bytes as for a page. An
//! item is written with the batch that changes a header in it, so `applied` moves with what it counts (P1).

use super::end_of;
use super::failure::sled_error;
use super::layout::{self, CHUNK_BYTES_MAX};
use crate::{EngineError, Keyspace, KeyspaceStatistics};
use ::sled::{Batch, Db};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;
use types::{EntryId, Generation, PartitionId, Seq, Term};

/// Neighbours whose headers lie together.
const PARTITIONS_PER_BLOCK: u32 = 16;
const HEADER_BYTES: usize = 4 + 8 + 1 + 4 * 8;
/// Partitions with many lives make their block go on in a further item.
const HEADERS_PER_PART: usize = 300;
const _: () = assert!(HEADERS_PER_PART * HEADER_BYTES <= CHUNK_BYTES_MAX);

const FLAG_DELETING: u8 = 1;

/// What a keyspace has besides its records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Header {
    pub applied: EntryId,
    pub deleting: bool,
    pub counts: KeyspaceStatistics,
}

/// What is known of a keyspace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    Sound(Header),
    /// There are records, but no header.
    Headless,
}

/// Every keyspace that exists.
pub(super) type Slots = BTreeMap<Keyspace, Slot>;
/// What is to become of headers; `None` for one that goes.
pub(super) type Changes = BTreeMap<Keyspace, Option<Header>>;

/// Adds to `batch` the items that hold the headers which `changes` changes, given what is there now.
pub(super) fn add(batch: &mut Batch, slots: &Slots, changes: &Changes) {
    let blocks: BTreeSet<u32> = changes.keys().map(|keyspace| block_of(*keyspace)).collect();
    for block in blocks {
        let mut headers = headers_in(slots, block);
        let parts_before = headers.len().div_ceil(HEADERS_PER_PART);
        for (keyspace, header) in changes.iter().filter(|(keyspace, _)| block_of(**keyspace) == block) {
            match header {
                Some(header) => headers.insert(*keyspace, *header),
                None => headers.remove(keyspace),
            };
        }
        let headers: Vec<_> = headers.into_iter().collect();
        let mut parts = 0;
        for part in headers.chunks(HEADERS_PER_PART) {
            let key = layout::headers_key(block, parts);
            let content: Vec<u8> = part.iter().flat_map(|(keyspace, header)| encode(*keyspace, header)).collect();
            let stored = layout::encode_headers(&key, &content);
            batch.insert(key, stored);
            parts += 1;
        }
        for part in parts..parts_before as u32 {
            batch.remove(layout::headers_key(block, part));
        }
    }
}

/// Reads every header, and looks for keyspaces that have none.
pub(super) fn read(db: &Db, path: &Path) -> Result<Slots, EngineError> {
    let mut slots = Slots::new();
    let corrupt = |what: &str| EngineError::corrupt(format!("{}: headers: {what}", path.display()));
    for item in db.range(..layout::RECORDS_BEGIN.to_vec()) {
        let (key, stored) = item.map_err(|error| sled_error("read", path, error))?;
        let content = layout::decode_headers(&key, &stored).map_err(corrupt)?;
        let headers = content.chunks_exact(HEADER_BYTES);
        if !headers.remainder().is_empty() {
            return Err(corrupt("an item that ends too early"));
        }
        for header in headers {
            let (keyspace, header) = decode(header).map_err(corrupt)?;
            slots.insert(keyspace, Slot::Sound(header));
        }
    }
    let mut from = Bound::Included(layout::RECORDS_BEGIN.to_vec());
    while let Some(key) = db.range((from, Bound::Unbounded)).keys().next() {
        let key = key.map_err(|error| sled_error("read", path, error))?;
        let keyspace = layout::keyspace_of(&key).ok_or_else(|| corrupt("a key that this program never wrote"))?;
        slots.entry(keyspace).or_insert(Slot::Headless);
        from = match end_of(&layout::keyspace_prefix(keyspace)) {
            Bound::Excluded(next) => Bound::Included(next),
            _ => break,
        };
    }
    Ok(slots)
}

fn block_of(keyspace: Keyspace) -> u32 {
    keyspace.partition.0 / PARTITIONS_PER_BLOCK
}

fn headers_in(slots: &Slots, block: u32) -> BTreeMap<Keyspace, Header> {
    let first = PartitionId(block * PARTITIONS_PER_BLOCK);
    let last = PartitionId(first.0 + (PARTITIONS_PER_BLOCK - 1));
    let range = Keyspace { partition: first, generation: Generation(0) }..=Keyspace {
        partition: last,
        generation: Generation(u64::MAX),
    };
    let sound = slots.range(range).filter_map(|(keyspace, slot)| match slot {
        Slot::Sound(header) => Some((*keyspace, *header)),
        Slot::Headless => None,
    });
    sound.collect()
}

fn encode(keyspace: Keyspace, header: &Header) -> [u8; HEADER_BYTES] {
    let mut encoded = [0; HEADER_BYTES];
    encoded[..4].copy_from_slice(&keyspace.partition.0.to_le_bytes());
    encoded[4..12].copy_from_slice(&keyspace.generation.0.to_le_bytes());
    encoded[12] = if header.deleting { FLAG_DELETING } else { 0 };
    let Header { applied, counts, .. } = header;
    let numbers = [applied.term.0, applied.seq.0, counts.user_records, counts.user_bytes];
    for (place, number) in encoded[13..].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    encoded
}

fn decode(mut input: &[u8]) -> Result<(Keyspace, Header), &'static str> {
    let input = &mut input;
    let partition = PartitionId(u32::from_le_bytes(layout::take(input)?));
    let generation = Generation(u64::from_le_bytes(layout::take(input)?));
    let [flags] = layout::take(input)?;
    if flags & !FLAG_DELETING != 0 {
        return Err("a header of another format");
    }
    let mut number = || layout::take(input).map(u64::from_le_bytes);
    let applied = EntryId { term: Term(number()?), seq: Seq(number()?) };
    let counts = KeyspaceStatistics { user_records: number()?, user_bytes: number()? };
    Ok((Keyspace { partition, generation }, Header { applied, deleting: flags & FLAG_DELETING != 0, counts }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyspace(partition: u32, generation: u64) -> Keyspace {
        Keyspace { partition: PartitionId(partition), generation: Generation(generation) }
    }

    fn header(number: u64) -> Header {
        Header {
            applied: EntryId { term: Term(number), seq: Seq(u64::MAX - number) },
            deleting: number.is_multiple_of(2),
            counts: KeyspaceStatistics { user_records: number * 3, user_bytes: number * 5 },
        }
    }

    /// Guards against headers that are lost when their block outgrows one item, and that stay when it shrinks again.
    #[test]
    fn headers_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let db = ::sled::Config::new().path(directory.path()).flush_every_ms(None).open().unwrap();
        let mut slots = Slots::new();
        let mut change = |changes: Changes| {
            let mut batch = Batch::default();
            add(&mut batch, &slots, &changes);
            db.apply_batch(batch).unwrap();
            for (keyspace, header) in changes {
                match header {
                    Some(header) => slots.insert(keyspace, Slot::Sound(header)),
                    None => slots.remove(&keyspace),
                };
            }
            assert_eq!(read(&db, directory.path()).unwrap(), slots);
        };
        let edges = [keyspace(0, 0), keyspace(15, u64::MAX), keyspace(16, 0), keyspace(u32::MAX, u64::MAX)];
        change(edges.into_iter().zip(1..).map(|(keyspace, number)| (keyspace, Some(header(number)))).collect());
        let many = || (0..1000).map(|number| (keyspace(3, number), number));
        change(many().map(|(keyspace, number)| (keyspace, Some(header(number)))).collect());
        change(many().map(|(keyspace, number)| (keyspace, (number < 5).then(|| header(number + 1)))).collect());
        change(many().map(|(keyspace, _)| (keyspace, None)).collect());
        change(edges.into_iter().map(|keyspace| (keyspace, None)).collect());
        assert!(db.is_empty());
    }

    /// Guards against records without a header that pass for an empty keyspace.
    #[test]
    fn records_without_a_header_are_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let db = ::sled::Config::new().path(directory.path()).flush_every_ms(None).open().unwrap();
        for lost in [keyspace(7, 7), keyspace(7, 8), keyspace(u32::MAX, u64::MAX)] {
            db.insert(layout::chunk_key(lost, types::RecordKind::User, b"n", 1), b"").unwrap();
        }
        let slots = read(&db, directory.path()).unwrap();
        assert_eq!(slots.len(), 3);
        assert!(slots.values().all(|slot| *slot == Slot::Headless));
    }
}
