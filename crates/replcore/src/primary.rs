//! Writing, as primary: judge, append, send, count, answer (P7–P12, P16, P19, P28).

use crate::event::{Answer, Effect, Proposal, State, Token};
use crate::expiring::Expiring;
use crate::fences::Judged;
use crate::message::Body;
use crate::mutants::{Mutant, on};
use crate::persist::PersistRecord;
use crate::reads::{Reads, Waiting};
use crate::replica::{Replica, Role, user};
use crate::scanning::Scans;
use crate::sending::Sending;
use crate::transactions::{Conflict, Parked, Transactions};
use rustc_hash::FxHashSet;
use std::collections::VecDeque;
use std::sync::Arc;
use types::{
    Batch, Change, Condition, Configuration, Entry, EntryId, ErrorCode, MutationKind, NodeId, Record, RecordKind,
    Remembered, Seq, Stamp, Term, TransactionOutcome, WriteOutcome,
};

/// Entries in one record of the log, about; a single one may be longer.
const RECORD_BYTES_MAX: usize = 8 << 20;

/// How far `forgotten_before` moves at a time, so that most entries need not carry it.
const FORGET_STEP_MS: u64 = 1_000;

/// One primary's memory of one term. Losing it ends the term (P11).
#[derive(Clone, Hash, Debug)]
pub(crate) struct Primary {
    term: Term,
    /// The seq of the term's own empty entry.
    start: Seq,
    /// P16: `start` is committed.
    serving: bool,
    /// P9: the configuration has no prior, or its activation is committed at the viewleader.
    activated: bool,
    pub(crate) followers: Vec<Follower>,
    /// The log was given to the disk through here. What is beyond never left this node.
    flushed: Seq,
    writes: VecDeque<PendingWrite>,
    uncommitted_bytes: usize,
    pub(crate) reads: Reads,
    pub(crate) transactions: Transactions,
    /// Confirmed pages that the state is being read for.
    pub(crate) scans: Scans,
    /// What committed entries say of keys that expire.
    pub(crate) expiring: Expiring,
    /// Ticks since something that waits has moved.
    pub(crate) still_ticks: u32,
}

#[derive(Clone, Hash, Debug)]
struct PendingWrite {
    seq: Seq,
    token: Token,
    outcome: Outcome,
}

#[derive(Clone, Hash, Debug)]
enum Outcome {
    Write(WriteOutcome),
    Transaction(TransactionOutcome),
}

/// Another replica, or the learner, as the primary knows it in this term.
#[derive(Clone, Hash, Debug)]
pub(crate) struct Follower {
    pub(crate) node: NodeId,
    /// Learners never count (P9).
    votes: bool,
    /// Its durable log equals ours through here.
    matched: Seq,
    /// What it is sent next.
    next: Seq,
    /// Sent and not answered, in order.
    in_flight: VecDeque<InFlight>,
    /// The `committed` it was last sent, and the `held_by_all`: without the second it keeps its log for ever.
    told: Seq,
    told_held: Seq,
    /// While it owes an answer to entries.
    entries: Patience,
    /// While it owes an answer to a round of reads.
    rounds: Patience,
    /// It was given a snapshot that begins here.
    given: Seq,
    /// Needs entries that are trimmed here, and gets a snapshot (P23).
    pub(crate) sending: Option<Sending>,
}

/// How long an answer is waited for before something is sent again.
#[derive(Clone, Copy, Hash, Debug)]
pub(crate) struct Patience {
    silent_ticks: u32,
    /// Doubles with each repetition, up to sixteen times the first.
    patience_ticks: u32,
    first_ticks: u32,
}

impl Patience {
    pub(crate) fn new(first_ticks: u32) -> Patience {
        Patience { silent_ticks: 0, patience_ticks: first_ticks, first_ticks }
    }

    pub(crate) fn answered(&mut self) {
        *self = Patience::new(self.first_ticks);
    }

