//! What replicas ask for: done at once, or gathered until the burst ends.

use super::Worker;
use crate::applier::Part;
use crate::filler::Page;
use crate::kv::answer;
use crate::scanner::Scan;
use engine::Keyspace;
use replcore::{Answer, Effect, Event};
use types::{ErrorCode, PartitionId};

impl Worker {
    pub(super) fn execute(&mut self, place: usize, partition: PartitionId) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Persist { index, record } => self.burst.persist(partition, index, &record),
                Effect::Send { to, message } => self.burst.send(to, partition, message),
                Effect::SendToPartition { partition, message } => self.send_to_partition(partition, message),
                Effect::Reply { token, answer } => {
                    // Nobody: it was answered before.
                    if let Some(request) = self.open.take(token) {
                        let me = self.parts.me.node;
                        let code = if let Answer::Error(code) = &answer { Some(*code) } else { None };
                        let mut response = answer::response(request.number, me, partition, answer, &self.parts.view);
                        if let Some(code) = code {
                            self.suggest_time(place, code, &mut response);
                        }
                        self.burst.answer(request.connection, response);
                    }
                }
                Effect::ReportActivated { term } => self.parts.reports.activated(partition, term),
                Effect::ReportStuck { term, unreachable, holder } => {
                    tracing::warn!(%partition, %term, ?unreachable, ?holder, "the primary makes no progress");
                    self.parts.reports.stuck(partition, term, unreachable, holder);
                }
                Effect::ReportDamaged => {
                    tracing::error!(%partition, "out of service: its data here is damaged");
                    let configuration = self.parts.view.configuration(partition);
                    let term = configuration.map_or_else(Default::default, |configuration| configuration.term);
                    self.parts.reports.damaged(partition, term);
                }
                Effect::WantView => self.parts.reports.want_view(),
                Effect::Serving { term } => {
                    tracing::debug!(%partition, ?term, "serving");
                    self.parts.reports.serving(partition, term);
                    if let Some(slot) = self.slot(place) {
                        slot.serving = term;
                        slot.told = (Vec::new(), None);
                    }
                    if term.is_none() {
                        self.feeds.end(place, ErrorCode::NotPrimary);
                        self.timers.end(place);
                    }
                }
                Effect::DeleteData { generation } => self.parts.applier.delete(Keyspace { partition, generation }),
                Effect::ReadState { to, snapshot, generation, after, bytes_max } => {
                    let keyspace = Keyspace { partition, generation };
                    let page = Page { keyspace, to, snapshot, after, bytes_max };
                    self.parts.filler.read(page, self.completions.clone());
                }
                Effect::ScanState { token, generation, query } => {
                    let scan = Scan { keyspace: Keyspace { partition, generation }, token, query };
                    self.parts.scanner.read(scan, self.completions.clone());
                }
                Effect::Expiring { key, expiry } => {
                    // Not the burst's beginning, and no part of a millisecond less: never early.
                    let from = self.parts.clock.now().after_ms(1);
                    self.timers.begin(place, &key, expiry, from);
                }
                Effect::ExpiryOver { keys } => self.timers.over(place, &keys),
                Effect::Install { generation, number, records, start } => {
                    let part = Part { keyspace: Keyspace { partition, generation }, number, records, start };
                    self.parts.applier.install(part, self.completions.clone());
                }
            }
        }
        self.effects = effects;
    }

    /// Flushes what was touched and sends everything out.
    pub(super) fn end_burst(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        for place in &touched {
            self.step(*place, Event::Flush);
        }
        // What a flush touched is in `touched` already.
        self.touched = touched;
        for index in 0..self.touched.len() {
            self.settle(self.touched[index]);
        }
        self.touched.clear();
        self.catch_up();
        self.burst_bytes = 0;
        if self.failed {
            return;
        }
        if self.lag.is_due(self.now) {
            self.hand_over();
        }
        self.speak_between();
        for (lease, begins) in self.timers.take_news() {
            self.parts.reports.relies(self.parts.index, lease, begins);
        }
        let (sent, submitted) = self.burst.leave(self.parts.journal.as_ref(), &self.completions);
        self.submissions += u64::from(submitted);
        self.meters.burst(sent, self.lag.bytes(), self.open.len(), self.timers.len());
        self.answer_trimming();
    }

    /// What the shard remembers of a replica, after its flush.
    fn settle(&mut self, place: usize) {
        let now = self.now;
        let Some(Some(slot)) = self.slots.get_mut(place) else { return };
        slot.touched = false;
        self.feeds.feed(place, &slot.replica);
        // A learner that is full is waited for; one that is gone is not full any more.
        let report = slot.serving.is_some() && slot.told.1 != slot.replica.filled();
        if !slot.ticking && slot.replica.needs_tick() {
            slot.ticking = true;
            self.ticking.push(place);
        }
        let bytes = slot.replica.unapplied_bytes();
        if bytes != slot.unapplied_bytes {
            self.lag.count(slot.unapplied_bytes, bytes, now);
            slot.unapplied_bytes = bytes;
        }
        if bytes > 0 && !slot.lagging {
            slot.lagging = true;
            self.lag.lagging.push(place);
        }
        if report {
            self.report_followers(place);
        }
    }
}
