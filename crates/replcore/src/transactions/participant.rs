//! A participant: locks and stages when asked (P25), writes or lets go when told (P26), and asks when nobody tells (P27).

use super::records::Staged;
use super::{Age, Conflict, Judged, OnCommit, Parked, TransactionBody};
use crate::event::{Effect, State};
use crate::fences::Judged as Fenced;
use crate::mutants::{Mutant, on};
use crate::primary::Patience;
use crate::reads::Waiting;
use crate::replica::{Replica, Role};
use types::limits::TRANSACTION_READ_BYTES_MAX;
use types::{AttemptId, Batch, Change, ErrorCode, RecordKey, RecordKind, Seq, TransactionPart};

/// What is locked and staged here for an attempt.
#[derive(Clone, Hash, Debug)]
pub(super) struct Prepared {
    /// The entry that did it.
    pub(super) seq: Seq,
    staged: Staged,
    /// What was found then; not known after a takeover. As long as the locks hold it is found again.
    judged: Option<Judged>,
    /// Unknown after a takeover: then the attempt counts as older than any other, and nobody waits for it.
    pub(super) age: Option<Age>,
    patience: Patience,
    pub(super) ticks: u32,
}

impl Prepared {
    /// As the state or the log has it.
    pub(super) fn recovered(seq: Seq, staged: Staged, patience: Patience) -> Prepared {
        Prepared { seq, staged, judged: None, age: None, patience, ticks: 0 }
    }
}

impl Replica {
    pub(super) fn on_transaction_prepare(
        &mut self,
        attempt: AttemptId,
        age: Age,
        part: Box<TransactionPart>,
        state: &dyn State,
        effects: &mut Vec<Effect>,
    ) {
        let committed = self.committed;
        let Some(transactions) = self.transactions() else { return };
        if let Some(prepared) = transactions.prepared.get(&attempt) {
            // Asked again: the answer was lost, or was its predecessor's to give.
            if prepared.seq > committed {
                return;
            }
            if prepared.judged.is_none() {
                let judged = self.judge(&part, state, effects);
                if let Some(prepared) = self.transactions().and_then(|t| t.prepared.get_mut(&attempt)) {
                    prepared.judged = judged;
                }
            }
            return self.say_yes(attempt, effects);
        }
        if transactions.prepares_parked.contains(&attempt) {
            return;
        }
        if self.is_overloaded() {
            return self.say(attempt.home, attempt, TransactionBody::No { code: ErrorCode::Overloaded }, effects);
        }
        let Some(transactions) = self.transactions() else { return };
        let conflict = transactions.locks.conflict(part.keys()).filter(|_| !on(Mutant::P25Locks));
        if let Some(conflict) = conflict {
            return self.wait_or_refuse(attempt, age, part, conflict, effects);
        }
        let fence = match part.fence.as_ref().map(|fence| self.judge_fence(fence, state, effects)) {
            Some(None) => return,
            None | Some(Some(Fenced::Same)) => None,
            Some(Some(Fenced::Newer(change))) => Some(change),
            Some(Some(Fenced::Older { newest, seen, .. })) => {
                // P12: that one may be appended and not committed.
                return self.say_later(attempt, TransactionBody::Fenced { newest }, seen);
            }
        };
        let Some(transactions) = self.transactions() else { return };
        let conflict = fence.as_ref().and_then(|change| transactions.locks.fence_conflict(&change.key.name));
        if let Some(conflict) = conflict {
            return self.wait_or_refuse(attempt, age, part, conflict, effects);
        }
        let Some(judged) = self.judge(&part, state, effects) else { return };
        if judged.found.read_bytes() > TRANSACTION_READ_BYTES_MAX {
            return self.say(attempt.home, attempt, TransactionBody::No { code: ErrorCode::Invalid }, effects);
        }
        let (mut read, mut idle) = (Vec::new(), Vec::new());
        let is_staged = |key| judged.then.iter().chain(&judged.otherwise).any(|change| change.key.name == key);
        for (key, exclusive) in part.keys() {
            match exclusive {
                false => read.push(key.clone()),
                true if !is_staged(key) => idle.push(key.clone()),
                true => {}
            }
        }
        let (then, otherwise) = (judged.then.clone(), judged.otherwise.clone());
        let staged = Staged { read, then, otherwise, idle, fence: part.fence.map(|fence| fence.name) };
        let key = RecordKey { kind: RecordKind::Prepared, name: attempt.to_name() };
        let mut changes = vec![Change { key, value: Some(staged.encode()) }];
        changes.extend(fence);
        let seq = self.append_transaction(Batch { changes, ..Batch::default() });
        let patience = Patience::new(self.settings.resend_ticks);
        let Some(transactions) = self.transactions() else { return };
        if !on(Mutant::P22Append) {
            // P22: from the append on.
            transactions.locks.take(attempt, &staged.locked(), true);
        }
        if let Some(name) = &staged.fence {
            transactions.locks.take_fence(attempt, name);
        }
        let prepared = Prepared { seq, staged, judged: Some(judged), age: Some(age), patience, ticks: 0 };
        transactions.prepared.insert(attempt, prepared);
        transactions.commits.push_back((seq, OnCommit::Prepared(attempt)));
        if on(Mutant::P25Early) {
            self.say_yes(attempt, effects);
        }
    }

