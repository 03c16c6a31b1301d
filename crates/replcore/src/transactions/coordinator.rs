//! The home: begins attempts, gathers votes, decides (P26), tells, and answers those that ask (P27).

use super::judging::{self, Judged, Judgement};
use super::records::Decision;
use super::{Age, Conflict, OnCommit, Parked, TransactionBody};
use crate::event::{Answer, Effect, State, Token, TransactionProposal};
use crate::fences::Judged as Fenced;
use crate::mutants::{Mutant, on};
use crate::primary::Patience;
use crate::replica::{Replica, Role};
use bytes::Bytes;
use rustc_hash::FxHashSet;
use std::collections::BTreeMap;
use types::limits::{TRANSACTION_READ_BYTES_MAX, TRANSACTION_RESULT_BYTES_MAX};
use types::{
    AttemptId, Batch, Change, ErrorCode, PartitionId, RecordKey, RecordKind, Remembered, RequestId, Seq, Stamp,
    TransactionOutcome, TransactionPart, WriteOutcome,
};

/// An attempt that is not decided.
#[derive(Clone, Hash, Debug)]
pub(super) struct Attempt {
    /// Who is answered: retries of the request join in.
    pub(super) tokens: Vec<Token>,
    request: RequestId,
    stamp: Stamp,
    forget_before: Stamp,
    /// What was found for the own part, whose keys are locked since.
    judged: Judged,
    keys: Vec<super::locks::Locked>,
    /// The name of the lock whose token it came with, held since as well.
    fence: Option<Bytes>,
    participants: BTreeMap<PartitionId, Participant>,
    patience: Patience,
    pub(super) ticks: u32,
}

#[derive(Clone, Hash, Debug)]
struct Participant {
    part: Box<TransactionPart>,
    yes: Option<(Seq, Judgement)>,
}

impl Attempt {
    /// Those that have not voted.
    pub(super) fn silent(&self) -> impl Iterator<Item = PartitionId> {
        self.participants.iter().filter(|(_, participant)| participant.yes.is_none()).map(|(partition, _)| *partition)
    }

    pub(super) fn age(&self) -> Age {
        Age { stamp: self.stamp, request: self.request }
    }
}

/// A transaction that has happened once its entry commits.
#[derive(Clone, Hash, Debug)]
pub(super) struct Decided {
    seq: Seq,
    succeeded: bool,
    /// Who has not acknowledged, and what it prepared.
    pub(super) untold: BTreeMap<PartitionId, Seq>,
    /// Who has locked and has nothing to write: may let go once this commits.
    idle: Vec<PartitionId>,
    patience: Patience,
    pub(super) ticks: u32,
}

impl Decided {
    /// As the state or the log has it.
    pub(super) fn recovered(seq: Seq, decision: Decision, patience: Patience) -> Decided {
        let Decision { succeeded, participants } = decision;
        Decided { seq, succeeded, untold: participants.into_iter().collect(), idle: Vec::new(), patience, ticks: 0 }
    }
}

impl Replica {
    pub(crate) fn on_transact(
        &mut self,
        token: Token,
        proposal: TransactionProposal,
        state: &dyn State,
        effects: &mut Vec<Effect>,
    ) {
        let Some((home, part)) = proposal.parts.first() else {
            return Self::reply(token, Answer::Error(ErrorCode::Invalid), effects);
        };
        if *home != self.partition() {
            return Self::reply(token, Answer::Error(ErrorCode::NotPrimary), effects);
        }
        if self.transactions().is_none() {
            return Self::reply(token, self.refusal(), effects);
        }
        // P28, P12: the first answer again, once its entry is committed.
        if let Some((answer, seen)) = self.remembered_transaction(proposal.id) {
            return self.answer_as_read(token, answer, seen);
        }
        if proposal.stamp < self.requests.refused_before() && !on(Mutant::P28Stamp) {
            return Self::reply(token, Answer::Error(ErrorCode::StampTooOld), effects);
        }
        if let Some(transactions) = self.transactions()
            && let Some(counter) = transactions.by_request.get(&proposal.id)
            && let Some(attempt) = transactions.attempts.get_mut(counter)
        {
            attempt.tokens.push(token);
            return;
        }
        if self.is_overloaded() {
            return Self::reply(token, Answer::Error(ErrorCode::Overloaded), effects);
        }
        let Some(transactions) = self.transactions() else { return };
        if let Some(Conflict { key, .. }) = transactions.locks.conflict(part.keys()) {
            // It holds nothing yet, so it may wait for anybody.
            return transactions.park(key, Parked::Transact(token, proposal));
        }
        let fence = match part.fence.as_ref().map(|fence| self.judge_fence(fence, state, effects)) {
            None | Some(Some(Fenced::Same)) => None,
            Some(None) => return Self::reply(token, self.refusal(), effects),
            Some(Some(Fenced::Older { answer, seen, .. })) => return self.answer_as_read(token, answer, seen),
            Some(Some(Fenced::Newer(change))) => Some(change),
        };
        if let (Some(change), Some(transactions)) = (&fence, self.transactions())
            && let Some(Conflict { key, .. }) = transactions.locks.fence_conflict(&change.key.name)
        {
            return transactions.park(key, Parked::Transact(token, proposal));
        }
        let Some(judged) = self.judge(part, state, effects) else {
            return Self::reply(token, self.refusal(), effects);
        };
        if judged.found.read_bytes() > TRANSACTION_READ_BYTES_MAX {
            return Self::reply(token, Answer::Error(ErrorCode::Invalid), effects);
        }
        if proposal.parts.len() == 1 {
            self.transact_here(token, &proposal, judged, fence, effects);
        } else {
            self.begin_attempt(token, proposal, judged, fence, effects);
        }
    }

