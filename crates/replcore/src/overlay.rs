//! What the log says of each record and the state does not have yet.
//!
//! The state lags behind on purpose, so that rewrites of one record reach it once. Everything appended and not yet
//! applied stands here, by record; whoever reads looks here first.

use crate::fingerprint::hash_table;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use types::{Batch, Change, Record, RecordKey, RecordKind, Seq};

#[derive(Clone, Hash, Debug)]
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

impl Hash for Overlay {
    /// `bytes` follow from the records.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hash_table(&self.records, hasher);
    }
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

    /// Records of `kind` whose newest version at or below `at` is above `after` and a value: the first `count` by name
    /// among those that are `wanted`, and whether these are all.
    pub(crate) fn added(
        &self,
        kind: RecordKind,
        wanted: impl Fn(&Bytes) -> bool,
        after: Seq,
        at: Seq,
        count: usize,
    ) -> (BTreeMap<Bytes, Record>, bool) {
        let mut added = BTreeMap::new();
        let mut all = true;
        for key in self.records.keys().filter(|key| key.kind == kind && wanted(&key.name)) {
            let version = self.newest_at(key, at).filter(|version| version.seq > after);
            let Some((seq, Some(value))) = version.map(|version| (version.seq, version.value.clone())) else {
                continue;
            };
            added.insert(key.name.clone(), Record { seq, value });
            if added.len() > count {
                added.pop_last();
                all = false;
            }
        }
        (added, all)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against bytes that are counted wrongly as versions come and go: by them it is decided when the state gets what
    /// is committed, and when a store is too slow.
    #[test]
    fn bytes_are_those_of_the_versions_that_are_kept() {
        let change = |name: &'static str, value: Option<&'static str>| Change {
            key: RecordKey::user(Bytes::from_static(name.as_bytes())),
            value: value.map(|value| Bytes::from_static(value.as_bytes())),
        };
        let batch = |changes: &[Change]| Batch { changes: changes.to_vec(), ..Batch::default() };
        let (first, second, third) =
            (change("long-name", Some("value")), change("long-name", None), change("b", Some("12345678")));
        let mut overlay = Overlay::default();
        overlay.append(Seq(1), vec![first.clone(), third.clone()]);
        assert_eq!(overlay.bytes(), 2 * VERSION_BYTES + 14 + 9);
        overlay.append(Seq(2), vec![second.clone()]);
        assert_eq!(overlay.bytes(), 3 * VERSION_BYTES + 14 + 9 + 9);
        overlay.append(Seq(3), vec![first.clone()]);
        overlay.take_back(Seq(3), &batch(&[first]));
        assert_eq!(overlay.bytes(), 3 * VERSION_BYTES + 14 + 9 + 9);
        overlay.applied(Seq(1));
        assert_eq!(overlay.bytes(), VERSION_BYTES + 9);
        overlay.take_back(Seq(2), &batch(&[second]));
        assert_eq!(overlay.bytes(), 0);
    }
}
