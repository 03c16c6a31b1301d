//! When a shard hands committed changes to the engine.
//!
//! Rarely: a put costs the engine more than everything before it, and rewrites of one key merge while they wait. But not
//! so rarely that memory fills: by bytes and by age. And at once when the log is to be trimmed ("drain").

use crate::clock::Moment;
use replcore::{Body, Message};

/// What may wait for the engine in one shard, by age.
const AGE_MAX_MS: u64 = 5_000;

/// At so many times the bytes at which it is time, the engine can't keep up: new changes are refused.
const OVERLOADED_TIMES: usize = 8;

/// The replicas of a shard whose state lags behind, and what is being done about it.
#[derive(Debug)]
pub(crate) struct Lag<D> {
    /// Places of the replicas that have changes which the state lacks.
    pub(crate) lagging: Vec<usize>,
    bytes: usize,
    bytes_max: usize,
    since: Moment,
    /// A job is with the engine.
    working: bool,
    drain: Drain<D>,
}

/// What a replica hears of a message while the engine can't keep up: no new entries, as if those were lost, so whoever sends
/// them keeps them and sends them again; but still what is committed, for that is what the engine is given.
pub(crate) fn without_entries(message: Message) -> Message {
    match message.body {
        Body::Prepare { prev, committed, held_by_all, .. } => {
            Message { body: Body::Prepare { prev, entries: Vec::new(), committed, held_by_all }, ..message }
        }
        _ => message,
    }
}

#[derive(Debug)]
enum Drain<D> {
    None,
    /// Asked for; what is committed has not been handed over yet.
    Asked(D),
    /// Answered when the job that is with the engine is done.
    HandedOver(D),
}

impl<D> Lag<D> {
    /// Nothing lags. At `bytes_max` unapplied bytes it is time.
    pub(crate) fn new(bytes_max: usize) -> Lag<D> {
        Lag { lagging: Vec::new(), bytes: 0, bytes_max, since: Moment(0), working: false, drain: Drain::None }
    }

    /// A replica's unapplied bytes have changed.
    pub(crate) fn count(&mut self, before: usize, after: usize, now: Moment) {
        if self.bytes == 0 && after > 0 {
            self.since = now;
        }
        self.bytes = self.bytes + after - before;
    }

    /// Unapplied bytes of the whole shard.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the engine can't keep up.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.bytes / OVERLOADED_TIMES >= self.bytes_max
    }

    /// Somebody wants the state to have everything that is committed now.
    pub(crate) fn ask_to_drain(&mut self, who: D) {
        self.drain = Drain::Asked(who);
    }

    /// Whether what is handed over now answers a drain.
    pub(crate) fn is_draining(&self) -> bool {
        matches!(self.drain, Drain::Asked(_))
    }

    /// Whether it is time to hand over.
    pub(crate) fn is_due(&self, now: Moment) -> bool {
        let wanted = self.is_draining()
            || self.bytes >= self.bytes_max
            || (self.bytes > 0 && now >= self.since.after_ms(AGE_MAX_MS));
        wanted && !self.working
    }

    /// It has been handed over; `any` says whether there was anything. Returns who asked for a drain that is over.
    pub(crate) fn handed_over(&mut self, any: bool, now: Moment) -> Option<D> {
        self.working = any;
        self.since = now;
        match std::mem::replace(&mut self.drain, Drain::None) {
            Drain::Asked(who) if any => {
                self.drain = Drain::HandedOver(who);
                None
            }
            Drain::Asked(who) | Drain::HandedOver(who) => Some(who),
            Drain::None => None,
        }
    }

    /// The engine is done. Returns who asked for a drain that is over.
    pub(crate) fn applied(&mut self) -> Option<D> {
        self.working = false;
        match std::mem::replace(&mut self.drain, Drain::None) {
            Drain::HandedOver(who) => Some(who),
            other => {
                self.drain = other;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use types::{Entry, EntryId, Seq, Term};

    /// Guards against a node whose store is slower than the others', which takes entries until its memory is full; and
    /// against one that hears no more what is committed, so that its store is never given anything again.
    #[test]
    fn entries_are_left_out_and_what_is_committed_is_not() {
        let entry = Entry { id: EntryId { term: Term(2), seq: Seq(4) }, payload: Bytes::from_static(b"x") };
        let (prev, committed) = (EntryId { term: Term(2), seq: Seq(3) }, Seq(3));
        let prepare =
            |entries| Message { term: Term(2), body: Body::Prepare { prev, entries, committed, held_by_all: Seq(1) } };
        assert_eq!(without_entries(prepare(vec![entry])), prepare(Vec::new()));
        let other = Message { term: Term(2), body: Body::Prepared { seq: Seq(4) } };
        assert_eq!(without_entries(other.clone()), other);
    }

    /// Guards against a drain that is answered before the engine has what was committed when it was asked for.
    #[test]
    fn a_drain_waits_for_the_job_after_it() {
        let mut lag = Lag::new(100);
        lag.count(0, 150, Moment(0));
        assert!(lag.is_due(Moment(0)));
        assert_eq!(lag.handed_over(true, Moment(0)), None);
        lag.count(0, 10, Moment(1));
        lag.ask_to_drain("keeper");
        assert!(!lag.is_due(Moment(1)), "one job at a time");
        assert_eq!(lag.applied(), None, "what came after the first job is not applied yet");
        lag.count(150, 0, Moment(2));
        assert!(lag.is_due(Moment(2)));
        assert_eq!(lag.handed_over(true, Moment(2)), None);
        assert_eq!(lag.applied(), Some("keeper"));
        assert_eq!(lag.bytes(), 10);
        assert!(!lag.is_due(Moment(3)) && !lag.is_overloaded());
        assert!(lag.is_due(Moment(2 + AGE_MAX_MS)), "little that is old is due too");
    }

    /// Guards against memory that fills because the engine is slower than the clients.
    #[test]
    fn an_engine_that_cannot_keep_up_is_noticed() {
        let mut lag = Lag::<()>::new(100);
        lag.count(0, 799, Moment(0));
        assert!(!lag.is_overloaded());
        lag.count(799, 800, Moment(0));
        assert!(lag.is_overloaded());
    }

    /// Guards against a drain of an idle shard that is never answered.
    #[test]
    fn a_drain_of_nothing_is_over_at_once() {
        let mut lag = Lag::new(100);
        lag.ask_to_drain("keeper");
        assert!(lag.is_due(Moment(0)));
        assert_eq!(lag.handed_over(false, Moment(0)), Some("keeper"));
        assert!(!lag.is_due(Moment(0)));
    }
}
