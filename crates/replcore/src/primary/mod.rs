//! Writing, as primary: judge and append here; send, count and answer in `replication` (P7–P12, P16, P19, P28).

mod followers;
mod replication;

pub(crate) use followers::Patience;

use crate::event::{Answer, Effect, Proposal, State, Token};
use crate::expiring::Expiring;
use crate::fences::Judged;
use crate::mutants::{Mutant, on};
use crate::reads::{Reads, Waiting};
use crate::replica::{Replica, Role, user};
use crate::scanning::Scans;
use crate::transactions::{Conflict, Parked, Transactions};
use followers::Follower;
use rustc_hash::FxHashSet;
use std::collections::VecDeque;
use std::sync::Arc;
use types::{
    Batch, Change, Condition, Configuration, Entry, EntryId, ErrorCode, MutationKind, NodeId, Record, RecordKind,
    Remembered, Seq, Stamp, Term, TransactionOutcome, WriteOutcome,
};

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
