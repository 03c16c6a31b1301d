//! Sending a snapshot, as primary (P23): for a replica whose next entries are trimmed here.
//!
//! The snapshot begins at `start`, what the state held when it began; the log from there on is kept. The state is read
//! page by page while writes go on, so what is read is a mixture of the state at `start` and everything up to what was
//! applied at the end of the reading (`settled`). Whoever has it replays the log from `start`: every record that changed
//! in between gets its last value again, and the mixture becomes the state at `settled`. All of it is committed.
//!
//! A few parts are under way at a time; those not answered are kept and sent again, so a broken stream costs nothing
//! that was taken. Only the end of the term, or of the receiver's memory, begins a snapshot anew: an answer that was given
//! after the sender had asked again, which both number, and knows of less than before. One that is merely late says the
//! same, and begins nothing. An answer tells what has arrived and what is in the receiver's state. The second may lag far
//! behind, so what has arrived is never sent again, except one part to ask how things are; and what has not, though
//! something after it has been answered, is sent at once.

use crate::event::Effect;
use crate::message::{Body, Chunk, SnapshotId};
use crate::mutants::{Mutant, on};
use crate::primary::Patience;
use crate::replica::{Replica, Role};
use std::collections::VecDeque;
use types::{EntryId, NodeId, Record, RecordKey, RecordKind, Seq};

/// Parts under way at a time.
const CHUNKS_IN_FLIGHT_MAX: usize = 4;
/// A snapshot is given up once the log kept for it has so many times the bytes that a log should have.
const PINNED_TIMES_MAX: usize = 8;

/// One snapshot on its way to one replica.
#[derive(Clone, Hash, Debug)]
pub(crate) struct Sending {
    id: SnapshotId,
    /// What the state held at the beginning: the log is kept from here on.
    pub(crate) start: EntryId,
    /// The last record that was read.
    after: Option<RecordKey>,
    /// A page is being read.
    reading: bool,
    stage: Stage,
    next_number: u64,
    /// Sent, and not known to be in the receiver's state; in order.
    unanswered: VecDeque<Chunk>,
    /// Parts before this one have arrived, by what was heard last.
    arrived: u64,
    /// From here on all that is under way was sent again, and nothing has been heard since of more having arrived.
    went_back: Option<u64>,
    patience: Patience,
    /// What is not answered was sent again since the last answer.
    asked_again: bool,
    /// How often that was done; which part was the first unanswered one when it was done last; and the first time that
    /// it was done with that part.
    asked: u64,
    oldest_when_asked: u64,
    first_asked: u64,
    /// Bytes sent so far, repetitions not counted.
    pub(crate) bytes: u64,
}

/// What a receiver says it has: see [`Body::ChunkTaken`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) next: u64,
    pub(crate) arrived: u64,
    pub(crate) asked: u64,
}

/// What is sent next.
#[derive(Clone, Hash, Debug)]
enum Stage {
    /// Records of the state.
    Records,
    /// P28: remembered requests after this seq. The state was read to its end when this much was applied.
    Requests { after: Seq, settled: Seq },
    /// The last part has been made.
    Complete,
}

impl Sending {
    fn new(id: SnapshotId, start: EntryId, patience_ticks: u32) -> Sending {
        Sending {
            id,
            start,
            after: None,
            reading: false,
            stage: Stage::Records,
            next_number: 0,
            unanswered: VecDeque::new(),
            arrived: 0,
            went_back: None,
            patience: Patience::new(patience_ticks),
            asked_again: false,
            asked: 0,
            oldest_when_asked: 0,
            first_asked: 0,
            bytes: 0,
        }
    }

    fn chunk(&mut self, records: Vec<(RecordKey, Record)>, settled: Option<Seq>) -> Chunk {
        let chunk = Chunk {
            snapshot: self.id,
            number: self.next_number,
            start: self.start,
            records,
            settled,
            asked: self.asked,
        };
        self.next_number += 1;
        self.bytes += chunk.bytes() as u64;
        self.unanswered.push_back(chunk.clone());
        chunk
    }