    /// All keys are here: an ordinary batch.
    fn transact_here(
        &mut self,
        token: Token,
        proposal: &TransactionProposal,
        judged: Judged,
        fence: Option<Change>,
        effects: &mut Vec<Effect>,
    ) {
        let succeeded = judged.found.holds;
        let next = self.log.last().seq.next();
        let outcome = judging::outcome(succeeded, &judged.found, Some(next), std::iter::empty());
        let seen = judged.seen;
        let mut changes = judged.into_branch(succeeded);
        if changes.is_empty() {
            let seen = self.keep_token(fence).unwrap_or(seen);
            return self.answer_as_read(token, self.transacted(outcome), seen);
        }
        changes.extend(fence);
        let (id, stamp, forget_before) = (proposal.id, proposal.stamp, proposal.forget_before);
        if self.append_outcome(changes, &outcome, id, stamp, forget_before).is_none() {
            return Self::reply(token, Answer::Error(ErrorCode::Invalid), effects);
        }
        self.await_outcome(next, [token], &outcome);
    }

    /// A newer fencing token is kept in an entry of its own.
    fn keep_token(&mut self, fence: Option<Change>) -> Option<Seq> {
        fence.map(|change| self.append_transaction(Batch { changes: vec![change], ..Batch::default() }))
    }

    fn begin_attempt(
        &mut self,
        token: Token,
        proposal: TransactionProposal,
        mut judged: Judged,
        fence: Option<Change>,
        effects: &mut Vec<Effect>,
    ) {
        judged.seen = self.keep_token(fence).unwrap_or(judged.seen);
        let TransactionProposal { id: request, stamp, parts, forget_before } = proposal;
        let (home, patience) = (self.partition(), Patience::new(self.settings.resend_ticks));
        let Role::Primary(primary) = &mut self.role else { return };
        let (term, transactions) = (primary.term(), &mut primary.transactions);
        // P24: the term's own count.
        transactions.counter += 1;
        let counter = transactions.counter;
        let attempt = AttemptId { home, term, counter };
        let mut parts = parts.into_iter();
        let own = parts.next().map(|(_, part)| part).unwrap_or_default();
        let keys: Vec<_> = own.keys().into_iter().map(|(key, exclusive)| (key.clone(), exclusive)).collect();
        transactions.locks.take(attempt, &keys, false);
        let fence = own.fence.map(|fence| fence.name);
        if let Some(name) = &fence {
            transactions.locks.take_fence(attempt, name);
        }
        let participants =
            parts.map(|(partition, part)| (partition, Participant { part: Box::new(part), yes: None })).collect();
        let begun = Attempt {
            tokens: vec![token],
            request,
            stamp,
            forget_before,
            judged,
            keys,
            fence,
            participants,
            patience,
            ticks: 0,
        };
        transactions.attempts.insert(counter, begun);
        transactions.by_request.insert(request, counter);
        self.ask_for_votes(attempt, effects);
    }

