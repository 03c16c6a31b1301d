//! Messages between replicas as they travel, and back, checked.

use crate::peer::between;
use bytes::Bytes;
use replcore::{Body, Chunk, Message, SnapshotId};
use types::{EntryId, PartitionId, Record, RecordKey, RecordKind, Seq, Term};
use wire::convert::{Malformed, entries_from_wire, entries_to_wire, required};
use wire::v1;
use wire::v1::peer_message::Body as Wire;

/// What a message takes on the wire beside its entries' payloads, at most about.
const MESSAGE_OVERHEAD_BYTES: usize = 48;
/// What an entry takes beside its payload, at most about.
const ENTRY_OVERHEAD_BYTES: usize = 24;

/// A message of `partition` as it travels.
pub(crate) fn to_wire(partition: PartitionId, message: Message) -> v1::PeerMessage {
    let body = match message.body {
        Body::Prepare { prev, entries, committed, held_by_all } => Wire::Prepare(v1::Prepare {
            prev: Some(prev.into()),
            entries: entries_to_wire(entries),
            committed: committed.0,
            held_by_all: held_by_all.0,
        }),
        Body::Prepared { seq } => Wire::Prepared(v1::Prepared { seq: seq.0 }),
        Body::Mismatch { last, committed } => {
            Wire::Mismatch(v1::Mismatch { last: Some(last.into()), committed: committed.0 })
        }
        Body::Fenced { promised } => Wire::Fenced(v1::Fenced { promised: promised.0 }),
        Body::NotMember => Wire::NotMember(v1::NotMember {}),
        Body::Seal => Wire::Seal(v1::Seal {}),
        Body::Sealed { last, committed } => {
            Wire::Sealed(v1::Sealed { last: Some(last.into()), committed: committed.0 })
        }
        Body::Fetch { after, last } => Wire::Fetch(v1::Fetch { after: after.0, last: Some(last.into()) }),
        Body::Fetched { prev, entries, last } => Wire::Fetched(v1::Fetched {
            prev: Some(prev.into()),
            entries: entries_to_wire(entries),
            last: Some(last.into()),
        }),
        Body::Chunk(chunk) => Wire::Chunk(chunk_to_wire(*chunk)),
        Body::ChunkTaken { snapshot, next, arrived, asked } => {
            Wire::ChunkTaken(v1::ChunkTaken { snapshot: snapshot.0, next, arrived, asked })
        }
        Body::Confirm { nonce } => Wire::Confirm(v1::Confirm { nonce }),
        Body::Confirmed { nonce } => Wire::Confirmed(v1::Confirmed { nonce }),
    };
    v1::PeerMessage { partition: partition.0, term: message.term.0, body: Some(body) }
}

/// What arrived. Entries' payloads are copied: they stay in a log for long, and a slice would keep alive everything
/// that came in the same read.
///
/// # Errors
/// [`Malformed`] where a part is missing or entries do not follow one another.
pub(crate) fn from_wire(message: v1::PeerMessage) -> Result<(PartitionId, Message), Malformed> {
    let id = |id: Option<v1::EntryId>, name: &str| required(id, name).map(EntryId::from);
    let body = match required(message.body, "a peer message's body")? {
        Wire::Prepare(prepare) => {
            let prev = id(prepare.prev, "prepare.prev")?;
            Body::Prepare {
                prev,
                entries: entries_from_wire(prev, copied(prepare.entries))?,
                committed: Seq(prepare.committed),
                held_by_all: Seq(prepare.held_by_all),
            }
        }
        Wire::Prepared(prepared) => Body::Prepared { seq: Seq(prepared.seq) },
        Wire::Mismatch(mismatch) => {
            Body::Mismatch { last: id(mismatch.last, "mismatch.last")?, committed: Seq(mismatch.committed) }
        }
        Wire::Fenced(fenced) => Body::Fenced { promised: Term(fenced.promised) },
        Wire::NotMember(_) => Body::NotMember,
        Wire::Seal(_) => Body::Seal,
        Wire::Sealed(sealed) => {
            Body::Sealed { last: id(sealed.last, "sealed.last")?, committed: Seq(sealed.committed) }
        }
        Wire::Fetch(fetch) => Body::Fetch { after: Seq(fetch.after), last: id(fetch.last, "fetch.last")? },
        Wire::Fetched(fetched) => {
            let prev = id(fetched.prev, "fetched.prev")?;
            Body::Fetched {
                prev,
                entries: entries_from_wire(prev, copied(fetched.entries))?,
                last: id(fetched.last, "fetched.last")?,
            }
        }
        Wire::Chunk(chunk) => Body::Chunk(Box::new(chunk_from_wire(chunk)?)),
        Wire::ChunkTaken(v1::ChunkTaken { snapshot, next, arrived, asked }) => {
            Body::ChunkTaken { snapshot: SnapshotId(snapshot), next, arrived, asked }
        }
        Wire::BetweenPartitions(_) => {
            return Err(Malformed("a word between partitions is none between replicas".into()));
        }
        Wire::Confirm(confirm) => Body::Confirm { nonce: confirm.nonce },
        Wire::Confirmed(confirmed) => Body::Confirmed { nonce: confirmed.nonce },
    };
    Ok((PartitionId(message.partition), Message { term: Term(message.term), body }))
}

