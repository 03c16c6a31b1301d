//! Requests as they arrive, checked; and what is told of leases and locks.

use crate::expiry::Expiry;
use crate::raft::{Board, Group};
use types::{FencingToken, LeaseId, RequestId};
use viewcore::coordination::{Claim, Done, Lock, Refusal, Request};
use wire::convert::{Malformed, required};
use wire::v1;
use wire::v1::coordination_refused::Reason;
use wire::v1::coordination_reply::Reply;
use wire::v1::coordination_request::Request as Wire;

/// Names of those who wait that are told with a lock.
const WAITING_TOLD_MAX: usize = 100;
/// Leases in one request.
const KEPT_MAX: usize = 10_000;

/// What a client wants.
pub(super) enum Wanted {
    /// A change, decided by the group.
    Request(Request),
    /// Leases to be renewed; none: whether anybody is there.
    Keep(Vec<LeaseId>),
    /// One lease, or all.
    ListLeases(Option<LeaseId>),
    /// One lock, or all.
    ListLocks(Option<String>),
    /// A lock's holder, from now on.
    Observe(String),
    /// The request of this number is of no interest any more.
    Forget(u64),
}

impl TryFrom<v1::CoordinationRequest> for Wanted {
    type Error = Malformed;

    fn try_from(message: v1::CoordinationRequest) -> Result<Wanted, Malformed> {
        Ok(match required(message.request, "the request")? {
            Wire::Grant(grant) => Wanted::Request(Request::Grant {
                request: RequestId { client: grant.client, counter: grant.counter },
                ttl_ms: grant.ttl_ms,
            }),
            Wire::Keep(keep) if keep.leases.len() > KEPT_MAX => {
                return Err(Malformed(format!("{} leases in one request; the most is {KEPT_MAX}", keep.leases.len())));
            }
            Wire::Keep(keep) => Wanted::Keep(keep.leases.into_iter().map(LeaseId).collect()),
            Wire::Revoke(revoke) => Wanted::Request(Request::Revoke(LeaseId(revoke.lease))),
            Wire::ListLeases(list) => Wanted::ListLeases((list.lease != 0).then_some(LeaseId(list.lease))),
            Wire::Acquire(acquire) if acquire.claim == 0 => {
                return Err(Malformed("claims are numbered from 1".into()));
            }
            Wire::Acquire(acquire) => Wanted::Request(Request::Acquire {
                name: acquire.name,
                claim: Claim {
                    client: acquire.client,
                    lease: LeaseId(acquire.lease),
                    number: acquire.claim,
                    bound: acquire.bound,
                    value: acquire.value,
                },
                wait: acquire.wait,
            }),
            Wire::Release(release) => Wanted::Request(Request::Release {
                name: release.name,
                client: release.client,
                token: FencingToken(release.token),
            }),
            Wire::Abandon(abandon) => Wanted::Request(Request::Abandon {
                name: abandon.name,
                lease: LeaseId(abandon.lease),
                number: abandon.claim,
            }),
            Wire::ListLocks(list) => Wanted::ListLocks((!list.name.is_empty()).then_some(list.name)),
            Wire::Observe(observe) => Wanted::Observe(observe.name),
            Wire::Forget(number) => Wanted::Forget(number),
        })
    }
}

/// What was done, as it travels.
pub(super) fn done(done: &Done) -> Reply {
    match *done {
        Done::Granted { lease, ttl_ms } => Reply::Granted(v1::LeaseGranted { lease: lease.0, ttl_ms }),
        Done::Revoked(was_alive) => Reply::Revoked(v1::LeaseRevoked { was_alive }),
        Done::Held(token) => Reply::Held(v1::LockHeld { token: token.0 }),
        Done::Queued { ahead } => Reply::Queued(v1::LockQueued { ahead: u32::try_from(ahead).unwrap_or(u32::MAX) }),
        Done::Released(was_held) => Reply::Released(v1::LockReleased { was_held }),
        Done::Abandoned => Reply::Abandoned(v1::ClaimAbandoned {}),
        // Neither is asked for by a client's request.
        Done::KeptAlive(_) | Done::Expired(_) => Reply::Kept(v1::LeasesKept::default()),
    }
}

/// What was refused, as it travels.
pub(super) fn refused(refusal: &Refusal) -> Reply {
    let (reason, holder) = match refusal {
        Refusal::NoLease(_) => (Reason::NoLease, String::new()),
        Refusal::HeldBy { holder } => (Reason::Held, holder.clone()),
        Refusal::Late => (Reason::Late, String::new()),
        Refusal::Invalid(_) => (Reason::Invalid, String::new()),
        Refusal::Full(_) => (Reason::Full, String::new()),
    };
    Reply::Refused(v1::CoordinationRefused { reason: reason.into(), message: refusal.to_string(), holder })
}

pub(super) fn lease_info(group: &Group, expiry: &Expiry, lease: LeaseId) -> Option<v1::LeaseInfo> {
    let (ttl_ms, locks) = {
        let board = group.board().read();
        let found = board.leases().get(lease)?;
        (found.ttl_ms, found.claims().map(str::to_owned).collect())
    };
    Some(v1::LeaseInfo { lease: lease.0, ttl_ms, remaining_ms: expiry.remaining_ms(group, lease), locks })
}

pub(super) fn lock_info(board: &Board, name: &str) -> Option<v1::LockInfo> {
    board.read().locks().get(name).map(|lock| v1::LockInfo {
        waiting: lock.queue.iter().take(WAITING_TOLD_MAX).map(|claim| claim.client.clone()).collect(),
        waiting_count: u32::try_from(lock.queue.len()).unwrap_or(u32::MAX),
        ..info(name, lock)
    })
}

/// Who holds the lock, without those who wait.
pub(super) fn holder(board: &Board, name: &str) -> Option<v1::LockInfo> {
    board.read().locks().get(name).map(|lock| info(name, lock))
}

fn info(name: &str, lock: &Lock) -> v1::LockInfo {
    let claim = &lock.holder.claim;
    v1::LockInfo {
        name: name.to_owned(),
        client: claim.client.clone(),
        token: lock.holder.token.0,
        lease: if claim.bound { claim.lease.0 } else { 0 },
        value: claim.value.clone(),
        waiting: Vec::new(),
        waiting_count: 0,
    }
}
