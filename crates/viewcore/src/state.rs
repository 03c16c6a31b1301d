//! What the group replicates. Changed by [`crate::apply`] only.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use types::{BootNonce, ClusterId, Configuration, Epoch, NodeId, NodeInfo, PartitionId, View};

/// Most storage nodes that a cluster ever registers: a bound for the view's size.
pub const NODES_MAX: usize = 4096;

/// The replicated state: the view, and what guards it. Its encoding goes into snapshots: append fields, never reorder.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClusterState {
    /// `None` before the bootstrap. Shared, so that publishing it costs nothing.
    pub(crate) view: Option<Arc<View>>,
    pub(crate) expected_nodes: u32,
    /// The highest node id that was ever minted: ids are never reused.
    pub(crate) nodes_minted: u64,
    /// The boot nonce of each node's latest incarnation (P20).
    pub(crate) nonces: BTreeMap<NodeId, BootNonce>,
    /// Replicas that reported damage, with the epoch they were answered (P3).
    pub(crate) out_of_service: BTreeMap<(PartitionId, NodeId), Epoch>,
    /// Why the group stopped changing anything, if it did (P20).
    pub(crate) halted: Option<String>,
    /// Partitions with a learner, and who goes when it is full.
    pub(crate) moves: BTreeMap<PartitionId, Move>,
    /// What operators can set.
    pub(crate) policy: Policy,
    /// Weights that an operator set: the nodes' own settings count no more.
    pub(crate) weights: BTreeMap<NodeId, u32>,
    /// Recoveries that gave up what a majority had: for ever, the newest [`RECOVERIES_MAX`].
    pub(crate) recoveries: Vec<Recovery>,
}

/// Most recoveries that are remembered.
pub const RECOVERIES_MAX: usize = 64;

/// A partition's learner, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Move {
    /// Who is being filled.
    pub joins: NodeId,
    /// Who goes when it is full; `None`: the partition has too few replicas.
    pub leaves: Option<NodeId>,
    /// The epoch at which it began.
    pub begun: Epoch,
}

/// What operators can set about how replicas move.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// No replica begins to move.
    pub paused: bool,
    /// How long a node may be dead before its replicas are rebuilt elsewhere, in milliseconds; `None`: as the leader's own
    /// settings say.
    pub replace_after_ms: Option<u64>,
    /// Replicas that one node receives at a time, and sends at a time.
    pub moves_per_node: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { paused: false, replace_after_ms: None, moves_per_node: 4 }
    }
}

/// Partitions that went on without a majority of their members, by an operator's order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Recovery {
    /// The epoch that it made.
    pub epoch: Epoch,
    /// Each partition's members before, and after.
    pub partitions: Vec<(PartitionId, Vec<NodeId>, Vec<NodeId>)>,
}

impl ClusterState {
    /// The view; `None` before the bootstrap.
    pub fn view(&self) -> Option<&Arc<View>> {
        self.view.as_ref()
    }

    /// The cluster's id, [`ClusterId::NONE`] before the bootstrap.
    pub fn cluster(&self) -> ClusterId {
        self.view.as_ref().map_or(ClusterId::NONE, |view| view.cluster)
    }

    /// The view's epoch, 0 before the bootstrap.
    pub fn epoch(&self) -> Epoch {
        self.view.as_ref().map_or(Epoch(0), |view| view.epoch)
    }

    /// Storage nodes that must be alive before the first map is planned.
    pub fn expected_nodes(&self) -> u32 {
        self.expected_nodes
    }

    /// Why the group stopped changing anything, if it did: one line for an operator.
    pub fn halted(&self) -> Option<&str> {
        self.halted.as_deref()
    }

    /// Every replica that is out of service, with the epoch its node was answered (P3).
    pub fn out_of_service(&self) -> impl Iterator<Item = (PartitionId, NodeId, Epoch)> + '_ {
        self.out_of_service.iter().map(|((partition, node), epoch)| (*partition, *node, *epoch))
    }

    /// Every node by id; none before the bootstrap.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.view.iter().flat_map(|view| view.nodes.values())
    }

    /// A node, if it ever registered.
    pub fn node(&self, node: NodeId) -> Option<&NodeInfo> {
        self.view.as_ref()?.nodes.get(&node)
    }

    /// Every partition's configuration, in order; none before the first map.
    pub fn configurations(&self) -> impl Iterator<Item = (PartitionId, &Arc<Configuration>)> {
        self.view.iter().flat_map(|view| view.partition_count.ids().zip(&view.configurations))
    }

    /// Whether the node is believed alive.
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.node(node).is_some_and(|node| node.alive)
    }

    /// Partitions with a learner.
    pub fn moves(&self) -> &BTreeMap<PartitionId, Move> {
        &self.moves
    }

    /// How replicas move.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Recoveries that operators ordered.
    pub fn recoveries(&self) -> &[Recovery] {
        &self.recoveries
    }

    /// Whether enough of `members` can vote on the partition.
    pub fn has_majority(&self, partition: PartitionId, members: &[NodeId]) -> bool {
        let usable = members.iter().filter(|node| self.is_usable(partition, **node)).count();
        usable >= Configuration::majority_of(members)
    }

    /// Whether the node's replica of this partition can vote: alive, and not out of service (P3).
    pub fn is_usable(&self, partition: PartitionId, node: NodeId) -> bool {
        self.is_alive(node) && !self.out_of_service.contains_key(&(partition, node))
    }
}
