//! Requests that a partition remembers, so that a retry gets the first answer (P28).
//!
//! They live in the log's entries; behind the state's `applied` they live in the state, many to a record, named by the
//! seq of the first. One more record, with an empty name, holds `forgotten_before`.

use crate::fingerprint::hash_table;
use crate::persist::{MalformedRecord, decode_requests, encode_requests};
use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use types::entry::{put_varint, take_varint};
use types::{Batch, Record, RecordKey, RecordKind, Remembered, RequestId, Seq, Stamp, WriteOutcome};

#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    by_id: FxHashMap<RequestId, WriteOutcome>,
    /// Of transactions: what they were answered.
    transactions: FxHashMap<RequestId, Bytes>,
    /// In append order.
    order: VecDeque<(Seq, Remembered)>,
    /// Committed: what is older is gone from above.
    forgotten_before: Stamp,
    /// Appended, not committed.
    forgetting: VecDeque<(Seq, Stamp)>,
    /// Records in the state: the seq that names each, and its newest stamp.
    stored: VecDeque<(Seq, Stamp)>,
    /// `forgotten_before` as the state has it. It must be there before the state lacks a request that is older.
    stored_forgotten: Stamp,
}

/// Requests and outcomes in one record of the state, about.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// What one request takes there, at most about.
const REQUEST_BYTES: usize = 40;

impl Hash for Requests {
    /// `by_id` follows from `order`.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Requests { order, forgotten_before, forgetting, stored, stored_forgotten, .. } = self;
        (order, forgotten_before, forgetting, stored, stored_forgotten).hash(hasher);
        hash_table(&self.transactions, hasher);
    }
}

type Changed = (RecordKey, Option<Bytes>, Seq);

impl Requests {
    /// Reads the state's records.
    pub(crate) fn recover(records: &[(Bytes, Bytes)]) -> Result<Requests, MalformedRecord> {
        let mut requests = Requests::default();
        let mut remembered = Vec::new();
        for (name, value) in records {
            if name.is_empty() {
                requests.forgotten_before = Stamp(take_varint(&mut value.clone())?);
                requests.stored_forgotten = requests.forgotten_before;
                continue;
            }
            let name: [u8; 8] =
                name.as_ref().try_into().map_err(|_| MalformedRecord("a requests record's name".into()))?;
            let (chunk, transactions) = decode_requests(value.clone())?;
            let newest = chunk.iter().map(|(_, r)| r.stamp).max().unwrap_or_default();
            requests.stored.push_back((Seq(u64::from_be_bytes(name)), newest));
            remembered.extend(chunk);
            requests.transactions.extend(transactions);
        }
        remembered.sort_unstable_by_key(|(seq, _)| *seq);
        for (seq, request) in remembered {
            requests.remember(seq, request);
        }
        requests.drop_forgotten();
        Ok(requests)
    }

    /// Takes in an appended entry.
    pub(crate) fn append(&mut self, seq: Seq, batch: &Batch) {
        if let Some(request) = batch.request {
            self.remember(seq, request);
            // What was read from a message or the log shares its memory with all that came along.
            let outcome = batch.transaction.as_deref().map(Bytes::copy_from_slice);
            self.transactions.extend(outcome.map(|outcome| (request.id, outcome)));
        }
        if let Some(stamp) = batch.forgotten_before {
            self.forgetting.push_back((seq, stamp));
        }
    }

    fn remember(&mut self, seq: Seq, request: Remembered) {
        self.by_id.insert(request.id, request.outcome);
        self.order.push_back((seq, request));
    }

    /// Takes a truncated entry back. Entries are taken back newest first.
    pub(crate) fn take_back(&mut self, seq: Seq) {
        while let Some((_, request)) = self.order.pop_back_if(|(at, _)| *at >= seq) {
            self.forget(request.id);
        }
        while self.forgetting.pop_back_if(|(at, _)| *at >= seq).is_some() {}
    }

    /// Everything through here is committed.
    pub(crate) fn committed(&mut self, through: Seq) {
        let mut moved = false;
        while let Some((_, stamp)) = self.forgetting.pop_front_if(|(at, _)| *at <= through) {
            self.forgotten_before = self.forgotten_before.max(stamp);
            moved = true;
        }
        if moved {
            self.drop_forgotten();
        }
    }

    /// Stamps rise in almost the order of the log; one that is ahead only keeps those behind it a little longer.
    fn drop_forgotten(&mut self) {
        let before = self.forgotten_before;
        while let Some((_, request)) = self.order.pop_front_if(|(_, request)| request.stamp < before) {
            self.forget(request.id);
        }
    }

    fn forget(&mut self, id: RequestId) {
        self.by_id.remove(&id);
        self.transactions.remove(&id);
    }

