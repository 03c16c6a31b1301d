//! What a replica keeps in the write-ahead log, how it is encoded there, and how it is read back after a crash (P1).
//!
//! A record begins with the partition's number and a tag; integers are LEB128 varints. An `Append` stands for
//! "everything from its first entry on is replaced", so a truncation needs no record of its own.

use bytes::{Buf, BufMut, Bytes};
use rustc_hash::FxHashMap;
use types::entry::{put_varint, take_varint};
use types::{
    Batch, Entry, EntryId, Epoch, Generation, MalformedBatch, PartitionId, Remembered, RequestId, Seq, Stamp, Term,
};

/// What the node is to the partition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Standing {
    /// No view names it: it answers `NotMember` (P4). Its promise stays.
    #[default]
    None,
    /// Replica or learner.
    Member,
    /// Damaged (P3): votes for nothing. Holds the epoch at which the viewleader noted it, once it has.
    OutOfService(Option<Epoch>),
}

/// Everything that a replica keeps on disk except its log and its state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Base {
    /// Which life of the partition on this node.
    pub generation: Generation,
    /// What the node is to the partition.
    pub standing: Standing,
    /// The highest term it has agreed to.
    pub promised: Term,
    /// May lag behind what is committed.
    pub committed: Seq,
    /// The log starts after this entry.
    pub trim: EntryId,
    /// The highest generation that was ever begun here, of a snapshot that was not finished too (P23).
    pub highest_generation: Generation,
    /// P23: the state is exact from here on; before, it may hold records of later, committed entries.
    pub settled: Seq,
}

/// One record of one partition.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum PersistRecord {
    /// Replaces the base; the log stays but for what `trim` covers.
    Base(Base),
    /// Replaces the base; the log is empty: a new generation begins, or the record ends (P4).
    Reset(Base),
    /// `promised` rises to this.
    Promise(Term),
    /// The log now ends with these, whatever stood at or after the first one's seq.
    Append {
        /// At least one, without holes.
        entries: Vec<Entry>,
        /// What is known to be committed.
        committed: Seq,
    },
}

/// A record that does not decode or does not fit those before it: damage, or another version's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed log record: {0}")]
pub struct MalformedRecord(pub String);

impl From<MalformedBatch> for MalformedRecord {
    fn from(e: MalformedBatch) -> Self {
        MalformedRecord(e.0.to_owned())
    }
}

const TAG_BASE: u64 = 1;
const TAG_PROMISE: u64 = 2;
const TAG_APPEND: u64 = 3;
const TAG_RESET: u64 = 4;

impl Base {
    fn encode(&self, tag: u64, out: &mut impl BufMut) {
        put_varint(out, tag);
        put_varint(out, self.generation.0);
        match self.standing {
            Standing::None => put_varint(out, 0),
            Standing::Member => put_varint(out, 1),
            Standing::OutOfService(None) => put_varint(out, 2),
            Standing::OutOfService(Some(epoch)) => {
                put_varint(out, 3);
                put_varint(out, epoch.0);
            }
        }
        let Base { promised, committed, trim, highest_generation, settled, .. } = self;
        for number in [promised.0, committed.0, trim.term.0, trim.seq.0, highest_generation.0, settled.0] {
            put_varint(out, number);
        }
    }

    fn decode(input: &mut Bytes) -> Result<Base, MalformedRecord> {
        let generation = Generation(take_varint(input)?);
        let standing = match take_varint(input)? {
            0 => Standing::None,
            1 => Standing::Member,
            2 => Standing::OutOfService(None),
            3 => Standing::OutOfService(Some(Epoch(take_varint(input)?))),
            _ => return Err(bad("unknown standing")),
        };
        let promised = Term(take_varint(input)?);
        let committed = Seq(take_varint(input)?);
        let trim = EntryId { term: Term(take_varint(input)?), seq: Seq(take_varint(input)?) };
        let highest_generation = Generation(take_varint(input)?);
        let settled = Seq(take_varint(input)?);
        Ok(Base { generation, standing, promised, committed, trim, highest_generation, settled })
    }
}

