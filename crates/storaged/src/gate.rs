//! What the services stand in front of: nothing until the viewleaders have accepted this node, then the node (P20).

use crate::clock::Clock;
use crate::me::Me;
use crate::peer::supervisor::Peers;
use crate::shard::Shards;
use client::NodeStreams;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;
use types::View;

/// An accepted node, as its services see it.
pub(crate) struct Node {
    /// Who it is.
    pub(crate) me: Me,
    /// Its replicas.
    pub(crate) shards: Shards,
    /// Its view, as far as it is on disk (P5).
    pub(crate) view: watch::Receiver<Arc<View>>,
    /// Its peers.
    pub(crate) peers: Arc<Peers>,
    /// For requests that another node must answer.
    pub(crate) streams: NodeStreams,
    /// Its clock.
    pub(crate) clock: Clock,
}

/// Closed, open, closing.
#[derive(Default)]
pub(crate) struct Gate {
    node: OnceLock<Arc<Node>>,
    stopping: AtomicBool,
}

impl Gate {
    /// The node is accepted: from now on its services answer.
    pub(crate) fn open(&self, node: Arc<Node>) {
        if self.node.set(node).is_err() {
            tracing::error!("the gate was opened twice; the first node stays");
        }
    }

    /// The node, once accepted.
    pub(crate) fn node(&self) -> Option<&Arc<Node>> {
        self.node.get()
    }

    /// From now on new requests are refused.
    pub(crate) fn begin_to_stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether new requests are refused.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
