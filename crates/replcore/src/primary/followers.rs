//! What a primary knows of each of its followers in this term.

use crate::sending::Sending;
use std::collections::VecDeque;
use types::{NodeId, Seq};

/// Another replica, or the learner, as the primary knows it in this term.
#[derive(Clone, Hash, Debug)]
pub(crate) struct Follower {
    pub(crate) node: NodeId,
    /// Learners never count (P9).
    pub(super) votes: bool,
    /// Its durable log equals ours through here.
    pub(super) matched: Seq,
    /// What it is sent next.
    pub(super) next: Seq,
    /// Sent and not answered, in order.
    pub(super) in_flight: VecDeque<InFlight>,
    /// The `committed` it was last sent, and the `held_by_all`: without the second it keeps its log for ever.
    pub(super) told: Seq,
    pub(super) told_held: Seq,
    /// While it owes an answer to entries.
    pub(super) entries: Patience,
    /// While it owes an answer to a round of reads.
    pub(super) rounds: Patience,
    /// It was given a snapshot that begins here.
    pub(super) given: Seq,
    /// Needs entries that are trimmed here, and gets a snapshot (P23).
    pub(crate) sending: Option<Sending>,
}

/// How long an answer is waited for before something is sent again.
#[derive(Clone, Copy, Hash, Debug)]
pub(crate) struct Patience {
    pub(super) silent_ticks: u32,
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
pub(super) struct InFlight {
    pub(super) first: Seq,
    pub(super) end: Seq,
    pub(super) bytes: usize,
}

impl Follower {
    pub(super) fn new(node: NodeId, votes: bool, next: Seq, patience_ticks: u32) -> Follower {
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
    pub(super) fn needs_after(&self) -> Seq {
        self.sending.as_ref().map_or(self.matched.max(self.given), |sending| sending.start.seq)
    }

    /// What was sent may be lost: go on from the oldest that is not answered.
    pub(super) fn rewind(&mut self) {
        if let Some(oldest) = self.in_flight.front() {
            self.next = oldest.first.max(self.matched.next());
            self.in_flight.clear();
        }
    }
}
