//! Which keys of a partition are locked, for whom, and until when (P22).
//!
//! A lock binds from the append of its entry. For writers it ends at the append of the entry that releases it: they are
//! judged against what is appended (P12). For readers it ends when that entry is committed, because they see what is
//! committed. Locks that a home holds in memory only, for its own keys, hide nothing: until the decision commits, the
//! value before it is the value.
//!
//! A transaction that carries a fencing token holds its name, shared with others of the same token: a newer token waits
//! for it, or its writes could follow those of the newer one.
//!
//! The table is a part of the primary's memory of its term. It is never taken back: where entries are, the term is over.

use crate::fingerprint::hash_table;
use crate::mutants::{Mutant, on};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::hash::{Hash, Hasher};
use types::AttemptId;

/// A key, and whether it is written (exclusive) or only read (shared).
pub(crate) type Locked = (Bytes, bool);

#[derive(Clone, Debug, Default)]
pub(crate) struct Locks {
    by_key: FxHashMap<Bytes, Lock>,
    /// Who came with a token of this name's newest grant and is not over: until then no newer one is used.
    fences: FxHashMap<Bytes, Vec<AttemptId>>,
}

impl Hash for Locks {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hash_table(&self.by_key, hasher);
        hash_table(&self.fences, hasher);
    }
}

#[derive(Clone, Hash, Debug, Default)]
struct Lock {
    exclusive: Option<AttemptId>,
    /// The exclusive lock's holder may have been decided elsewhere already: readers wait.
    hides: bool,
    shared: Vec<AttemptId>,
    /// Released by an entry that is not committed: free for writers, hidden from readers.
    ending: Vec<AttemptId>,
}

/// Why keys can't be locked or written at the moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Conflict {
    /// The first key in question.
    pub(crate) key: Bytes,
    /// Who holds that key and all others in question.
    pub(crate) holders: Vec<AttemptId>,
}

impl Locks {
    /// Who stands in the way of locking these keys.
    pub(crate) fn conflict<'a>(&self, keys: impl IntoIterator<Item = (&'a Bytes, bool)>) -> Option<Conflict> {
        let mut conflict: Option<Conflict> = None;
        for (key, exclusive) in keys {
            let Some(lock) = self.by_key.get(key) else { continue };
            let shared = if exclusive { lock.shared.as_slice() } else { &[] };
            let mut holders = lock.exclusive.iter().chain(shared).copied().peekable();
            if holders.peek().is_some() {
                let found = conflict.get_or_insert_with(|| Conflict { key: key.clone(), holders: Vec::new() });
                found.holders.extend(holders);
            }
        }
        conflict
    }

    /// Locks keys that are free. `hides`: readers of those that are written wait for the outcome.
    pub(crate) fn take(&mut self, attempt: AttemptId, keys: &[Locked], hides: bool) {
        for (key, exclusive) in keys {
            let lock = self.by_key.entry(key.clone()).or_default();
            if *exclusive {
                (lock.exclusive, lock.hides) = (Some(attempt), hides);
            } else {
                lock.shared.push(attempt);
            }
        }
    }

    /// The release is appended: writers may go on. Where the lock hides, readers wait until [`Locks::end`].
    pub(crate) fn release(&mut self, attempt: AttemptId, keys: &[Locked]) {
        for (key, exclusive) in keys {
            let Some(lock) = self.by_key.get_mut(key) else { continue };
            if *exclusive {
                if lock.exclusive.take_if(|holder| *holder == attempt).is_some() && lock.hides {
                    lock.ending.push(attempt);
                }
            } else {
                lock.shared.retain(|holder| *holder != attempt);
            }
            self.drop_if_free(key);
        }
    }

    /// Who stands in the way of a newer token of this name.
    pub(crate) fn fence_conflict(&self, name: &Bytes) -> Option<Conflict> {
        let holders = self.fences.get(name).filter(|_| !on(Mutant::FenceHeld))?.clone();
        Some(Conflict { key: name.clone(), holders })
    }

    /// The attempt's writes come with the newest token of this name, and must not come after a newer one.
    pub(crate) fn take_fence(&mut self, attempt: AttemptId, name: &Bytes) {
        self.fences.entry(name.clone()).or_default().push(attempt);
    }

    /// What it writes is appended, or never will be.
    pub(crate) fn release_fence(&mut self, attempt: AttemptId, name: &Bytes) {
        if let Some(holders) = self.fences.get_mut(name) {
            holders.retain(|holder| *holder != attempt);
            if holders.is_empty() {
                self.fences.remove(name);
            }
        }
    }

    /// The release is committed: readers may go on.
    pub(crate) fn end(&mut self, attempt: AttemptId, keys: &[Locked]) {
        for (key, _) in keys {
            if let Some(lock) = self.by_key.get_mut(key) {
                lock.ending.retain(|ending| *ending != attempt);
                self.drop_if_free(key);
            }
        }
    }

    fn drop_if_free(&mut self, key: &Bytes) {
        let is_free = |lock: &Lock| lock.exclusive.is_none() && lock.shared.is_empty() && lock.ending.is_empty();
        if self.by_key.get(key).is_some_and(is_free) {
            self.by_key.remove(key);
        }
    }

    /// Whether readers of the key must wait for an outcome.
    pub(crate) fn hides(&self, key: &Bytes) -> bool {
        self.by_key.get(key).is_some_and(Lock::hides)
    }

    /// Every key whose readers must wait, by no order.
    pub(crate) fn hidden(&self) -> impl Iterator<Item = &Bytes> {
        self.by_key.iter().filter(|(_, lock)| lock.hides()).map(|(key, _)| key)
    }
}