/// What a message takes on the wire, at most about.
pub(crate) fn wire_bytes(message: &v1::PeerMessage) -> usize {
    let entries = match &message.body {
        Some(Wire::Prepare(prepare)) => &prepare.entries,
        Some(Wire::Fetched(fetched)) => &fetched.entries,
        Some(Wire::Chunk(chunk)) => {
            let bytes = |record: &v1::StateRecord| record.name.len() + record.value.len() + ENTRY_OVERHEAD_BYTES;
            return MESSAGE_OVERHEAD_BYTES + chunk.records.iter().map(bytes).sum::<usize>();
        }
        Some(Wire::BetweenPartitions(between)) => return MESSAGE_OVERHEAD_BYTES + between::wire_bytes(between),
        _ => return MESSAGE_OVERHEAD_BYTES,
    };
    MESSAGE_OVERHEAD_BYTES + entries.iter().map(|entry| entry.payload.len() + ENTRY_OVERHEAD_BYTES).sum::<usize>()
}

fn chunk_to_wire(chunk: Chunk) -> v1::Chunk {
    let Chunk { snapshot, number, start, records, settled, asked } = chunk;
    let record = |(key, record): (RecordKey, Record)| v1::StateRecord {
        kind: u32::from(key.kind as u8),
        name: key.name,
        seq: record.seq.0,
        value: record.value,
    };
    v1::Chunk {
        snapshot: snapshot.0,
        number,
        start: Some(start.into()),
        records: records.into_iter().map(record).collect(),
        settled: settled.map(|settled| settled.0),
        asked,
    }
}

/// # Errors
/// [`Malformed`] where a record is of no kind that this version knows, or the start is missing.
fn chunk_from_wire(chunk: v1::Chunk) -> Result<Chunk, Malformed> {
    let record = |record: v1::StateRecord| {
        let kind = u8::try_from(record.kind).ok().and_then(RecordKind::from_number);
        let kind = kind.ok_or_else(|| Malformed(format!("a record of the unknown kind {}", record.kind)))?;
        let key = RecordKey { kind, name: Bytes::copy_from_slice(&record.name) };
        Ok((key, Record { seq: Seq(record.seq), value: Bytes::copy_from_slice(&record.value) }))
    };
    Ok(Chunk {
        snapshot: SnapshotId(chunk.snapshot),
        number: chunk.number,
        start: required(chunk.start, "chunk.start")?.into(),
        records: chunk.records.into_iter().map(record).collect::<Result<_, Malformed>>()?,
        settled: chunk.settled.map(Seq),
        asked: chunk.asked,
    })
}

fn copied(mut entries: Vec<v1::LogEntry>) -> Vec<v1::LogEntry> {
    for entry in &mut entries {
        entry.payload = Bytes::copy_from_slice(&entry.payload);
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Batch, Entry};

    fn bodies() -> Vec<Body> {
        let id = |term, seq| EntryId { term: Term(term), seq: Seq(seq) };
        let entries = vec![
            Entry { id: id(2, 6), payload: Batch::default().encode() },
            Entry { id: id(3, 7), payload: Batch::default().encode() },
        ];
        vec![
            Body::Prepare { prev: id(2, 5), entries: entries.clone(), committed: Seq(4), held_by_all: Seq(3) },
            Body::Prepare { prev: id(2, 5), entries: vec![], committed: Seq(4), held_by_all: Seq(3) },
            Body::Prepared { seq: Seq(9) },
            Body::Mismatch { last: id(1, 2), committed: Seq(1) },
            Body::Fenced { promised: Term(8) },
            Body::NotMember,
            Body::Seal,
            Body::Sealed { last: id(4, 5), committed: Seq(3) },
            Body::Fetch { after: Seq(2), last: id(4, 5) },
            Body::Fetched { prev: id(2, 5), entries, last: id(3, 9) },
            Body::Chunk(Box::new(Chunk {
                snapshot: SnapshotId(6),
                number: 2,
                start: id(3, 9),
                records: vec![(
                    RecordKey::user(Bytes::from_static(b"k")),
                    Record { seq: Seq(8), value: Bytes::from_static(b"v") },
                )],
                settled: Some(Seq(11)),
                asked: 12,
            })),
            Body::ChunkTaken { snapshot: SnapshotId(6), next: 3, arrived: 5, asked: 13 },
            Body::Confirm { nonce: 77 },
            Body::Confirmed { nonce: 78 },
        ]
    }

    /// Guards against a field that is lost or swapped on the way.
    #[test]
    fn what_is_sent_is_received() {
        for body in bodies() {
            let message = Message { term: Term(5), body };
            let sent = to_wire(PartitionId(3), message.clone());
            assert_eq!(from_wire(sent), Ok((PartitionId(3), message)));
        }
    }

    /// Guards against a panic on, or acceptance of, a message without its parts, and entries whose terms fall.
    #[test]
    fn a_message_without_its_parts_is_refused() {
        for body in bodies() {
            let mut message = to_wire(PartitionId(3), Message { term: Term(5), body });
            match message.body.as_mut().unwrap() {
                Wire::Prepare(v1::Prepare { prev, .. }) => *prev = None,
                Wire::Mismatch(v1::Mismatch { last, .. }) | Wire::Sealed(v1::Sealed { last, .. }) => *last = None,
                Wire::Fetch(fetch) => fetch.last = None,
                Wire::Fetched(fetched) => fetched.entries[0].term = 1,
                Wire::Chunk(chunk) => chunk.records[0].kind = 300,
                _ => message.body = None,
            }
            assert!(from_wire(message).is_err());
        }
    }
}
