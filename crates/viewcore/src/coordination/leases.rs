//! Leases: promises that end unless they are renewed.
//!
//! A renewal is a number from one counter, so that an expiry can name the one it saw (P21), and so that a clock can ask
//! what was renewed since it last looked. Ids are never reused.

use super::mutants::{Mutant, on};
use super::{Claim, Refusal};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use types::limits::LEASES_MAX;
use types::{LeaseId, RequestId};

/// One lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// How long it lives without a renewal, in milliseconds.
    pub ttl_ms: u64,
    /// Its last renewal; the grant is the first.
    pub renewal: u64,
    /// The request that it was granted for.
    request: RequestId,
    /// Locks that are held or waited for on it.
    pub(super) claims: BTreeSet<String>,
    /// Claims of it with this number or a lower one are over: one that comes later is a copy that was long on its way.
    over_through: u64,
}

/// All that live.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Leases {
    minted: u64,
    renewals: u64,
    leases: BTreeMap<LeaseId, Lease>,
    #[serde(skip)]
    by_renewal: BTreeMap<u64, LeaseId>,
    #[serde(skip)]
    by_request: BTreeMap<RequestId, LeaseId>,
}

/// What of them is stored; the rest follows from it.
#[derive(Deserialize)]
struct Stored {
    minted: u64,
    renewals: u64,
    leases: BTreeMap<LeaseId, Lease>,
}

impl From<Stored> for Leases {
    fn from(Stored { minted, renewals, leases }: Stored) -> Self {
        let by_renewal = leases.iter().map(|(id, lease)| (lease.renewal, *id)).collect();
        let by_request = leases.iter().map(|(id, lease)| (lease.request, *id)).collect();
        Leases { minted, renewals, leases, by_renewal, by_request }
    }
}

impl Leases {
    /// A lease, if it lives.
    pub fn get(&self, lease: LeaseId) -> Option<&Lease> {
        self.leases.get(&lease)
    }

    /// All that live, by id.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    /// How many live.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether this lease has been granted and lives no more: for good, since ids are never reused. False of one that
    /// has not been granted as far as is known here.
    pub fn has_ended(&self, lease: LeaseId) -> bool {
        lease.0 <= self.minted && !self.leases.contains_key(&lease)
    }

    /// How many have ended.
    pub fn ended_count(&self) -> u64 {
        self.minted - self.leases.len() as u64
    }

    /// Whether none lives.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Whether the last renewal of a living lease was this one.
    pub fn is_over(&self, lease: LeaseId, renewal: u64) -> bool {
        self.get(lease).is_some_and(|lease| lease.renewal == renewal || on(Mutant::P21Renewal))
    }

    /// Leases whose last renewal came after `after`, in the order of their renewals.
    pub fn renewed_after(&self, after: u64) -> impl Iterator<Item = (LeaseId, &Lease)> {
        let newer = self.by_renewal.range(after.saturating_add(1)..);
        newer.filter_map(|(_, id)| self.leases.get(id).map(|lease| (*id, lease)))
    }

    pub(super) fn grant(&mut self, request: RequestId, ttl_ms: u64) -> Result<(LeaseId, u64), Refusal> {
        if let Some((id, lease)) = self.by_request.get(&request).and_then(|id| Some((*id, self.leases.get(id)?))) {
            return Ok((id, lease.ttl_ms));
        }
        if self.leases.len() >= LEASES_MAX {
            return Err(Refusal::Full(format!("there are {LEASES_MAX} leases already, the most there can be")));
        }
        self.minted += 1;
        let id = LeaseId(self.minted);
        self.renewals += 1;
        let renewal = self.renewals;
        self.by_renewal.insert(renewal, id);
        self.by_request.insert(request, id);
        self.leases.insert(id, Lease { ttl_ms, renewal, request, claims: BTreeSet::new(), over_through: 0 });
        Ok((id, ttl_ms))
    }

    /// Whether it lives on.
    pub(super) fn keep_alive(&mut self, lease: LeaseId) -> bool {
        let Some(renewed) = self.leases.get_mut(&lease) else { return false };
        self.renewals += 1;
        self.by_renewal.remove(&renewed.renewal);
        renewed.renewal = self.renewals;
        self.by_renewal.insert(renewed.renewal, lease);
        true
    }

    pub(super) fn remove(&mut self, lease: LeaseId) -> Option<Lease> {
        let removed = self.leases.remove(&lease)?;
        self.by_renewal.remove(&removed.renewal);
        self.by_request.remove(&removed.request);
        Some(removed)
    }

    /// Whether a claim may be made now.
    pub(super) fn admits(&self, claim: &Claim) -> Result<(), Refusal> {
        let lease = self.get(claim.lease).ok_or(Refusal::NoLease(claim.lease))?;
        let is_late = claim.number <= lease.over_through && !on(Mutant::LateClaim);
        if is_late { Err(Refusal::Late) } else { Ok(()) }
    }

    /// Whether something stands on the lease under this name.
    pub(super) fn set_claims(&mut self, lease: LeaseId, name: &str, claims: bool) {
        let Some(lease) = self.leases.get_mut(&lease) else { return };
        if claims {
            lease.claims.insert(name.to_owned());
        } else {
            lease.claims.remove(name);
        }
    }

    /// This claim is over for good.
    pub(super) fn over(&mut self, lease: LeaseId, number: u64) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.over_through = lease.over_through.max(number);
        }
    }
}

impl Lease {
    /// Names of the locks that are held or waited for on it.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.claims.iter().map(String::as_str)
    }
}
