//! The streams between storage nodes: one per pair, dialled by the node with the lower id.
//!
//! A [`link`] is the outbox for one peer, whatever stream empties it; [`stream`] runs one stream; [`supervisor`] keeps a
//! stream up and tells shards and viewleader when it is not; [`convert`] is the messages' form on the wire.
//!
//! Invariants: every batch names cluster, nodes and starts on both sides, and what does not match is dropped (P6);
//! messages of one stream reach each shard in the order in which they were sent.

pub(crate) mod between;
pub(crate) mod convert;
pub(crate) mod link;
pub(crate) mod service;
pub(crate) mod stream;
pub(crate) mod supervisor;

use crate::peer::link::Link;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use types::NodeId;

/// The ways to all peers that the view names.
#[derive(Debug, Default)]
pub(crate) struct Links(RwLock<BTreeMap<NodeId, Arc<Link>>>);

impl Links {
    /// Every link.
    pub(crate) fn all(&self) -> Vec<Arc<Link>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The link to `peer`, if a view names it.
    pub(crate) fn get(&self, peer: NodeId) -> Option<Arc<Link>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&peer).cloned()
    }

    /// Adds a link.
    pub(crate) fn insert(&self, link: Arc<Link>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(link.peer(), link);
    }

    /// Takes a link away.
    pub(crate) fn remove(&self, peer: NodeId) -> Option<Arc<Link>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&peer)
    }
}
