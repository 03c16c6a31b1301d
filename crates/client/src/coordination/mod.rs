//! Leases, locks and elections.
//!
//! [`Coordination`] keeps one stream with the leader of the viewleader group, finds the next leader when that one goes, and
//! asks again what was not answered: the group does nothing twice ([`link`]). A [`Lease`] renews itself and says when it
//! can't be counted on any more; a [`LockGuard`] holds a lock on one, with its fencing token.
//!
//! A lease is *lost* here before it can be over there: it is counted from when its last successful renewal was sent, and
//! for a little less than its time ([`leases`]). A process that is stopped meanwhile can still act on a lock that it has
//! lost without knowing; what it then writes is refused if the write carries the token.

mod leases;
mod link;
mod locks;

pub use leases::{Lease, LeaseStatus};
pub use locks::{Claimed, LockGuard, LockStatus, Observed};

use crate::error::Error;
use crate::leaders::Leaders;
use link::{Link, Order};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use types::{ErrorCode, LeaseId};
use wire::v1;
use wire::v1::coordination_refused::Reason;
use wire::v1::coordination_reply::Reply;
use wire::v1::coordination_request::Request;

/// Orders that wait for the link.
const ORDERS_MAX: usize = 1024;
/// Answers that wait for their caller.
const REPLIES_MAX: usize = 64;

/// The way to leases and locks. Cheap to clone; clones share one stream.
#[derive(Clone, Debug)]
pub struct Coordination {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    orders: mpsc::Sender<Order>,
    timeout: Duration,
    leaders: Leaders,
    /// Why the last stream ended, or none came about.
    trouble: watch::Receiver<String>,
    /// Random: names this process in its requests.
    id: u64,
    requests: AtomicU64,
}

impl Coordination {
    /// Begins to look for the leader, in the background. Each call is tried for `timeout`.
    ///
    /// # Errors
    /// [`Error::Usage`] for addresses that are none.
    pub fn new(leaders: &[String], timeout: Duration) -> Result<Coordination, Error> {
        let leaders = Leaders::new(leaders)?;
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(|error| Error::Usage(format!("the system has no random numbers: {error}")))?;
        let (orders, waiting) = mpsc::channel(ORDERS_MAX);
        let (telling, trouble) = watch::channel("no viewleader has been asked yet".to_owned());
        tokio::spawn(Link::new(leaders.clone(), telling).run(waiting));
        let (id, requests) = (u64::from_ne_bytes(id), AtomicU64::new(0));
        Ok(Coordination { inner: Arc::new(Inner { orders, timeout, leaders, trouble, id, requests }) })
    }

    /// A new lease that renews itself until it is revoked, dropped or lost.
    ///
    /// # Errors
    /// [`Error::NoViewleader`], [`Error::Invalid`], [`Error::NotDone`]; [`Error::Unheard`], and then it ends by itself.
    pub async fn grant(&self, ttl: Duration) -> Result<Lease, Error> {
        let (request, ttl) = self.grant_request(ttl);
        let mut call = self.call(request).await?;
        match self.within(&mut call).await? {
            Reply::Granted(granted) => Lease::keep(self, LeaseId(granted.lease), ttl, call.sent()).await,
            other => Err(unexpected(&other)),
        }
    }

    /// A new lease that nobody renews.
    ///
    /// # Errors
    /// As [`Coordination::grant`].
    pub async fn grant_unkept(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let (request, _) = self.grant_request(ttl);
        match self.ask(request).await? {
            Reply::Granted(granted) => Ok(LeaseId(granted.lease)),
            other => Err(unexpected(&other)),
        }
    }

    fn grant_request(&self, ttl: Duration) -> (Request, Duration) {
        let counter = self.inner.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        (Request::Grant(v1::GrantLease { client: self.inner.id, counter, ttl_ms }), Duration::from_millis(ttl_ms))
    }

