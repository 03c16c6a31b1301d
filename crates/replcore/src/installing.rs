//! Taking in a snapshot (P23): beside what is there, and swapped at the end.
//!
//! The records go into a new generation of the state. Until that is on disk as a whole this replica holds, votes with and
//! reports its old log. Then one record of the log makes the new generation the present one: a [`PersistRecord::Base`]
//! where the old log holds the snapshot's first entry, and keeps what follows it, for it may have been voted with
//! meanwhile; a [`PersistRecord::Reset`] otherwise.

use crate::event::Effect;
use crate::log::Log;
use crate::message::{Body, Chunk, Message, SnapshotId};
use crate::mutants::{Mutant, on};
use crate::overlay::Overlay;
use crate::persist::{PersistRecord, Standing};
use crate::replica::{Replica, Role};
use crate::requests::Requests;
use crate::sending::Taken;
use bytes::Bytes;
use types::{EntryId, Generation, NodeId, RecordKey, RecordKind, Seq, Term};

/// One snapshot that is being taken in.
#[derive(Clone, Hash, Debug)]
pub(crate) struct Installing {
    from: NodeId,
    term: Term,
    id: SnapshotId,
    pub(crate) start: EntryId,
    /// Where its records go.
    generation: Generation,
    /// Parts handed to the state, and those that it has.
    received: u64,
    taken: u64,
    /// The highest number of the sender's questions that has come.
    asked: u64,
    /// Remembered requests among the records: what the replica will start from.
    requests: Vec<(Bytes, Bytes)>,
    /// The last part has come: the state is exact once this much is replayed.
    settled: Option<Seq>,
}

impl Installing {
    fn so_far(&self) -> Taken {
        Taken { next: self.taken, arrived: self.received, asked: self.asked }
    }
}

impl Replica {
    pub(crate) fn on_chunk(&mut self, from: NodeId, term: Term, chunk: Chunk, effects: &mut Vec<Effect>) {
        if self.refuse_lower(from, term, effects) {
            return;
        }
        self.raise(term, effects);
        if !matches!(self.role, Role::Follower) {
            return;
        }
        // P23: at or below what is committed here, it brings nothing.
        if chunk.start.seq <= self.committed && !on(Mutant::P23Committed) {
            self.abandon_install(effects);
            let body = Body::Mismatch { last: self.log.last(), committed: self.committed };
            return self.send_when_persisted(from, Message { term, body }, effects);
        }
        let newer = |i: &Installing| i.from == from && i.term == term && i.id.0 > chunk.snapshot.0;
        if self.installing.as_ref().is_some_and(newer) {
            return; // an earlier snapshot's, late
        }
        let known = |i: &Installing| (i.from, i.term, i.id, i.start) == (from, term, chunk.snapshot, chunk.start);
        if !self.installing.as_ref().is_some_and(known) {
            if chunk.number > 0 {
                let nothing = Taken { next: 0, arrived: 0, asked: chunk.asked };
                return self.say_taken(from, term, chunk.snapshot, nothing, effects);
            }
            self.begin_install(from, term, &chunk, effects);
        }
        let Some(installing) = &mut self.installing else { return };
        installing.asked = installing.asked.max(chunk.asked);
        if chunk.number != installing.received {
            // Its answer was lost, or is not due yet; or one before it is missing.
            let so_far = installing.so_far();
            return self.say_taken(from, term, chunk.snapshot, so_far, effects);
        }
        if installing.settled.is_some() {
            return;
        }
        installing.received += 1;
        installing.settled = chunk.settled;
        let is_request = |key: &RecordKey| key.kind == RecordKind::Requests;
        let requests = chunk.records.iter().filter(|(key, _)| is_request(key));
        installing.requests.extend(requests.map(|(key, record)| (key.name.clone(), record.value.clone())));
        let last = chunk.settled.is_some();
        let effect = Effect::Install {
            generation: installing.generation,
            number: chunk.number,
            records: chunk.records,
            start: last.then_some(installing.start),
        };
        // The state may have a generation only once the log knows of it.
        self.do_when_persisted(effect, effects);
    }

