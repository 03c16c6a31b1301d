//! The cluster at one instant: its nodes, and who replicates each partition.

use crate::ids::{ClusterId, Epoch, Incarnation, NodeId, PartitionId, Term};
use crate::position::PartitionCount;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who replicates a partition.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Configuration {
    /// The epoch at which members or order last changed, or the primary was given a new term.
    pub term: Term,
    /// The primary first, the rest in order of preference. Distinct, never empty.
    pub replicas: Vec<NodeId>,
    /// A node that is being filled: it gets every entry and counts for nothing.
    pub learner: Option<NodeId>,
    /// The members of the last activated configuration, while this one is not activated and has other members;
    /// otherwise empty.
    pub prior: Vec<NodeId>,
}

impl Configuration {
    /// The node that serves the partition in this term.
    pub fn primary(&self) -> Option<NodeId> {
        self.replicas.first().copied()
    }

    /// How many of `members` are a majority.
    pub fn majority_of(members: &[NodeId]) -> usize {
        members.len() / 2 + 1
    }

    /// Whether the configuration gives `node` a record: as replica, learner or member of the prior one.
    pub fn names(&self, node: NodeId) -> bool {
        self.votes(node) || self.learner == Some(node)
    }

    /// Whether `node` takes part in takeovers of this term: `replicas ∪ prior`.
    pub fn votes(&self, node: NodeId) -> bool {
        self.replicas.contains(&node) || self.prior.contains(&node)
    }

    /// A configuration is activated from the start if it has no prior.
    pub fn is_activated(&self) -> bool {
        self.prior.is_empty()
    }
}

/// What an operator wants of a node. The numbers travel: never reuse one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Duty {
    /// Carries its share.
    #[default]
    Active,
    /// Keeps what it has, and is given nothing.
    Cordoned,
    /// Gives everything away; when it holds nothing it can be stopped and removed.
    Draining,
    /// Is gone for good: its replicas are rebuilt elsewhere, then it is forgotten.
    Removed,
}

impl Duty {
    /// Its number on the wire.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The duty with this number, if there is one.
    pub fn from_number(number: u32) -> Option<Duty> {
        [Duty::Active, Duty::Cordoned, Duty::Draining, Duty::Removed].into_iter().find(|duty| duty.number() == number)
    }

    /// Whether the node is to hold nothing.
    pub fn leaves(self) -> bool {
        matches!(self, Duty::Draining | Duty::Removed)
    }
}

/// A storage node as the viewleader group knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Minted at its first registration.
    pub id: NodeId,
    /// Where its gRPC services are reached, `host:port`.
    pub address: String,
    /// Where its HTTP gateway is reached, `host:port`; empty if it has none.
    pub http_address: String,
    /// Replicas of one partition go to distinct zones where zones allow.
    pub zone: String,
    /// Its share of partitions relative to others; 100 is usual.
    pub weight: u32,
    /// The latest start that was accepted.
    pub incarnation: Incarnation,
    /// The epoch at which that incarnation was first accepted: it takes over only terms above it (P11).
    pub accepted_at: Epoch,
    /// Whether the group believes it alive.
    pub alive: bool,
    /// What an operator wants of it.
    pub duty: Duty,
}

/// The cluster at one epoch. Only the viewleader group changes it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct View {
    /// Drawn at bootstrap.
    pub cluster: ClusterId,
    /// How many changes there were.
    pub epoch: Epoch,
    /// Fixed at bootstrap.
    pub partition_count: PartitionCount,
    /// Replicas that each partition should have.
    pub replication: u8,
    /// Every registered node.
    pub nodes: BTreeMap<NodeId, NodeInfo>,
    /// By partition id; empty until the first partition map is committed.
    pub configurations: Vec<Arc<Configuration>>,
    /// What a node sends at most to fill others, in bytes per second; 0: as fast as it can.
    pub fill_bytes_per_second: u64,
}

/// What changed between two epochs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ViewDelta {
    /// Applies to the view of this epoch only.
    pub from: Epoch,
    /// And makes it the view of this one.
    pub to: Epoch,
    /// Nodes that are new or have changed.
    pub nodes: Vec<NodeInfo>,
    /// Nodes that are gone.
    pub removed: Vec<NodeId>,
    /// Configurations that have changed, by ascending partition.
    pub configurations: Vec<(PartitionId, Arc<Configuration>)>,
    /// As in the newer view.
    pub replication: u8,
    /// As in the newer view.
    pub fill_bytes_per_second: u64,
}

/// A delta that does not fit the view it is applied to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ViewError {
    /// The delta starts at another epoch: ask for the whole view.
    #[error("the delta starts at {from}, the view is at {at}")]
    Gap {
        /// Where the delta starts.
        from: Epoch,
        /// Where the view is.
        at: Epoch,
    },
    /// The delta names a partition that the view does not have.
    #[error("the delta names {0}, which the view does not have")]
    NoSuchPartition(PartitionId),
}

/// What a node sends at most per second to fill others, until an operator says otherwise: clients on the same machine hardly
/// notice that, and nine nodes that rebuild a tenth fill it with 70 MiB a second.
pub const FILL_BYTES_PER_SECOND_DEFAULT: u64 = 8 << 20;