    /// The first part that is not answered, or the next one to be made.
    fn oldest(&self) -> u64 {
        self.unanswered.front().map_or(self.next_number, |chunk| chunk.number)
    }

    /// From here on an answer can be told from those that were given before.
    fn ask_again(&mut self) {
        self.asked_again = true;
        self.went_back = None;
        self.asked += 1;
        if self.oldest_when_asked < self.oldest() {
            (self.oldest_when_asked, self.first_asked) = (self.oldest(), self.asked);
        }
    }

    /// Whether who says so has forgotten what it had: it was known to have more when it was asked. Any question since then
    /// will do, for an answer may take longer than the next question is waited with.
    fn has_begun_anew(&self, taken: &Taken) -> bool {
        if on(Mutant::P23Late) {
            return self.asked_again;
        }
        taken.asked >= self.first_asked && taken.next < self.oldest_when_asked
    }

    /// Everything under way that has not arrived, unless that was just done.
    fn go_back(&mut self) -> impl Iterator<Item = Chunk> {
        let first = match self.went_back.replace(self.arrived) {
            Some(from) if from == self.arrived => self.next_number,
            _ => self.arrived,
        };
        let asked = self.asked;
        self.unanswered
            .iter()
            .filter(move |chunk| chunk.number >= first)
            .map(move |chunk| Chunk { asked, ..chunk.clone() })
    }
}

impl Replica {
    /// Begins a snapshot for a follower that lacks what is trimmed here: also before the term serves, because it may need
    /// that follower's vote to do so.
    pub(crate) fn begin_sending(&mut self, to: NodeId, effects: &mut Vec<Effect>) {
        let (start, patience) = (self.applied, self.settings.resend_ticks);
        let Role::Primary(primary) = &mut self.role else { return };
        // A page that was read for an earlier term's snapshot is none of this one's.
        self.snapshots += 1;
        let id = SnapshotId(self.snapshots);
        let Some(follower) = primary.follower_mut(to) else { return };
        follower.begin_sending(Sending::new(id, start, patience));
        self.advance_sending(to, effects);
    }

    /// Reads and sends as much as may be under way.
    fn advance_sending(&mut self, to: NodeId, effects: &mut Vec<Effect>) {
        let (generation, bytes_max) = (self.generation, self.settings.chunk_bytes_max);
        let requests = &self.requests;
        let Role::Primary(primary) = &mut self.role else { return };
        let term = primary.term();
        let Some(sending) = primary.follower_mut(to).and_then(|follower| follower.sending.as_mut()) else { return };
        while sending.unanswered.len() < CHUNKS_IN_FLIGHT_MAX {
            let chunk = match sending.stage {
                Stage::Records if sending.reading => return,
                Stage::Records => {
                    sending.reading = true;
                    let (snapshot, after) = (sending.id, sending.after.clone());
                    effects.push(Effect::ReadState { to, snapshot, generation, after, bytes_max });
                    return;
                }
                Stage::Requests { after, settled } => {
                    let (records, last) = requests.page(after, sending.start.seq, bytes_max);
                    match last {
                        Some(after) => {
                            sending.stage = Stage::Requests { after, settled };
                            sending.chunk(records, None)
                        }
                        None => {
                            sending.stage = Stage::Complete;
                            sending.chunk(records, Some(settled))
                        }
                    }
                }
                Stage::Complete => return,
            };
            let message = crate::Message { term, body: Body::Chunk(Box::new(chunk)) };
            effects.push(Effect::Send { to, message });
        }
    }

    /// A page of the state was read; an empty one is the end.
    pub(crate) fn on_state_read(
        &mut self,
        to: NodeId,
        snapshot: SnapshotId,
        mut records: Vec<(RecordKey, Record)>,
        effects: &mut Vec<Effect>,
    ) {
        // What is being applied may have been read; and the state may itself be such a mixture still.
        let settled = self.applying.unwrap_or(self.applied).seq.max(self.settled);
        let Role::Primary(primary) = &mut self.role else { return };
        let term = primary.term();
        let Some(sending) = primary.follower_mut(to).and_then(|follower| follower.sending.as_mut()) else { return };
        if sending.id != snapshot || !sending.reading {
            return;
        }
        sending.reading = false;
        match records.last() {
            Some((last, _)) => {
                sending.after = Some(last.clone());
                if on(Mutant::FenceSnapshot) {
                    records.retain(|(key, _)| key.kind != RecordKind::Fence);
                }
                let chunk = sending.chunk(records, None);
                let message = crate::Message { term, body: Body::Chunk(Box::new(chunk)) };
                effects.push(Effect::Send { to, message });
            }
            None => sending.stage = Stage::Requests { after: Seq(0), settled },
        }
        self.advance_sending(to, effects);
    }

