//! One instant of a world, and the fingerprint by which it is known again.

use crate::history::History;
use crate::node::Node;
use crate::world::{PARTITION, World};
use replcore::Message;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use types::{Configuration, Epoch, Incarnation, NodeId, Term};
use viewcore::ClusterState;

/// A message under way, to one start of one node (P6).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Envelope {
    /// The sender.
    pub from: NodeId,
    /// The destination.
    pub to: NodeId,
    /// The start of it that is meant.
    pub incarnation: Incarnation,
    /// What it says.
    pub message: Message,
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}: {} {:?}", self.from, self.to, self.message.term, self.message.body)
    }
}

/// The viewleader group.
#[derive(Clone, Debug)]
pub struct Group {
    /// What it has decided so far.
    pub state: ClusterState,
    hash: u64,
}

impl Group {
    /// The group in this state.
    pub fn new(state: ClusterState) -> Group {
        let hash = hash_of(&format!("{state:?}"));
        Group { state, hash }
    }

    /// The partition's configuration now.
    pub fn configuration(&self) -> &Arc<Configuration> {
        let view = self.state.view().expect("the group is bootstrapped");
        view.configuration(PARTITION).expect("the first map is made before a world begins")
    }

    /// The view's epoch.
    pub fn epoch(&self) -> Epoch {
        self.state.epoch()
    }
}

/// How often each thing may still happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Left {
    /// Writes.
    pub writes: u8,
    /// Of the writes that there were, the first that its client may send once more, and how many.
    pub retries: u8,
    /// Reads.
    pub reads: u8,
    /// Crashes.
    pub crashes: u8,
    /// Takeovers.
    pub takeovers: u8,
    /// Messages that arrive twice.
    pub duplicates: u8,
    /// Node 4 may join.
    pub member_change: bool,
}

impl From<World> for Left {
    fn from(world: World) -> Left {
        let World { writes, retries, reads, crashes, takeovers, duplicates, member_change, .. } = world;
        Left { writes, retries, reads, crashes, takeovers, duplicates, member_change }
    }
}

/// One instant of a world. Parts are shared between instants until they change.
#[derive(Clone)]
pub struct Instant {
    /// By id, from 1.
    pub nodes: Vec<Arc<Node>>,
    /// A bag, in the order of the fingerprints.
    pub network: Vec<(u64, Arc<Envelope>)>,
    /// The viewleaders.
    pub group: Arc<Group>,
    /// P16: activations that primaries have asked for.
    pub reports: Vec<(NodeId, Incarnation, Term)>,
    /// And what the viewleaders answered.
    pub answers: Vec<(NodeId, Incarnation, Term, bool)>,
    /// What may still happen.
    pub left: Left,
    /// What happened, as far as it binds.
    pub history: Arc<History>,
}

impl Instant {
    /// The node with this id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize - 1]
    }

    /// The node with this id, to be changed; [`Instant::changed`] must follow.
    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        Arc::make_mut(&mut self.nodes[id.0 as usize - 1])
    }

    /// Takes the node's fingerprint anew.
    pub(crate) fn changed(&mut self, id: NodeId) {
        self.node_mut(id).rehash();
    }

    /// A message leaves. What can't arrive is dropped at once: its destination is down, or another start by now.
    pub(crate) fn post(&mut self, envelope: Envelope) {
        let there = self.node(envelope.to);
        if there.replica.is_some() && there.incarnation == envelope.incarnation {
            let hash = hash_of(&envelope);
            let place = self.network.partition_point(|(other, _)| *other < hash);
            self.network.insert(place, (hash, Arc::new(envelope)));
        }
    }

    /// Takes one copy out of the network.
    pub(crate) fn unpost(&mut self, envelope: &Arc<Envelope>) {
        if let Some(place) = self.network.iter().position(|(_, there)| there == envelope) {
            self.network.remove(place);
        }
    }
}

impl Hash for Instant {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for node in &self.nodes {
            node.hash.hash(hasher);
        }
        for (hash, _) in &self.network {
            hash.hash(hasher);
        }
        (self.network.len(), self.group.hash, &self.reports, &self.answers, self.left).hash(hasher);
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

/// The same for equal values in every run of this program.
pub(crate) fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