    /// An answer came, after something had been sent again or not. Where that was needless, because answers take longer
    /// here than was waited for, it should not be repeated for each: patience once gained is lost slowly.
    pub(crate) fn heard(&mut self, asked_again: bool) {
        self.silent_ticks = 0;
        if !asked_again {
            self.patience_ticks = (self.patience_ticks - self.patience_ticks.div_ceil(8)).max(self.first_ticks);
        }
    }

    /// Another tick of silence: whether it is time to send again, without ever becoming more patient.
    pub(crate) fn tick_evenly(&mut self) -> bool {
        self.silent_ticks += 1;
        let over = self.silent_ticks >= self.first_ticks;
        if over {
            self.silent_ticks = 0;
        }
        over
    }

    /// Another tick of silence: whether it is time to send again.
    pub(crate) fn tick(&mut self) -> bool {
        self.silent_ticks += 1;
        let over = self.silent_ticks >= self.patience_ticks;
        if over {
            self.silent_ticks = 0;
            self.patience_ticks = (self.patience_ticks * 2).min(self.first_ticks * 16);
        }
        over
    }
}

#[derive(Clone, Hash, Debug)]
struct InFlight {
    first: Seq,
    end: Seq,
    bytes: usize,
}

impl Follower {
    fn new(node: NodeId, votes: bool, next: Seq, patience_ticks: u32) -> Follower {
        Follower {
            node,
            votes,
            matched: Seq(0),
            next,
            in_flight: VecDeque::new(),
            told: Seq(0),
            told_held: Seq(0),
            entries: Patience::new(patience_ticks),
            rounds: Patience::new(patience_ticks),
            given: Seq(0),
            sending: None,
        }
    }

    /// Nothing but the snapshot is sent until it has it.
    pub(crate) fn begin_sending(&mut self, sending: Sending) {
        self.in_flight.clear();
        self.entries.answered();
        self.sending = Some(sending);
    }

    /// It has the snapshot, and follows from there.
    pub(crate) fn end_sending(&mut self, start: Seq) {
        self.sending = None;
        self.given = start;
        self.next = start.next();
        self.entries.answered();
    }

    /// The log kept for the snapshot has become too long; what it says next begins another.
    pub(crate) fn give_up_sending(&mut self) {
        self.sending = None;
    }

    /// It needs nothing before here.
    fn needs_after(&self) -> Seq {
        self.sending.as_ref().map_or(self.matched.max(self.given), |sending| sending.start.seq)
    }

    /// What was sent may be lost: go on from the oldest that is not answered.
    fn rewind(&mut self) {
        if let Some(oldest) = self.in_flight.front() {
            self.next = oldest.first.max(self.matched.next());
            self.in_flight.clear();
        }
    }
}

impl Primary {
    pub(crate) fn term(&self) -> Term {
        self.term
    }

    /// The seq of the term's own empty entry.
    pub(crate) fn start(&self) -> Seq {
        self.start
    }

    pub(crate) fn uncommitted_bytes(&self) -> usize {
        self.uncommitted_bytes
    }

    pub(crate) fn serving(&self) -> bool {
        self.serving
    }

    pub(crate) fn follower_mut(&mut self, node: NodeId) -> Option<&mut Follower> {
        self.followers.iter_mut().find(|follower| follower.node == node)
    }

    /// Reads were confirmed. Where writes wait too, only they count: their disks may hang while peers still answer.
    pub(crate) fn reads_moved(&mut self, committed: Seq) {
        if committed >= self.flushed {
            self.still_ticks = 0;
        }
    }

    /// A node has answered the latest round.
    pub(crate) fn round_answered(&mut self, node: NodeId) {
        if let Some(follower) = self.followers.iter_mut().find(|f| f.node == node) {
            follower.rounds.answered();
        }
    }

    pub(crate) fn needs_tick(&self, replica: &Replica) -> bool {
        let last = replica.log.last().seq;
        let held = replica.now_held_by_all();
        let lacks = |f: &Follower| f.matched < last || f.told < replica.committed || f.told_held < held;
        !self.serving
            || self.reads.any()
            || self.transactions.needs_tick()
            || replica.committed < last
            || self.followers.iter().any(|f| !replica.down.contains(&f.node) && lacks(f))
    }

