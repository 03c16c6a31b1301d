//! A node's disk: what a crash leaves of it, and what it can be trusted for.
//!
//! The log of all partitions is one list of records. What was synced stays; of what was written since, a crash leaves a
//! prefix that chance decides. The state is saved up to a checkpoint; of the changes since, a crash leaves a prefix too.
//! Beside the records themselves each partition has two folds of them, one of everything written and one of what is
//! durable: what the invariants look at, made without the replica's own code.

use crate::random::Random;
use bytes::Bytes;
use replcore::{Apply, Base, MalformedRecord, PersistIndex, PersistRecord, Recovered, Recovery, Standing};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use types::{
    Entry, EntryId, Generation, NodeId, PageQuery, PartitionId, Record, RecordKey, RecordKind, Seq, Term, View,
};

/// What a list of one partition's records says. Entries stay here also when they are trimmed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fold {
    pub(crate) base: Base,
    pub(crate) promised: Term,
    /// The entry before the first of `entries`.
    start: EntryId,
    entries: Vec<Entry>,
}

impl Fold {
    fn add(&mut self, record: &PersistRecord) {
        match record {
            PersistRecord::Base(base) => self.set_base(*base),
            PersistRecord::Reset(base) => {
                self.entries.clear();
                self.start = base.trim;
                self.set_base(*base);
            }
            PersistRecord::Promise(term) => self.promised = self.promised.max(*term),
            PersistRecord::Append { entries, .. } => {
                let Some(first) = entries.first() else { return };
                let keep = first.id.seq.0.saturating_sub(self.start.seq.0 + 1) as usize;
                self.entries.truncate(keep);
                self.entries.extend(entries.iter().cloned());
            }
        }
    }

    fn set_base(&mut self, base: Base) {
        self.base = base;
        self.promised = self.promised.max(base.promised);
    }

    pub(crate) fn get(&self, seq: Seq) -> Option<&Entry> {
        self.entries.get(seq.0.checked_sub(self.start.seq.0 + 1)? as usize)
    }

    pub(crate) fn last(&self) -> EntryId {
        self.entries.last().map_or(self.start, |entry| entry.id)
    }

    /// The entry before the first one.
    pub(crate) fn start(&self) -> EntryId {
        self.start
    }

    /// What lies before the start came with a snapshot, and is committed.
    pub(crate) fn holds(&self, id: EntryId) -> bool {
        id == self.start || id.seq < self.start.seq || self.get(id.seq).is_some_and(|entry| entry.id == id)
    }
}

/// One partition's log as written and as durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Folds {
    pub(crate) written: Fold,
    pub(crate) durable: Fold,
}

/// The state of one generation of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) applied: EntryId,
    pub(crate) records: BTreeMap<RecordKey, Record>,
}

type Store = BTreeMap<(PartitionId, Generation), Kept>;

#[derive(Debug)]
struct Logged {
    partition: PartitionId,
    index: PersistIndex,
    record: PersistRecord,
}

/// Everything that a node keeps.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Its id, once it has been told.
    pub(crate) id: Option<NodeId>,
    /// Its start count.
    pub(crate) starts: u64,
    /// The newest view that it has on disk (P5).
    pub(crate) view: Option<Arc<View>>,
    /// Partitions whose state can't be read (P3).
    damaged: BTreeMap<PartitionId, Generation>,
    records: VecDeque<Logged>,
    /// The place in the log of the first of `records`.
    first: u64,
    /// Everything before this place is synced.
    durable: u64,
    folds: Vec<Folds>,
    live: Store,
    saved: Store,
    unsaved: VecDeque<(PartitionId, Apply)>,
}

impl Disk {
    pub(crate) fn new(partitions: u32) -> Disk {
        Disk {
            id: None,
            starts: 0,
            view: None,
            damaged: BTreeMap::new(),
            records: VecDeque::new(),
            first: 0,
            durable: 0,
            folds: vec![Folds::default(); partitions as usize],
            live: Store::new(),
            saved: Store::new(),
            unsaved: VecDeque::new(),
        }
    }

    pub(crate) fn folds(&self, partition: PartitionId) -> &Folds {
        &self.folds[partition.0 as usize]
    }

    pub(crate) fn highest_promised(&self) -> Term {
        self.folds.iter().map(|folds| folds.durable.promised).max().unwrap_or_default()
    }

    pub(crate) fn append(&mut self, partition: PartitionId, index: PersistIndex, record: PersistRecord) {
        self.folds[partition.0 as usize].written.add(&record);
        self.records.push_back(Logged { partition, index, record });
    }

