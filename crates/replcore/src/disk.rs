//! How a replica's answers wait for the disk: an answer leaves only after what it answers for is fsynced (P2).

use crate::event::{Effect, PersistIndex};
use crate::message::{Body, Message};
use crate::mutants::{Mutant, on};
use crate::persist::PersistRecord;
use crate::replica::Replica;
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use types::{NodeId, Seq, Term};

/// What happens once something is on disk (P2).
#[derive(Clone, Hash, Debug)]
pub(crate) enum Waiting {
    /// The log is, through here.
    Log(Seq),
    /// The promise that a takeover of this term begins with.
    OwnSeal(Term),
    /// A message may leave.
    Send { to: NodeId, message: Message },
    /// The state may be changed.
    Do(Effect),
}

/// What was asked of the disk, and what waits for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    /// The last thing asked.
    last_index: PersistIndex,
    /// What is on disk of it.
    persisted: PersistIndex,
    waiting: VecDeque<(PersistIndex, Waiting)>,
    /// The log is on disk through here, as it stands now.
    durable: Seq,
}

impl Hash for Disk {
    /// Numbers count from the last thing asked: how much was asked before decides nothing.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Disk { last_index, persisted, waiting, durable } = self;
        (last_index.0 - persisted.0, durable, waiting.len()).hash(hasher);
        for (index, waiting) in waiting {
            (last_index.0 - index.0, waiting).hash(hasher);
        }
    }
}

impl Disk {
    /// A log that was read back from the disk, through here.
    pub(crate) fn recovered(durable: Seq) -> Disk {
        Disk { durable, ..Disk::default() }
    }
}

impl Replica {
    pub(crate) fn persist(&mut self, record: PersistRecord, effects: &mut Vec<Effect>) {
        self.disk.last_index = PersistIndex(self.disk.last_index.0 + 1);
        if let PersistRecord::Append { entries, .. } = &record
            && let Some(last) = entries.last()
        {
            self.disk.waiting.push_back((self.disk.last_index, Waiting::Log(last.id.seq)));
        }
        effects.push(Effect::Persist { index: self.disk.last_index, record });
    }

    /// Sends once everything asked to be persisted so far is on disk (P2).
    pub(crate) fn send_when_persisted(&mut self, to: NodeId, message: Message, effects: &mut Vec<Effect>) {
        let early = match message.body {
            Body::Prepared { .. } => on(Mutant::P2Log),
            Body::Sealed { .. } => on(Mutant::P2Promise),
            _ => false,
        };
        if self.disk.persisted >= self.disk.last_index || early {
            effects.push(Effect::Send { to, message });
        } else {
            self.disk.waiting.push_back((self.disk.last_index, Waiting::Send { to, message }));
        }
    }

    /// P5, P23: has the state changed once everything asked to be persisted so far is on disk: that a generation has
    /// ended, before its data goes; that there is one, before it gets data. What waits keeps its order.
    pub(crate) fn do_when_persisted(&mut self, effect: Effect, effects: &mut Vec<Effect>) {
        if self.disk.persisted >= self.disk.last_index {
            effects.push(effect);
        } else {
            self.disk.waiting.push_back((self.disk.last_index, Waiting::Do(effect)));
        }
    }

    /// The log counts as durable through here once everything asked to be persisted so far is on disk.
    pub(crate) fn await_log(&mut self, seq: Seq) {
        self.disk.waiting.push_back((self.disk.last_index, Waiting::Log(seq)));
    }

    /// The promise that a takeover begins with counts as this node's own seal once it is on disk.
    pub(crate) fn await_own_seal(&mut self, term: Term, effects: &mut Vec<Effect>) {
        if self.disk.persisted >= self.disk.last_index {
            self.on_own_seal(term, effects);
        } else {
            self.disk.waiting.push_back((self.disk.last_index, Waiting::OwnSeal(term)));
        }
    }

    pub(crate) fn on_persisted(&mut self, through: PersistIndex, effects: &mut Vec<Effect>) {
        self.disk.persisted = self.disk.persisted.max(through.min(self.disk.last_index));
        let durable_before = self.disk.durable;
        while let Some((_, waiting)) = self.disk.waiting.pop_front_if(|(index, _)| *index <= through) {
            match waiting {
                Waiting::Log(seq) => self.disk.durable = self.disk.durable.max(seq),
                Waiting::OwnSeal(term) => self.on_own_seal(term, effects),
                Waiting::Do(effect) => effects.push(effect),
                Waiting::Send { to, message } => {
                    // One answer covers those before it.
                    let covered = self.disk.waiting.front().is_some_and(|(index, next)| {
                        *index <= through
                            && matches!(next, Waiting::Send { to: next_to, message: next_message }
                                if *next_to == to && supersedes(next_message, &message))
                    });
                    if !covered {
                        effects.push(Effect::Send { to, message });
                    }
                }
            }
        }
        if self.disk.durable > durable_before {
            self.try_commit(effects);
        }
    }

    /// The log is on disk through here.
    pub(crate) fn durable(&self) -> Seq {
        self.disk.durable
    }

    /// P4: the log that these answers speak of is gone.
    pub(crate) fn drop_answers(&mut self) {
        self.disk.waiting.retain(|(_, waiting)| !matches!(waiting, Waiting::Send { .. }));
    }

    /// What is truncated is not on disk, whatever the disk still has to say about it.
    pub(crate) fn clamp_waiting(&mut self, end: Seq) {
        self.disk.durable = self.disk.durable.min(end);
        for (_, waiting) in &mut self.disk.waiting {
            if let Waiting::Log(seq) = waiting {
                *seq = (*seq).min(end);
            }
        }
    }
}

/// Whether `next`, which leaves right after `message`, says everything that `message` does.
fn supersedes(next: &Message, message: &Message) -> bool {
    match (&next.body, &message.body) {
        (Body::Prepared { seq: next_seq }, Body::Prepared { seq }) => next.term == message.term && next_seq >= seq,
        _ => false,
    }
}