    /// How many replicas are a majority.
    pub(crate) fn majority(&self) -> u32 {
        let replicas = 1 + self.followers.iter().filter(|f| f.votes).count() as u32;
        replicas / 2 + 1
    }

    /// These hear of the transaction when the entry commits.
    pub(crate) fn await_transaction(
        &mut self,
        seq: Seq,
        tokens: impl IntoIterator<Item = Token>,
        outcome: &TransactionOutcome,
    ) {
        let write = |token| PendingWrite { seq, token, outcome: Outcome::Transaction(outcome.clone()) };
        self.writes.extend(tokens.into_iter().map(write));
    }

    pub(crate) fn behind(&self, replica: &Replica) -> Vec<NodeId> {
        let silent = |f: &&Follower| {
            let moving = f.matched > Seq(0) && f.next > replica.committed && f.entries.silent_ticks == 0;
            let owes = f.matched < replica.committed && (!moving || replica.down.contains(&f.node));
            f.sending.is_some() || owes
        };
        self.followers.iter().filter(silent).map(|f| f.node).collect()
    }
}

impl Replica {
    // ------------------------------------------------------------------------------------------------ the term

    /// P16: the term begins with an empty entry of its own.
    pub(crate) fn start_term(&mut self, term: Term, effects: &mut Vec<Effect>) {
        let Some(configuration) = self.configuration.clone() else { return };
        let flushed = self.log.last().seq;
        let start = flushed.next();
        let patience = self.settings.resend_ticks;
        let followers = others(&configuration, self.me).map(|(n, votes)| Follower::new(n, votes, start, patience));
        self.role = Role::Primary(Box::new(Primary {
            term,
            start,
            serving: false,
            activated: configuration.is_activated(),
            followers: followers.collect(),
            flushed,
            writes: VecDeque::new(),
            uncommitted_bytes: 0,
            reads: Reads::default(),
            transactions: Transactions::new(start),
            scans: Scans::default(),
            expiring: Expiring::default(),
            still_ticks: 0,
        }));
        self.append_own(term, &Batch::default());
        self.flush_primary(effects);
    }

    /// The same term with another learner, or activated meanwhile (P18).
    pub(crate) fn follow_configuration(&mut self, effects: &mut Vec<Effect>) {
        let Some(configuration) = self.configuration.clone() else { return };
        // A newcomer is sent the last entry first: its answer tells where its log ends.
        let (me, patience) = (self.me, self.settings.resend_ticks);
        let Role::Primary(primary) = &mut self.role else { return };
        let next = primary.flushed;
        if primary.term != configuration.term {
            return;
        }
        let named: Vec<_> = others(&configuration, me).collect();
        primary.followers.retain(|f| named.contains(&(f.node, f.votes)));
        for (node, votes) in named {
            if !primary.followers.iter().any(|f| f.node == node) {
                primary.followers.push(Follower::new(node, votes, next, patience));
            }
        }
        primary.activated |= configuration.is_activated();
        self.try_commit(effects);
    }

    /// P8: this node's term is over. What never left it is taken back; what may have is *unknown*.
    pub(crate) fn abdicate(&mut self, effects: &mut Vec<Effect>) {
        let Role::Primary(primary) = std::mem::replace(&mut self.role, Role::Follower) else { return };
        let refusal = Answer::Error(ErrorCode::NotPrimary);
        if self.log.last().seq > primary.flushed {
            self.truncate(primary.flushed.next());
        }
        for write in primary.writes {
            let left = write.seq <= primary.flushed;
            let answer = if left && !on(Mutant::P29) { Answer::Error(ErrorCode::Unknown) } else { refusal.clone() };
            Self::reply(write.token, answer, effects);
        }
        primary.reads.refuse(&refusal, effects);
        primary.transactions.refuse(&refusal, effects);
        primary.scans.refuse(primary.term, &refusal, effects);
        if primary.serving {
            effects.push(Effect::Serving { term: None });
        }
    }