    /// What this transaction was answered, if it is remembered.
    pub(crate) fn transaction(&self, id: RequestId) -> Option<Bytes> {
        self.transactions.get(&id).cloned()
    }

    /// What this request was answered, if it is remembered.
    pub(crate) fn outcome(&self, id: RequestId) -> Option<WriteOutcome> {
        self.by_id.get(&id).copied()
    }

    /// What a new request's stamp is compared with: the applied state and everything appended (P12).
    pub(crate) fn refused_before(&self) -> Stamp {
        self.forgetting.back().map_or(self.forgotten_before, |(_, stamp)| self.forgotten_before.max(*stamp))
    }

    /// The oldest stamp that is still remembered.
    pub(crate) fn oldest(&self) -> Option<Stamp> {
        self.order.front().map(|(_, request)| request.stamp)
    }

    /// The stamp of the last that is remembered.
    pub(crate) fn newest(&self) -> Option<Stamp> {
        self.order.back().map(|(_, request)| request.stamp)
    }

    /// How many are remembered.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// P23: committed requests after `after` through `through` as records of the state, about `bytes_max` of them, and
    /// the last seq among them. None: there are no more, and the records are what else the state keeps of requests.
    pub(crate) fn page(&self, after: Seq, through: Seq, bytes_max: usize) -> (Vec<(RecordKey, Record)>, Option<Seq>) {
        let first = self.order.partition_point(|(seq, _)| *seq <= after);
        let end = self.order.partition_point(|(seq, _)| *seq <= through);
        let outcome_bytes = |request: &Remembered| self.transactions.get(&request.id).map_or(0, Bytes::len);
        let mut bytes = 0;
        let fitting = self.order.range(first..end).take_while(|(_, request)| {
            let fits = bytes < bytes_max;
            bytes += REQUEST_BYTES + outcome_bytes(request);
            fits
        });
        let end = first + fitting.count();
        let chunk: Vec<_> = self.order.range(first..end).copied().collect();
        let (name, value) = match chunk.first() {
            Some((seq, _)) => {
                (Bytes::copy_from_slice(&seq.0.to_be_bytes()), encode_requests(&chunk, &self.transactions))
            }
            None => (Bytes::new(), encode_stamp(self.forgotten_before)),
        };
        let key = RecordKey { kind: RecordKind::Requests, name };
        (vec![(key, Record { seq: through, value })], chunk.last().map(|(seq, _)| *seq))
    }

    /// What the state must change to hold the committed requests after `after` through `through`.
    pub(crate) fn store(&mut self, after: Seq, through: Seq, changes: &mut Vec<Changed>) {
        let key = |name: Bytes| RecordKey { kind: RecordKind::Requests, name };
        let name = |seq: Seq| Bytes::copy_from_slice(&seq.0.to_be_bytes());
        let first = self.order.partition_point(|(seq, _)| *seq <= after);
        let end = self.order.partition_point(|(seq, _)| *seq <= through);
        while let Some((seq, _)) = self.stored.pop_front_if(|(_, newest)| *newest < self.forgotten_before) {
            changes.push((key(name(seq)), None, through));
        }
        if self.forgotten_before > self.stored_forgotten {
            self.stored_forgotten = self.forgotten_before;
            changes.push((key(Bytes::new()), Some(encode_stamp(self.forgotten_before)), through));
        }
        // Outcomes of transactions may be large, and requests many: then there are several records.
        let (mut chunk, mut chunks): (Vec<(Seq, Remembered)>, Vec<_>) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for (seq, request) in self.order.range(first..end).copied() {
            chunk.push((seq, request));
            bytes += REQUEST_BYTES + self.transactions.get(&request.id).map_or(0, Bytes::len);
            if bytes >= RECORD_BYTES_MAX {
                chunks.push(std::mem::take(&mut chunk));
                bytes = 0;
            }
        }
        chunks.push(chunk);
        for chunk in chunks {
            let Some((seq, _)) = chunk.first() else { continue };
            let newest = chunk.iter().map(|(_, r)| r.stamp).max().unwrap_or_default();
            changes.push((key(name(*seq)), Some(encode_requests(&chunk, &self.transactions)), through));
            self.stored.push_back((*seq, newest));
        }
    }
}

