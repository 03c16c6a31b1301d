//! Since when a key has been absent: what lets two reads of an absent key be compared.
//!
//! A value has a version, and a version is never used again: a key that has one version twice had it all the time between.
//! An absent key has none; it may have been put and deleted between two reads. So the primary remembers the last delete of
//! each key that was deleted lately. Of a key that it does not remember it knows this much: it was not deleted after the
//! newest delete that it has forgotten, or after its term began.

use crate::fingerprint::hash_table;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::hash::{Hash, Hasher};
use types::Seq;

/// Deletes remembered; when there are twice as many, the older half goes at once, so that `floor` rises seldom.
const REMEMBERED: usize = 4_096;

#[derive(Clone, Debug, Default)]
pub(crate) struct Absences {
    deleted: FxHashMap<Bytes, Seq>,
    /// No key that is not in `deleted` was deleted after this.
    floor: Seq,
}

impl Hash for Absences {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hash_table(&self.deleted, hasher);
        self.floor.hash(hasher);
    }
}

impl Absences {
    /// Of a term whose own entries begin at `start`.
    pub(crate) fn new(start: Seq) -> Absences {
        Absences { deleted: FxHashMap::default(), floor: start }
    }

    /// The entry at `seq` is appended and deletes the key.
    pub(crate) fn deleted(&mut self, key: Bytes, seq: Seq) {
        self.deleted.insert(key, seq);
        if self.deleted.len() >= 2 * REMEMBERED {
            let mut seqs: Vec<Seq> = self.deleted.values().copied().collect();
            let (_, median, _) = seqs.select_nth_unstable(REMEMBERED);
            self.floor = self.floor.max(*median);
            let floor = self.floor;
            self.deleted.retain(|_, seq| *seq > floor);
        }
    }

    /// What names the key's present absence: as long as it is the same the key has been absent. `None` while deletes are
    /// appended that are not committed: then nothing can be said.
    pub(crate) fn since(&self, key: &Bytes, committed: Seq) -> Option<Seq> {
        let since = self.deleted.get(key).copied().unwrap_or(self.floor);
        (since <= committed).then_some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Bytes {
        Bytes::from(format!("k{number}"))
    }

    /// Guards against an absence that looks the same after a put and a delete, remembered or forgotten.
    #[test]
    fn a_delete_ends_an_absence() {
        let mut absences = Absences::new(Seq(5));
        assert_eq!(absences.since(&key(1), Seq(5)), Some(Seq(5)));
        absences.deleted(key(1), Seq(7));
        assert_eq!(absences.since(&key(1), Seq(6)), None, "not committed yet");
        assert_eq!(absences.since(&key(1), Seq(7)), Some(Seq(7)));
        assert_eq!(absences.since(&key(2), Seq(7)), Some(Seq(5)));
        for number in 0..2 * REMEMBERED {
            absences.deleted(key(number + 10), Seq(8 + number as u64));
        }
        let last = Seq(10_000_000);
        assert!(absences.since(&key(1), last) > Some(Seq(7)), "forgotten, and not the same as before");
        assert!(absences.since(&key(2), last) > Some(Seq(5)));
        assert!(absences.deleted.len() <= 2 * REMEMBERED);
    }
}
