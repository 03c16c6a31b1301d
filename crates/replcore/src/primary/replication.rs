//! Sending, counting, committing, sending again (P7–P10, P16, P19).

use super::Outcome;
use super::followers::{Follower, InFlight};
use crate::event::{Answer, Effect};
use crate::message::Body;
use crate::mutants::{Mutant, on};
use crate::persist::PersistRecord;
use crate::replica::{Replica, Role};
use types::{EntryId, NodeId, Seq, Term};

/// Entries in one record of the log, about; a single one may be longer.
const RECORD_BYTES_MAX: usize = 8 << 20;

impl Replica {
    /// Everything appended since the last flush goes to the disk and to the followers, and reads get their round.
    pub(crate) fn flush_primary(&mut self, effects: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        let last = self.log.last().seq;
        let mut from = primary.flushed.next();
        primary.flushed = primary.flushed.max(last);
        // In records of bounded length: what waited for a lock may all be appended at once.
        while from <= last {
            let entries = self.log.range(from, last, RECORD_BYTES_MAX);
            from = Seq(from.0 + entries.len() as u64);
            self.persist(PersistRecord::Append { entries, committed: self.committed }, effects);
        }
        self.replicate(effects);
        self.begin_round(effects);
    }

    /// P7: sends each follower what its window has room for.
    pub(crate) fn replicate(&mut self, effects: &mut Vec<Effect>) {
        let held = self.held_by_all();
        let Role::Primary(primary) = &mut self.role else { return };
        let (settings, committed, log, down) = (self.settings, self.committed, &self.log, &self.down);
        // P11: what is not given to the own disk has not left, and may still be taken back.
        let last = primary.flushed;
        for follower in &mut primary.followers {
            if follower.sending.is_some() || down.contains(&follower.node) {
                continue;
            }
            // Who lacks what is below the trim point answers `Mismatch`.
            follower.next = follower.next.max(log.trim().seq.next());
            let mut window: usize = follower.in_flight.iter().map(|sent| sent.bytes).sum();
            while follower.next <= last && window < settings.window_bytes_max {
                let prev = log.id_at(follower.next.before()).expect("what a follower is sent next is kept");
                let entries = log.range(follower.next, last, settings.message_bytes_max);
                let bytes: usize = entries.iter().map(|entry| entry.payload.len() + 16).sum();
                let end = Seq(prev.seq.0 + entries.len() as u64);
                window += bytes;
                follower.in_flight.push_back(InFlight { first: follower.next, end, bytes });
                follower.next = end.next();
                (follower.told, follower.told_held) = (committed, held);
                let body = Body::Prepare { prev, entries, committed, held_by_all: held };
                let message = crate::Message { term: primary.term, body };
                effects.push(Effect::Send { to: follower.node, message });
            }
        }
    }

    /// Through here every replica and the learner have the log on disk.
    fn held_by_all(&mut self) -> Seq {
        self.held_by_all = self.now_held_by_all();
        self.held_by_all
    }

    pub(super) fn now_held_by_all(&self) -> Seq {
        // Before the activation, members of the prior configuration may still need the log.
        let Role::Primary(primary) = &self.role else { return self.held_by_all };
        if !primary.activated {
            return self.held_by_all;
        }
        let own = self.durable();
        let least = primary.followers.iter().map(Follower::needs_after).min().unwrap_or(own).min(own);
        self.held_by_all.max(least)
    }

    /// Beyond this the log must stay even where it is longer than it should be: for replicas that are being filled, and
    /// those that follow. Without a bound there is none. Where room is to be made, who only follows gets a snapshot.
    pub(crate) fn pinned(&self, make_room: bool) -> Seq {
        let Role::Primary(primary) = &self.role else { return Seq(u64::MAX) };
        let follows = |f: &&Follower| !self.down.contains(&f.node) && f.needs_after() > Seq(0);
        let far = make_room || self.log.bytes() / 2 > self.settings.log_bytes_max;
        let kept_for = primary.followers.iter().filter(follows).filter(|f| !far || f.sending.is_some());
        kept_for.map(Follower::needs_after).min().unwrap_or(Seq(u64::MAX))
    }

