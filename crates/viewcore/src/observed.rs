//! What heartbeats tell the leader: never replicated, complete again soon after an election.

use std::collections::{BTreeMap, BTreeSet};
use types::{Epoch, NodeId, PartitionId, Term};

/// One heartbeat.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Heartbeat {
    /// The highest epoch that the node has seen.
    pub epoch: Epoch,
    /// Partitions that began or ceased to serve there since its last heartbeat of this session.
    pub serving: Vec<Serving>,
    /// Keys stored.
    pub keys: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// What this start of the node has sent to fill others, in bytes.
    pub filled_bytes: u64,
    /// Keyspaces there that should not be, by the view of the epoch that follows.
    pub surplus: u32,
    /// See `surplus`.
    pub surplus_at: Epoch,
    /// Sizes of partitions that serve there, now and then.
    pub sizes: Vec<(PartitionId, PartitionSize)>,
    /// Transactions that take long there, each with who must answer: lines for people.
    pub doubts: Vec<String>,
}

/// What a partition holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PartitionSize {
    /// Users' keys.
    pub keys: u64,
    /// Their bytes and those of their values.
    pub bytes: u64,
}

/// A partition that a node serves (P19).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Serving {
    /// Which one.
    pub partition: PartitionId,
    /// At which term; 0: no more.
    pub term: Term,
    /// Followers whose log is behind by more than a moment.
    pub behind: BTreeSet<NodeId>,
    /// The learner, once its log is behind by no more than a moment.
    pub filled: Option<NodeId>,
}

/// What a node last said about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeFacts {
    /// The highest epoch that it has seen.
    pub epoch: Epoch,
    /// Keys stored.
    pub keys: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// What this start of the node has sent to fill others, in bytes.
    pub filled_bytes: u64,
    /// Keyspaces there that should not be, by the view of the epoch that follows.
    pub surplus: u32,
    /// See `surplus`.
    pub surplus_at: Epoch,
}

/// The sum of all heartbeats of one leadership.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    facts: BTreeMap<NodeId, NodeFacts>,
    serving: BTreeMap<(PartitionId, NodeId), Serving>,
    sizes: BTreeMap<PartitionId, PartitionSize>,
    doubts: BTreeMap<NodeId, Vec<String>>,
}

impl Observed {
    /// A session began or ended: what the node serves is to be told anew.
    pub fn forget_serving(&mut self, node: NodeId) {
        self.serving.retain(|(_, holder), _| *holder != node);
        self.doubts.remove(&node);
    }

    /// Takes in a heartbeat whose partitions exist.
    pub fn heartbeat(&mut self, node: NodeId, heartbeat: &Heartbeat) {
        let Heartbeat { epoch, keys, bytes, filled_bytes, surplus, surplus_at, .. } = *heartbeat;
        self.facts.insert(node, NodeFacts { epoch, keys, bytes, filled_bytes, surplus, surplus_at });
        if heartbeat.doubts.is_empty() {
            self.doubts.remove(&node);
        } else {
            self.doubts.insert(node, heartbeat.doubts.clone());
        }
        self.sizes.extend(heartbeat.sizes.iter().copied());
        for serving in &heartbeat.serving {
            if serving.term == Term(0) {
                self.serving.remove(&(serving.partition, node));
            } else {
                self.serving.insert((serving.partition, node), serving.clone());
            }
        }
    }

    /// Transactions that take long, as the nodes last said.
    pub fn doubts(&self) -> impl Iterator<Item = &str> {
        self.doubts.values().flatten().map(String::as_str)
    }

    /// What the partition held when its primary last said.
    pub fn size(&self, partition: PartitionId) -> PartitionSize {
        self.sizes.get(&partition).copied().unwrap_or_default()
    }

    /// What the node last said; `None` if it said nothing to this leader.
    pub fn facts(&self, node: NodeId) -> Option<NodeFacts> {
        self.facts.get(&node).copied()
    }

    /// The replicas that are behind, if `primary` serves the partition at `term`; `None` if it does not.
    pub fn behind(&self, partition: PartitionId, primary: NodeId, term: Term) -> Option<&BTreeSet<NodeId>> {
        self.serving(partition, primary, term).map(|serving| &serving.behind)
    }

    /// The learner that is filled, if `primary` serves the partition at `term` and says so.
    pub fn filled(&self, partition: PartitionId, primary: NodeId, term: Term) -> Option<NodeId> {
        self.serving(partition, primary, term)?.filled
    }

    fn serving(&self, partition: PartitionId, primary: NodeId, term: Term) -> Option<&Serving> {
        self.serving.get(&(partition, primary)).filter(|serving| serving.term == term)
    }
}
