//! What was promised of transactions, and the properties that no step may break.

use super::{Instant, KEYS, PARTITIONS, Pair, Request, home_of, place};
use crate::history::{ASSERTED, Broken, HONEST, ONCE, RECOVERS, properties};
use replcore::{Answer, Replica, Token};
use stateright::Property;
use types::{Batch, Entry, ErrorCode, OperationResult, PartitionId, RecordKind, Seq};

/// What happened so far, as far as it binds what may happen later.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct History {
    /// What each partition's primary ever called committed, by seq.
    pub(super) chosen: [Vec<Entry>; 2],
    /// The numbers of the requests whose writes each partition has committed, in that order.
    pub(super) written: [Vec<(u8, Seq)>; 2],
    /// Writing requests that somebody knows to have happened.
    pub(super) known: Vec<u8>,
    /// Writing requests answered as done.
    pub(super) acknowledged: Vec<u8>,
    /// Writing requests answered as definitely not done, and not sent again.
    pub(super) refused: Vec<u8>,
    /// Requests that were sent again: that one of the two was not done says nothing of the other.
    pub(super) retried: Vec<u8>,
    /// Reads of one key under way, the partition of each, and the requests that it must see.
    pub(super) reads: Vec<(Token, PartitionId, Vec<u8>)>,
    /// Transactions that only read, and the requests that each must see.
    pub(super) readings: Vec<(u8, Vec<u8>)>,
    /// Pairs of which somebody knows that the first happened before the second.
    pub(super) order: Vec<(u8, u8)>,
    /// A process that held locks for another's transaction, or had decided one, has ended.
    pub(super) interrupted: bool,
    /// The first property that was broken.
    pub(super) broken: Option<Broken>,
}

/// An acknowledged transaction is on its home's disk when it is acknowledged.
pub(super) const DURABLE: &str = "an acknowledged transaction is on its home's disk";
/// Half a transaction.
pub(super) const ATOMIC: &str = "a participant writes only what its home has decided";
/// No order explains both partitions, or what clients saw of them.
pub(super) const ORDER: &str = "one order explains both partitions and all that was read";
/// A stale or torn read.
pub(super) const READ: &str = "what somebody knows of is in every later read, and all of it";
/// A committed entry is gone.
pub(super) const KEPT: &str = "what is committed stays";

properties!(Pair: DURABLE ATOMIC ORDER READ KEPT ONCE HONEST ASSERTED RECOVERS);

/// What must be possible: a world in which nothing happens proves nothing.
pub(super) fn expected(pair: &Pair) -> Vec<Property<Pair>> {
    let has = |request| pair.requests.contains(&request);
    let mut expected = vec![Property::sometimes("every request is written where it is to be", written_everywhere)];
    if has(Request::WriteBoth) && pair.crashes > 0 {
        expected.push(Property::sometimes(
            "one that was interrupted is written where it is to be",
            |pair, instant: &Instant| instant.history.interrupted && written_everywhere(pair, instant),
        ));
    }
    if pair.requests.iter().filter(|request| **request == Request::WriteBoth).count() > 1 {
        expected
            .push(Property::sometimes("one is refused", |_, instant: &Instant| !instant.history.refused.is_empty()));
    }
    if pair.reads > 0 && pair.crashes > 0 {
        expected.push(Property::sometimes("a read knows before the client", |_, instant: &Instant| {
            instant.history.known.len() > instant.history.acknowledged.len()
        }));
    }
    if has(Request::WriteOne) && has(Request::ReadBoth) {
        expected.push(Property::sometimes("one write is read and another is not", |_, instant: &Instant| {
            instant.history.order.iter().any(|(first, second)| home_of(*first) != home_of(*second))
        }));
    }
    expected
}

fn written_everywhere(pair: &Pair, instant: &Instant) -> bool {
    let to_write = |partition| (0..).zip(pair.requests).filter(|(n, request)| request.writes(*n, partition)).count();
    PARTITIONS.iter().all(|partition| instant.history.written[place(*partition)].len() == to_write(*partition))
}

/// Which request wrote the key, of those in this entry.
fn written_by(entry: &Entry, partition: PartitionId) -> Option<u8> {
    let batch = Batch::decode(&entry.payload).ok()?;
    let key = &KEYS[place(partition)];
    let change = batch.changes.iter().find(|change| change.key.kind == RecordKind::User && change.key.name == *key)?;
    Some(number_of(change.value.as_ref()?))
}

/// The value that a request writes.
pub(super) fn value_of(number: u8) -> [u8; 1] {
    [b'a' + number]
}

fn number_of(value: &[u8]) -> u8 {
    value.last().map_or(u8::MAX, |letter| letter - b'a')
}

impl History {
    /// The first thing that is broken is what counts.
    pub(super) fn broke(&mut self, property: &'static str, what: String) {
        self.broken.get_or_insert(Broken { property, what });
    }

    /// Somebody knows that `first` happened before `second`.
    fn precedes(&mut self, first: u8, second: u8) {
        if self.order.contains(&(second, first)) {
            self.broke(ORDER, format!("{first} was before {second} for one reader, and after it for another"));
        }
        if !self.order.contains(&(first, second)) {
            self.order.push((first, second));
            self.order.sort_unstable();
        }
    }

    /// A client asks: what is known by now was before that.
    pub(super) fn begins(&mut self, number: u8, requests: &[Request]) {
        if requests[usize::from(number)] == Request::ReadBoth {
            return self.readings.push((number, self.known.clone()));
        }
        for earlier in self.known.clone() {
            self.precedes(earlier, number);
        }
    }

    /// A client asks once more.
    pub(super) fn retries(&mut self, number: u8) {
        self.refused.retain(|refused| *refused != number);
        self.retried.push(number);
        self.retried.sort_unstable();
    }