    fn begin_install(&mut self, from: NodeId, term: Term, chunk: &Chunk, effects: &mut Vec<Effect>) {
        self.abandon_install(effects);
        let generation = self.new_generation();
        self.installing = Some(Installing {
            from,
            term,
            id: chunk.snapshot,
            start: chunk.start,
            generation,
            received: 0,
            taken: 0,
            asked: chunk.asked,
            requests: Vec::new(),
            settled: None,
        });
        self.persist(PersistRecord::Base(self.base()), effects);
    }

    fn say_taken(
        &mut self,
        to: NodeId,
        term: Term,
        snapshot: SnapshotId,
        Taken { next, arrived, asked }: Taken,
        effects: &mut Vec<Effect>,
    ) {
        let body = Body::ChunkTaken { snapshot, next, arrived, asked };
        self.send_when_persisted(to, Message { term, body }, effects);
    }

    /// The state has this part; the last one with everything before it is on disk.
    pub(crate) fn on_installed(&mut self, generation: Generation, number: u64, effects: &mut Vec<Effect>) {
        let Some(installing) = self.installing.as_mut().filter(|i| i.generation == generation) else { return };
        installing.taken = number + 1;
        let (to, term, id) = (installing.from, installing.term, installing.id);
        let so_far = installing.so_far();
        if (installing.taken == installing.received || on(Mutant::P23Early))
            && let Some(settled) = installing.settled
        {
            self.swap(settled, effects);
        }
        self.say_taken(to, term, id, so_far, effects);
    }

    /// P23: at once, and under P8's check: no later term was promised, and this is no primary.
    fn swap(&mut self, settled: Seq, effects: &mut Vec<Effect>) {
        let Some(installing) = self.installing.take() else { return };
        let Installing { term, start, generation, requests, .. } = installing;
        let current = self.standing == Standing::Member
            && self.promised == term
            && matches!(self.role, Role::Follower)
            && (start.seq > self.committed || on(Mutant::P23Committed));
        let Ok(requests) = Requests::recover(&requests) else {
            // From a version that this one does not read: as if it never came.
            return self.delete(generation, effects);
        };
        if !current {
            return self.delete(generation, effects);
        }
        let before = std::mem::replace(&mut self.generation, generation);
        self.settled = settled;
        self.requests = requests;
        self.overlay = Overlay::default();
        (self.applied, self.applying, self.checkpointed) = (start, None, start.seq);
        self.committed = start.seq;
        let beyond = if self.log.holds(start) && !on(Mutant::P23Beyond) {
            let end = self.log.last().seq;
            self.log.range(start.seq.next(), end, usize::MAX)
        } else {
            Vec::new()
        };
        // Where nothing of the log stays it must not be read back either.
        let record: fn(crate::Base) -> PersistRecord =
            if beyond.is_empty() { PersistRecord::Reset } else { PersistRecord::Base };
        if beyond.is_empty() {
            self.drop_answers();
        }
        self.log = Log::new(start, Vec::new());
        self.clamp_waiting(beyond.last().map_or(Seq(0), |entry| entry.id.seq));
        for entry in beyond {
            let batch = types::Batch::decode(&entry.payload).expect("an entry is decoded before it is appended");
            self.append(entry, batch);
        }
        self.requests.committed(self.committed);
        self.held_by_all = start.seq;
        self.persist(record(self.base()), effects);
        self.await_log(start.seq);
        self.delete(before, effects);
    }

    /// Forgets a snapshot that is not finished, and what the state has of it.
    pub(crate) fn abandon_install(&mut self, effects: &mut Vec<Effect>) {
        if let Some(installing) = self.installing.take() {
            self.delete(installing.generation, effects);
        }
    }

    /// A generation that never was: P5.
    pub(crate) fn new_generation(&mut self) -> Generation {
        self.highest_generation = Generation(self.highest_generation.0 + 1);
        self.highest_generation
    }
}