    fn ask_for_votes(&mut self, attempt: AttemptId, effects: &mut Vec<Effect>) {
        let Some(it) = self.transactions().and_then(|t| t.attempts.get(&attempt.counter)) else { return };
        let age = it.age();
        let silent = it.participants.iter().filter(|(_, participant)| participant.yes.is_none());
        let asked: Vec<_> = silent.map(|(partition, participant)| (*partition, participant.part.clone())).collect();
        for (partition, part) in asked {
            self.say(partition, attempt, TransactionBody::Prepare { age, part }, effects);
        }
    }

    // ------------------------------------------------------------------------------------------------ votes

    pub(super) fn on_yes(
        &mut self,
        attempt: AttemptId,
        from: PartitionId,
        prepared: Seq,
        judged: Judgement,
        effects: &mut Vec<Effect>,
    ) {
        let Role::Primary(primary) = &mut self.role else { return };
        // P24: a vote counts for the attempt that it names, of this term.
        let own = attempt.term == primary.term() || on(Mutant::P24);
        let open = primary.transactions.attempts.get_mut(&attempt.counter).filter(|_| own);
        let Some(open) = open else {
            return self.on_ask(attempt, from, prepared, effects);
        };
        if let Some(participant) = open.participants.get_mut(&from) {
            participant.yes = Some((prepared, judged));
        }
        if open.silent().next().is_none() {
            self.decide(attempt.counter, effects);
        }
    }

    pub(super) fn on_no(&mut self, attempt: AttemptId, from: PartitionId, why: &Answer, effects: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        let own = attempt.term == primary.term();
        let Some(open) = primary.transactions.attempts.get(&attempt.counter).filter(|_| own) else { return };
        // A no that comes after a yes is an earlier copy's.
        if open.participants.get(&from).is_some_and(|participant| participant.yes.is_none()) {
            self.give_up_attempt(attempt.counter, why, effects);
        }
    }

    /// It will not happen: everybody lets go.
    fn give_up_attempt(&mut self, counter: u64, answer: &Answer, effects: &mut Vec<Effect>) {
        let Some(it) = self.end_attempt(counter) else { return };
        for token in &it.tokens {
            Self::reply(*token, answer.clone(), effects);
        }
        self.tell_abort(counter, it.participants.keys(), effects);
    }