impl PersistRecord {
    /// Appends the record's bytes.
    pub fn encode(&self, partition: PartitionId, out: &mut impl BufMut) {
        put_varint(out, u64::from(partition.0));
        match self {
            PersistRecord::Base(base) => base.encode(TAG_BASE, out),
            PersistRecord::Reset(base) => base.encode(TAG_RESET, out),
            PersistRecord::Promise(term) => {
                put_varint(out, TAG_PROMISE);
                put_varint(out, term.0);
            }
            PersistRecord::Append { entries, committed } => {
                put_varint(out, TAG_APPEND);
                put_varint(out, committed.0);
                put_varint(out, entries.first().map_or(0, |e| e.id.seq.0));
                put_varint(out, entries.len() as u64);
                for entry in entries {
                    put_varint(out, entry.id.term.0);
                    put_varint(out, entry.payload.len() as u64);
                    out.put_slice(&entry.payload);
                }
            }
        }
    }

    /// Reads what [`PersistRecord::encode`] wrote.
    ///
    /// # Errors
    /// [`MalformedRecord`] for anything else; never panics, whatever the bytes.
    pub fn decode(mut input: Bytes) -> Result<(PartitionId, PersistRecord), MalformedRecord> {
        let input = &mut input;
        let partition = u32::try_from(take_varint(input)?).map_err(|_| bad("a partition's number is too large"))?;
        let record = match take_varint(input)? {
            TAG_BASE => PersistRecord::Base(Base::decode(input)?),
            TAG_RESET => PersistRecord::Reset(Base::decode(input)?),
            TAG_PROMISE => PersistRecord::Promise(Term(take_varint(input)?)),
            TAG_APPEND => {
                let committed = Seq(take_varint(input)?);
                let mut seq = Seq(take_varint(input)?);
                let count = take_varint(input)?;
                if seq.0 == 0 || count == 0 || seq.0.checked_add(count).is_none() {
                    return Err(bad("an append without entries, or with impossible seqs"));
                }
                let mut entries = Vec::new();
                for _ in 0..count {
                    let term = Term(take_varint(input)?);
                    let bytes = take_varint(input)?;
                    let bytes = usize::try_from(bytes).ok().filter(|b| *b <= input.len());
                    let payload = input.split_to(bytes.ok_or_else(|| bad("an entry ends too early"))?);
                    entries.push(Entry { id: EntryId { term, seq }, payload });
                    seq = seq.next();
                }
                PersistRecord::Append { entries, committed }
            }
            tag => return Err(bad(format!("unknown tag {tag}"))),
        };
        if input.has_remaining() {
            return Err(bad("bytes after the end"));
        }
        Ok((PartitionId(partition), record))
    }
}

fn bad(what: impl Into<String>) -> MalformedRecord {
    MalformedRecord(what.into())
}

/// Folds one partition's records, in the order they were written, into what the replica held.
///
/// Replay may begin in the middle: segments whose entries are all trimmed are gone, and a [`PersistRecord::Base`] written
/// before they went says what else they held.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Recovery {
    base: Base,
    log: Vec<Entry>,
}

/// What a replica starts from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Everything but the log.
    pub base: Base,
    /// What follows `base.trim`, without holes.
    pub log: Vec<Entry>,
    /// The state's `applied`.
    pub applied: EntryId,
    /// Records of kind `Requests` found in the state, by name.
    pub requests: Vec<(Bytes, Bytes)>,
}

impl Recovery {
    /// Takes the next record.
    ///
    /// # Errors
    /// [`MalformedRecord`] where it does not fit: a hole in the log, or an entry that does not decode.
    pub fn replay(&mut self, record: PersistRecord) -> Result<(), MalformedRecord> {
        match record {
            PersistRecord::Reset(base) => {
                self.log.clear();
                self.base = base;
            }
            PersistRecord::Base(base) => {
                let trimmed = self.log.partition_point(|entry| entry.id.seq <= base.trim.seq);
                self.log.drain(..trimmed);
                self.base = Base { promised: self.base.promised.max(base.promised), ..base };
            }
            PersistRecord::Promise(term) => self.base.promised = self.base.promised.max(term),
            PersistRecord::Append { entries, committed } => {
                let Some(first) = entries.first() else { return Ok(()) };
                for entry in &entries {
                    Batch::decode(&entry.payload)?;
                }
                let keep = self.log.partition_point(|entry| entry.id.seq < first.id.seq);
                self.log.truncate(keep);
                if let Some(last) = self.log.last()
                    && last.id.seq.next() != first.id.seq
                {
                    return Err(bad(format!("{:?} follows {:?}: entries are missing", first.id, last.id)));
                }
                self.log.extend(entries);
                self.base.committed = self.base.committed.max(committed);
            }
        }
        Ok(())
    }

