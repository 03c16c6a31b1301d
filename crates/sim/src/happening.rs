//! Everything that can happen in a world, and what its parts say to each other.

use crate::faults::Fault;
use crate::readers::Subscription;
use bytes::Bytes;
use replcore::{Answer, Apply, Fed, Message, NotFed, SnapshotId, Token, TransactionMessage};
use std::sync::Arc;
use types::{
    Epoch, Generation, Incarnation, Mutation, NodeId, PageQuery, PartitionId, Record, RecordKey, RequestId, Seq, Stamp,
    Term, Transaction, View,
};
use viewcore::{Command, Heartbeat, Operation, Refusal, Registration};

#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// Something within the process that is the node's start number `start`; void once that has ended.
    Process { node: usize, start: u64, what: Process },
    /// A message between replicas arrives (P6: at this incarnation of the destination, or nowhere).
    Peer(Envelope),
    /// A message from another partition's primary arrives, at this incarnation of the destination or nowhere.
    Partition { to: usize, incarnation: Incarnation, partition: PartitionId, message: TransactionMessage },
    /// The viewleader group hears something.
    ToGroup(ToGroup),
    /// Something within the group.
    Group(Group),
    /// A client's request arrives at a node.
    Request { node: usize, request: Request },
    /// A client hears an answer.
    Answered { client: usize, number: u64, attempt: u32, answer: Answer },
    /// A watcher asks a node for a partition.
    Subscribe { node: usize, subscription: Subscription },
    /// A watcher is told something.
    Fed { watcher: usize, partition: PartitionId, number: u64, after: Seq, fed: Result<Fed, NotFed> },
    /// A reader's own timer.
    Reader(usize),
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
    /// The state's thread is done with a job; it does them in order.
    State(Job),
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
    Peer {
        from: NodeId,
        partition: PartitionId,
        message: Message,
    },
    Partition {
        partition: PartitionId,
        message: TransactionMessage,
    },
    Persisted {
        partition: PartitionId,
        through: replcore::PersistIndex,
    },
    Applied {
        partition: PartitionId,
        generation: Generation,
        through: types::EntryId,
    },
    Installed {
        partition: PartitionId,
        generation: Generation,
        number: u64,
    },
    StateRead {
        partition: PartitionId,
        to: NodeId,
        snapshot: SnapshotId,
        records: Vec<(RecordKey, Record)>,
    },
    View(Arc<View>),
    Group(FromGroup),
    Request(Request),
    Expire {
        partition: PartitionId,
        token: Token,
    },
    Tick,
    Forget,
    Saved,
    PeerUp(NodeId),
    PeerDown(NodeId),
    Damaged(PartitionId),
    Scanned {
        partition: PartitionId,
        token: Token,
        applied: Seq,
        records: Vec<(Bytes, Record)>,
        ended: bool,
    },
    Subscribe(Subscription),
    /// A key's time is over, if it still has this version.
    KeyExpired {
        partition: PartitionId,
        key: Bytes,
        version: Seq,
    },
}

/// What the state's thread is asked to do.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    /// Committed changes.
    Apply {
        partition: PartitionId,
        apply: Apply,
    },
    /// A part of a snapshot; with the last one everything is saved.
    Install {
        partition: PartitionId,
        number: u64,
        last: bool,
        apply: Apply,
    },
    /// A page of the state for a snapshot.
    Read {
        partition: PartitionId,
        to: NodeId,
        snapshot: SnapshotId,
        generation: Generation,
        after: Option<RecordKey>,
        bytes_max: usize,
    },
    /// A page of the state for a scan.
    Scan {
        partition: PartitionId,
        token: Token,
        generation: Generation,
        query: PageQuery,
    },
    Delete {
        partition: PartitionId,
        generation: Generation,
    },
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
    Page(PageQuery),
    Mutate { id: RequestId, stamp: Stamp, mutation: Mutation },
    Transact { id: RequestId, stamp: Stamp, transaction: Transaction },
    Collect(Vec<Bytes>),
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
    Register {
        node: usize,
        start: u64,
        registration: Registration,
    },
    Heartbeat {
        node: usize,
        start: u64,
        id: NodeId,
        heartbeat: Heartbeat,
    },
    Stuck {
        node: NodeId,
        partition: PartitionId,
        term: Term,
        unreachable: Vec<NodeId>,
        holder: Option<NodeId>,
    },
    Activated {
        node: usize,
        start: u64,
        partition: PartitionId,
        term: Term,
    },
    Damaged {
        node: usize,
        start: u64,
        id: NodeId,
        partition: PartitionId,
        term: Term,
    },
    WantView {
        node: usize,
        start: u64,
        epoch: Epoch,
    },
    Suspect(NodeId),
    /// An operator knows that a node is gone.
    Vouch(NodeId),
    /// An operator's wish.
    Operate(Operation),
}

#[derive(Clone, Debug)]
pub(crate) enum FromGroup {
    Accepted {
        id: NodeId,
        accepted_at: Epoch,
        view: Arc<View>,
    },
    Refused(Refusal),
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
    Operator,
}
