//! When keys expire: a shard's timers, one for each version that does not live for ever, and one clock for all of them.
//!
//! Ordered by when they are due, so that the shard sleeps until the first one. A million of them take about 200 MB over all
//! primaries. A timer stays until its replica says that it is over; until then it is due again and again, so that a
//! proposal which was refused costs nothing but time. A version that lives as long as a lease is due when the viewleaders
//! say that the lease has ended, and not before.

use crate::clock::Moment;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use types::{Expiry, LeaseId, Lifetime, Seq};

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
    leases: BTreeMap<LeaseId, Bound>,
    /// Leases that keys began or ceased to be bound to.
    news: Vec<(LeaseId, bool)>,
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    version: Seq,
    /// Nothing: when its lease ends.
    due: Option<Moment>,
    lease: Option<LeaseId>,
}

/// What is bound to one lease.
#[derive(Debug, Default)]
struct Bound {
    keys: BTreeSet<(usize, Bytes)>,
    has_ended: bool,
}

impl Timers {
    /// This version lives for so long from now on, unless a later one is known.
    pub(crate) fn begin(&mut self, place: usize, key: &Bytes, expiry: Expiry, now: Moment) {
        let known = self.keys.get(&place).and_then(|timers| timers.get_key_value(key));
        let known = known.map(|(key, timer)| (key.clone(), *timer));
        if known.as_ref().is_some_and(|(_, timer)| timer.version >= expiry.version) {
            return;
        }
        // A key shares the memory of the entry that it came with, value and all: this one has its own.
        let key = known.as_ref().map_or_else(|| Bytes::copy_from_slice(key), |(key, _)| key.clone());
        let (due, lease) = match expiry.lifetime {
            Lifetime::Milliseconds(ttl_ms) => (Some(now.after_ms(ttl_ms)), None),
            Lifetime::Lease(lease) => (self.bind(lease, place, &key).then_some(now), Some(lease)),
        };
        if let Some((key, timer)) = known {
            self.unschedule(place, key, timer, lease);
        }
        if let Some(due) = due {
            self.due.insert((due, place, key.clone()));
        }
        self.keys.entry(place).or_default().insert(key, Timer { version: expiry.version, due, lease });
    }

    /// Whether the lease is known to have ended.
    fn bind(&mut self, lease: LeaseId, place: usize, key: &Bytes) -> bool {
        let bound = self.leases.entry(lease).or_default();
        if bound.keys.is_empty() {
            self.news.push((lease, true));
        }
        bound.keys.insert((place, key.clone()));
        bound.has_ended
    }

    /// Takes a timer out of the order, and off its lease unless it stays bound to that.
    fn unschedule(&mut self, place: usize, key: Bytes, timer: Timer, stays_on: Option<LeaseId>) {
        if let Some(due) = timer.due {
            self.due.remove(&(due, place, key.clone()));
        }
        if let Some(lease) = timer.lease.filter(|_| timer.lease != stays_on)
            && let Some(bound) = self.leases.get_mut(&lease)
        {
            bound.keys.remove(&(place, key));
            if bound.keys.is_empty() {
                self.leases.remove(&lease);
                self.news.push((lease, false));
            }
        }
    }

    /// These leases live no more.
    pub(crate) fn leases_ended(&mut self, leases: &[LeaseId], now: Moment) {
        for lease in leases {
            let Some(bound) = self.leases.get_mut(lease).filter(|bound| !bound.has_ended) else { continue };
            bound.has_ended = true;
            for (place, key) in &bound.keys {
                let timer = self.keys.get_mut(place).and_then(|timers| timers.get_mut(key));
                if let Some(timer) = timer.filter(|timer| timer.due.is_none()) {
                    timer.due = Some(now);
                    self.due.insert((now, *place, key.clone()));
                }
            }
        }
    }

    /// Leases that keys began (true) or ceased (false) to be bound to since this was last asked, in order.
    pub(crate) fn take_news(&mut self) -> Vec<(LeaseId, bool)> {
        std::mem::take(&mut self.news)
    }

    /// These versions need no timer any more.
    pub(crate) fn over(&mut self, place: usize, keys: &[(Bytes, Seq)]) {
        for (key, version) in keys {
            let Some(timers) = self.keys.get_mut(&place) else { return };
            if timers.get(key).is_some_and(|timer| timer.version == *version)
                && let Some((key, timer)) = timers.remove_entry(key)
            {
                if timers.is_empty() {
                    self.keys.remove(&place);
                }
                self.unschedule(place, key, timer, None);
            }
        }
    }

    /// The replica at this place serves no more.
    pub(crate) fn end(&mut self, place: usize) {
        for (key, timer) in self.keys.remove(&place).into_iter().flatten() {
            self.unschedule(place, key, timer, None);
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
            let again = now.after_ms(AGAIN_MS);
            timer.due = Some(again);
            self.due.insert((again, place, key.clone()));
            taken.entry(place).or_default().push((key, timer.version));
        }
        taken
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.keys.values().map(FxHashMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expiry(version: u64, ttl_ms: u64) -> Expiry {
        Expiry { version: Seq(version), lifetime: Lifetime::Milliseconds(ttl_ms) }
    }

    fn bound(version: u64, lease: u64) -> Expiry {
        Expiry { version: Seq(version), lifetime: Lifetime::Lease(LeaseId(lease)) }
    }

    /// Guards against a bound key that goes before its lease ends or stays after that, one that is written late and stays,
    /// and a lease that is relied on for ever.
    #[test]
    fn a_bound_key_is_due_when_its_lease_ends() {
        let mut timers = Timers::default();
        let (a, b, c) = (Bytes::from("a"), Bytes::from("b"), Bytes::from("c"));
        timers.begin(3, &a, bound(7, 1), Moment(0));
        timers.begin(4, &b, bound(8, 1), Moment(0));
        assert_eq!(timers.take_news(), [(LeaseId(1), true)]);
        timers.leases_ended(&[LeaseId(2)], Moment(5));
        assert!(timers.next().is_none() && timers.len() == 2);
        timers.begin(4, &b, bound(9, 2), Moment(6));
        assert_eq!(timers.take_news(), [(LeaseId(2), true)], "its end was told before anything was bound to it here");
        timers.leases_ended(&[LeaseId(1), LeaseId(1)], Moment(10));
        assert_eq!(
            timers.take_due(Moment(10)),
            BTreeMap::from([(3, vec![(a.clone(), Seq(7))])]),
            "b has another lease"
        );
        timers.begin(3, &c, bound(10, 1), Moment(11));
        assert_eq!(
            timers.take_due(Moment(11)),
            BTreeMap::from([(3, vec![(c.clone(), Seq(10))])]),
            "known to have ended"
        );
        timers.over(3, &[(a, Seq(7)), (c, Seq(10))]);
        assert_eq!(timers.take_news(), [(LeaseId(1), false)]);
        timers.begin(4, &b, expiry(11, 100), Moment(20));
        assert_eq!(timers.take_news(), [(LeaseId(2), false)], "written again without it");
        timers.end(4);
        assert!(timers.len() == 0 && timers.leases.is_empty() && timers.due.is_empty() && timers.keys.is_empty());
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
