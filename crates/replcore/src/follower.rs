//! What a replica answers to a primary: `Prepare` (P7, P10), `Seal` (P13), `Fetch` (P15) and `Confirm` (P17).

use crate::event::Effect;
use crate::message::{Body, Message};
use crate::mutants::{Mutant, on};
use crate::persist::PersistRecord;
use crate::replica::{Replica, Role};
use types::{Batch, Entry, EntryId, NodeId, Seq, Term};

impl Replica {
    #[allow(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(crate) fn on_prepare(
        &mut self,
        from: NodeId,
        term: Term,
        prev: EntryId,
        entries: Vec<Entry>,
        committed: Seq,
        held_by_all: Seq,
        effects: &mut Vec<Effect>,
    ) {
        if self.refuse_lower(from, term, effects) {
            return;
        }
        self.raise(term, effects);
        // P18: one term names one primary. Whoever is it here does not take another's entries.
        if !matches!(self.role, Role::Follower) {
            return;
        }
        // P7: a `prev` at or below the own committed or trim point holds by definition.
        let holds = prev.seq <= self.committed.max(self.log.trim().seq)
            || self.log.holds(prev)
            || on(Mutant::P7Prev) && prev.seq <= self.log.last().seq;
        if !holds {
            let body = Body::Mismatch { last: self.log.last(), committed: self.committed };
            self.send_when_persisted(from, Message { term, body }, effects);
            return;
        }
        let end = Seq(prev.seq.0 + entries.len() as u64);
        if !self.accept(entries, effects) {
            return;
        }
        // P10: after the match, and never beyond what this message is known to match.
        if on(Mutant::P7Shorter) && end < self.log.last().seq {
            self.truncate(end.max(self.committed).next());
        }
        self.commit_through(if on(Mutant::P10) { committed } else { committed.min(end) });
        if self.installing.as_ref().is_some_and(|i| i.start.seq <= self.committed && !on(Mutant::P23Committed)) {
            self.abandon_install(effects);
        }
        if self.configuration.as_ref().is_some_and(|c| c.term == term) {
            self.held_by_all = self.held_by_all.max(held_by_all.min(end));
        }
        // P2, P7: "my durable log equals yours of this term through `end`".
        self.send_when_persisted(from, Message { term, body: Body::Prepared { seq: end } }, effects);
    }

    /// Makes the log end with `entries` where it differs from them; the entry before the first one matches already.
    ///
    /// False where one does not decode: then nothing has changed.
    pub(crate) fn accept(&mut self, entries: Vec<Entry>, effects: &mut Vec<Effect>) -> bool {
        // P7: truncate from the first entry whose term differs, never merely because the message is shorter.
        let known = |entry: &Entry| {
            entry.id.seq <= self.log.trim().seq || self.log.term_at(entry.id.seq) == Some(entry.id.term)
        };
        let fresh: Vec<Entry> = entries.into_iter().skip_while(known).collect();
        let Some(first) = fresh.first().map(|entry| entry.id.seq) else { return true };
        let Ok(batches) = fresh.iter().map(|entry| Batch::decode(&entry.payload)).collect::<Result<Vec<_>, _>>() else {
            return false; // from a version that this one does not read: as if it never came
        };
        if first <= self.log.last().seq {
            self.truncate(first);
        }
        for (entry, batch) in fresh.iter().zip(batches) {
            self.append(entry.clone(), batch);
        }
        self.persist(PersistRecord::Append { entries: fresh, committed: self.committed }, effects);
        true
    }

    pub(crate) fn on_seal(&mut self, from: NodeId, term: Term, effects: &mut Vec<Effect>) {
        if self.refuse_lower(from, term, effects) {
            return;
        }
        // P13: the promise first, then the log's end; P8 has put back what never left this node.
        if !on(Mutant::P13) {
            self.raise(term, effects);
        }
        self.send_sealed(from, term, effects);
    }

    pub(crate) fn send_sealed(&mut self, to: NodeId, term: Term, effects: &mut Vec<Effect>) {
        let body = Body::Sealed { last: self.log.last(), committed: self.committed };
        self.send_when_persisted(to, Message { term, body }, effects);
    }

    pub(crate) fn on_fetch(&mut self, from: NodeId, term: Term, after: Seq, last: EntryId, effects: &mut Vec<Effect>) {
        let anyway = on(Mutant::P15Fetch);
        if !anyway && self.refuse_lower(from, term, effects) {
            return;
        }
        // P15: answered only while the promise is exactly this term, and with the log that was sealed.
        if !anyway && (self.promised != term || !self.log.holds(last)) {
            return;
        }
        let through = if anyway { self.log.last().seq } else { last.seq };
        let start = after.max(self.log.trim().seq);
        let Some(prev) = self.log.id_at(start) else { return };
        let entries = self.log.range(start.next(), through, self.settings.message_bytes_max);
        self.send_when_persisted(from, Message { term, body: Body::Fetched { prev, entries, last } }, effects);
    }

    pub(crate) fn on_confirm(&mut self, from: NodeId, term: Term, nonce: u64, effects: &mut Vec<Effect>) {
        if self.refuse_lower(from, term, effects) {
            return;
        }
        // P17: compared with the own promise, not with a view. Saying so promises nothing, so nothing need be on disk.
        self.send(from, term, Body::Confirmed { nonce }, effects);
    }

    /// P7, P13, P17: who has promised more says so.
    pub(crate) fn refuse_lower(&mut self, to: NodeId, term: Term, effects: &mut Vec<Effect>) -> bool {
        let refuse = self.promised > term && !on(Mutant::P7Promise);
        if refuse {
            let body = Body::Fenced { promised: self.promised };
            self.send_when_persisted(to, Message { term, body }, effects);
        }
        refuse
    }
}