impl View {
    /// A cluster without nodes and without a partition map, at epoch 0.
    pub fn new(cluster: ClusterId, partition_count: PartitionCount, replication: u8) -> View {
        View {
            cluster,
            epoch: Epoch(0),
            partition_count,
            replication,
            nodes: BTreeMap::new(),
            configurations: Vec::new(),
            fill_bytes_per_second: FILL_BYTES_PER_SECOND_DEFAULT,
        }
    }

    /// Whether the first partition map has been committed.
    pub fn has_map(&self) -> bool {
        !self.configurations.is_empty()
    }

    /// The configuration of a partition; `None` before the first map.
    pub fn configuration(&self, partition: PartitionId) -> Option<&Arc<Configuration>> {
        self.configurations.get(partition.0 as usize)
    }

    /// The node that serves a partition, with what is known of it.
    pub fn primary(&self, partition: PartitionId) -> Option<&NodeInfo> {
        self.nodes.get(&self.configuration(partition)?.primary()?)
    }

    /// The partition of a key.
    pub fn partition_of(&self, key: &[u8]) -> PartitionId {
        self.partition_count.partition_of(key)
    }

    /// Moves the view to `delta.to`. A delta that ends at or before this view's epoch changes nothing.
    ///
    /// # Errors
    /// [`ViewError`]; the view is then unchanged.
    pub fn apply(&mut self, delta: &ViewDelta) -> Result<(), ViewError> {
        if delta.to <= self.epoch {
            return Ok(());
        }
        if delta.from != self.epoch {
            return Err(ViewError::Gap { from: delta.from, at: self.epoch });
        }
        // The first map comes whole; later deltas stay within it.
        let known = self.configurations.len().max(if self.has_map() { 0 } else { delta.configurations.len() });
        if let Some((partition, _)) = delta.configurations.iter().find(|(p, _)| p.0 as usize >= known) {
            return Err(ViewError::NoSuchPartition(*partition));
        }
        self.configurations.resize_with(known, Default::default);
        for (partition, configuration) in &delta.configurations {
            self.configurations[partition.0 as usize] = configuration.clone();
        }
        for node in &delta.nodes {
            self.nodes.insert(node.id, node.clone());
        }
        for node in &delta.removed {
            self.nodes.remove(node);
        }
        self.replication = delta.replication;
        self.fill_bytes_per_second = delta.fill_bytes_per_second;
        self.epoch = delta.to;
        Ok(())
    }

    /// The delta that moves `older` to this view.
    pub fn delta_from(&self, older: &View) -> ViewDelta {
        let nodes = self.nodes.values().filter(|node| older.nodes.get(&node.id) != Some(node)).cloned().collect();
        let removed = older.nodes.keys().filter(|id| !self.nodes.contains_key(id)).copied().collect();
        let configurations = self
            .partition_count
            .ids()
            .zip(&self.configurations)
            .filter(|(p, c)| older.configuration(*p) != Some(*c))
            .map(|(p, c)| (p, c.clone()))
            .collect();
        ViewDelta {
            from: older.epoch,
            to: self.epoch,
            nodes,
            removed,
            configurations,
            replication: self.replication,
            fill_bytes_per_second: self.fill_bytes_per_second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(epoch: u64, nodes: &[u64], primaries: &[u64]) -> View {
        let mut view = View::new(ClusterId(7), PartitionCount::new(4).unwrap(), 3);
        view.epoch = Epoch(epoch);
        view.fill_bytes_per_second = epoch;
        for id in nodes {
            let node = NodeInfo {
                id: NodeId(*id),
                address: format!("h:{id}"),
                http_address: String::new(),
                zone: String::new(),
                weight: 100,
                incarnation: Incarnation(1),
                accepted_at: Epoch(1),
                alive: true,
                duty: Duty::Active,
            };
            view.nodes.insert(node.id, node);
        }
        view.configurations = primaries
            .iter()
            .map(|p| Arc::new(Configuration { term: Term(epoch), replicas: vec![NodeId(*p)], ..Default::default() }))
            .collect();
        view
    }

    /// Guards against a delta that loses a change: applied to the older view it must give the newer one.
    #[test]
    fn a_delta_leads_from_one_view_to_the_other() {
        let views = [view(0, &[], &[]), view(3, &[1, 2], &[1, 2, 1, 2]), view(9, &[2, 3], &[3, 2, 3, 2])];
        for older in &views {
            for newer in views.iter().filter(|v| v.epoch >= older.epoch) {
                let mut moved = older.clone();
                moved.apply(&newer.delta_from(older)).unwrap();
                assert_eq!(&moved, newer);
            }
        }
    }

    /// Guards against a delta applied to a view that it was not made for.
    #[test]
    fn a_gap_is_refused_and_an_old_delta_is_nothing() {
        let (first, second, third) = (view(1, &[1], &[1; 4]), view(2, &[1], &[1; 4]), view(3, &[1], &[1; 4]));
        let mut at_first = first.clone();
        assert_eq!(at_first.apply(&third.delta_from(&second)), Err(ViewError::Gap { from: Epoch(2), at: Epoch(1) }));
        assert_eq!(at_first, first);
        let mut at_third = third.clone();
        at_third.apply(&second.delta_from(&first)).unwrap();
        assert_eq!(at_third, third);
    }
}
