//! What happens by the clock: ticks, deadlines, reports of followers that are behind, and forgetting.
//!
//! The ticker only runs while somebody needs it: an idle shard sleeps.

use crate::clock;
use crate::reports::DOUBTS_MAX;
use crate::shard::worker::{TICK_MS, Worker};
use replcore::{DoubtStage, Event, InDoubt};
use std::time::Duration;
use types::PartitionId;

/// Followers that are behind are reported every so many ticks.
const BEHIND_EVERY_TICKS: u64 = 25;
/// A transaction that is not over after so many ticks takes long.
const DOUBT_TICKS: u64 = 50;

impl Worker {
    /// Whether a replica, an open request or waiting changes need the ticker.
    pub(super) fn wants_ticks(&self) -> bool {
        !self.ticking.is_empty() || !self.open.is_empty() || self.lag.bytes() > 0 || self.stopping.is_some()
    }

    /// One tick for every replica that needs it; a look at the deadlines.
    pub(super) fn on_tick(&mut self) {
        self.last_tick = self.now;
        self.ticks += 1;
        let ticking = std::mem::take(&mut self.ticking);
        for place in &ticking {
            self.step(*place, Event::Tick);
        }
        let report = self.ticks.is_multiple_of(BEHIND_EVERY_TICKS);
        if report {
            self.look_at_doubts(&ticking);
        }
        for place in ticking {
            let Some(slot) = self.slot(place) else { continue };
            slot.ticking = slot.replica.needs_tick();
            let still_ticking = slot.ticking;
            if report || (!still_ticking && !slot.told.0.is_empty()) {
                self.report_followers(place);
            }
            if still_ticking {
                self.ticking.push(place);
            }
        }
        if self.ticking.is_empty() {
            self.look_at_doubts(&[]);
        }
        for (partition, tokens) in self.open.expired(self.now) {
            let place = self.place_of(partition);
            self.step(place, Event::Expire { tokens });
        }
    }

    /// Transactions that take long: counted, and told once each, with who must answer.
    fn look_at_doubts(&mut self, ticking: &[usize]) {
        let (mut count, mut lines) = (0, Vec::new());
        for place in ticking {
            let Some(slot) = self.slot(*place) else { continue };
            let partition = slot.replica.partition();
            for doubt in slot.replica.in_doubt() {
                let ticks = u64::from(doubt.ticks);
                if ticks < DOUBT_TICKS {
                    continue;
                }
                count += 1;
                if ticks < DOUBT_TICKS + BEHIND_EVERY_TICKS {
                    tracing::warn!(%partition, ?doubt, "a transaction is in doubt");
                }
                if lines.len() < DOUBTS_MAX {
                    lines.push(self.tell_doubt(partition, &doubt));
                }
            }
        }
        self.meters.in_doubt(count);
        self.parts.reports.doubts(self.parts.index, lines);
    }

    /// A line for people.
    fn tell_doubt(&self, partition: PartitionId, doubt: &InDoubt) -> String {
        let whom = |of: &PartitionId| match self.parts.view.configuration(*of).and_then(|it| it.primary()) {
            Some(primary) => format!("{of} on {primary}"),
            None => of.to_string(),
        };
        let role = match doubt.stage {
            DoubtStage::Voting => "awaits votes",
            DoubtStage::Telling => "is decided and not known everywhere",
            DoubtStage::Prepared => "holds locks and awaits its decision",
        };
        let waits_for: Vec<String> = doubt.waits_for.iter().map(whom).collect();
        let seconds = u64::from(doubt.ticks) * TICK_MS / 1000;
        let (attempt, me) = (doubt.attempt, self.parts.me.node);
        format!(
            "transaction {attempt} {role} on {partition} on {me}, {seconds} s; must answer: {}",
            waits_for.join(", ")
        )
    }

    /// Tells the viewleader who lacks more than a moment's entries, and whether the learner lacks no more than that.
    pub(super) fn report_followers(&mut self, place: usize) {
        let Some(slot) = self.slot(place) else { return };
        if slot.serving.is_none() {
            return;
        }
        let now = (slot.replica.behind(), slot.replica.filled());
        if now != slot.told {
            slot.told.clone_from(&now);
            let partition = slot.replica.partition();
            self.parts.reports.followers(partition, now.0, now.1);
        }
    }

    /// How long until the first key expires.
    pub(super) fn until_timer(&self) -> Duration {
        let due = self.timers.next().unwrap_or(self.now);
        Duration::from_millis(due.0.saturating_sub(self.parts.clock.now().0))
    }

    /// Keys whose time is over: their replicas decide.
    pub(super) fn propose_expired(&mut self) {
        if self.timers.next().is_none_or(|due| due > self.now) || self.stopping.is_some() {
            return;
        }
        for (place, keys) in self.timers.take_due(self.now) {
            self.step(place, Event::Expired { keys });
        }
    }

    /// P28: requests are forgotten even where nothing is being written.
    pub(super) fn forget(&mut self) {
        let calendar_ms = clock::calendar_ms();
        for place in 0..self.slots.len() {
            let Some(slot) = self.slot(place) else { continue };
            let Some(newest) = slot.replica.newest_request() else { continue };
            let before = clock::forget_at_rest(calendar_ms, newest);
            if slot.replica.oldest_request().is_some_and(|oldest| oldest < before) {
                self.step(place, Event::Forget { before });
            }
        }
    }
}
