//! What lies beside the log on a node's disk: a state for each generation, and the work that a replica has done there.

use super::show;
use bytes::Bytes;
use replcore::{Apply, Effect, Event, SnapshotId, State, StateDamaged, Token};
use std::collections::BTreeMap;
use std::ops::Bound;
use types::{EntryId, Generation, NodeId, PageQuery, Record, RecordKey, RecordKind};

/// The states of one partition on one node.
#[derive(Default)]
pub(super) struct States(BTreeMap<Generation, Memory>);

#[derive(Default)]
struct Memory {
    applied: EntryId,
    records: BTreeMap<RecordKey, Record>,
}

/// What the state has to do, in the order in which it was asked to.
pub(super) enum Job {
    Read {
        to: NodeId,
        snapshot: SnapshotId,
        generation: Generation,
        after: Option<RecordKey>,
        bytes_max: usize,
    },
    Install {
        generation: Generation,
        number: u64,
        records: Vec<(RecordKey, Record)>,
        start: Option<EntryId>,
    },
    Delete {
        generation: Generation,
    },
    Scan {
        token: Token,
        generation: Generation,
        query: PageQuery,
    },
    /// What was read before.
    HandOver(Option<Event>),
}

impl Job {
    pub(super) fn of(effect: &Effect) -> Option<Job> {
        Some(match effect.clone() {
            Effect::ReadState { to, snapshot, generation, after, bytes_max } => {
                Job::Read { to, snapshot, generation, after, bytes_max }
            }
            Effect::Install { generation, number, records, start } => {
                Job::Install { generation, number, records, start }
            }
            Effect::ScanState { token, generation, query } => Job::Scan { token, generation, query },
            Effect::DeleteData { generation } => Job::Delete { generation },
            _ => return None,
        })
    }
}

impl State for States {
    fn get(&self, generation: Generation, key: &RecordKey) -> Result<Option<Record>, StateDamaged> {
        Ok(self.0.get(&generation).and_then(|memory| memory.records.get(key)).cloned())
    }

    fn list(&self, generation: Generation, kind: RecordKind) -> Result<Vec<(Bytes, Record)>, StateDamaged> {
        let records = self.0.get(&generation).into_iter().flat_map(|memory| &memory.records);
        let of_kind = records.filter(|(key, _)| key.kind == kind);
        Ok(of_kind.map(|(key, record)| (key.name.clone(), record.clone())).collect())
    }
}

impl States {
    pub(super) fn applied(&self, generation: Generation) -> EntryId {
        self.0.get(&generation).map(|memory| memory.applied).unwrap_or_default()
    }

    /// Records of remembered requests, by name.
    pub(super) fn requests(&self, generation: Generation) -> Vec<(Bytes, Bytes)> {
        let records = self.0.get(&generation).into_iter().flat_map(|memory| &memory.records);
        let requests = records.filter(|(key, _)| key.kind == RecordKind::Requests);
        requests.map(|(key, record)| (key.name.clone(), record.value.clone())).collect()
    }

    /// Every other generation goes.
    pub(super) fn retain(&mut self, generation: Generation) {
        self.0.retain(|kept, _| *kept == generation);
    }

    pub(super) fn apply(&mut self, apply: Apply) {
        let memory = self.0.entry(apply.generation).or_default();
        for (key, value, seq) in apply.changes {
            match value {
                Some(value) => drop(memory.records.insert(key, Record { seq, value })),
                None => drop(memory.records.remove(&key)),
            }
        }
        memory.applied = apply.through;
    }

    /// Does it, and says so where somebody waits.
    pub(super) fn carry_out(&mut self, job: Job) -> Option<Event> {
        match job {
            Job::Read { to, snapshot, generation, after, bytes_max } => {
                let records = self.page(generation, after.as_ref(), bytes_max);
                Some(Event::StateRead { to, snapshot, records })
            }
            Job::Install { generation, number, records, start } => {
                let memory = self.0.entry(generation).or_default();
                memory.records.extend(records);
                memory.applied = start.unwrap_or_default();
                Some(Event::Installed { generation, number })
            }
            Job::Scan { token, generation, query } => {
                let applied = self.applied(generation).seq;
                let records = self.0.get(&generation).into_iter().flat_map(|memory| &memory.records);
                let wanted = records.filter(|(key, _)| key.kind == query.kind && query.covers(&key.name));
                let mut wanted = wanted.map(|(key, record)| (key.name.clone(), record.clone()));
                let records: Vec<_> = wanted.by_ref().take(query.records_max).collect();
                Some(Event::Scanned { token, applied, records, ended: wanted.next().is_none() })
            }
            Job::HandOver(event) => event,
            Job::Delete { generation } => {
                self.0.remove(&generation);
                None
            }
        }
    }

    fn page(&self, generation: Generation, after: Option<&RecordKey>, bytes_max: usize) -> Vec<(RecordKey, Record)> {
        let Some(memory) = self.0.get(&generation) else { return Vec::new() };
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut bytes = 0;
        memory
            .records
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

    pub(super) fn show(&self) -> String {
        let one = |(generation, memory): (&Generation, &Memory)| {
            let users = memory.records.iter().filter(|(key, _)| key.kind != RecordKind::Requests);
            let records: Vec<_> = users.map(|(key, record)| show::record(key, record)).collect();
            format!("{generation} applied through {:?} [{}]", memory.applied, records.join(", "))
        };
        if self.0.is_empty() { "none".into() } else { self.0.iter().map(one).collect::<Vec<_>>().join("; ") }
    }
}
