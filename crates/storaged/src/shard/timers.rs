//! When keys expire: a shard's timers, one for each version that has a time to live, and one clock for all of them.
//!
//! Ordered by when they are due, so that the shard sleeps until the first one. A million of them take about 200 MB over all
//! primaries. A timer stays until its replica says that it is over; until then it is due again and again, so that a
//! proposal which was refused costs nothing but time.

use crate::clock::Moment;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use types::{Expiry, Seq};

/// Keys proposed in one burst: each costs a read of the engine.
const KEYS_MAX: usize = 256;
/// What was proposed and not settled is proposed again after this.
const AGAIN_MS: u64 = 5_000;

/// The timers of a shard.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: BTreeSet<(Moment, usize, Bytes)>,
    /// By place and key.
    keys: FxHashMap<usize, FxHashMap<Bytes, Timer>>,
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    version: Seq,
    due: Moment,
}

impl Timers {
    /// This version lives for so long from now on, unless a later one is known.
    pub(crate) fn begin(&mut self, place: usize, key: &Bytes, expiry: Expiry, now: Moment) {
        let timers = self.keys.entry(place).or_default();
        let known = timers.get_key_value(key).map(|(key, timer)| (key.clone(), *timer));
        if known.as_ref().is_some_and(|(_, timer)| timer.version >= expiry.version) {
            return;
        }
        // A key shares the memory of the entry that it came with, value and all: this one has its own.
        let key = known.as_ref().map_or_else(|| Bytes::copy_from_slice(key), |(key, _)| key.clone());
        if let Some((key, timer)) = known {
            self.due.remove(&(timer.due, place, key));
        }
        let due = now.after_ms(expiry.ttl_ms);
        self.due.insert((due, place, key.clone()));
        timers.insert(key, Timer { version: expiry.version, due });
    }

    /// These versions need no timer any more.
    pub(crate) fn over(&mut self, place: usize, keys: &[(Bytes, Seq)]) {
        let Some(timers) = self.keys.get_mut(&place) else { return };
        for (key, version) in keys {
            if timers.get(key).is_some_and(|timer| timer.version == *version)
                && let Some((key, timer)) = timers.remove_entry(key)
            {
                self.due.remove(&(timer.due, place, key));
            }
        }
        if timers.is_empty() {
            self.keys.remove(&place);
        }
    }

    /// The replica at this place serves no more.
    pub(crate) fn end(&mut self, place: usize) {
        for (key, timer) in self.keys.remove(&place).into_iter().flatten() {
            self.due.remove(&(timer.due, place, key));
        }
    }

    /// When the first is due.
    pub(crate) fn next(&self) -> Option<Moment> {
        self.due.first().map(|(due, _, _)| *due)
    }

    /// Those that are due, by place, as many as fit a burst.
    pub(crate) fn take_due(&mut self, now: Moment) -> BTreeMap<usize, Vec<(Bytes, Seq)>> {
        let mut taken: BTreeMap<usize, Vec<(Bytes, Seq)>> = BTreeMap::new();
        for _ in 0..KEYS_MAX {
            let Some((due, place, key)) = self.due.pop_first() else { break };
            if due > now {
                self.due.insert((due, place, key));
                break;
            }
            let Some(timer) = self.keys.get_mut(&place).and_then(|timers| timers.get_mut(&key)) else { continue };
            timer.due = now.after_ms(AGAIN_MS);
            self.due.insert((timer.due, place, key.clone()));
            taken.entry(place).or_default().push((key, timer.version));
        }
        taken
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expiry(version: u64, ttl_ms: u64) -> Expiry {
        Expiry { version: Seq(version), ttl_ms }
    }

    /// Guards against a timer that outlives its version, one that is lost because its proposal was, and a leak.
    #[test]
    fn a_timer_is_due_until_it_is_over() {
        let mut timers = Timers::default();
        let (a, b) = (Bytes::from("a"), Bytes::from("b"));
        timers.begin(3, &a, expiry(7, 100), Moment(0));
        timers.begin(3, &b, expiry(8, 50), Moment(0));
        timers.begin(3, &a, expiry(9, 500), Moment(10));
        timers.begin(3, &a, expiry(7, 1), Moment(10));
        assert_eq!((timers.next(), timers.len()), (Some(Moment(50)), 2), "the later version counts");
        assert!(timers.take_due(Moment(49)).is_empty());
        assert_eq!(timers.take_due(Moment(50)), BTreeMap::from([(3, vec![(b.clone(), Seq(8))])]));
        assert!(timers.take_due(Moment(50)).is_empty(), "not at once again");
        let later = timers.take_due(Moment(50 + AGAIN_MS));
        assert_eq!(later[&3], [(a.clone(), Seq(9)), (b.clone(), Seq(8))]);
        timers.over(3, &[(b.clone(), Seq(7)), (a.clone(), Seq(9))]);
        assert_eq!(timers.len(), 1, "another version's end is not this one's");
        timers.over(3, &[(b, Seq(8))]);
        assert!(timers.len() == 0 && timers.keys.is_empty());
        timers.begin(3, &a, expiry(1, 1), Moment(0));
        timers.end(3);
        assert!(timers.next().is_none() && timers.keys.is_empty());
    }

    /// Guards against a burst that does nothing but delete, and a key that keeps a whole entry in memory.
    #[test]
    fn many_are_taken_in_pieces() {
        let mut timers = Timers::default();
        for number in 0..1_000u64 {
            timers.begin(0, &Bytes::from(number.to_string()), expiry(number + 1, 5), Moment(0));
        }
        let sizes: Vec<usize> = (0..5).map(|_| timers.take_due(Moment(5)).values().map(Vec::len).sum()).collect();
        assert_eq!(sizes, [256, 256, 256, 232, 0]);
    }
}
