//! Locks: who holds a name, and who waits for it, in order.
//!
//! Every claim stands on a lease. One that is *bound* ends with it; one that is not needs it only while it waits, and
//! is then held by its client's name until it is released. An election is a lock whose claims carry a value.
//!
//! Tokens come from one counter for all names, which no release and no restore lowers. A name that nobody holds or waits
//! for is forgotten.

use super::mutants::{Mutant, on};
use super::{Done, Leases, Outcome, Refusal};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use types::limits::{LOCK_CLAIMS_MAX, LOCK_QUEUE_MAX};
use types::{FencingToken, LeaseId};

/// Somebody's wish to hold a lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// Who.
    pub client: String,
    /// What it stands on.
    pub lease: LeaseId,
    /// Which of the lease's claims: whoever holds the lease counts upwards from 1. A retry carries the same number.
    pub number: u64,
    /// Whether it ends with the lease also once it holds.
    pub bound: bool,
    /// For whoever observes the lock.
    pub value: Bytes,
}

/// A claim that was granted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holding {
    /// Whose.
    pub claim: Claim,
    /// Greater than all before under this name.
    pub token: FencingToken,
}

/// A lock that somebody holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lock {
    /// Who holds it.
    pub holder: Holding,
    /// Who waits, the next one first.
    pub queue: VecDeque<Claim>,
}

/// All that are held.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Locks {
    tokens_minted: u64,
    locks: BTreeMap<String, Lock>,
    /// Holders and those who wait.
    #[serde(skip)]
    claims: usize,
}

/// What of them is stored; the rest follows from it.
#[derive(Deserialize)]
struct Stored {
    tokens_minted: u64,
    locks: BTreeMap<String, Lock>,
}

impl From<Stored> for Locks {
    fn from(Stored { tokens_minted, locks }: Stored) -> Self {
        let claims = locks.values().map(|lock| 1 + lock.queue.len()).sum();
        let held = locks.values().map(|lock| lock.holder.token.0).max().unwrap_or_default();
        let tokens_minted = if on(Mutant::TokensRestored) { held } else { tokens_minted };
        Locks { tokens_minted, locks, claims }
    }
}

impl Locks {
    /// A lock, if somebody holds it.
    pub fn get(&self, name: &str) -> Option<&Lock> {
        self.locks.get(name)
    }