impl Lock {
    fn hides(&self) -> bool {
        !on(Mutant::P22Reads) && (self.exclusive.is_some() && self.hides || !self.ending.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{PartitionId, Term};

    fn attempt(counter: u64) -> AttemptId {
        AttemptId { home: PartitionId(1), term: Term(1), counter }
    }

    fn keys(names: &[(&str, bool)]) -> Vec<Locked> {
        names.iter().map(|(name, exclusive)| (Bytes::copy_from_slice(name.as_bytes()), *exclusive)).collect()
    }

    fn holders(locks: &Locks, names: &[(&str, bool)]) -> Vec<AttemptId> {
        let keys = keys(names);
        locks.conflict(keys.iter().map(|(key, exclusive)| (key, *exclusive))).map_or(Vec::new(), |c| c.holders)
    }

    /// Guards against readers that shut each other out, and writers that do not.
    #[test]
    fn shared_goes_with_shared_alone() {
        let mut locks = Locks::default();
        locks.take(attempt(1), &keys(&[("a", false), ("b", true)]), true);
        assert_eq!(holders(&locks, &[("a", false), ("c", true)]), []);
        assert_eq!(holders(&locks, &[("c", true), ("a", true), ("b", false)]), [attempt(1), attempt(1)]);
        locks.take(attempt(2), &keys(&[("a", false)]), true);
        assert_eq!(holders(&locks, &[("a", true)]), [attempt(1), attempt(2)]);
        locks.release(attempt(1), &keys(&[("a", false), ("b", true)]));
        assert_eq!(holders(&locks, &[("a", true), ("b", true)]), [attempt(2)]);
    }

    /// P22. Guards against a lock that ends for readers when it ends for writers, and against one that never ends.
    #[test]
    fn a_release_ends_for_readers_when_it_is_committed() {
        let mut locks = Locks::default();
        let held = keys(&[("a", true), ("b", false)]);
        locks.take(attempt(1), &held, true);
        assert!(locks.hides(&held[0].0) && !locks.hides(&held[1].0));
        locks.release(attempt(1), &held);
        assert_eq!(holders(&locks, &[("a", true), ("b", true)]), []);
        locks.take(attempt(2), &keys(&[("a", false)]), true);
        assert!(locks.hides(&held[0].0));
        locks.end(attempt(1), &held);
        assert!(!locks.hides(&held[0].0));
        locks.release(attempt(2), &keys(&[("a", false)]));
        assert!(locks.by_key.is_empty());
    }

    /// Guards against a home's own locks that keep readers waiting for nothing.
    #[test]
    fn what_only_memory_knows_hides_nothing() {
        let mut locks = Locks::default();
        let held = keys(&[("a", true)]);
        locks.take(attempt(1), &held, false);
        assert!(!locks.hides(&held[0].0));
        locks.release(attempt(1), &held);
        assert!(!locks.hides(&held[0].0) && locks.by_key.is_empty());
    }
}
