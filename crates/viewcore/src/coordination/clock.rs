//! The leader's lease clock: which leases nobody has renewed for their time.
//!
//! It counts from when *this leader* saw a renewal applied, which is never before its client sent it. A new leader has
//! seen none, and counts every lease from its own beginning: full time after an election, never less (P21). What it
//! finds over it does not end: it names the lease and the renewal, and the group's log decides.

use super::Leases;
use super::mutants::{Mutant, on};
use std::collections::{BTreeMap, BTreeSet};
use types::LeaseId;

/// One leadership's clock. Not replicated; losing it makes leases last longer, never shorter.
#[derive(Clone, Debug, Default)]
pub struct LeaseClock {
    /// The latest renewal that was counted.
    seen: u64,
    /// When each lease is over, by this leader's clock, and the renewal it is counted from.
    deadlines: BTreeMap<LeaseId, (u64, u64)>,
    by_deadline: BTreeSet<(u64, LeaseId)>,
}

impl LeaseClock {
    /// The clock of a leadership that begins now, with everything committed before applied: each lease has its full time.
    pub fn begin(now_ms: u64, leases: &Leases) -> LeaseClock {
        let mut clock = LeaseClock::default();
        clock.observe(if on(Mutant::P21Election) { 0 } else { now_ms }, leases);
        clock
    }

    /// Takes in what was renewed since it was last shown the leases. All of it counts from `now_ms`.
    pub fn observe(&mut self, now_ms: u64, leases: &Leases) {
        for (id, lease) in leases.renewed_after(self.seen) {
            self.seen = lease.renewal;
            let deadline_ms = now_ms.saturating_add(lease.ttl_ms);
            if let Some((before_ms, _)) = self.deadlines.insert(id, (deadline_ms, lease.renewal)) {
                self.by_deadline.remove(&(before_ms, id));
            }
            self.by_deadline.insert((deadline_ms, id));
        }
    }

    /// Leases whose time is over, at most `most` of them, each with the renewal that it was counted from. They are named
    /// again until the group has ended or renewed them.
    pub fn expired(&mut self, now_ms: u64, leases: &Leases, most: usize) -> Vec<(LeaseId, u64)> {
        let due: Vec<(u64, LeaseId)> = self.by_deadline.range(..=(now_ms, LeaseId(u64::MAX))).copied().collect();
        let mut expired = Vec::new();
        for (deadline_ms, id) in due {
            match self.deadlines.get(&id) {
                Some((_, renewal)) if leases.get(id).is_some() => {
                    expired.push((id, *renewal));
                    if expired.len() == most {
                        break;
                    }
                }
                _ => {
                    self.by_deadline.remove(&(deadline_ms, id));
                    self.deadlines.remove(&id);
                }
            }
        }
        expired
    }

    /// How long the lease lives if nobody renews it, in milliseconds.
    pub fn remaining_ms(&self, now_ms: u64, lease: LeaseId) -> Option<u64> {
        self.deadlines.get(&lease).map(|(deadline_ms, _)| deadline_ms.saturating_sub(now_ms))
    }
}
