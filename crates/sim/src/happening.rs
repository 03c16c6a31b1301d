//! Everything that can happen in a world, and what its parts say to each other.

use crate::faults::Fault;
use bytes::Bytes;
use replcore::{Answer, Apply, Message, Token};
use std::sync::Arc;
use types::{Epoch, Incarnation, Mutation, NodeId, PartitionId, RequestId, Stamp, Term, View};
use viewcore::{Command, Heartbeat, Registration};

#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// Something within the process that is the node's start number `start`; void once that has ended.
    Process { node: usize, start: u64, what: Process },
    /// A message between replicas arrives (P6: at this incarnation of the destination, or nowhere).
    Peer(Envelope),
    /// The viewleader group hears something.
    ToGroup(ToGroup),
    /// Something within the group.
    Group(Group),
    /// A client's request arrives at a node.
    Request { node: usize, request: Request },
    /// A client hears an answer.
    Answered { client: usize, number: u64, attempt: u32, answer: Answer },
    /// A client's own timer.
    Client { client: usize, what: Timer },
    /// The next fault is due.
    NextFault,
    /// A fault ends, or its consequence comes later.
    Fault(Fault),
    /// No faults any more.
    Heal,
    /// Has everything come to rest?
    Look,
}

#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) from: NodeId,
    pub(crate) to: usize,
    pub(crate) incarnation: Incarnation,
    pub(crate) partition: PartitionId,
    pub(crate) message: Message,
}

#[derive(Clone, Debug)]
pub(crate) enum Process {
    /// There is something in the inbox.
    Wake,
    /// Ask the group to be accepted, until it does.
    Register,
    Tick,
    Heartbeat,
    /// The log is on disk up to this place.
    Synced {
        end: u64,
    },
    /// The state has taken this in.
    InState {
        partition: PartitionId,
        apply: Apply,
    },
    ViewOnDisk(Arc<View>),
    /// Time to save the state.
    Checkpoint,
    /// The oldest `count` changes are saved.
    Saved {
        count: usize,
    },
    /// Try to reach a peer whose stream is down.
    Reconnect(NodeId),
    Input(Input),
}

/// What a node's process works through, in order, when it runs.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Peer { from: NodeId, partition: PartitionId, message: Message },
    Persisted { partition: PartitionId, through: replcore::PersistIndex },
    Applied { partition: PartitionId, generation: types::Generation, through: types::EntryId },
    View(Arc<View>),
    Group(FromGroup),
    Request(Request),
    Expire { partition: PartitionId, token: Token },
    Tick,
    Forget,
    Saved,
    PeerUp(NodeId),
    PeerDown(NodeId),
    Damaged(PartitionId),
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) client: usize,
    pub(crate) number: u64,
    pub(crate) attempt: u32,
    pub(crate) partition: PartitionId,
    pub(crate) ask: Ask,
    /// How long the node may take.
    pub(crate) patience: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Get(Bytes),
    Mutate { id: RequestId, stamp: Stamp, mutation: Mutation },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    /// Begin the next operation.
    Next,
    /// No answer to this attempt.
    Impatient { number: u64, attempt: u32 },
    /// Try again.
    Retry { number: u64, attempt: u32 },
}

#[derive(Clone, Debug)]
pub(crate) enum ToGroup {
    Register { node: usize, start: u64, registration: Registration },
    Heartbeat { node: usize, start: u64, id: NodeId, heartbeat: Heartbeat },
    Stuck { node: NodeId, partition: PartitionId, term: Term, unreachable: Vec<NodeId> },
    Activated { node: usize, start: u64, partition: PartitionId, term: Term },
    Damaged { node: usize, start: u64, id: NodeId, partition: PartitionId },
    WantView { node: usize, start: u64, epoch: Epoch },
    Suspect(NodeId),
}

#[derive(Clone, Debug)]
pub(crate) enum FromGroup {
    Accepted {
        id: NodeId,
        accepted_at: Epoch,
        view: Arc<View>,
    },
    Refused(String),
    View(Arc<View>),
    /// The leader does not know this node's session.
    NoSession,
    ActivationAnswered {
        partition: PartitionId,
        term: Term,
        accepted: bool,
    },
    DamageNoted {
        partition: PartitionId,
        epoch: Epoch,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum Group {
    Tick {
        leadership: u64,
    },
    /// A command is committed.
    Commit {
        leadership: u64,
        command: Command,
        whose: Whose,
    },
    SessionEnded {
        node: NodeId,
        start: u64,
    },
    Probed {
        leadership: u64,
        node: NodeId,
    },
    NewLeader,
}

/// Who waits for a command's outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whose {
    Leader,
    Registering { node: usize, start: u64 },
    Activating { node: usize, start: u64, partition: PartitionId, term: Term },
    Damaged { node: usize, start: u64, partition: PartitionId },
}
