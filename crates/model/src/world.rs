//! The worlds: what is in each, and how much may happen there.

use crate::action;
use crate::history::{History, PROPERTIES};
use crate::node::Node;
use crate::state::{Group, Instant};
use stateright::{Model, Property};
use std::sync::Arc;
use types::{BootNonce, ClusterId, Epoch, Incarnation, NodeId, PartitionCount, PartitionId, Term};
use viewcore::{Bootstrap, Cause, Change, ClusterState, Command, Registration};

/// The one partition.
pub const PARTITION: PartitionId = PartitionId(0);
/// The cluster's id.
pub const CLUSTER: ClusterId = ClusterId(7);

/// One world. Numbers bound how often a thing may happen on one path.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// The name to type.
    pub name: &'static str,
    /// What it is there for.
    pub what: &'static str,
    /// Explored only when asked for: takes longer than a minute.
    pub large: bool,
    /// Storage nodes; the first three are the partition's replicas, the first of them its primary.
    pub nodes: u64,
    /// Writes of one key, each with a value of its own.
    pub writes: u8,
    /// Writes that their client sends once more, wherever it likes.
    pub retries: u8,
    /// Reads of the key.
    pub reads: u8,
    /// Processes that end; what was not synced is lost, all of it or a part.
    pub crashes: u8,
    /// Times that the viewleaders make another replica primary.
    pub takeovers: u8,
    /// Messages that arrive a second time.
    pub duplicates: u8,
    /// What one node sends to another arrives in its order, if it does; otherwise in any.
    pub ordered: bool,
    /// Node 4 takes node 3's place.
    pub member_change: bool,
    /// A rule that is broken, by name.
    pub mutant: Option<Mutant>,
}

/// A rule that is broken by hand.
pub type Mutant = replcore::mutants::Mutant;

/// A world in which nothing happens.
pub(crate) const NOTHING: World = World {
    name: "",
    what: "",
    large: false,
    nodes: 3,
    writes: 0,
    retries: 0,
    reads: 0,
    crashes: 0,
    takeovers: 0,
    duplicates: 0,
    ordered: false,
    member_change: false,
    mutant: None,
};

/// All of them but those of transactions, which are [`crate::pair::PAIRS`].
pub const WORLDS: &[World] = &[
    World { name: "writes", what: "two writes, a message that comes twice", writes: 2, duplicates: 1, ..NOTHING },
    World { name: "retry", what: "a write, its retry, a read", writes: 1, retries: 1, reads: 1, ..NOTHING },
    World { name: "crash", what: "two writes, any node crashes", writes: 2, crashes: 1, ..NOTHING },
    World { name: "takeover", what: "a write, a takeover", writes: 1, takeovers: 1, ..NOTHING },
    World {
        name: "takeover-read",
        what: "a write, a read, a takeover; streams in order",
        writes: 1,
        reads: 1,
        takeovers: 1,
        ordered: true,
        ..NOTHING
    },
    World {
        name: "takeover-writes",
        what: "two writes, a takeover; streams in order",
        writes: 2,
        takeovers: 1,
        ordered: true,
        ..NOTHING
    },
    World {
        name: "members",
        what: "a write, node 4 takes node 3's place; streams in order",
        nodes: 4,
        writes: 1,
        member_change: true,
        ordered: true,
        ..NOTHING
    },
    World {
        name: "two-takeovers",
        what: "a write, two takeovers; streams in order",
        large: true,
        writes: 1,
        takeovers: 2,
        ordered: true,
        ..NOTHING
    },
    World {
        name: "crash-takeover",
        what: "a write, any node crashes, a takeover; streams in order",
        large: true,
        writes: 1,
        crashes: 1,
        takeovers: 1,
        ordered: true,
        ..NOTHING
    },
    World {
        name: "everything",
        what: "two writes, any node crashes, a takeover; streams in order",
        large: true,
        writes: 2,
        crashes: 1,
        takeovers: 1,
        ordered: true,
        ..NOTHING
    },
    World {
        name: "members-takeover",
        what: "a write, node 4 takes node 3's place, a takeover; streams in order",
        large: true,
        nodes: 4,
        writes: 1,
        takeovers: 1,
        member_change: true,
        ordered: true,
        ..NOTHING
    },
    World {
        name: "members-crash",
        what: "node 4 takes node 3's place, any node crashes; streams in order",
        large: true,
        nodes: 4,
        crashes: 1,
        member_change: true,
        ordered: true,
        ..NOTHING
    },
];

impl World {
    /// Breaks the rule on this thread: the checker has threads of its own.
    pub(crate) fn break_rule(mutant: Option<Mutant>) {
        #[cfg(feature = "mutants")]
        replcore::mutants::set(mutant);
        #[cfg(not(feature = "mutants"))]
        assert!(mutant.is_none(), "rules are broken with the feature `mutants` alone");
    }

    /// Every node has registered, the first map is made, and its primary serves.
    fn beginning(&self) -> Instant {
        let mut group = ClusterState::default();
        let bootstrap = Bootstrap {
            cluster: CLUSTER,
            partition_count: PartitionCount::new(1).expect("one is a power of two"),
            replication: 3,
            expected_nodes: 3,
        };
        group.apply(&Command::Bootstrap(bootstrap)).expect("the settings are within their limits");
        let mut nodes = Vec::new();
        for number in 1..=self.nodes {
            let registration = registration(None, Incarnation(1), BootNonce(number), Epoch(0), Term(0));
            let accepted_at = group.epoch();
            group.apply(&Command::Register(registration)).expect("a new node may register");
            nodes.push(Arc::new(Node::new(NodeId(number), PARTITION, accepted_at)));
        }
        let first = vec![(PARTITION, (1..=3).map(NodeId).collect())];
        let change = Change { placements: first, ..Change::new(group.epoch(), Cause::FirstMap) };
        group.apply(&Command::Change(change)).expect("the first map names registered nodes");
        let mut instant = Instant {
            nodes,
            network: Vec::new(),
            group: Arc::new(Group::new(group)),
            reports: Vec::new(),
            answers: Vec::new(),
            left: (*self).into(),
            history: Arc::new(History::default()),
        };
        action::settle(&mut instant);
        instant
    }
}

/// How a node presents itself.
pub(crate) fn registration(
    node: Option<NodeId>,
    incarnation: Incarnation,
    nonce: BootNonce,
    highest_epoch: Epoch,
    highest_promised: Term,
) -> Registration {
    Registration {
        cluster: if node.is_some() { CLUSTER } else { ClusterId::NONE },
        node,
        incarnation,
        nonce,
        address: "host:1".into(),
        http_address: String::new(),
        zone: String::new(),
        weight: 100,
        highest_epoch,
        highest_promised,
    }
}

impl Model for World {
    type State = Instant;
    type Action = action::Action;

    fn init_states(&self) -> Vec<Instant> {
        // Every world begins sound.
        World::break_rule(None);
        vec![self.beginning()]
    }

    fn actions(&self, instant: &Instant, actions: &mut Vec<action::Action>) {
        if instant.history.broken.is_none() {
            action::possible(instant, actions);
        }
    }

    fn next_state(&self, instant: &Instant, action: action::Action) -> Option<Instant> {
        World::break_rule(self.mutant);
        let mut next = instant.clone();
        action::take(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<World>> {
        let mut properties = PROPERTIES.to_vec();
        properties.extend(crate::history::expected(self));
        properties
    }
}
