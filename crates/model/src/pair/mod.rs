//! Worlds of transactions: two partitions, each with one replica on a node of its own, and transactions that write or read
//! a key of each.
//!
//! One replica each, because what the replicas of a partition owe each other is explored elsewhere ([`crate::world`]):
//! here it is the homes and the participants. A node that crashes loses what it has not synced and everything that it only
//! had in memory; started again, it is primary of a new term. Messages between the partitions arrive in any order, late,
//! or never; what was said is said again when a tick comes.

mod action;
mod history;

use crate::node::Node;
use crate::state::{Group, hash_of};
use crate::world::{CLUSTER, Mutant, World, registration};
use action::Action;
use bytes::Bytes;
use history::{History, PROPERTIES};
use replcore::TransactionMessage;
use stateright::{Model, Property};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};
use types::{BootNonce, Epoch, Incarnation, NodeId, PartitionCount, PartitionId, Term};
use viewcore::{Bootstrap, Cause, Change, ClusterState, Command};

/// The two partitions; node 1 has the first, node 2 the other.
const PARTITIONS: [PartitionId; 2] = [PartitionId(0), PartitionId(1)];

/// A key of each.
static KEYS: LazyLock<[Bytes; 2]> = LazyLock::new(|| {
    PARTITIONS.map(|partition| {
        let names = (0u32..).map(|number| Bytes::from(format!("k{number}")));
        names.into_iter().find(|key| count().partition_of(key) == partition).expect("every partition has keys")
    })
});

fn count() -> PartitionCount {
    PartitionCount::new(2).expect("two is a power of two")
}

fn place(partition: PartitionId) -> usize {
    usize::from(partition.0 != 0)
}

/// What a client asks for once; its number says where: what has an even one begins at the first key's partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// A transaction that writes both keys.
    WriteBoth,
    /// A transaction that only reads, both keys.
    ReadBoth,
    /// A write of one key.
    WriteOne,
}

impl Request {
    /// Whether the request of this number writes the partition's key.
    fn writes(self, number: u8, partition: PartitionId) -> bool {
        match self {
            Request::WriteBoth => true,
            Request::ReadBoth => false,
            Request::WriteOne => home_of(number) == partition,
        }
    }
}

fn home_of(number: u8) -> PartitionId {
    PARTITIONS[usize::from(number) % 2]
}

/// One world. Numbers bound how often a thing may happen on one path.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The name to type.
    pub name: &'static str,
    /// What it is there for.
    pub what: &'static str,
    /// Explored only when asked for: takes longer than a minute.
    pub large: bool,
    /// What clients ask for, in any order; each place is a number.
    pub requests: &'static [Request],
    /// Requests that their client sends once more.
    pub retries: u8,
    /// Reads of either key.
    pub reads: u8,
    /// Processes that end; what was not synced is lost, all of it or a part.
    pub crashes: u8,
    /// Ticks that make a node say again what it waits for.
    pub ticks: u8,
    /// Messages that arrive a second time.
    pub duplicates: u8,
    /// A rule that is broken, by name.
    pub mutant: Option<Mutant>,
}

const NOTHING: Pair = Pair {
    name: "",
    what: "",
    large: false,
    requests: &[],
    retries: 0,
    reads: 0,
    crashes: 0,
    ticks: 0,
    duplicates: 0,
    mutant: None,
};

/// All of them.
pub const PAIRS: &[Pair] = &[
    Pair {
        name: "transaction",
        what: "a transaction over two partitions, its retry, a read, two crashes",
        requests: &[Request::WriteBoth],
        retries: 1,
        reads: 1,
        crashes: 2,
        ticks: 2,
        ..NOTHING
    },
    Pair {
        name: "transactions",
        what: "two transactions on the same keys from both sides, reads, a message that comes twice",
        requests: &[Request::WriteBoth, Request::WriteBoth],
        reads: 2,
        ticks: 1,
        duplicates: 1,
        ..NOTHING
    },
    Pair {
        name: "transactions-crash",
        what: "two transactions on the same keys from both sides, a read, any node crashes",
        requests: &[Request::WriteBoth, Request::WriteBoth],
        reads: 1,
        crashes: 1,
        ticks: 2,
        ..NOTHING
    },
    Pair {
        name: "transaction-reads",
        what: "two writes, a transaction that reads both keys, a read, a crash",
        requests: &[Request::WriteOne, Request::WriteOne, Request::ReadBoth],
        reads: 1,
        crashes: 1,
        ticks: 1,
        ..NOTHING
    },
    Pair {
        name: "transaction-torn",
        what: "a transaction that writes both keys, one that reads both, a crash",
        requests: &[Request::WriteBoth, Request::ReadBoth],
        reads: 1,
        crashes: 1,
        ticks: 2,
        ..NOTHING
    },
    Pair {
        name: "transactions-fork",
        what: "two writes, two transactions that read both keys from both sides, a crash",
        requests: &[Request::WriteOne, Request::WriteOne, Request::ReadBoth, Request::ReadBoth],
        crashes: 1,
        ticks: 1,
        ..NOTHING
    },
    Pair {
        name: "transactions-read",
        what: "a transaction that writes both keys, a write, a transaction that reads both keys, a read, a crash",
        requests: &[Request::WriteBoth, Request::WriteOne, Request::ReadBoth],
        reads: 1,
        crashes: 1,
        ticks: 1,
        ..NOTHING
    },
    Pair {
        name: "transactions-reads",
        what: "the same with two reads, a message that comes twice",
        large: true,
        requests: &[Request::WriteBoth, Request::WriteOne, Request::ReadBoth],
        reads: 2,
        crashes: 1,
        ticks: 1,
        duplicates: 1,
        ..NOTHING
    },
    Pair {
        name: "transactions-crashes",
        what: "two transactions on the same keys from both sides, two reads, a retry, two crashes",
        large: true,
        requests: &[Request::WriteBoth, Request::WriteBoth],
        retries: 1,
        reads: 2,
        crashes: 2,
        ticks: 2,
        duplicates: 1,
        ..NOTHING
    },
];