    pub(crate) fn on_activation(&mut self, term: Term, accepted: bool, effects: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.term != term || primary.activated {
            return;
        }
        if accepted {
            primary.activated = true;
            self.try_commit(effects);
        } else {
            // P16: no longer current; this primary never serves.
            self.abdicate(effects);
            effects.push(Effect::WantView);
        }
    }

    // ------------------------------------------------------------------------------------------------ requests

    pub(crate) fn on_mutate(
        &mut self,
        token: Token,
        proposal: &Proposal,
        state: &dyn State,
        effects: &mut Vec<Effect>,
    ) {
        let Role::Primary(primary) = &self.role else {
            return Self::reply(token, self.refusal(), effects);
        };
        if !primary.serving {
            return Self::reply(token, self.refusal(), effects);
        }
        if let Some(outcome) = self.requests.outcome(proposal.id).filter(|_| !on(Mutant::P28Retry)) {
            // P28, P12: the first answer again, once its entry is committed.
            let answer = Answer::Written { outcome, durable_on: primary.majority(), term: primary.term };
            return self.answer_as_read(token, answer, outcome.version);
        }
        if proposal.stamp < self.requests.refused_before() && !on(Mutant::P28Stamp) {
            return Self::reply(token, Answer::Error(ErrorCode::StampTooOld), effects);
        }
        if self.is_overloaded() {
            return Self::reply(token, Answer::Error(ErrorCode::Overloaded), effects);
        }
        let mutation = &proposal.mutation;
        if let Role::Primary(primary) = &mut self.role
            && let Some(Conflict { key, .. }) = primary.transactions.locks.conflict([(&mutation.key, true)])
        {
            // P22: a transaction has the key; what becomes of it decides what is judged.
            return primary.transactions.park(key, Parked::Mutate(token, proposal.clone()));
        }
        // P12: judged against everything appended, in append order.
        let fence = match &mutation.fence {
            None => None,
            Some(fence) => match self.judge_fence(fence, state, effects) {
                None => return Self::reply(token, self.refusal(), effects),
                Some(Judged::Older { answer, seen, .. }) => return self.answer_as_read(token, answer, seen),
                Some(Judged::Same) => None,
                Some(Judged::Newer(change)) => Some(change),
            },
        };
        if let (Some(change), Role::Primary(primary)) = (&fence, &mut self.role)
            && let Some(Conflict { key, .. }) = primary.transactions.locks.fence_conflict(&change.key.name)
        {
            // Writes with an older token are under way; they come first, or never.
            return primary.transactions.park(key, Parked::Mutate(token, proposal.clone()));
        }
        let key = user(&mutation.key);
        let found = if on(Mutant::P12Judged) {
            self.committed_record(&key, state, effects).map(|record| (record, Seq(0)))
        } else {
            self.newest(&key, state, effects)
        };
        let Some((current, mut seen)) = found else {
            return Self::reply(token, self.refusal(), effects);
        };
        let happens = holds(&mutation.condition, current.as_ref());
        let does_nothing = !happens || (mutation.kind == MutationKind::Delete && current.is_none());
        if let Some(change) = fence.clone().filter(|_| does_nothing) {
            seen = self.log.last().seq.next();
            self.append_batch(&Batch { changes: vec![change], ..Batch::default() });
        }
        if !happens {
            let answer = Answer::ConditionFailed { version: current.map(|record| record.seq) };
            return self.answer_as_read(token, answer, seen);
        }
        let value = match &mutation.kind {
            MutationKind::Put(value) | MutationKind::PutExpiring { value, .. } => Some(value.clone()),
            MutationKind::Delete if current.is_none() => return self.answer_as_read(token, Answer::NotFound, seen),
            MutationKind::Delete => None,
        };
        let outcome = WriteOutcome { version: self.log.last().seq.next(), replaced: current.is_some() };
        let mut changes = vec![Change { key, value }];
        changes.extend(self.begin_expiry(mutation, outcome.version));
        let batch = Batch {
            changes: fence.into_iter().chain(changes).collect(),
            request: Some(Remembered { id: proposal.id, stamp: proposal.stamp, outcome }),
            forgotten_before: self.due_to_forget(proposal.forget_before),
            transaction: None,
        };
        let Role::Primary(primary) = &mut self.role else { return };
        primary.writes.push_back(PendingWrite { seq: outcome.version, token, outcome: Outcome::Write(outcome) });
        let term = primary.term;
        self.append_own(term, &batch);
    }