    pub(crate) fn on_prepared(&mut self, from: NodeId, term: Term, seq: Seq, effects: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        // P8, P9: only of this term; distinct nodes; never beyond what was sent.
        if primary.term != term || seq > primary.flushed {
            return;
        }
        let Some(follower) = primary.followers.iter_mut().find(|f| f.node == from) else { return };
        if on(Mutant::P17Prepared) {
            primary.reads.answered_latest(from);
        }
        if seq <= follower.matched {
            // The answer to a probe, with nothing under way: what follows was lost.
            if seq == follower.matched && follower.in_flight.is_empty() {
                follower.next = seq.next();
            }
            return;
        }
        // Its log reaches what is kept here after all.
        follower.sending.take_if(|sending| sending.start.seq <= seq);
        follower.entries.answered();
        follower.matched = seq;
        follower.next = follower.next.max(seq.next());
        while follower.in_flight.pop_front_if(|sent| sent.end <= seq).is_some() {}
        if follower.in_flight.is_empty() {
            follower.next = seq.next();
        }
        self.try_commit(effects);
    }

    pub(crate) fn on_mismatch(
        &mut self,
        from: NodeId,
        term: Term,
        last: EntryId,
        committed: Seq,
        effects: &mut Vec<Effect>,
    ) {
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.term != term {
            return;
        }
        let (log, flushed) = (&self.log, primary.flushed);
        let Some(follower) = primary.followers.iter_mut().find(|f| f.node == from) else { return };
        // P7: go on from the end of its log where we have that entry, else from what it holds as committed: that is
        // ours too. Below our trim point every replica has everything.
        let known = if log.holds(last) { last.seq } else { committed };
        if last.seq < follower.matched {
            if follower.votes {
                return; // said before the answer that matched: what is on its disk does not leave it
            }
            // A learner that was sent away and named again within the term begins anew (P18).
            (follower.matched, follower.given) = (known, Seq(0));
        }
        // A newcomer gets the state rather than a long log that led to it.
        let is_empty = !follower.votes && last == EntryId::ZERO;
        let longer = log.bytes() > self.settings.chunk_bytes_max;
        if let Some(sending) = &follower.sending {
            // Said before the snapshot began, or because what it holds already is beyond it.
            if known < sending.start.seq {
                return;
            }
            follower.sending = None;
        } else if known.max(follower.matched) < log.trim().seq || is_empty && longer && self.applied.seq > Seq(0) {
            return self.begin_sending(from, effects);
        }
        let next = known.max(follower.matched).max(log.trim().seq).min(flushed).next();
        if follower.in_flight.front().is_some_and(|oldest| oldest.first == next) {
            return; // each message behind a lost one says this again
        }
        follower.entries.answered();
        follower.in_flight.clear();
        follower.next = next;
    }

    /// P9: what a majority of the replicas has on disk is committed, and everything before it.
    pub(crate) fn try_commit(&mut self, effects: &mut Vec<Effect>) {
        let own = if on(Mutant::P2OwnVote) { self.log.last().seq } else { self.durable() };
        let Role::Primary(primary) = &mut self.role else { return };
        // P8: a vote is only counted while the own promise is the term.
        assert!(self.promised == primary.term || on(Mutant::P8), "a primary's term is its promise");
        let votes = |f: &&Follower| f.votes || on(Mutant::P9Learner);
        let replicas = 1 + primary.followers.iter().filter(|f| f.votes).count();
        let mut on_disk: Vec<Seq> = primary.followers.iter().filter(votes).map(|f| f.matched).collect();
        on_disk.push(own);
        on_disk.sort_unstable_by(|a, b| b.cmp(a));
        let majority = on_disk[if on(Mutant::P9Majority) { 0 } else { replicas / 2 }];
        if majority < primary.start && !on(Mutant::P16) {
            return;
        }
        if !primary.activated && !on(Mutant::P9Prior) {
            // P9, P16: with a prior nothing commits by counting; the viewleader decides.
            effects.push(Effect::ReportActivated { term: primary.term });
            if !on(Mutant::P16Activation) {
                return;
            }
        }
        if majority <= self.committed {
            return;
        }
        let before = self.committed;
        let freed: usize = (before.0 + 1..=majority.0)
            .filter(|seq| Seq(*seq) >= primary.start)
            .filter_map(|seq| self.log.get(Seq(seq)))
            .map(|entry| entry.payload.len())
            .sum();
        primary.uncommitted_bytes = primary.uncommitted_bytes.saturating_sub(freed);
        primary.still_ticks = 0;
        let mut begins = false;
        if !primary.serving {
            primary.serving = true;
            effects.push(Effect::Serving { term: Some(primary.term) });
            begins = true;
        }
        primary.expiring.committed(majority, effects);
        while let Some(write) = primary.writes.pop_front_if(|write| write.seq <= majority) {
            let durable_on = on_disk.iter().filter(|seq| **seq >= write.seq).count() as u32;
            let term = primary.term;
            let answer = match write.outcome {
                Outcome::Write(outcome) => Answer::Written { outcome, durable_on, term },
                Outcome::Transaction(outcome) => Answer::Transacted { outcome, durable_on, term },
            };
            Self::reply(write.token, answer, effects);
        }
        self.commit_through(majority);
        self.transactions_committed(effects);
        if begins && !on(Mutant::ExpiryTakeover) {
            self.list_expiring(effects);
        }
    }