    pub(crate) fn on_chunk_taken(
        &mut self,
        from: NodeId,
        snapshot: SnapshotId,
        taken: Taken,
        effects: &mut Vec<Effect>,
    ) {
        let Role::Primary(primary) = &mut self.role else { return };
        let term = primary.term();
        // Nobody else would be faster.
        primary.still_ticks = 0;
        let Some(follower) = primary.follower_mut(from) else { return };
        let Some(sending) = follower.sending.as_mut().filter(|sending| sending.id == snapshot) else { return };
        let Taken { next, arrived, .. } = taken;
        let oldest = sending.oldest();
        if next < oldest {
            // Said before an earlier answer, unless it can't have been.
            if sending.has_begun_anew(&taken) {
                self.begin_sending(from, effects);
            }
            return;
        }
        let asked_again = std::mem::take(&mut sending.asked_again);
        sending.patience.heard(asked_again);
        let news = next > oldest || arrived > sending.arrived;
        // The last word counts, though an earlier one may have been late: who begins anew has less than before.
        sending.arrived = arrived.max(next);
        while sending.unanswered.pop_front_if(|chunk| chunk.number < next).is_some() {}
        // Without news something arrived that does not follow; and what was sent before that which was asked again is
        // overdue as well.
        if !news || asked_again {
            for chunk in sending.go_back() {
                let message = crate::Message { term, body: Body::Chunk(Box::new(chunk)) };
                effects.push(Effect::Send { to: from, message });
            }
        }
        if sending.unanswered.is_empty() && matches!(sending.stage, Stage::Complete) {
            let start = sending.start.seq;
            follower.end_sending(start);
            return self.replicate(effects);
        }
        self.advance_sending(from, effects);
    }

    /// What was sent may be lost.
    pub(crate) fn resend_chunks(&mut self, to: NodeId, effects: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        let term = primary.term();
        let Some(sending) = primary.follower_mut(to).and_then(|follower| follower.sending.as_mut()) else { return };
        sending.patience.answered();
        sending.ask_again();
        // What had arrived, and was not in its state, may be gone with the other's memory.
        sending.arrived = sending.oldest();
        for chunk in sending.go_back() {
            let message = crate::Message { term, body: Body::Chunk(Box::new(chunk)) };
            effects.push(Effect::Send { to, message });
        }
    }

    pub(crate) fn tick_sending(&mut self, effects: &mut Vec<Effect>) {
        let pinned_too_much = self.log.bytes() / PINNED_TIMES_MAX > self.settings.log_bytes_max;
        let needless = self.checkpointed.min(self.committed);
        let Role::Primary(primary) = &mut self.role else { return };
        let term = primary.term();
        for follower in &mut primary.followers {
            let Some(sending) = &mut follower.sending else { continue };
            if pinned_too_much && sending.start.seq < needless {
                follower.give_up_sending();
                continue;
            }
            // The first that has not arrived may be missing; its answer brings the others. If all have, one of their
            // answers may be.
            let arrived = sending.arrived;
            let missing = sending.unanswered.iter().position(|chunk| chunk.number >= arrived);
            if !self.down.contains(&follower.node) && !sending.unanswered.is_empty() && sending.patience.tick() {
                sending.ask_again();
                let chunk = Chunk { asked: sending.asked, ..sending.unanswered[missing.unwrap_or(0)].clone() };
                let message = crate::Message { term, body: Body::Chunk(Box::new(chunk)) };
                effects.push(Effect::Send { to: follower.node, message });
            }
        }
    }
}
