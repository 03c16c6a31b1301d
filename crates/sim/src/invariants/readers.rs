//! What scanners and watchers are shown is what is committed, all of it, once and in order; and a key that expires is gone
//! no earlier than its time.

use super::Verdict;
use super::prefixes::Chosen;
use crate::queue::{MS, Micros};
use bytes::Bytes;
use replcore::{Changed, Fed};
use std::collections::BTreeMap;
use types::{Batch, Entry, Expiry, Lifetime, Page, PageItem, PageQuery, PartitionId, RecordKind, Seq};

/// Users' keys that changed in an entry.
fn users(entry: &Entry) -> Vec<Changed> {
    let batch = Batch::decode(&entry.payload).expect("what is committed decodes");
    let users = batch.changes.into_iter().filter(|change| change.key.kind == RecordKind::User);
    users.map(|change| Changed { seq: entry.id.seq, key: change.key.name, value: change.value }).collect()
}

/// A page is the state at its instant, and that is no earlier than what was acknowledged when it was asked for.
pub(super) fn scanned(chosen: &Chosen, partition: PartitionId, query: &PageQuery, page: &Page, floor: Seq) -> Verdict {
    if page.at < floor {
        return Err(format!("a page is as of {}, but {floor} was acknowledged before it was asked for", page.at));
    }
    let mut state: BTreeMap<Bytes, (Seq, Bytes)> = BTreeMap::new();
    for seq in 1..=page.at.0 {
        let entry =
            chosen.get(partition, Seq(seq)).ok_or_else(|| format!("a page is as of {}, not committed", page.at))?;
        for Changed { seq, key, value } in users(entry) {
            match value {
                Some(value) => drop(state.insert(key, (seq, value))),
                None => drop(state.remove(&key)),
            }
        }
    }
    let covered = |key: &Bytes| query.covers(key) && page.resume.as_ref().is_none_or(|resume| key <= resume);
    let expected = state.into_iter().filter(|(key, _)| covered(key)).map(|(name, (seq, value))| {
        let shown = !query.names_only && value.len() <= query.bytes_max;
        PageItem { name, seq, value: shown.then_some(value) }
    });
    let expected: Vec<_> = expected.collect();
    if expected != page.items {
        return Err(format!("a page is {page:?}; at that instant there was {expected:?}"));
    }
    Ok(())
}

/// What a watcher is shown is the log, without a gap and without a repetition.
pub(super) fn fed(chosen: &Chosen, partition: PartitionId, after: Seq, fed: &Fed) -> Verdict {
    let mut expected = Vec::new();
    for seq in after.0 + 1..=fed.through.0 {
        let entry =
            chosen.get(partition, Seq(seq)).ok_or_else(|| format!("a watcher is shown s{seq}, not committed"))?;
        expected.extend(users(entry));
    }
    if expected != fed.changes {
        return Err(format!("after {after} a watcher is shown {fed:?}; committed is {expected:?}"));
    }
    Ok(())
}

/// Keys that have a time to live, as of what is committed.
#[derive(Debug, Default)]
pub(super) struct Living {
    values: BTreeMap<(PartitionId, Bytes), Value>,
}

#[derive(Debug)]
struct Value {
    version: Seq,
    /// When it may go at the earliest.
    lives_until: Option<Micros>,
    committed_at: Micros,
}

impl Living {
    /// An entry is committed, the next of its partition.
    pub(super) fn committed(&mut self, now: Micros, partition: PartitionId, entry: &Entry) -> Verdict {
        let batch = Batch::decode(&entry.payload).map_err(|error| format!("{entry:?}: {error}"))?;
        let by_time = |key: &Bytes| {
            let hidden = |change: &&types::Change| change.key.kind == RecordKind::Expiry && change.key.name == *key;
            batch.request.is_none() && batch.changes.iter().any(|change| hidden(&change) && change.value.is_none())
        };
        for change in &batch.changes {
            let place = (partition, change.key.name.clone());
            match (change.key.kind, &change.value) {
                (RecordKind::User, Some(_)) => {
                    let value = Value { version: entry.id.seq, lives_until: None, committed_at: now };
                    self.values.insert(place, value);
                }
                (RecordKind::User, None) => {
                    let gone = self.values.remove(&place);
                    if by_time(&change.key.name) {
                        let until = gone.and_then(|value| value.lives_until);
                        if until.is_none_or(|until| now < until) {
                            return Err(format!("{entry:?} deletes a key by time, at {now}; it lives until {until:?}"));
                        }
                    }
                }
                (RecordKind::Expiry, Some(stored)) => {
                    let expiry = Expiry::decode(stored).map_err(|error| format!("{entry:?}: {error}"))?;
                    match self.values.get_mut(&place) {
                        Some(value) if value.version == expiry.version => {
                            value.lives_until = Some(match expiry.lifetime {
                                Lifetime::Milliseconds(ttl_ms) => value.committed_at + ttl_ms * MS,
                                Lifetime::Lease(lease) => lease.0 * MS,
                            });
                        }
                        other => return Err(format!("{entry:?} gives {other:?} a time to live")),
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A partition with a key whose time is not over.
    pub(super) fn any(&self) -> Option<PartitionId> {
        self.values.iter().find(|(_, value)| value.lives_until.is_some()).map(|((partition, _), _)| *partition)
    }
}
