//! Leases and locks: what clients of the cluster agree on through the viewleader group.
//!
//! [`Coordination`] is replicated beside [`ClusterState`](crate::ClusterState) and knows nothing of it: neither the
//! view nor its planner wakes up when a lock changes hands. [`leases`] says which promises are alive, [`locks`] who
//! holds what and who waits. [`LeaseClock`] is the leader's, is not replicated, and proposes what has expired.
//!
//! Invariants: a lock has one holder at most; tokens of one name strictly grow, whatever was forgotten or restored
//! meanwhile; who waits is served in the order of arrival; nobody but the holder releases; whoever holds or waits on a
//! lease that ends is gone in the same command; a request that is sent again, however late, does nothing a second time.
//!
//! How late can a lease that nobody renews any more still look alive? Its time, from the commit of the last renewal;
//! then one tick of the leader's clock, and the commit of its expiry. Each election within that time adds itself and
//! one full time more (P21): leases never end early, so locks that must not be *used* late need their tokens.
//!
//! Deliberately absent: clocks. Time is in [`LeaseClock`] alone, as an argument.

mod clock;
pub mod leases;
pub mod locks;
pub mod mutants;

pub use clock::LeaseClock;
pub use leases::{Lease, Leases};
pub use locks::{Claim, Holding, Lock, Locks};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use types::limits::{LEASE_TTL_MAX, LEASE_TTL_MIN, LOCK_NAME_BYTES_MAX, LOCK_VALUE_BYTES_MAX};
use types::{FencingToken, LeaseId, RequestId};

/// What is asked of leases and locks. Its encoding goes into the log: append, never reorder or remove.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// A new lease; the same request again gets the same one, while it lives.
    Grant {
        /// Names the request.
        request: RequestId,
        /// How long it lives without a renewal, in milliseconds.
        ttl_ms: u64,
    },
    /// Leases live on: all that asked within a moment, each once.
    KeepAlive(Vec<LeaseId>),
    /// A lease ends now.
    Revoke(LeaseId),
    /// Leases whose time is over, each with the renewal that the leader's clock counted from (P21).
    Expire(Vec<(LeaseId, u64)>),
    /// A client wants a lock.
    Acquire {
        /// Which lock.
        name: String,
        /// Who, on which lease.
        claim: Claim,
        /// Where it is held: stand in line, instead of being refused.
        wait: bool,
    },
    /// The holder gives a lock back.
    Release {
        /// Which lock.
        name: String,
        /// Who.
        client: String,
        /// Which grant: an older one is over already.
        token: FencingToken,
    },
    /// A client waits no more.
    Abandon {
        /// Which lock.
        name: String,
        /// Whose lease.
        lease: LeaseId,
        /// Which of the lease's claims.
        number: u64,
    },
}

/// What a request did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Done {
    /// The lease lives.
    Granted {
        /// Its id.
        lease: LeaseId,
        /// Its time, in milliseconds.
        ttl_ms: u64,
    },
    /// Of each lease whether it lives on, in their order.
    KeptAlive(Vec<bool>),
    /// The lease has ended; whether it was alive until now.
    Revoked(bool),
    /// So many leases ended.
    Expired(usize),
    /// The lock is held.
    Held(FencingToken),
    /// The lock is held by somebody else.
    Queued {
        /// Clients that come first, the holder not counted.
        ahead: usize,
    },
    /// The grant is over; whether it was alive until now.
    Released(bool),
    /// The claim is no more.
    Abandoned,
}

/// A request that changed nothing, and why: one line for a person.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// The lease was revoked or has expired, or never was.
    #[error("there is no lease {0}: it has expired, or was revoked")]
    NoLease(LeaseId),
    /// Somebody else holds the lock.
    #[error("{holder} holds it")]
    HeldBy {
        /// Who.
        holder: String,
    },
    /// A claim that comes after its own end, or that another one has overtaken.
    #[error("the claim came too late; make it again")]
    Late,
    /// Name, client, value or time outside its limits.
    #[error("{0}")]
    Invalid(String),
    /// One more would be too many.
    #[error("{0}")]
    Full(String),
}

/// What applying a request did. Deterministic: the same on every member.
pub type Outcome = Result<Done, Refusal>;

/// Leases and locks. Its encoding goes into snapshots: append fields, never reorder.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Coordination {
    leases: Leases,
    locks: Locks,
}

impl Coordination {
    /// The leases.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// The locks.
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// Carries out one request; names of locks that changed hands or whose queue changed are added to `touched`. Total
    /// and deterministic; a refused request leaves everything as it was.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn apply(&mut self, request: &Request, touched: &mut BTreeSet<String>) -> Outcome {
        match request {
            Request::Grant { request, ttl_ms } => {
                let (shortest_ms, longest_ms) = (LEASE_TTL_MIN.as_millis() as u64, LEASE_TTL_MAX.as_millis() as u64);
                if !(shortest_ms..=longest_ms).contains(ttl_ms) {
                    let why = format!("a lease of {ttl_ms} ms; the shortest is 1s, the longest 1day");
                    return Err(Refusal::Invalid(why));
                }
                let (lease, ttl_ms) = self.leases.grant(*request, *ttl_ms)?;
                Ok(Done::Granted { lease, ttl_ms })
            }
            Request::KeepAlive(leases) => {
                Ok(Done::KeptAlive(leases.iter().map(|lease| self.leases.keep_alive(*lease)).collect()))
            }
            Request::Revoke(lease) => Ok(Done::Revoked(self.end(*lease, touched))),
            // P21: checked again, because a renewal may have come first.
            Request::Expire(expired) => {
                let over = |(lease, renewal): &&(LeaseId, u64)| self.leases.is_over(*lease, *renewal);
                let over: Vec<LeaseId> = expired.iter().filter(over).map(|(lease, _)| *lease).collect();
                Ok(Done::Expired(over.into_iter().filter(|lease| self.end(*lease, touched)).count()))
            }
            Request::Acquire { name, claim, wait } => {
                check_name("lock's name", name)?;
                check_name("client's name", &claim.client)?;
                check_value(&claim.value)?;
                self.locks.acquire(&mut self.leases, name, claim, *wait, touched)
            }
            Request::Release { name, client, token } => {
                self.locks.release(&mut self.leases, name, client, *token, touched)
            }
            Request::Abandon { name, lease, number } => {
                Ok(self.locks.abandon(&mut self.leases, name, *lease, *number, touched))
            }
        }
    }

    /// The lease ends, and with it everything that is held or waited for on it.
    fn end(&mut self, lease: LeaseId, touched: &mut BTreeSet<String>) -> bool {
        let Some(ended) = self.leases.remove(lease) else { return false };
        self.locks.lease_ended(&mut self.leases, lease, &ended.claims, touched);
        true
    }
}

fn check_name(what: &str, name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > LOCK_NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let why = format!("a {what} has 1 to {LOCK_NAME_BYTES_MAX} bytes, none of them a control character");
        return Err(Refusal::Invalid(why));
    }
    Ok(())
}

fn check_value(value: &Bytes) -> Result<(), Refusal> {
    if value.len() > LOCK_VALUE_BYTES_MAX {
        let why = format!("the value has {} bytes; the most is {LOCK_VALUE_BYTES_MAX}", value.len());
        return Err(Refusal::Invalid(why));
    }
    Ok(())
}