    /// P25: who would have to wait for an older one, or for one of unknown age, hears no at once.
    fn wait_or_refuse(
        &mut self,
        attempt: AttemptId,
        age: Age,
        part: Box<TransactionPart>,
        conflict: Conflict,
        effects: &mut Vec<Effect>,
    ) {
        let Some(transactions) = self.transactions() else { return };
        let Conflict { key, holders } = conflict;
        if holders.iter().all(|holder| transactions.age(*holder).is_some_and(|holder| age < holder)) {
            return transactions.park(key, Parked::Prepare(attempt, age, part));
        }
        self.say(attempt.home, attempt, TransactionBody::No { code: ErrorCode::Conflict }, effects);
    }

    /// P25: locks and staged values are committed, or were.
    pub(super) fn say_yes(&mut self, attempt: AttemptId, effects: &mut Vec<Effect>) {
        let Some(transactions) = self.transactions() else { return };
        let Some(prepared) = transactions.prepared.get(&attempt) else { return };
        if on(Mutant::P22Append) {
            transactions.locks.take(attempt, &prepared.staged.locked(), true);
        }
        // After a takeover, when nobody has asked yet: the home does so again.
        let Some(judged) = &prepared.judged else { return };
        let body = TransactionBody::Yes { prepared: prepared.seq, judged: Box::new(judged.found.clone()) };
        self.say(attempt.home, attempt, body, effects);
    }

    /// P26: it has happened.
    pub(super) fn on_transaction_commit(
        &mut self,
        attempt: AttemptId,
        decided: Seq,
        succeeded: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(transactions) = self.transactions() else { return };
        let prepared = transactions.prepared.get(&attempt).map(|prepared| prepared.seq);
        if prepared == Some(decided) || prepared.is_some() && on(Mutant::P26Named) {
            return self.release(attempt, Some(succeeded), effects);
        }
        // It was written and let go, unless this is no primary any more and lacks what it should have: then no round
        // confirms it. What it has seen may not be committed yet.
        self.say_later(attempt, TransactionBody::Done, self.log.last().seq);
    }

    /// Says so to the home once a round has confirmed that this is the primary, and everything seen is committed.
    fn say_later(&mut self, attempt: AttemptId, body: TransactionBody, seen: Seq) {
        if let Role::Primary(primary) = &mut self.role {
            primary.reads.arrive(Waiting::message(attempt, body, seen));
        }
    }

    /// It never happens, or not here.
    pub(super) fn on_transaction_abort(&mut self, attempt: AttemptId, effects: &mut Vec<Effect>) {
        let Some(transactions) = self.transactions() else { return };
        if transactions.prepares_parked.contains(&attempt) {
            transactions.unpark(|parked| matches!(parked, Parked::Prepare(waiting, ..) if *waiting == attempt));
        }
        self.release(attempt, None, effects);
    }

    /// One entry writes the branch, if there is one to write, and drops the locks.
    fn release(&mut self, attempt: AttemptId, branch: Option<bool>, effects: &mut Vec<Effect>) {
        let Some(prepared) = self.transactions().and_then(|t| t.prepared.remove(&attempt)) else { return };
        let (keys, fence) = (prepared.staged.locked(), prepared.staged.fence.clone());
        let key = RecordKey { kind: RecordKind::Prepared, name: attempt.to_name() };
        let mut changes = vec![Change { key, value: None }];
        if let Some(succeeded) = branch {
            changes.extend(prepared.staged.branch(succeeded));
        }
        let seq = self.append_transaction(Batch { changes, ..Batch::default() });
        let Some(transactions) = self.transactions() else { return };
        // P22: for writers it ends here.
        transactions.locks.release(attempt, &keys);
        if let Some(name) = &fence {
            transactions.locks.release_fence(attempt, name);
        }
        transactions.wake(keys.iter().map(|(key, _)| key).chain(&fence));
        let mut acknowledge = branch.is_some();
        if acknowledge && on(Mutant::P26Done) {
            acknowledge = false;
            self.say(attempt.home, attempt, TransactionBody::Done, effects);
        }
        let Some(transactions) = self.transactions() else { return };
        transactions.commits.push_back((seq, OnCommit::Released { attempt, keys, acknowledge }));
    }

    /// P27: who holds locks for long asks.
    pub(super) fn tick_prepared(&mut self, effects: &mut Vec<Effect>) {
        let (committed, mut asking) = (self.committed, Vec::new());
        let Some(transactions) = self.transactions() else { return };
        for (attempt, prepared) in &mut transactions.prepared {
            prepared.ticks = prepared.ticks.saturating_add(1);
            if prepared.seq <= committed && prepared.patience.tick_evenly() {
                asking.push((*attempt, prepared.seq));
            }
        }
        for (attempt, prepared) in asking {
            self.say(attempt.home, attempt, TransactionBody::Ask { prepared }, effects);
        }
    }
}
