//! Locks and elections on leases.

use super::{Call, Coordination, Lease, unexpected};
use crate::error::Error;
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::time::Duration;
use types::{ErrorCode, FencingToken, LeaseId};
use wire::v1;
use wire::v1::coordination_reply::Reply;
use wire::v1::coordination_request::Request;

/// How a client wants a lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claimed {
    /// Under which name it is known: the same name again is the same client.
    pub client: String,
    /// Whether it is given back when the lease ends. If not, the lease is needed only to wait.
    pub bound: bool,
    /// For whoever observes the lock.
    pub value: Bytes,
    /// How long to wait for it where it is held; `None`: as long as it takes.
    pub wait: Option<Duration>,
}

/// A lock that is held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockGuard {
    /// Its name.
    pub name: String,
    /// Who holds it.
    pub client: String,
    /// Greater than those of all grants before under this name.
    pub token: FencingToken,
}

/// What became of a claim.
enum Answer {
    Granted(FencingToken),
    GivenUp,
    Late,
}

/// A lock as the group knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockStatus {
    /// Its name.
    pub name: String,
    /// Who holds it.
    pub client: String,
    /// With which token.
    pub token: FencingToken,
    /// On which lease; `None`: until it is released.
    pub lease: Option<LeaseId>,
    /// What the holder has to say.
    pub value: Bytes,
    /// Who waits, the next one first; the first hundred.
    pub waiting: Vec<String>,
    /// How many wait.
    pub waiting_count: u32,
}

impl From<v1::LockInfo> for LockStatus {
    fn from(info: v1::LockInfo) -> Self {
        LockStatus {
            name: info.name,
            client: info.client,
            token: FencingToken(info.token),
            lease: (info.lease != 0).then_some(LeaseId(info.lease)),
            value: info.value,
            waiting: info.waiting,
            waiting_count: info.waiting_count,
        }
    }
}

impl Coordination {
    /// Takes a lock, or waits for it in line. Who drops the future keeps the place in line until the lease ends: revoke it.
    ///
    /// # Errors
    /// [`Error::Held`] if it was not free in time; [`Error::LeaseGone`]; [`Error::NoViewleader`], [`Error::Invalid`],
    /// [`Error::NotDone`]; [`Error::Unheard`], and then it may still come to be held, until the lease ends.
    pub async fn lock(&self, name: &str, lease: &Lease, claimed: Claimed) -> Result<LockGuard, Error> {
        let wait = claimed.wait != Some(Duration::ZERO);
        let deadline = claimed.wait.and_then(|wait| tokio::time::Instant::now().checked_add(wait));
        loop {
            let claim = self.inner.requests.fetch_add(1, Ordering::Relaxed) + 1;
            let request = Request::Acquire(v1::AcquireLock {
                name: name.to_owned(),
                client: claimed.client.clone(),
                lease: lease.id().0,
                claim,
                bound: claimed.bound,
                value: claimed.value.clone(),
                wait,
            });
            let mut call = self.call(request).await?;
            let answer = tokio::select! {
                answer = self.granted(&mut call) => answer?,
                () = lease.lost() => return Err(lease.gone()),
                () = until(deadline) => {
                    drop(call);
                    self.abandon(name, lease.id(), claim).await?
                }
            };
            match answer {
                Answer::Granted(token) => {
                    return Ok(LockGuard { name: name.to_owned(), client: claimed.client, token });
                }
                Answer::GivenUp => return Err(self.still_held(name).await),
                // A later claim of this lease, under another name perhaps, was over before this one arrived.
                Answer::Late => {}
            }
        }
    }

