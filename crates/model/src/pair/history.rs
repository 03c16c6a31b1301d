//! What was promised of transactions, and the properties that no step may break.

use super::{Instant, KEYS, Pair, place};
use crate::history::{ASSERTED, Broken, HONEST, ONCE, RECOVERS, properties};
use replcore::{Answer, Replica, Token};
use stateright::Property;
use types::{Batch, Entry, ErrorCode, PartitionId, RecordKind, Seq};

/// What happened so far, as far as it binds what may happen later.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct History {
    /// What each partition's primary ever called committed, by seq.
    pub(super) chosen: [Vec<Entry>; 2],
    /// Transactions whose writes each partition has committed, in that order.
    pub(super) written: [Vec<(u8, Seq)>; 2],
    /// Transactions that somebody knows to have happened.
    pub(super) known: Vec<u8>,
    /// Transactions answered as done.
    pub(super) acknowledged: Vec<u8>,
    /// Transactions answered as definitely not done.
    pub(super) refused: Vec<u8>,
    /// Reads under way, the partition of each, and the transactions that it must see.
    pub(super) reads: Vec<(Token, PartitionId, Vec<u8>)>,
    /// A process that held locks for another's transaction, or had decided one, has ended.
    pub(super) interrupted: bool,
    /// The first property that was broken.
    pub(super) broken: Option<Broken>,
}

/// An acknowledged transaction is on its home's disk when it is acknowledged.
pub(super) const DURABLE: &str = "an acknowledged transaction is on its home's disk";
/// Half a transaction.
pub(super) const ATOMIC: &str = "a participant writes only what its home has decided";
/// No order explains both partitions.
pub(super) const ORDER: &str = "both partitions have the transactions in one order";
/// A stale or torn read.
pub(super) const READ: &str = "a transaction that somebody knows of is in every later read";
/// A committed entry is gone.
pub(super) const KEPT: &str = "what is committed stays";

properties!(Pair: DURABLE ATOMIC ORDER READ KEPT ONCE HONEST ASSERTED RECOVERS);

/// What must be possible: a world in which nothing happens proves nothing.
pub(super) fn expected(pair: &Pair) -> Vec<Property<Pair>> {
    let mut expected = vec![Property::sometimes("every transaction is written everywhere", written_everywhere)];
    if pair.crashes > 0 {
        expected
            .push(Property::sometimes("one that was interrupted is written everywhere", |pair, instant: &Instant| {
                instant.history.interrupted && written_everywhere(pair, instant)
            }));
    }
    if pair.transactions > 1 {
        expected
            .push(Property::sometimes("one is refused", |_, instant: &Instant| !instant.history.refused.is_empty()));
    }
    if pair.reads > 0 && pair.crashes > 0 {
        expected.push(Property::sometimes("a read knows before the client", |_, instant: &Instant| {
            instant.history.known.len() > instant.history.acknowledged.len()
        }));
    }
    expected
}

fn written_everywhere(pair: &Pair, instant: &Instant) -> bool {
    instant.history.written.iter().all(|written| written.len() == usize::from(pair.transactions))
}

/// Which transaction wrote the key, of those in this entry.
fn written_by(entry: &Entry, partition: PartitionId) -> Option<u8> {
    let batch = Batch::decode(&entry.payload).ok()?;
    let key = &KEYS[place(partition)];
    let change = batch.changes.iter().find(|change| change.key.kind == RecordKind::User && change.key.name == *key)?;
    Some(number_of(change.value.as_ref()?))
}

/// The value that a transaction writes.
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
            self.broke(ONCE, format!("transaction {number} is written again in {partition}, at {:?}", entry.id));
        }
        if self.refused.contains(&number) {
            self.broke(HONEST, format!("transaction {number} was refused, and is written in {partition}"));
        }
        let home = usize::from(number) % 2;
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

    /// A client hears of its transaction.
    pub(super) fn transacted(&mut self, number: u8, answer: &Answer, is_retry: bool) {
        match answer {
            Answer::Transacted { .. } => {
                if !self.acknowledged.contains(&number) {
                    self.acknowledged.push(number);
                    self.acknowledged.sort_unstable();
                }
                self.learn(number);
                if self.refused.contains(&number) {
                    self.broke(HONEST, format!("transaction {number} was refused, and then done"));
                }
            }
            // A retry that is refused says nothing of the first attempt.
            Answer::Error(code) if *code != ErrorCode::Unknown && !is_retry => {
                if !self.acknowledged.contains(&number) && !self.refused.contains(&number) {
                    self.refused.push(number);
                    self.refused.sort_unstable();
                }
                if self.written.iter().flatten().any(|(there, _)| *there == number) {
                    self.broke(HONEST, format!("transaction {number} is refused, and was written"));
                }
            }
            _ => {}
        }
    }

    /// A client hears what a key holds.
    pub(super) fn answered(&mut self, token: Token, answer: &Answer) {
        let Some(which) = self.reads.iter().position(|(read, ..)| *read == token) else { return };
        let (_, partition, floor) = self.reads.remove(which);
        let (seen, at) = match answer {
            Answer::Found(record) => (Some(number_of(&record.value)), record.seq),
            Answer::NotFound => (None, Seq(0)),
            _ => return,
        };
        let written = &self.written[place(partition)];
        let lacking = floor.iter().find(|number| !written.iter().any(|(there, seq)| there == *number && *seq <= at));
        if let Some(lacking) = lacking {
            let what = format!("{partition} is read as of {at}; transaction {lacking}, known before, is not in it");
            self.broke(READ, what);
        }
        if let Some(number) = seen {
            self.learn(number);
        }
    }
}