    /// P28: how far `forgotten_before` moves with the next entry, if it is time.
    pub(crate) fn due_to_forget(&self, before: Stamp) -> Option<Stamp> {
        (before.0 >= self.requests.refused_before().0 + FORGET_STEP_MS).then_some(before)
    }

    /// Whether this primary has more under way than it should.
    pub(crate) fn is_overloaded(&self) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        primary.uncommitted_bytes > self.settings.uncommitted_bytes_max
            || primary.reads.len() + primary.transactions.waiting() >= self.settings.reads_waiting_max
    }

    /// P12: an answer that changes nothing is a read, and waits until all it saw is committed.
    pub(crate) fn answer_as_read(&mut self, token: Token, answer: Answer, seen: Seq) {
        let seen = if on(Mutant::P12Answered) { Seq(0) } else { seen };
        if let Role::Primary(primary) = &mut self.role {
            primary.reads.arrive(Waiting::settled(token, answer, seen));
        }
    }

    /// An entry that carries out no request.
    pub(crate) fn append_batch(&mut self, batch: &Batch) {
        if let Role::Primary(primary) = &self.role {
            let term = primary.term;
            self.append_own(term, batch);
        }
    }

    pub(crate) fn append_own(&mut self, term: Term, batch: &Batch) {
        let payload = batch.encode();
        // The state's keys and values share the entry's memory, as they do at the followers.
        let batch = Batch::decode(&payload).expect("what was just encoded decodes");
        let Role::Primary(primary) = &mut self.role else { return };
        primary.uncommitted_bytes += payload.len();
        let id = EntryId { term, seq: self.log.last().seq.next() };
        for change in batch.changes.iter().filter(|c| c.key.kind == RecordKind::User && c.value.is_none()) {
            primary.transactions.absences.deleted(change.key.name.clone(), id.seq);
        }
        self.append(Entry { id, payload }, batch);
    }

    pub(crate) fn on_forget(&mut self, before: Stamp) {
        let Role::Primary(primary) = &self.role else { return };
        let due = self.requests.oldest().is_some_and(|oldest| oldest < before);
        if primary.serving && due && before > self.requests.refused_before() {
            let term = primary.term;
            self.append_own(term, &Batch { forgotten_before: Some(before), ..Batch::default() });
        }
    }

    pub(crate) fn on_expire(&mut self, tokens: Vec<Token>, effects: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        let expired: FxHashSet<Token> = tokens.into_iter().collect();
        primary.writes.retain(|write| {
            let over = expired.contains(&write.token);
            if over {
                // P29: it is appended, so it may still happen.
                Self::reply(write.token, Answer::Error(ErrorCode::Unknown), effects);
            }
            !over
        });
        primary.reads.expire(&expired, effects);
        primary.scans.expire(&expired, effects);
        self.expire_transactions(&expired, effects);
    }

    // ------------------------------------------------------------------------------------------------ replication

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

    fn now_held_by_all(&self) -> Seq {
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

/// Every other member, and whether it votes.
fn others(configuration: &Arc<Configuration>, me: NodeId) -> impl Iterator<Item = (NodeId, bool)> {
    let replicas = configuration.replicas.iter().map(|n| (*n, true));
    let learner = configuration.learner.filter(|n| !configuration.replicas.contains(n)).map(|n| (n, false));
    replicas.chain(learner).filter(move |(n, _)| *n != me)
}

pub(crate) fn holds(condition: &Condition, current: Option<&Record>) -> bool {
    match condition {
        Condition::None => true,
        Condition::Absent => current.is_none(),
        Condition::Present => current.is_some(),
        Condition::Version(seq) => current.is_some_and(|record| record.seq == *seq),
        Condition::Value(value) => current.is_some_and(|record| record.value == *value),
    }
}
