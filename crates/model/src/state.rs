//! One instant of a world, and the fingerprint by which it is known again.

use crate::history::History;
use crate::node::Node;
use crate::world::{PARTITION, World};
use replcore::{Body, Message, RoleSummary};
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

impl Envelope {
    /// The stream that it travels on.
    pub fn link(&self) -> (NodeId, NodeId) {
        (self.from, self.to)
    }
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

    /// The same for equal states.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.hash
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
    /// A stream keeps its order.
    pub ordered: bool,
    /// See [`Instant::tidy`]; a broken rule may act on what all others ignore.
    pub tidy: bool,
}

impl From<World> for Left {
    fn from(world: World) -> Left {
        let World { writes, retries, reads, crashes, takeovers, duplicates, member_change, ordered, mutant, .. } =
            world;
        let tidy = mutant.is_none();
        Left { writes, retries, reads, crashes, takeovers, duplicates, member_change, ordered, tidy }
    }
}

/// One instant of a world. Parts are shared between instants until they change.
#[derive(Clone)]
pub struct Instant {
    /// By id, from 1.
    pub nodes: Vec<Arc<Node>>,
    /// A bag, in the order of the fingerprints; or the streams one after another, each from its oldest message on.
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
            let place = match self.left.ordered {
                true => self.network.partition_point(|(_, other)| other.link() <= envelope.link()),
                false => self.network.partition_point(|(other, _)| *other < hash),
            };
            self.network.insert(place, (hash, Arc::new(envelope)));
        }
    }

    /// Takes messages away that this node will never act on again: of a term below its promise, which it can only
    /// refuse, or answers to what it does no more. Without it the same states would be told apart by their litter.
    pub(crate) fn tidy(&mut self, id: NodeId) {
        if !self.left.tidy {
            return;
        }
        let Some(replica) = &self.nodes[id.0 as usize - 1].replica else { return };
        let promised = replica.base().promised;
        let role = replica.role();
        self.network.retain(|(_, envelope)| {
            let term = envelope.message.term;
            let over = match (&envelope.message.body, role) {
                (Body::Sealed { .. } | Body::Fetched { .. }, RoleSummary::TakingOver(own)) => term < own,
                (Body::Sealed { .. } | Body::Fetched { .. }, _) => term <= promised && role_term(role) >= Some(term),
                _ => false,
            };
            envelope.to != id || term >= promised && !over
        });
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

fn role_term(role: RoleSummary) -> Option<Term> {
    match role {
        RoleSummary::TakingOver(term) | RoleSummary::Starting(term) | RoleSummary::Serving(term) => Some(term),
        RoleSummary::None | RoleSummary::OutOfService | RoleSummary::Follower => None,
    }
}

/// The same for equal values in every run of this program.
pub(crate) fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