/// A message under way to whoever is primary of a partition.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Tell {
    to: PartitionId,
    message: TransactionMessage,
}

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TransactionMessage { attempt, from, body } = &self.message;
        write!(f, "{from} to {}: {attempt:?} {body:?}", self.to)
    }
}

/// How often each thing may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Left {
    retries: u8,
    reads: u8,
    crashes: u8,
    ticks: u8,
    duplicates: u8,
}

/// One instant of such a world.
#[derive(Clone)]
pub struct Instant {
    nodes: [Arc<Node>; 2],
    /// In the order of their fingerprints. Of equal messages one is enough: it may arrive at any time.
    tells: Vec<(u64, Arc<Tell>)>,
    group: Arc<Group>,
    left: Left,
    requests: &'static [Request],
    /// By number: whether it may still begin.
    to_begin: Vec<bool>,
    history: Arc<History>,
}

impl Hash for Instant {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.nodes.iter().for_each(|node| node.fingerprint().hash(hasher));
        self.tells.iter().for_each(|(hash, _)| hash.hash(hasher));
        (self.tells.len(), self.group.fingerprint(), self.left, &self.to_begin).hash(hasher);
        self.history.hash(hasher);
    }
}

impl PartialEq for Instant {
    fn eq(&self, other: &Instant) -> bool {
        hash_of(self) == hash_of(other)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instant").field("nodes", &self.nodes).field("history", &self.history).finish_non_exhaustive()
    }
}

impl Pair {
    /// What was broken at this instant.
    pub(crate) fn broken(instant: &Instant) -> Option<crate::history::Broken> {
        instant.history.broken.clone()
    }

    /// Both nodes have registered, the first map is made, and both serve.
    fn beginning(&self) -> Instant {
        let mut group = ClusterState::default();
        let bootstrap = Bootstrap { cluster: CLUSTER, partition_count: count(), replication: 1, expected_nodes: 2 };
        group.apply(&Command::Bootstrap(bootstrap)).expect("the settings are within their limits");
        let nodes = PARTITIONS.map(|partition| {
            let id = NodeId(1 + place(partition) as u64);
            let registration = registration(None, Incarnation(1), BootNonce(id.0), Epoch(0), Term(0));
            let accepted_at = group.epoch();
            group.apply(&Command::Register(registration)).expect("a new node may register");
            Arc::new(Node::new(id, partition, accepted_at))
        });
        let first = PARTITIONS.iter().zip(&nodes).map(|(partition, node)| (*partition, vec![node.id])).collect();
        let change = Change { placements: first, ..Change::new(group.epoch(), Cause::FirstMap) };
        group.apply(&Command::Change(change)).expect("the first map names registered nodes");
        let Pair { retries, reads, crashes, ticks, duplicates, .. } = *self;
        let mut instant = Instant {
            nodes,
            tells: Vec::new(),
            group: Arc::new(Group::new(group)),
            left: Left { retries, reads, crashes, ticks, duplicates },
            requests: self.requests,
            to_begin: vec![true; self.requests.len()],
            history: Arc::new(History::default()),
        };
        for partition in PARTITIONS {
            action::learn(&mut instant, partition);
            action::sync(&mut instant, partition);
        }
        instant
    }
}

impl Model for Pair {
    type State = Instant;
    type Action = Action;

    fn init_states(&self) -> Vec<Instant> {
        // Every world begins sound.
        World::break_rule(None);
        vec![self.beginning()]
    }

    fn actions(&self, instant: &Instant, actions: &mut Vec<Action>) {
        if instant.history.broken.is_none() {
            action::possible(instant, actions);
        }
    }

    fn next_state(&self, instant: &Instant, action: Action) -> Option<Instant> {
        World::break_rule(self.mutant);
        let mut next = instant.clone();
        action::take(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Pair>> {
        let mut properties = PROPERTIES.to_vec();
        properties.extend(history::expected(self));
        properties
    }
}