    /// All that are held, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Lock)> {
        self.locks.iter().map(|(name, lock)| (name.as_str(), lock))
    }

    /// The token, if this very claim holds the lock.
    pub fn token_of(&self, name: &str, lease: LeaseId, number: u64) -> Option<FencingToken> {
        self.get(name).filter(|lock| is_of(&lock.holder.claim, lease, number)).map(|lock| lock.holder.token)
    }

    /// Whether this very claim waits for the lock, and how many come before it.
    pub fn place_of(&self, name: &str, lease: LeaseId, number: u64) -> Option<usize> {
        self.get(name)?.queue.iter().position(|claim| is_of(claim, lease, number))
    }

    pub(super) fn acquire(
        &mut self,
        leases: &mut Leases,
        name: &str,
        claim: &Claim,
        wait: bool,
        touched: &mut BTreeSet<String>,
    ) -> Outcome {
        leases.admits(claim)?;
        let Some(lock) = self.locks.get_mut(name) else {
            self.check_room()?;
            let holder = Holding { claim: claim.clone(), token: self.next_token() };
            let token = holder.token;
            self.locks.insert(name.to_owned(), Lock { holder, queue: VecDeque::new() });
            self.claims += 1;
            self.settle(leases, name, claim.lease);
            touched.insert(name.to_owned());
            return Ok(Done::Held(token));
        };
        let held = &lock.holder.claim;
        if held.client == claim.client {
            // A retry, or a client that is known by its name alone and asks again.
            if is_of(held, claim.lease, claim.number) || !(held.bound || claim.bound) {
                return Ok(Done::Held(lock.holder.token));
            }
            is_newer(held, claim)?;
            // The same client on another footing: what it was granted before is over.
            let token = self.next_token();
            let granted = Holding { claim: claim.clone(), token };
            let before = std::mem::replace(&mut self.get_mut(name).holder, granted);
            self.moved(leases, name, &before.claim, claim.lease);
            touched.insert(name.to_owned());
            return Ok(Done::Held(token));
        }
        if !wait {
            return Err(Refusal::HeldBy { holder: held.client.clone() });
        }
        if let Some(ahead) = lock.queue.iter().position(|waiting| waiting.client == claim.client) {
            if is_of(&lock.queue[ahead], claim.lease, claim.number) {
                return Ok(Done::Queued { ahead });
            }
            is_newer(&lock.queue[ahead], claim)?;
            // It keeps its place, whatever it stands on now.
            let before = std::mem::replace(&mut lock.queue[ahead], claim.clone());
            self.moved(leases, name, &before, claim.lease);
            touched.insert(name.to_owned());
            return Ok(Done::Queued { ahead });
        }
        let ahead = lock.queue.len();
        if ahead >= LOCK_QUEUE_MAX {
            return Err(Refusal::Full(format!("{LOCK_QUEUE_MAX} wait for it already, the most there can be")));
        }
        self.check_room()?;
        self.get_mut(name).queue.push_back(claim.clone());
        self.claims += 1;
        self.settle(leases, name, claim.lease);
        touched.insert(name.to_owned());
        Ok(Done::Queued { ahead })
    }

    pub(super) fn release(
        &mut self,
        leases: &mut Leases,
        name: &str,
        client: &str,
        token: FencingToken,
        touched: &mut BTreeSet<String>,
    ) -> Outcome {
        let Some(lock) = self.locks.get(name) else { return Ok(Done::Released(false)) };
        let holder = &lock.holder;
        if holder.token != token {
            // A grant that is over already: a retry, or its lease ended.
            return Ok(Done::Released(false));
        }
        if holder.claim.client != client && !on(Mutant::ReleaseByAnybody) {
            return Err(Refusal::HeldBy { holder: holder.claim.client.clone() });
        }
        self.free(leases, name, touched);
        Ok(Done::Released(true))
    }

    pub(super) fn abandon(
        &mut self,
        leases: &mut Leases,
        name: &str,
        lease: LeaseId,
        number: u64,
        touched: &mut BTreeSet<String>,
    ) -> Done {
        if let Some(token) = self.token_of(name, lease, number) {
            return Done::Held(token);
        }
        if self.place_of(name, lease, number).is_some() {
            let queue = &mut self.get_mut(name).queue;
            let before = queue.len();
            queue.retain(|claim| !is_of(claim, lease, number));
            self.claims -= before - self.get_mut(name).queue.len();
            touched.insert(name.to_owned());
        }
        leases.over(lease, number);
        self.settle(leases, name, lease);
        Done::Abandoned
    }

    /// `names` are those that the lease had claims on.
    pub(super) fn lease_ended(
        &mut self,
        leases: &mut Leases,
        lease: LeaseId,
        names: &BTreeSet<String>,
        touched: &mut BTreeSet<String>,
    ) {
        if on(Mutant::LeaseEnds) {
            return;
        }
        for name in names {
            let Some(lock) = self.locks.get_mut(name) else { continue };
            let before = lock.queue.len();
            lock.queue.retain(|claim| claim.lease != lease);
            self.claims -= before - lock.queue.len();
            touched.insert(name.clone());
            if lock.holder.claim.lease == lease && lock.holder.claim.bound {
                self.free(leases, name, touched);
            }
        }
    }

    /// Takes the lock from its holder, and gives it to who waits longest.
    fn free(&mut self, leases: &mut Leases, name: &str, touched: &mut BTreeSet<String>) {
        let Some(lock) = self.locks.get_mut(name) else { return };
        touched.insert(name.to_owned());
        self.claims -= 1;
        let next = if on(Mutant::Unfair) { lock.queue.pop_back() } else { lock.queue.pop_front() };
        let before = match next {
            Some(claim) => {
                let lease = claim.lease;
                let granted = Holding { claim, token: self.next_token() };
                let before = std::mem::replace(&mut self.get_mut(name).holder, granted);
                self.settle(leases, name, lease);
                before
            }
            None => match self.locks.remove(name) {
                Some(lock) => lock.holder,
                None => return,
            },
        };
        leases.over(before.claim.lease, before.claim.number);
        self.settle(leases, name, before.claim.lease);
    }

    /// A claim is over, and one of `lease` stands in its place.
    fn moved(&self, leases: &mut Leases, name: &str, before: &Claim, lease: LeaseId) {
        leases.over(before.lease, before.number);
        self.settle(leases, name, before.lease);
        self.settle(leases, name, lease);
    }

    /// The lease knows under which names something stands on it: itself or another claim of it.
    fn settle(&self, leases: &mut Leases, name: &str, lease: LeaseId) {
        let claims = self.get(name).is_some_and(|lock| {
            let holder = &lock.holder.claim;
            (holder.bound && holder.lease == lease) || lock.queue.iter().any(|claim| claim.lease == lease)
        });
        leases.set_claims(lease, name, claims);
    }

    fn next_token(&mut self) -> FencingToken {
        self.tokens_minted += 1;
        FencingToken(self.tokens_minted)
    }

    fn get_mut(&mut self, name: &str) -> &mut Lock {
        self.locks.get_mut(name).expect("the caller has just found it there")
    }

    fn check_room(&self) -> Result<(), Refusal> {
        if self.claims >= LOCK_CLAIMS_MAX {
            let why = format!("{LOCK_CLAIMS_MAX} clients hold or wait for locks already, the most there can be");
            return Err(Refusal::Full(why));
        }
        Ok(())
    }
}

fn is_of(claim: &Claim, lease: LeaseId, number: u64) -> bool {
    claim.lease == lease && claim.number == number
}

/// A claim that replaces another one of the same lease must be the later one.
fn is_newer(before: &Claim, claim: &Claim) -> Result<(), Refusal> {
    if before.lease == claim.lease && claim.number < before.number { Err(Refusal::Late) } else { Ok(()) }
}