fn encode_stamp(stamp: Stamp) -> Bytes {
    let mut out = BytesMut::with_capacity(10);
    put_varint(&mut out, stamp.0);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a few bytes that keep the whole message they came with in memory, as long as they are remembered.
    #[test]
    fn an_outcome_has_memory_of_its_own() {
        let message = Bytes::from(vec![7; 1_000]);
        let id = RequestId { client: 1, counter: 1 };
        let outcome = WriteOutcome { version: Seq(5), replaced: false };
        let request = Some(Remembered { id, stamp: Stamp(1), outcome });
        let batch = Batch { request, transaction: Some(message.slice(3..6)), ..Batch::default() };
        let mut requests = Requests::default();
        requests.append(Seq(5), &batch);
        let remembered = requests.transaction(id).expect("it was just appended");
        assert_eq!(remembered, message.slice(3..6));
        assert!(!message.as_ptr_range().contains(&remembered.as_ptr()));
    }

    fn request(counter: u64, stamp: u64, replaced: bool) -> Remembered {
        let outcome = WriteOutcome { version: Seq(counter), replaced };
        Remembered { id: RequestId { client: 1, counter }, stamp: Stamp(stamp), outcome }
    }

    fn appended(requests: &mut Requests, seq: u64, stamp: u64, transaction: Option<&'static [u8]>) {
        let request = Some(request(seq, stamp, seq.is_multiple_of(2)));
        let transaction = transaction.map(Bytes::from_static);
        requests.append(Seq(seq), &Batch { request, transaction, ..Batch::default() });
    }

    /// The state's records after these changes.
    fn stored(records: &mut std::collections::BTreeMap<Bytes, Bytes>, changes: Vec<Changed>) {
        for (key, value, _) in changes {
            match value {
                Some(value) => drop(records.insert(key.name, value)),
                None => drop(records.remove(&key.name)),
            }
        }
    }

    /// Guards against a state that holds other answers than were given, keeps those whose time is over, or loses one that
    /// is still to be remembered: a retry would take effect twice.
    #[test]
    fn the_state_remembers_what_the_log_did() {
        let mut requests = Requests::default();
        let mut records = std::collections::BTreeMap::new();
        let mut store = |requests: &mut Requests, after, through| {
            let mut changes = Vec::new();
            requests.store(Seq(after), Seq(through), &mut changes);
            let count = changes.len();
            stored(&mut records, changes);
            (count, records.iter().map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>())
        };
        appended(&mut requests, 1, 100, None);
        appended(&mut requests, 2, 110, Some(b"done"));
        appended(&mut requests, 3, 120, None);
        let (_, records) = store(&mut requests, 0, 2);
        let recovered = Requests::recover(&records).unwrap();
        for (seq, replaced) in [(1, false), (2, true)] {
            let Remembered { id, outcome, .. } = request(seq, 0, replaced);
            assert_eq!(recovered.outcome(id), Some(outcome));
        }
        assert_eq!(recovered.outcome(request(3, 0, false).id), None, "not committed when it was stored");
        assert_eq!(recovered.transaction(request(2, 0, true).id), Some(Bytes::from_static(b"done")));
        let (_, records) = store(&mut requests, 2, 3);
        assert!(Requests::recover(&records).unwrap().outcome(request(3, 0, false).id).is_some());

        // The time of the first is over; the record that holds it still holds the second.
        let forget = |stamp| Batch { forgotten_before: Some(Stamp(stamp)), ..Batch::default() };
        requests.append(Seq(4), &forget(110));
        assert!(requests.outcome(request(1, 0, false).id).is_some(), "that is not committed yet");
        requests.committed(Seq(4));
        assert_eq!(requests.outcome(request(1, 0, false).id), None);
        let (count, records) = store(&mut requests, 3, 4);
        assert_eq!((count, records.len()), (1, 3), "the time before which everything is forgotten, and nothing else");
        assert_eq!(store(&mut requests, 4, 4).0, 0, "once");
        let recovered = Requests::recover(&records).unwrap();
        assert_eq!(recovered.refused_before(), Stamp(110));
        assert!(recovered.outcome(request(2, 0, true).id).is_some());
        requests.append(Seq(5), &forget(111));
        requests.committed(Seq(5));
        let (_, records) = store(&mut requests, 4, 5);
        assert_eq!(records.len(), 2, "what held the first two is gone");
        assert!(Requests::recover(&records).unwrap().outcome(request(3, 0, false).id).is_some());
    }

    /// Guards against the memory of an entry that has left the log.
    #[test]
    fn what_is_taken_back_was_never_asked() {
        let mut requests = Requests::default();
        appended(&mut requests, 1, 100, None);
        appended(&mut requests, 2, 110, Some(b"done"));
        requests.append(Seq(3), &Batch { forgotten_before: Some(Stamp(200)), ..Batch::default() });
        requests.take_back(Seq(3));
        requests.take_back(Seq(2));
        requests.committed(Seq(3));
        assert!(requests.outcome(request(1, 0, false).id).is_some());
        assert_eq!(requests.outcome(request(2, 0, true).id), None);
        assert_eq!(requests.transaction(request(2, 0, true).id), None);
        assert_eq!(requests.refused_before(), Stamp(0));
    }
}
