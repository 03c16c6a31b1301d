//! What the log says of each record and the state does not have yet.
//!
//! The state lags behind on purpose, so that rewrites of one record reach it once. Everything appended and not yet
//! applied stands here, by record; whoever reads looks here first.

use bytes::Bytes;
use rustc_hash::FxHashMap;
use types::{Batch, Change, RecordKey, RecordKind, Seq};

#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) seq: Seq,
    pub(crate) value: Option<Bytes>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Overlay {
    /// Per record its versions in append order, never empty.
    records: FxHashMap<RecordKey, Vec<Version>>,
    bytes: usize,
}

/// What a version costs beside its key and value, roughly.
const VERSION_BYTES: usize = 96;

fn weight(key: &RecordKey, value: Option<&Bytes>) -> usize {
    VERSION_BYTES + key.name.len() + value.map_or(0, Bytes::len)
}

impl Overlay {
    pub(crate) fn append(&mut self, seq: Seq, changes: Vec<Change>) {
        for Change { key, value } in changes {
            self.bytes += weight(&key, value.as_ref());
            self.records.entry(key).or_default().push(Version { seq, value });
        }
    }

    /// The newest version, committed or not.
    pub(crate) fn newest(&self, key: &RecordKey) -> Option<&Version> {
        self.records.get(key)?.last()
    }

    /// The newest version at or below `limit`.
    pub(crate) fn newest_at(&self, key: &RecordKey, limit: Seq) -> Option<&Version> {
        self.records.get(key)?.iter().rev().find(|version| version.seq <= limit)
    }

    /// The newest versions of all records of a kind, committed or not, by no order.
    pub(crate) fn newest_of(&self, kind: RecordKind) -> impl Iterator<Item = (&Bytes, &Version)> {
        let of_kind = self.records.iter().filter(move |(key, _)| key.kind == kind);
        of_kind.filter_map(|(key, versions)| Some((&key.name, versions.last()?)))
    }

    /// Takes a truncated entry back. Entries are taken back newest first.
    pub(crate) fn take_back(&mut self, seq: Seq, batch: &Batch) {
        for change in &batch.changes {
            let Some(versions) = self.records.get_mut(&change.key) else { continue };
            if versions.pop_if(|version| version.seq == seq).is_some() {
                self.bytes -= weight(&change.key, change.value.as_ref());
            }
            if versions.is_empty() {
                self.records.remove(&change.key);
            }
        }
    }

    /// The state holds everything through here.
    pub(crate) fn applied(&mut self, through: Seq) {
        let bytes = &mut self.bytes;
        self.records.retain(|key, versions| {
            versions.retain(|version| {
                let keep = version.seq > through;
                if !keep {
                    *bytes -= weight(key, version.value.as_ref());
                }
                keep
            });
            !versions.is_empty()
        });
        if self.records.is_empty() {
            self.records.shrink_to(64);
        }
    }

    /// The newest version at or below `through` of each record that has one, by key.
    pub(crate) fn merged(&self, through: Seq) -> Vec<(RecordKey, Option<Bytes>, Seq)> {
        let mut merged: Vec<_> = self
            .records
            .iter()
            .filter_map(|(key, versions)| {
                let version = versions.iter().rev().find(|version| version.seq <= through)?;
                Some((key.clone(), version.value.clone(), version.seq))
            })
            .collect();
        merged.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        merged
    }

    /// Memory held, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
