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

    /// Whether the node's replica of this partition can vote: alive, and not out of service (P3).
    pub fn is_usable(&self, partition: PartitionId, node: NodeId) -> bool {
        self.is_alive(node) && !self.out_of_service.contains_key(&(partition, node))
    }
}
