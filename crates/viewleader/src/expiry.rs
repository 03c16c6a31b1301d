//! While this member leads: which leases are over.
//!
//! The rules are [`LeaseClock`]'s; here are its clock, and the proposals. A member that was stopped for a while, and does
//! not know that another one leads, proposes in vain: the log decides (P21).

use crate::raft::Group;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::LeaseId;
use viewcore::coordination::{LeaseClock, Request};
use viewcore::{Command, Done};

/// How often it is looked: this much later than its time a lease may end.
const TICK_EVERY: Duration = Duration::from_millis(50);
/// Leases that end in one entry of the log.
const EXPIRED_MAX: usize = 1024;

/// One leadership's lease clock. Clones share it.
#[derive(Clone)]
pub(crate) struct Expiry {
    began: Instant,
    clock: Arc<Mutex<LeaseClock>>,
}

impl Expiry {
    /// Begins to count, with everything that was committed before the leadership applied here; until `ended`.
    pub(crate) fn begin(group: &Group, ended: CancellationToken) -> Expiry {
        let clock = LeaseClock::begin(0, group.board().read().leases());
        let expiry = Expiry { began: Instant::now(), clock: Arc::new(Mutex::new(clock)) };
        tokio::spawn(expiry.clone().run(group.clone(), ended));
        expiry
    }

    /// How long the lease lives if nobody renews it, in milliseconds; it is alive.
    pub(crate) fn remaining_ms(&self, group: &Group, lease: LeaseId) -> u64 {
        let now_ms = self.now_ms();
        let board = group.board().read();
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.observe(now_ms, board.leases());
        clock.remaining_ms(now_ms, lease).unwrap_or_default()
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    async fn run(self, group: Group, ended: CancellationToken) {
        let mut tick = tokio::time::interval(TICK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                _ = tick.tick() => {}
            }
            let expired = self.expired(&group);
            if expired.is_empty() {
                continue;
            }
            let proposal = group.propose(Command::Coordinate(vec![Request::Expire(expired)]));
            let outcome = tokio::select! {
                () = ended.cancelled() => return,
                outcome = proposal => outcome,
            };
            match outcome {
                Ok(Ok(Done::Coordinated(outcomes))) => tracing::debug!(?outcomes, "leases have expired"),
                Ok(other) => tracing::debug!(?other, "leases can't expire now"),
                Err(error) => tracing::debug!(%error, "leases can't expire now"),
            }
        }
    }

    fn expired(&self, group: &Group) -> Vec<(LeaseId, u64)> {
        let board = group.board().read();
        metrics::gauge!("viewleader_leases").set(board.leases().len() as f64);
        // The time is taken after the leases: what was renewed before counts from no earlier than it was.
        let now_ms = self.now_ms();
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.observe(now_ms, board.leases());
        clock.expired(now_ms, board.leases(), EXPIRED_MAX)
    }
}
