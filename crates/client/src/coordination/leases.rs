//! A lease that renews itself, and says when it is lost.

use super::Coordination;
use super::link::{Alive, Order};
use crate::error::Error;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use types::LeaseId;
use wire::v1;
use wire::v1::coordination_request::Request;

/// A lease is counted on for this part less than its time: two clocks may differ in speed by as much.
const MARGIN_PART: u32 = 20;

/// A lease that is renewed in the background, at a third of its time. Dropping it revokes it.
#[derive(Debug)]
pub struct Lease {
    coordination: Coordination,
    id: LeaseId,
    ttl: Duration,
    alive: watch::Receiver<Alive>,
    revoke: bool,
}

/// A lease as the leader knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseStatus {
    /// Its id.
    pub lease: LeaseId,
    /// How long it lives without a renewal.
    pub ttl: Duration,
    /// Of that, what is left.
    pub remaining: Duration,
    /// Names of the locks that are held or waited for on it.
    pub locks: Vec<String>,
}

impl From<v1::LeaseInfo> for LeaseStatus {
    fn from(info: v1::LeaseInfo) -> Self {
        LeaseStatus {
            lease: LeaseId(info.lease),
            ttl: Duration::from_millis(info.ttl_ms),
            remaining: Duration::from_millis(info.remaining_ms),
            locks: info.locks,
        }
    }
}

impl Lease {
    /// A lease that a request sent at `sent` has granted or renewed.
    pub(super) async fn keep(
        coordination: &Coordination,
        id: LeaseId,
        ttl: Duration,
        sent: Instant,
    ) -> Result<Lease, Error> {
        let (alive, watched) = watch::channel(Alive::Renewed(sent));
        coordination.order(Order::Keep { lease: id, ttl, sent, alive }).await?;
        Ok(Lease { coordination: coordination.clone(), id, ttl, alive: watched, revoke: true })
    }

    /// Its id.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Its time.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Whether it can be counted on now.
    pub fn is_held(&self) -> bool {
        self.counts_until().is_some_and(|until| Instant::now() < until)
    }

    /// Resolves once it can't be counted on any more; for good.
    pub async fn lost(&self) {
        let mut alive = self.alive.clone();
        loop {
            alive.mark_unchanged();
            let Some(until) = self.counts_until() else { return };
            tokio::select! {
                biased;
                () = sleep_until(until) => {
                    // A renewal that was answered in this moment is still one.
                    if self.counts_until().is_none_or(|until| until <= Instant::now()) {
                        return;
                    }
                }
                changed = alive.changed() => if changed.is_err() {
                    // Nobody renews it any more.
                    sleep_until(until).await;
                    return;
                }
            }
        }
    }

    pub(super) fn gone(&self) -> Error {
        let why = format!("lease {} could not be renewed in time; what stood on it is lost", self.id);
        Error::LeaseGone { message: why }
    }

    /// Leaves it to itself: it is renewed no more, and ends when its time is over, or by somebody else's hand.
    pub fn leave(&mut self) {
        self.revoke = false;
    }

    /// Ends it, and everything that stands on it.
    ///
    /// # Errors
    /// As [`Coordination::revoke`]; it then ends by itself.
    pub async fn revoke(mut self) -> Result<bool, Error> {
        self.revoke = false;
        let coordination = self.coordination.clone();
        let id = self.id;
        coordination.order(Order::Leave { lease: id }).await?;
        coordination.revoke(id).await
    }

    /// From when the last successful renewal was *sent*: the leader counts from later.
    fn counts_until(&self) -> Option<Instant> {
        match *self.alive.borrow() {
            Alive::Renewed(sent) => Some(sent + self.ttl - self.ttl / MARGIN_PART),
            Alive::Gone => None,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Where there is no room, or no runtime any more, it ends by itself a little later.
        let orders = &self.coordination.inner.orders;
        let _full = orders.try_send(Order::Leave { lease: self.id });
        if self.revoke {
            let request = Request::Revoke(v1::RevokeLease { lease: self.id.0 });
            let _full = orders.try_send(Order::Tell { request });
        }
    }
}