    // ------------------------------------------------------------------------------------------------ repetition

    pub(crate) fn primary_peer_up(&mut self, peer: NodeId, effects: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(follower) = primary.followers.iter_mut().find(|f| f.node == peer) else { return };
        follower.entries.answered();
        follower.rounds.answered();
        follower.rewind();
        // P10: what the broken stream was told may not have arrived.
        (follower.told, follower.told_held) = (Seq(0), Seq(0));
        let term = primary.term;
        if let Some(nonce) = primary.reads.open_round(peer) {
            self.send(peer, term, Body::Confirm { nonce }, effects);
        }
        self.resend_chunks(peer, effects);
        self.replicate(effects);
    }

    pub(crate) fn tick_primary(&mut self, effects: &mut Vec<Effect>) {
        let settings = self.settings;
        let held = self.held_by_all();
        let Role::Primary(primary) = &mut self.role else { return };
        let last = primary.flushed;
        let (term, committed) = (primary.term, self.committed);
        let mut confirm = Vec::new();
        for follower in &mut primary.followers {
            if self.down.contains(&follower.node) {
                continue;
            }
            let mut probe = false;
            let open_round = if follower.votes { primary.reads.open_round(follower.node) } else { None };
            if follower.sending.is_none() && follower.matched < last && follower.entries.tick() {
                follower.rewind();
                probe = follower.next > last;
            }
            if let Some(nonce) = open_round
                && follower.rounds.tick()
            {
                confirm.push((follower.node, nonce));
            }
            // P10: an idle primary says once what is committed, and what everybody has.
            let lacks = follower.told < committed || follower.told_held < held && !on(Mutant::P10Held);
            let idle = follower.matched >= last && lacks && follower.sending.is_none();
            if (idle || probe)
                && let Some(prev) = self.log.id_at(follower.matched.max(self.log.trim().seq))
            {
                (follower.told, follower.told_held) = (committed, held);
                let body = Body::Prepare { prev, entries: Vec::new(), committed, held_by_all: held };
                effects.push(Effect::Send { to: follower.node, message: crate::Message { term, body } });
            }
        }
        let waits = !primary.serving || committed < last || primary.reads.any();
        primary.still_ticks = if waits { primary.still_ticks + 1 } else { 0 };
        if primary.still_ticks > 0 && primary.still_ticks.is_multiple_of(settings.stuck_ticks) {
            // P19.
            let silent = primary
                .followers
                .iter()
                .filter(|f| f.votes && (f.matched < last || primary.reads.open_round(f.node).is_some()));
            let unreachable = silent.map(|f| f.node).collect();
            effects.push(Effect::ReportStuck { term, unreachable, holder: None });
        }
        if !primary.activated && primary.still_ticks.is_multiple_of(settings.resend_ticks) {
            self.try_commit(effects);
        }
        for (node, nonce) in confirm {
            self.send(node, term, Body::Confirm { nonce }, effects);
        }
        self.tick_sending(effects);
        self.tick_transactions(effects);
        self.replicate(effects);
    }
}
