//! Where each partition's requests go: a view, with a stream per partition instead of ids to look up.

use crate::node_stream::NodeStream;
use crate::node_streams::NodeStreams;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use types::{NodeId, PartitionId, View};

/// One view's routes. Immutable: a new view makes new ones.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) view: Arc<View>,
    /// By partition; `None` where the primary is not a known node.
    primaries: Vec<Option<(NodeId, Arc<NodeStream>)>>,
    streams: FxHashMap<NodeId, Arc<NodeStream>>,
}

impl Routes {
    pub(crate) fn new(view: Arc<View>, nodes: &NodeStreams) -> Routes {
        let streams: FxHashMap<NodeId, Arc<NodeStream>> =
            view.nodes.values().map(|node| (node.id, nodes.stream(&node.address))).collect();
        let primaries = view
            .configurations
            .iter()
            .map(|configuration| {
                let primary = configuration.primary()?;
                Some((primary, streams.get(&primary)?.clone()))
            })
            .collect();
        Routes { view, primaries, streams }
    }

    /// The primary of a partition, and its stream.
    pub(crate) fn primary(&self, partition: PartitionId) -> Option<&(NodeId, Arc<NodeStream>)> {
        self.primaries.get(partition.0 as usize)?.as_ref()
    }

    /// The stream of a node.
    pub(crate) fn stream(&self, node: NodeId) -> Option<&Arc<NodeStream>> {
        self.streams.get(&node)
    }

    /// A living node other than `avoided`, another one for each `turn`: any node forwards.
    pub(crate) fn detour(&self, avoided: NodeId, turn: u64) -> Option<(NodeId, &Arc<NodeStream>)> {
        let others: Vec<NodeId> =
            self.view.nodes.values().filter(|node| node.alive && node.id != avoided).map(|node| node.id).collect();
        let node = *others.get((turn % others.len().max(1) as u64) as usize)?;
        Some((node, self.streams.get(&node)?))
    }

    /// Ends the waits that these routes' view has made pointless: those at nodes which were primary in `older`.
    pub(crate) fn end_waits_since(&self, older: &Routes) {
        let moved: Vec<bool> = older
            .view
            .configurations
            .iter()
            .zip(&self.view.configurations)
            .map(|(old, new)| old.primary() != new.primary())
            .collect();
        if moved.iter().any(|moved| *moved) {
            for stream in older.streams.values() {
                stream.moved(self.view.epoch, |partition| moved.get(partition.0 as usize).copied().unwrap_or(false));
            }
        }
    }
}