    /// Everything but the log, so far.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// The log, so far.
    pub fn log(&self) -> &[Entry] {
        &self.log
    }

    /// Joins the log with the `applied` and the `Requests` records of its generation's state.
    ///
    /// # Errors
    /// [`MalformedRecord`] where log and state do not meet: something between them is lost.
    pub fn finish(mut self, applied: EntryId, requests: Vec<(Bytes, Bytes)>) -> Result<Recovered, MalformedRecord> {
        let Base { trim, .. } = self.base;
        if self.base.standing != Standing::Member {
            // Log and state of a replica that takes no part say nothing, whatever a crash left of them.
            let base = Base { committed: trim.seq, ..self.base };
            return Ok(Recovered { base, log: Vec::new(), applied: trim, requests: Vec::new() });
        }
        let end = self.log.last().map_or(trim, |entry| entry.id);
        let apart = |what: &str| {
            Err(bad(format!(
                "{what}: the log holds what follows {trim:?} up to {end:?}, the state ends at {applied:?}"
            )))
        };
        if self.log.first().is_some_and(|first| first.id.seq != trim.seq.next()) {
            return apart("entries are missing");
        }
        if applied.seq < trim.seq || applied.seq > end.seq {
            return apart("log and state do not meet");
        }
        let applied_term = match (applied.seq.0 - trim.seq.0) as usize {
            0 => trim.term,
            after => self.log[after - 1].id.term,
        };
        if applied_term != applied.term {
            return apart("log and state disagree on a term");
        }
        self.base.committed = self.base.committed.clamp(applied.seq, end.seq);
        Ok(Recovered { base: self.base, log: self.log, applied, requests })
    }
}

/// Remembered requests with the entries that carried them out, and the outcomes of those that are transactions.
pub(crate) type Requests = (Vec<(Seq, Remembered)>, Vec<(RequestId, Bytes)>);

/// In a remembered request's flags, of which the lowest is `replaced`: the outcome of a transaction follows.
const HAS_OUTCOME: u64 = 2;

/// Many requests of one partition as one record of the state, and back.
pub(crate) fn encode_requests(requests: &[(Seq, Remembered)], transactions: &FxHashMap<RequestId, Bytes>) -> Bytes {
    let mut out = bytes::BytesMut::with_capacity(requests.len() * 24 + 8);
    put_varint(&mut out, requests.len() as u64);
    for (seq, r) in requests {
        for number in [seq.0, r.id.client, r.id.counter, r.stamp.0, r.outcome.version.0] {
            put_varint(&mut out, number);
        }
        let outcome = transactions.get(&r.id);
        put_varint(&mut out, u64::from(r.outcome.replaced) | if outcome.is_some() { HAS_OUTCOME } else { 0 });
        if let Some(outcome) = outcome {
            put_varint(&mut out, outcome.len() as u64);
            out.put_slice(outcome);
        }
    }
    out.freeze()
}

/// # Errors
/// [`MalformedRecord`] for anything that [`encode_requests`] did not write.
pub(crate) fn decode_requests(mut input: Bytes) -> Result<Requests, MalformedRecord> {
    let input = &mut input;
    let count = take_varint(input)?;
    let (mut requests, mut transactions) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let seq = Seq(take_varint(input)?);
        let id = RequestId { client: take_varint(input)?, counter: take_varint(input)? };
        let stamp = Stamp(take_varint(input)?);
        let version = Seq(take_varint(input)?);
        let flags = take_varint(input)?;
        if flags & HAS_OUTCOME != 0 {
            let bytes = take_varint(input)?;
            let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= input.len());
            transactions.push((id, input.split_to(bytes.ok_or_else(|| bad("an outcome ends too early"))?)));
        }
        let replaced = flags & 1 != 0;
        requests.push((seq, Remembered { id, stamp, outcome: types::WriteOutcome { version, replaced } }));
    }
    if input.has_remaining() {
        return Err(bad("bytes after the end"));
    }
    Ok((requests, transactions))
}