    /// The place after the last record.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    /// The first place that is not synced.
    pub(crate) fn synced(&self) -> u64 {
        self.durable
    }

    /// A sync of everything before `end` is done; the highest index of each partition that it covers.
    pub(crate) fn sync(&mut self, end: u64) -> BTreeMap<PartitionId, PersistIndex> {
        let mut covered = BTreeMap::new();
        let done = (self.durable.max(self.first) - self.first) as usize;
        for logged in self.records.range(done..(end - self.first) as usize) {
            self.folds[logged.partition.0 as usize].durable.add(&logged.record);
            covered.insert(logged.partition, logged.index);
        }
        self.durable = end;
        covered
    }

    /// The process or the machine dies. How many of the records that were not synced are lost.
    pub(crate) fn crash(&mut self, random: &mut Random) -> u64 {
        let kept = random.between(self.durable, self.end());
        let lost = self.end() - kept;
        self.sync(kept);
        self.records.truncate((kept - self.first) as usize);
        for folds in &mut self.folds {
            folds.written = folds.durable.clone();
        }
        let survives = random.between(0, self.unsaved.len() as u64) as usize;
        self.save(survives);
        self.unsaved.clear();
        self.live = self.saved.clone();
        lost
    }

    /// What the replica of a partition starts from.
    pub(crate) fn recover(&self, partition: PartitionId) -> Result<Recovered, MalformedRecord> {
        let mut recovery = Recovery::default();
        for logged in self.records.iter().filter(|logged| logged.partition == partition) {
            let mut bytes = bytes::BytesMut::new();
            logged.record.encode(partition, &mut bytes);
            let (read, record) = PersistRecord::decode(bytes.freeze())?;
            if read != partition || record != logged.record {
                return Err(MalformedRecord(format!("{:?} is read back as {record:?} of {read}", logged.record)));
            }
            recovery.replay(record)?;
        }
        let kept = self.saved.get(&(partition, recovery.base().generation)).cloned().unwrap_or_default();
        let requests = kept.records.into_iter().filter(|(key, _)| key.kind == RecordKind::Requests);
        let recovered = recovery.finish(kept.applied, requests.map(|(key, r)| (key.name, r.value)).collect())?;
        let fold = &self.folds(partition).durable;
        let end = recovered.log.last().map_or(recovered.base.trim, |entry| entry.id);
        // Who takes no part has no log, whatever a crash left of it.
        let takes_part = recovered.base.standing == Standing::Member;
        let same = recovered.base.promised == fold.promised
            && (end == fold.last() || !takes_part)
            && recovered.log.iter().all(|entry| fold.get(entry.id.seq) == Some(entry));
        if !same {
            return Err(MalformedRecord(format!(
                "what is read back promises {} and ends at {end:?}; written were {} and {:?}",
                recovered.base.promised,
                fold.promised,
                fold.last()
            )));
        }
        Ok(recovered)
    }

    /// The state takes in what the replica handed out.
    pub(crate) fn apply(&mut self, partition: PartitionId, apply: Apply) {
        take_in(&mut self.live, partition, &apply);
        self.unsaved.push_back((partition, apply));
    }

    /// How many changes are not saved yet.
    pub(crate) fn unsaved(&self) -> usize {
        self.unsaved.len()
    }

    /// The oldest `count` unsaved changes are on disk.
    pub(crate) fn save(&mut self, count: usize) {
        let count = count.min(self.unsaved.len());
        for (partition, apply) in self.unsaved.drain(..count) {
            take_in(&mut self.saved, partition, &apply);
        }
    }

    /// The present generation of a partition, and how far its state is saved.
    pub(crate) fn saved_through(&self, partition: PartitionId) -> (Generation, Seq) {
        let generation = self.folds(partition).written.base.generation;
        (generation, self.saved.get(&(partition, generation)).map_or(Seq(0), |kept| kept.applied.seq))
    }

    pub(crate) fn live(&self, partition: PartitionId, generation: Generation) -> Option<&Kept> {
        self.live.get(&(partition, generation))
    }

    /// The state that a partition's present generation has.
    pub(crate) fn live_now(&self, partition: PartitionId) -> Option<&Kept> {
        self.live(partition, self.folds(partition).written.base.generation)
    }

    /// A generation's data goes (P5).
    pub(crate) fn delete(&mut self, partition: PartitionId, generation: Generation) {
        self.live.remove(&(partition, generation));
        self.saved.remove(&(partition, generation));
        self.unsaved.retain(|(p, apply)| *p != partition || apply.generation != generation);
    }