    fn tell_abort<'a>(
        &self,
        counter: u64,
        participants: impl Iterator<Item = &'a PartitionId>,
        effects: &mut Vec<Effect>,
    ) {
        let Role::Primary(primary) = &self.role else { return };
        let attempt = AttemptId { home: self.partition(), term: primary.term(), counter };
        participants.for_each(|partition| self.say(*partition, attempt, TransactionBody::Abort, effects));
    }

    /// The attempt is undecided no more: its own locks end.
    fn end_attempt(&mut self, counter: u64) -> Option<Attempt> {
        let home = self.partition();
        let Role::Primary(primary) = &mut self.role else { return None };
        let (term, transactions) = (primary.term(), &mut primary.transactions);
        let it = transactions.attempts.remove(&counter)?;
        transactions.by_request.remove(&it.request);
        let attempt = AttemptId { home, term, counter };
        transactions.locks.release(attempt, &it.keys);
        if let Some(name) = &it.fence {
            transactions.locks.release_fence(attempt, name);
        }
        transactions.wake(it.keys.iter().map(|(key, _)| key).chain(&it.fence));
        Some(it)
    }

    // ------------------------------------------------------------------------------------------------ the decision

    /// P26, with every yes.
    fn decide(&mut self, counter: u64, effects: &mut Vec<Effect>) {
        let Some(it) = self.end_attempt(counter) else { return };
        let own = &it.judged.found;
        let votes = || it.participants.values().filter_map(|participant| participant.yes.as_ref());
        let succeeded = own.holds && votes().all(|(_, judgement)| judgement.holds);
        let next = self.log.last().seq.next();
        let outcome = judging::outcome(succeeded, own, Some(next), votes().map(|(_, judgement)| judgement));
        // P28: another attempt at the same request was decided meanwhile; or its time is forgotten.
        let refused = match self.remembered_transaction(it.request) {
            Some((answer, seen)) => Some((answer, Some(seen))),
            None if it.stamp < self.requests.refused_before() => Some((Answer::Error(ErrorCode::StampTooOld), None)),
            None if outcome.results.iter().map(judging::read_bytes).sum::<usize>() > TRANSACTION_READ_BYTES_MAX => {
                Some((Answer::Error(ErrorCode::Invalid), None))
            }
            None if !own.changes(succeeded)
                && !votes().any(|(_, judgement)| judgement.changes(succeeded))
                && (it.judged.seen <= self.committed || on(Mutant::P26Reads)) =>
            {
                // All is locked at this instant, if this is still the primary: a read, which changes nothing. What it saw
                // here is committed; else others could read what was before it after the participants were let go.
                Some((self.transacted(outcome.clone()), Some(it.judged.seen)))
            }
            None => None,
        };
        if let Some((answer, seen)) = refused {
            for token in &it.tokens {
                match seen {
                    Some(seen) => self.answer_as_read(*token, answer.clone(), seen),
                    None => Self::reply(*token, answer.clone(), effects),
                }
            }
            return self.tell_abort(counter, it.participants.keys(), effects);
        }
        let Role::Primary(primary) = &self.role else { return };
        let attempt = AttemptId { home: self.partition(), term: primary.term(), counter };
        let (mut decision, mut idle) = (Decision { succeeded, participants: Vec::new() }, Vec::new());
        for (partition, participant) in &it.participants {
            match &participant.yes {
                Some((prepared, judgement)) if judgement.changes(succeeded) => {
                    decision.participants.push((*partition, *prepared));
                }
                _ => idle.push(*partition),
            }
        }
        let mut changes = it.judged.into_branch(succeeded);
        if !decision.participants.is_empty() {
            let key = RecordKey { kind: RecordKind::Decision, name: attempt.to_name() };
            changes.push(Change { key, value: Some(decision.encode()) });
        }
        if self.append_outcome(changes, &outcome, it.request, it.stamp, it.forget_before).is_none() {
            for token in &it.tokens {
                Self::reply(*token, Answer::Error(ErrorCode::Invalid), effects);
            }
            return self.tell_abort(counter, it.participants.keys(), effects);
        }
        self.await_outcome(next, it.tokens, &outcome);
        let again = Patience::new(self.settings.resend_ticks);
        let Some(transactions) = self.transactions() else { return };
        let decided = Decided { idle, ..Decided::recovered(next, decision, again) };
        transactions.decided.insert(attempt, decided);
        transactions.commits.push_back((next, OnCommit::Decided(attempt)));
        if on(Mutant::P26Early) {
            self.tell_decision(attempt, effects);
        }
    }

    /// One entry: what is written here, the request's id, and its result. `None`: the result is too large to remember.
    fn append_outcome(
        &mut self,
        changes: Vec<Change>,
        outcome: &TransactionOutcome,
        id: RequestId,
        stamp: Stamp,
        forget_before: Stamp,
    ) -> Option<Seq> {
        let encoded = outcome.encode();
        if encoded.len() > TRANSACTION_RESULT_BYTES_MAX {
            return None;
        }
        let written = WriteOutcome { version: self.log.last().seq.next(), replaced: false };
        Some(self.append_transaction(Batch {
            changes,
            request: Some(Remembered { id, stamp, outcome: written }),
            forgotten_before: self.due_to_forget(forget_before),
            transaction: Some(encoded),
        }))
    }

    fn await_outcome(&mut self, seq: Seq, tokens: impl IntoIterator<Item = Token>, outcome: &TransactionOutcome) {
        if let Role::Primary(primary) = &mut self.role {
            primary.await_transaction(seq, tokens, outcome);
        }
    }

    fn transacted(&self, outcome: TransactionOutcome) -> Answer {
        let (durable_on, term) = match &self.role {
            Role::Primary(primary) => (primary.majority(), primary.term()),
            _ => Default::default(),
        };
        Answer::Transacted { outcome, durable_on, term }
    }

    /// What a request that is remembered was answered, and the entry that did it.
    fn remembered_transaction(&self, id: RequestId) -> Option<(Answer, Seq)> {
        let written = self.requests.outcome(id).filter(|_| !on(Mutant::P28Retry))?;
        // An id of something else: the client's mistake, and nothing is done.
        let outcome = self.requests.transaction(id).and_then(|bytes| TransactionOutcome::decode(bytes).ok());
        let answer = outcome.map_or(Answer::Error(ErrorCode::Invalid), |outcome| self.transacted(outcome));
        Some((answer, written.version))
    }

    // ------------------------------------------------------------------------------------------------ telling

    /// P26: the decision is committed.
    pub(super) fn tell_decision(&mut self, attempt: AttemptId, effects: &mut Vec<Effect>) {
        let Some(transactions) = self.transactions() else { return };
        let Some(decided) = transactions.decided.get_mut(&attempt) else { return };
        let idle = std::mem::take(&mut decided.idle);
        let (succeeded, untold) = (decided.succeeded, decided.untold.clone());
        if untold.is_empty() {
            // No record says it, and none is needed: who asks hears that there is nothing to write.
            transactions.decided.remove(&attempt);
        }
        for (partition, prepared) in untold {
            self.say(partition, attempt, TransactionBody::Commit { prepared, succeeded }, effects);
        }
        for partition in idle {
            self.say(partition, attempt, TransactionBody::Abort, effects);
        }
    }

    pub(super) fn on_done(&mut self, attempt: AttemptId, from: PartitionId) {
        let committed = self.committed;
        let Some(transactions) = self.transactions() else { return };
        let Some(decided) = transactions.decided.get_mut(&attempt) else { return };
        decided.untold.remove(&from);
        if decided.untold.is_empty() && decided.seq <= committed {
            transactions.decided.remove(&attempt);
            transactions.finished.push(attempt);
        }
    }

    /// P27. Also a yes for an attempt that is not open here.
    pub(super) fn on_ask(&mut self, attempt: AttemptId, from: PartitionId, prepared: Seq, effects: &mut Vec<Effect>) {
        let committed = self.committed;
        let Role::Primary(primary) = &self.role else { return };
        let (term, transactions) = (primary.term(), &primary.transactions);
        if attempt.term > term && !on(Mutant::P27) {
            return; // stale: a later home knows
        }
        if attempt.term == term && transactions.attempts.contains_key(&attempt.counter) && !on(Mutant::P27Open) {
            return; // not decided: it will hear
        }
        let body = match transactions.decided.get(&attempt) {
            Some(decided) if decided.seq > committed => return,
            Some(decided) => match decided.untold.get(&from) {
                // It has prepared again since: first it must say that what was decided is done.
                Some(known) if *known <= prepared => {
                    TransactionBody::Commit { prepared: *known, succeeded: decided.succeeded }
                }
                Some(_) => return, // an earlier record's question, late
                None => TransactionBody::Abort,
            },
            None => TransactionBody::Abort,
        };
        self.say(from, attempt, body, effects);
    }

    // ------------------------------------------------------------------------------------------------ time

    pub(super) fn tick_attempts(&mut self, effects: &mut Vec<Effect>) {
        let (home, stuck) = (self.partition(), self.settings.stuck_ticks);
        let Role::Primary(primary) = &mut self.role else { return };
        let (term, transactions) = (primary.term(), &mut primary.transactions);
        let (mut again, mut over) = (Vec::new(), Vec::new());
        for (counter, attempt) in &mut transactions.attempts {
            attempt.ticks += 1;
            if attempt.ticks >= stuck {
                over.push(*counter);
            } else if attempt.patience.tick() {
                again.push(AttemptId { home, term, counter: *counter });
            }
        }
        for attempt in again {
            self.ask_for_votes(attempt, effects);
        }
        for counter in over {
            // A participant that can't answer must not keep the others locked.
            self.give_up_attempt(counter, &Answer::Error(ErrorCode::Unavailable), effects);
        }
    }

    pub(super) fn tick_decided(&mut self, effects: &mut Vec<Effect>) {
        let (committed, mut again) = (self.committed, Vec::new());
        let Some(transactions) = self.transactions() else { return };
        for (attempt, decided) in &mut transactions.decided {
            decided.ticks = decided.ticks.saturating_add(1);
            if decided.seq <= committed && decided.patience.tick_evenly() {
                again.push(*attempt);
            }
        }
        for attempt in again {
            self.tell_decision(attempt, effects);
        }
    }

    pub(super) fn expire_attempts(&mut self, expired: &FxHashSet<Token>, effects: &mut Vec<Effect>) {
        let Some(transactions) = self.transactions() else { return };
        let mut over = Vec::new();
        for (counter, attempt) in &mut transactions.attempts {
            if attempt.tokens.iter().all(|token| expired.contains(token)) {
                over.push(*counter);
                continue;
            }
            attempt.tokens.retain(|token| {
                let is_over = expired.contains(token);
                if is_over {
                    // P29: a retry of the same request still waits for it, and may yet hear that it is done.
                    Self::reply(*token, Answer::Error(ErrorCode::Unknown), effects);
                }
                !is_over
            });
        }
        for counter in over {
            // P29: it is not decided, and won't be.
            self.give_up_attempt(counter, &Answer::Error(ErrorCode::DeadlineExceeded), effects);
        }
    }
}