    fn learn(&mut self, number: u8) {
        if !self.known.contains(&number) {
            self.known.push(number);
            self.known.sort_unstable();
        }
    }

    /// A primary has taken a step: what it calls committed is kept, and compared with what it called so before.
    pub(super) fn stepped(&mut self, partition: PartitionId, replica: &Replica) {
        for seq in 1..=replica.base().committed.0 {
            let Some(entry) = replica.entry(Seq(seq)) else { continue };
            match self.chosen[place(partition)].get(seq as usize - 1) {
                Some(there) if there == entry => {}
                Some(there) => {
                    let what = format!("{partition} calls {entry:?} committed, and had {there:?}");
                    return self.broke(KEPT, what);
                }
                None => self.choose(partition, entry),
            }
        }
    }

    fn choose(&mut self, partition: PartitionId, entry: &Entry) {
        let here = place(partition);
        self.chosen[here].push(entry.clone());
        let Some(number) = written_by(entry, partition) else { return };
        if self.written[here].iter().any(|(earlier, _)| *earlier == number) {
            self.broke(ONCE, format!("{number} is written again in {partition}, at {:?}", entry.id));
        }
        if self.refused.contains(&number) {
            self.broke(HONEST, format!("{number} was refused, and is written in {partition}"));
        }
        let home = place(home_of(number));
        if here != home && !self.written[home].iter().any(|(decided, _)| *decided == number) {
            self.broke(ATOMIC, format!("transaction {number} is written in {partition}, and was not decided"));
        }
        self.written[here].push((number, entry.id.seq));
        let orders = self.written.each_ref().map(|written| {
            let both = |number: &u8| self.written.iter().all(|all| all.iter().any(|(there, _)| there == number));
            written.iter().map(|(number, _)| *number).filter(both).collect::<Vec<_>>()
        });
        if orders[0] != orders[1] {
            self.broke(ORDER, format!("one partition has {:?}, the other {:?}", orders[0], orders[1]));
        }
    }

    /// A client hears of what it wrote.
    pub(super) fn wrote(&mut self, number: u8, answer: &Answer) {
        match answer {
            Answer::Transacted { .. } | Answer::Written { .. } => {
                if !self.acknowledged.contains(&number) {
                    self.acknowledged.push(number);
                    self.acknowledged.sort_unstable();
                }
                self.learn(number);
                if self.refused.contains(&number) {
                    self.broke(HONEST, format!("{number} was refused, and then done"));
                }
            }
            Answer::Error(code) if *code != ErrorCode::Unknown && !self.retried.contains(&number) => {
                if !self.acknowledged.contains(&number) && !self.refused.contains(&number) {
                    self.refused.push(number);
                    self.refused.sort_unstable();
                }
                if self.written.iter().flatten().any(|(there, _)| *there == number) {
                    self.broke(HONEST, format!("{number} is refused, and was written"));
                }
            }
            _ => {}
        }
    }

    /// A client hears what both keys hold, as of one instant.
    pub(super) fn read_both(&mut self, number: u8, answer: &Answer, requests: &[Request]) {
        let Answer::Transacted { outcome, .. } = answer else { return };
        let mut seen = [0, 0];
        for (nth, result) in outcome.results.iter().enumerate() {
            // The home's key is the first.
            let place = (place(home_of(number)) + nth) % 2;
            let OperationResult::Found(record) = result else { continue };
            let at = self.written[place].iter().position(|(there, _)| *there == number_of(&record.value));
            let Some(at) = at else { return self.broke(READ, format!("{number} reads {record:?}, not committed")) };
            seen[place] = at + 1;
        }
        let sees = |history: &History, write: u8, partition: PartitionId| {
            history.written[place(partition)][..seen[place(partition)]].iter().any(|(there, _)| *there == write)
        };
        let (mut read, mut lacking) = (Vec::new(), Vec::new());
        for (write, request) in (0u8..).zip(requests) {
            let places: Vec<_> = PARTITIONS.into_iter().filter(|partition| request.writes(write, *partition)).collect();
            match places.iter().filter(|partition| sees(self, write, **partition)).count() {
                _ if places.is_empty() => {}
                0 => lacking.push(write),
                all if all == places.len() => read.push(write),
                _ => self.broke(READ, format!("{number} reads a part of {write}")),
            }
        }
        let floor = self.readings.iter().find(|(reading, _)| *reading == number).map(|(_, floor)| floor);
        if let Some(known) = floor.and_then(|floor| floor.iter().find(|known| lacking.contains(known))) {
            self.broke(READ, format!("{number} does not read {known}, known before"));
        }
        for first in read {
            self.learn(first);
            lacking.iter().for_each(|second| self.precedes(first, *second));
        }
    }

    /// A client hears what a key holds.
    pub(super) fn answered(&mut self, token: Token, answer: &Answer, requests: &[Request]) {
        let Some(which) = self.reads.iter().position(|(read, ..)| *read == token) else { return };
        let (_, partition, floor) = self.reads.remove(which);
        let (seen, at) = match answer {
            Answer::Found(record) => (Some(number_of(&record.value)), record.seq),
            Answer::NotFound => (None, Seq(0)),
            _ => return,
        };
        for (write, request) in (0u8..).zip(requests) {
            let is_in = self.written[place(partition)].iter().any(|(there, seq)| *there == write && *seq <= at);
            if is_in || !request.writes(write, partition) {
                continue;
            }
            if floor.contains(&write) {
                self.broke(READ, format!("{partition} is read as of {at}; {write}, known before, is not in it"));
            }
            floor.iter().for_each(|known| self.precedes(*known, write));
        }
        if let Some(number) = seen {
            self.learn(number);
        }
    }
}