    /// Renews a lease once.
    ///
    /// # Errors
    /// [`Error::LeaseGone`]; [`Error::NoViewleader`], [`Error::NotDone`]; [`Error::Unheard`].
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        match self.ask(Request::Keep(v1::KeepLeases { leases: vec![lease.0] })).await? {
            Reply::Kept(kept) if kept.gone.is_empty() => Ok(()),
            Reply::Kept(_) => Err(gone(lease)),
            other => Err(unexpected(&other)),
        }
    }

    /// A lease that was granted before, perhaps to another process, renews itself from now on. Dropping it does not revoke
    /// it.
    ///
    /// # Errors
    /// As [`Coordination::keep_alive`].
    pub async fn adopt(&self, lease: LeaseId) -> Result<Lease, Error> {
        let status = self.lease(lease).await?.ok_or_else(|| gone(lease))?;
        let sent = tokio::time::Instant::now();
        self.keep_alive(lease).await?;
        let mut kept = Lease::keep(self, lease, status.ttl, sent).await?;
        kept.leave();
        Ok(kept)
    }

    /// Ends a lease, and with it everything that stands on it. Whether it was alive until now.
    ///
    /// # Errors
    /// [`Error::NoViewleader`], [`Error::NotDone`]; [`Error::Unheard`].
    pub async fn revoke(&self, lease: LeaseId) -> Result<bool, Error> {
        match self.ask(Request::Revoke(v1::RevokeLease { lease: lease.0 })).await? {
            Reply::Revoked(revoked) => Ok(revoked.was_alive),
            other => Err(unexpected(&other)),
        }
    }

    /// One lease, if it is alive.
    ///
    /// # Errors
    /// [`Error::NoViewleader`], [`Error::NotDone`].
    pub async fn lease(&self, lease: LeaseId) -> Result<Option<LeaseStatus>, Error> {
        let all = self.list_leases(lease.0).await?;
        Ok(all.into_iter().find(|status| status.lease == lease))
    }

    /// All leases, by id.
    ///
    /// # Errors
    /// [`Error::NoViewleader`], [`Error::NotDone`].
    pub async fn leases(&self) -> Result<Vec<LeaseStatus>, Error> {
        self.list_leases(0).await
    }

    async fn list_leases(&self, lease: u64) -> Result<Vec<LeaseStatus>, Error> {
        let mut call = self.call(Request::ListLeases(v1::ListLeases { lease })).await?;
        let mut all = Vec::new();
        loop {
            match self.within_read(&mut call).await? {
                Reply::Leases(page) => {
                    all.extend(page.leases.into_iter().map(LeaseStatus::from));
                    if page.last {
                        return Ok(all);
                    }
                }
                // The stream broke in the middle: the list begins anew.
                Reply::NotLeader(_) => all.clear(),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// A question or a change with one answer.
    async fn ask(&self, request: Request) -> Result<Reply, Error> {
        let mut call = self.call(request).await?;
        self.within(&mut call).await
    }

    async fn call(&self, request: Request) -> Result<Call, Error> {
        let (replies, answers) = mpsc::channel(REPLIES_MAX);
        let (sent, was_sent) = watch::channel(None);
        self.order(Order::Call { request, replies, sent }).await?;
        Ok(Call { answers, was_sent })
    }

    async fn order(&self, order: Order) -> Result<(), Error> {
        self.inner.orders.send(order).await.map_err(|_| stopped())
    }

    /// The answer to something that may have been done, or nothing in time.
    async fn within(&self, call: &mut Call) -> Result<Reply, Error> {
        if let Ok(answer) = tokio::time::timeout(self.inner.timeout, call.next()).await {
            return answer;
        }
        let why = self.inner.trouble.borrow().clone();
        if call.was_sent.borrow().is_none() {
            return Err(Error::NoViewleader { addresses: self.inner.leaders.addresses(), why });
        }
        let seconds = self.inner.timeout.as_secs_f64();
        Err(Error::Unheard { message: format!("{seconds} s were not enough for an answer ({why})") })
    }

    /// The answer to a question.
    async fn within_read(&self, call: &mut Call) -> Result<Reply, Error> {
        self.within(call).await.map_err(|error| match error {
            Error::Unheard { message } => Error::NotDone { code: ErrorCode::NoLeader, message },
            other => other,
        })
    }
}

/// A request that is open. Dropping it ends it here, not there.
#[derive(Debug)]
struct Call {
    answers: mpsc::Receiver<Reply>,
    was_sent: watch::Receiver<Option<tokio::time::Instant>>,
}

impl Call {
    /// The next answer; refusals and errors are [`Error`]s.
    async fn next(&mut self) -> Result<Reply, Error> {
        let reply = self.answers.recv().await.ok_or_else(stopped)?;
        match reply {
            Reply::Refused(refused) => Err(refusal(refused)),
            Reply::Error(error) => {
                let (code, message) = (ErrorCode::from_number(error.code), error.message);
                Err(match code {
                    ErrorCode::Invalid => Error::Invalid(message),
                    ErrorCode::Unknown => Error::Unheard { message },
                    code => Error::NotDone { code, message },
                })
            }
            reply => Ok(reply),
        }
    }

    /// When the attempt that was answered, or a later one, was sent at the earliest: the first attempt.
    fn sent(&self) -> tokio::time::Instant {
        self.was_sent.borrow().unwrap_or_else(tokio::time::Instant::now)
    }
}

fn refusal(refused: v1::CoordinationRefused) -> Error {
    let (reason, message) = (refused.reason(), refused.message);
    match reason {
        Reason::Held => Error::Held { holder: refused.holder },
        Reason::Invalid => Error::Invalid(message),
        Reason::NoLease => Error::LeaseGone { message },
        Reason::Full => Error::NotDone { code: ErrorCode::Overloaded, message },
        Reason::Late | Reason::None => Error::NotDone { code: ErrorCode::Refused, message },
    }
}

fn gone(lease: LeaseId) -> Error {
    Error::LeaseGone { message: format!("there is no lease {lease}: it has expired, or was revoked") }
}

fn unexpected(reply: &Reply) -> Error {
    Error::NotDone {
        code: ErrorCode::Internal,
        message: format!("a viewleader answered with {reply:?}, which is no answer to this"),
    }
}

fn stopped() -> Error {
    Error::NotDone { code: ErrorCode::ShuttingDown, message: "the client's runtime is ending".to_owned() }
}
