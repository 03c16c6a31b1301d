//! What was promised, and to whom; and the properties that no step may break.

use crate::state::Instant;
use crate::world::World;
use replcore::{Answer, Body, Replica, Token};
use stateright::Property;
use types::{Batch, Entry, ErrorCode, NodeId, Seq, Term};

/// What a step broke.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Broken {
    /// The property's name.
    pub property: &'static str,
    /// What was seen.
    pub what: String,
}

/// What happened so far, as far as it binds what may happen later.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct History {
    /// Everything that any replica ever called committed, by seq.
    pub chosen: Vec<Entry>,
    /// Writes that there were.
    pub begun: u8,
    /// Writes answered as done, and their versions.
    pub acknowledged: Vec<(u8, Seq)>,
    /// Writes answered as definitely not done.
    pub refused: Vec<u8>,
    /// Reads under way, and the version that each must see at least.
    pub reads: Vec<(Token, Seq)>,
    /// The greatest version that a read was answered with.
    pub read: Seq,
    /// Terms in which somebody served, with the node and its start.
    pub served: Vec<Term>,
    /// A read was answered in a later term than the first.
    pub read_later: bool,
    /// The first property that was broken.
    pub broken: Option<Broken>,
}

/// An acknowledged write is on the disks of a majority when it is acknowledged.
pub const DURABLE: &str = "an acknowledged write is on a majority of the disks";
/// Two entries committed at one seq.
pub const AGREE: &str = "there is one committed entry at each place";
/// A later primary lacks something.
pub const KEPT: &str = "whoever serves has everything that is committed";
/// A stale read.
pub const READ: &str = "an acknowledged write is in every later read";
/// A promise is forgotten.
pub const PROMISE: &str = "a promise never falls";
/// P28.
pub const ONCE: &str = "a request is carried out once";
/// P29.
pub const HONEST: &str = "what was called not done is never done";
/// The core's own assertions.
pub const ASSERTED: &str = "the core's own assertions hold";
/// A disk that can't be read back.
pub const RECOVERS: &str = "every crash can be recovered from";

/// The properties of a model that must hold always: those that no step has broken.
macro_rules! properties {
    ($model:ty: $($name:ident)+) => {
        /// What must hold always.
        pub(crate) const PROPERTIES: &[stateright::Property<$model>] = &[
            $(stateright::Property {
                expectation: stateright::Expectation::Always,
                name: $name,
                condition: |_, instant| {
                    instant.history.broken.as_ref().is_none_or(|broken| broken.property != $name)
                },
            },)+
        ];
    };
}
pub(crate) use properties;

properties!(World: DURABLE AGREE KEPT READ PROMISE ONCE HONEST ASSERTED RECOVERS);

/// What must be possible: a world in which nothing happens proves nothing.
pub(crate) fn expected(world: &World) -> Vec<Property<World>> {
    let mut expected = Vec::new();
    if world.writes > 0 {
        expected.push(Property::sometimes("every write is acknowledged", |world: &World, instant: &Instant| {
            instant.history.acknowledged.len() == usize::from(world.writes)
        }));
    }
    if world.takeovers > 0 && world.writes > 0 {
        expected.push(Property::sometimes("a later term serves all writes", |world: &World, instant: &Instant| {
            let History { served, acknowledged, .. } = &*instant.history;
            served.len() > usize::from(world.takeovers) && acknowledged.len() == usize::from(world.writes)
        }));
    }
    if world.takeovers > 0 && world.reads > 0 {
        expected.push(Property::sometimes("a later term answers a read", |_, instant: &Instant| {
            instant.history.read_later
        }));
    }
    if world.member_change {
        expected.push(Property::sometimes("the new members serve", |_, instant: &Instant| {
            let configuration = instant.group.configuration();
            let serves = instant.history.served.contains(&configuration.term);
            serves && configuration.is_activated() && configuration.replicas.contains(&NodeId(4))
        }));
    }
    expected
}

impl History {
    /// The first thing that is broken is what counts.
    pub(crate) fn broke(&mut self, property: &'static str, what: String) {
        self.broken.get_or_insert(Broken { property, what });
    }

    /// What a read that arrives now must see at least.
    pub(crate) fn floor(&self) -> Seq {
        self.acknowledged.iter().map(|(_, version)| *version).max().unwrap_or_default().max(self.read)
    }

    /// A node is about to serve.
    pub(crate) fn serves(&mut self, node: NodeId, term: Term, replica: &Replica) {
        // One that is deposed and does not know it may begin late, and lack what a later term has committed.
        let mut earlier = self.chosen.iter().filter(|entry| entry.id.term < term);
        if let Some(entry) = earlier.find(|entry| replica.entry(entry.id.seq) != Some(entry)) {
            let what = format!("{node} serves {term} without {entry:?}");
            self.broke(KEPT, what);
        }
        if self.served.contains(&term) {
            self.broke(KEPT, format!("{node} serves {term}, which was served before"));
        }
        self.served.push(term);
    }

    /// A replica has taken a step: what it calls committed is compared with what others did.
    pub(crate) fn stepped(&mut self, node: NodeId, replica: &Replica) {
        for seq in 1..=replica.base().committed.0 {
            let Some(entry) = replica.entry(Seq(seq)) else { continue };
            match self.chosen.get(seq as usize - 1) {
                Some(there) if there == entry => {}
                Some(there) => {
                    let what = format!("{node} calls {entry:?} committed, another replica {there:?}");
                    return self.broke(AGREE, what);
                }
                None => self.choose(entry.clone()),
            }
        }
    }

    fn choose(&mut self, entry: Entry) {
        let request = |entry: &Entry| Batch::decode(&entry.payload).ok()?.request.map(|request| request.id);
        if let Some(id) = request(&entry) {
            if self.chosen.iter().any(|earlier| request(earlier) == Some(id)) {
                self.broke(ONCE, format!("{id:?} is committed again at {:?}", entry.id));
            }
            if self.refused.contains(&(id.counter as u8)) {
                self.broke(HONEST, format!("{id:?} is committed at {:?}", entry.id));
            }
        }
        self.chosen.push(entry);
    }

    /// A client hears something.
    pub(crate) fn answered(&mut self, token: Token, answer: &Answer, later_term: bool) {
        if let Some(place) = self.reads.iter().position(|(read, _)| *read == token) {
            let (_, floor) = self.reads.remove(place);
            let seen = match answer {
                Answer::Found(record) => record.seq,
                Answer::NotFound => Seq(0),
                _ => return,
            };
            if seen < floor {
                self.broke(READ, format!("a read sees {seen}; {floor} was known before it began"));
            }
            self.read = self.read.max(seen);
            self.read_later |= later_term;
            return;
        }
        let write = (token.0 % 100) as u8;
        match answer {
            Answer::Written { outcome, .. } if !self.acknowledged.iter().any(|(known, _)| *known == write) => {
                self.acknowledged.push((write, outcome.version));
                self.acknowledged.sort_unstable();
            }
            // A retry that is refused says nothing of the first attempt.
            Answer::Error(code) if *code != ErrorCode::Unknown && token.0 < 100 => self.refused.push(write),
            _ => {}
        }
    }
}

/// P2: what an answer says of its sender's disk must be true when it leaves.
pub(crate) fn check_answer(body: &Body, term: Term, promised_on_disk: Term) -> Result<(), String> {
    let answers = matches!(body, Body::Sealed { .. } | Body::Prepared { .. } | Body::Fetched { .. });
    if answers && promised_on_disk < term {
        return Err(format!("answers {} of {term}; on disk is {promised_on_disk}", body.name()));
    }
    Ok(())
}