    /// Records of a generation after `after`, all kinds but requests, until they have `bytes_max` bytes.
    pub(crate) fn page(
        &self,
        partition: PartitionId,
        generation: Generation,
        after: Option<&RecordKey>,
        bytes_max: usize,
    ) -> Vec<(RecordKey, Record)> {
        let Some(kept) = self.live(partition, generation) else { return Vec::new() };
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut bytes = 0;
        kept.records
            .range((first, Bound::Unbounded))
            .filter(|(key, _)| key.kind != RecordKind::Requests)
            .take_while(|(key, record)| {
                let fits = bytes < bytes_max;
                bytes += key.name.len() + record.value.len();
                fits
            })
            .map(|(key, record)| (key.clone(), record.clone()))
            .collect()
    }

    /// Records as a scan asks for them: what the state has applied, the records, and whether these are all.
    pub(crate) fn scan(
        &self,
        partition: PartitionId,
        generation: Generation,
        query: &PageQuery,
    ) -> (Seq, Vec<(Bytes, Record)>, bool) {
        let Some(kept) = self.live(partition, generation) else { return (Seq(0), Vec::new(), true) };
        let wanted = |key: &RecordKey| key.kind == query.kind && query.covers(&key.name);
        let mut records = kept.records.iter().filter(|(key, _)| wanted(key));
        let mut bytes = 0;
        let mut page = Vec::new();
        while page.len() < query.records_max && (bytes < query.bytes_max || page.is_empty()) {
            let Some((key, record)) = records.next() else { return (kept.applied.seq, page, true) };
            bytes += key.name.len() + record.value.len();
            page.push((key.name.clone(), record.clone()));
        }
        (kept.applied.seq, page, false)
    }

    /// P5: what a crash left of generations that have ended, or never began.
    pub(crate) fn forget_other_generations(&mut self) {
        let folds = &self.folds;
        let present = |partition: PartitionId| folds[partition.0 as usize].durable.base.generation;
        self.live.retain(|(partition, generation), _| *generation == present(*partition));
        self.saved.retain(|(partition, generation), _| *generation == present(*partition));
    }

    /// A partition of which there is data that nobody should have.
    pub(crate) fn surplus(&self, is_named: impl Fn(PartitionId) -> bool) -> Option<PartitionId> {
        let present = |partition: PartitionId| self.folds(partition).written.base.generation;
        let needless = |(partition, generation): &&(PartitionId, Generation)| {
            *generation != present(*partition) || !is_named(*partition)
        };
        self.live.keys().find(needless).map(|(partition, _)| *partition)
    }

    /// The present state of the partition can't be read from now on.
    pub(crate) fn damage(&mut self, partition: PartitionId) {
        let generation = self.folds(partition).written.base.generation;
        self.damaged.insert(partition, generation);
    }

    pub(crate) fn is_damaged(&self, partition: PartitionId) -> bool {
        self.damaged.get(&partition).is_some_and(|damaged| *damaged == self.folds(partition).written.base.generation)
    }

    /// Partitions that are.
    pub(crate) fn damaged(&self) -> Vec<PartitionId> {
        self.damaged.keys().copied().filter(|partition| self.is_damaged(*partition)).collect()
    }

    /// The place up to which no record has an entry that a partition still keeps; `first_kept` by partition.
    pub(crate) fn needless(&self, first_kept: &[Seq]) -> u64 {
        let needed = |logged: &Logged| match &logged.record {
            PersistRecord::Append { entries, .. } => {
                entries.last().is_some_and(|last| last.id.seq >= first_kept[logged.partition.0 as usize])
            }
            _ => false,
        };
        let place = self.records.iter().position(needed).unwrap_or(self.records.len());
        (self.first + place as u64).min(self.durable)
    }

    /// The records before this place go, all of which must be durable.
    pub(crate) fn cut(&mut self, place: u64) {
        while self.first < place && self.records.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// Whether the partition votes for nothing (P3).
    pub(crate) fn is_out_of_service(&self, partition: PartitionId) -> bool {
        self.is_damaged(partition) || matches!(self.folds(partition).written.base.standing, Standing::OutOfService(_))
    }
}

fn take_in(store: &mut Store, partition: PartitionId, apply: &Apply) {
    let kept = store.entry((partition, apply.generation)).or_default();
    kept.applied = apply.through;
    for (key, value, seq) in &apply.changes {
        match value {
            Some(value) => drop(kept.records.insert(key.clone(), Record { seq: *seq, value: value.clone() })),
            None => drop(kept.records.remove(key)),
        }
    }
}