    async fn granted(&self, call: &mut Call) -> Result<Answer, Error> {
        // The first answer comes soon, or the group can't be reached; the grant comes when it comes.
        let mut reply = match self.within(call).await {
            Err(Error::NotDone { code: ErrorCode::Refused, .. }) => return Ok(Answer::Late),
            first => first?,
        };
        loop {
            match reply {
                Reply::Held(held) => return Ok(Answer::Granted(FencingToken(held.token))),
                Reply::Queued(_) => reply = call.next().await?,
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Waits no more, if it was not granted meanwhile.
    async fn abandon(&self, name: &str, lease: LeaseId, claim: u64) -> Result<Answer, Error> {
        let request = Request::Abandon(v1::AbandonClaim { name: name.to_owned(), lease: lease.0, claim });
        match self.ask(request).await? {
            Reply::Held(held) => Ok(Answer::Granted(FencingToken(held.token))),
            Reply::Abandoned(_) => Ok(Answer::GivenUp),
            other => Err(unexpected(&other)),
        }
    }

    async fn still_held(&self, name: &str) -> Error {
        let holder = match self.lock_status(name).await {
            Ok(Some(lock)) => lock.client,
            Ok(None) => "nobody by now".to_owned(),
            Err(error) => return error,
        };
        Error::Held { holder }
    }

    /// Gives a lock back. Whether the grant was alive until now.
    ///
    /// # Errors
    /// [`Error::Held`]: `client` does not hold it, somebody else does. [`Error::NoViewleader`],
    /// [`Error::NotDone`], [`Error::Unheard`].
    pub async fn release(&self, name: &str, client: &str, token: FencingToken) -> Result<bool, Error> {
        let request = v1::ReleaseLock { name: name.to_owned(), client: client.to_owned(), token: token.0 };
        match self.ask(Request::Release(request)).await? {
            Reply::Released(released) => Ok(released.was_held),
            other => Err(unexpected(&other)),
        }
    }

    /// One lock, if somebody holds it.
    ///
    /// # Errors
    /// [`Error::NotDone`].
    pub async fn lock_status(&self, name: &str) -> Result<Option<LockStatus>, Error> {
        let all = self.list_locks(name).await?;
        Ok(all.into_iter().find(|lock| lock.name == name))
    }

    /// All locks that somebody holds, by name.
    ///
    /// # Errors
    /// [`Error::NotDone`].
    pub async fn locks(&self) -> Result<Vec<LockStatus>, Error> {
        self.list_locks("").await
    }

    async fn list_locks(&self, name: &str) -> Result<Vec<LockStatus>, Error> {
        let mut call = self.call(Request::ListLocks(v1::ListLocks { name: name.to_owned() })).await?;
        let mut all = Vec::new();
        loop {
            match self.within_read(&mut call).await? {
                Reply::Locks(page) => {
                    all.extend(page.locks.into_iter().map(LockStatus::from));
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

    /// Follows who holds a lock: now, and whenever that changes. Changes in quick succession may be told as one.
    ///
    /// # Errors
    /// [`Error::NotDone`].
    pub async fn observe(&self, name: &str) -> Result<Observed, Error> {
        let call = self.call(Request::Observe(v1::ObserveLock { name: name.to_owned() })).await?;
        Ok(Observed { coordination: self.clone(), name: name.to_owned(), call, told: None })
    }
}

/// A lock that is followed.
#[derive(Debug)]
pub struct Observed {
    coordination: Coordination,
    name: String,
    call: Call,
    told: Option<Option<FencingToken>>,
}

impl Observed {
    /// The next holder; `None`: nobody.
    ///
    /// # Errors
    /// [`Error::NotDone`].
    pub async fn next(&mut self) -> Result<Option<LockStatus>, Error> {
        loop {
            match self.call.next().await {
                Ok(Reply::Observed(observed)) => {
                    let holder = observed.holder.map(LockStatus::from);
                    let token = holder.as_ref().map(|holder| holder.token);
                    // A new stream begins with what was told on the last one.
                    if self.told.replace(token) != Some(token) {
                        return Ok(holder);
                    }
                }
                Ok(other) => return Err(unexpected(&other)),
                // So much has changed that not all of it could wait: what holds now is asked anew.
                Err(Error::NotDone { code: ErrorCode::ShuttingDown, .. }) => {
                    let request = Request::Observe(v1::ObserveLock { name: self.name.clone() });
                    self.call = self.coordination.call(request).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
