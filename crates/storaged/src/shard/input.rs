//! What reaches a shard.

use crate::clock::Moment;
use crate::kv::connection::Connection;
use crate::watch::feeds::Wanted;
use crate::watch::watcher::Watcher;
use bytes::Bytes;
use engine::Keyspace;
use replcore::{Message, PersistIndex, SnapshotId, Token, TransactionMessage};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use types::{EntryId, Epoch, LeaseId, NodeId, PartitionId, Record, RecordKey, Seq, Term, View};
use wal::SegmentNumber;
use wire::convert::Operation;

/// How many inputs wait for a shard before whoever has more waits too. An input is a whole batch.
const QUEUE_LENGTH: usize = 256;

/// A client's request, checked, for a partition of this shard.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// The client's number for it.
    pub(crate) number: u64,
    /// The key's partition.
    pub(crate) partition: PartitionId,
    /// What is asked.
    pub(crate) operation: Operation,
    /// When nobody waits for it any more.
    pub(crate) deadline: Moment,
}

/// What others want of a shard.
#[derive(Debug)]
pub(crate) enum Input {
    /// One client's batch.
    Requests {
        /// Who is answered.
        connection: Arc<Connection>,
        /// What is asked.
        requests: Vec<Incoming>,
    },
    /// One peer's batch.
    Messages {
        /// The peer.
        from: NodeId,
        /// What it says, in its order.
        messages: Vec<(PartitionId, Message)>,
    },
    /// Other partitions' primaries, here or on a peer, say this to those named.
    FromPartitions(Vec<(PartitionId, TransactionMessage)>),
    /// The link to this peer has changed: look at its era.
    Peer(NodeId),
    /// A newer view, on disk (P5).
    View(Arc<View>),
    /// The viewleader's answer to a reported activation (P16).
    ActivationAnswered {
        /// Which partition.
        partition: PartitionId,
        /// Of which term.
        term: Term,
        /// Whether it is committed there.
        accepted: bool,
    },
    /// The viewleader has noted a damaged replica (P3).
    DamageNoted {
        /// Which partition.
        partition: PartitionId,
        /// At which epoch.
        epoch: Epoch,
    },
    /// These live no more; keys that are bound to them go.
    LeasesEnded(Arc<[LeaseId]>),
    /// The log is to be trimmed: hand everything committed to the state; answered when the state has it.
    Drain(oneshot::Sender<()>),
    /// The state is on disk as of the last drain: trim, write the bases again; answered, once those are on disk, with
    /// the oldest segment of the log that the shard still needs (`None`: none). Of segments before `room_before` nothing
    /// is kept for other nodes.
    Checkpointed {
        /// The log is too long before here.
        room_before: SegmentNumber,
        /// Who is answered.
        done: oneshot::Sender<Option<SegmentNumber>>,
    },
    /// A client watches partitions.
    Watch {
        /// Who is told.
        watcher: Arc<Watcher>,
        /// What, from where on.
        wanted: Vec<Wanted>,
    },
    /// A watcher that was refused has room again.
    WatchRoom(Arc<Watcher>),
    /// Tell a watcher how far it is, or forget it if it has gone.
    WatchProgress(Arc<Watcher>),
    /// Finish: answer what is open, then end.
    Stop,
}

/// What a shard asked for and is done, and what it says to itself.
#[derive(Debug)]
pub(crate) enum Completion {
    /// A submission to the write-ahead log is on disk.
    Persisted {
        /// The segment with its first record.
        segment: SegmentNumber,
        /// What it held, by partition.
        persisted: Vec<Persisted>,
    },
    /// Partitions of this shard have something to say to others of it.
    FromPartitions(Vec<(PartitionId, TransactionMessage)>),
    /// The state holds what it was given.
    Applied(Vec<(Keyspace, EntryId)>),
    /// The state has a part of a snapshot.
    Installed {
        /// Which generation of which partition.
        keyspace: Keyspace,
        /// Which part.
        number: u64,
    },
    /// A page of the state was read for a snapshot.
    StateRead {
        /// Of which partition.
        partition: PartitionId,
        /// For whom.
        to: NodeId,
        /// For which snapshot.
        snapshot: SnapshotId,
        /// In order; none: the end.
        records: Vec<(RecordKey, Record)>,
    },
    /// A page of the state was read for a client.
    Scanned {
        /// Of which partition.
        partition: PartitionId,
        /// For whom.
        token: Token,
        /// What the state held then.
        applied: Seq,
        /// By name.
        records: Vec<(Bytes, Record)>,
        /// There are no more.
        ended: bool,
    },
    /// Somebody who watches is behind and was given a piece of the log: there is more.
    CatchUp,
    /// The state could not take what it was given because a partition's data there is damaged (P3).
    Damaged(PartitionId),
}

/// One partition's part of a submission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Persisted {
    /// Which partition.
    pub(crate) partition: PartitionId,
    /// Its last record.
    pub(crate) through: PersistIndex,
    /// The highest entry in it, if it held any.
    pub(crate) highest: Option<Seq>,
    /// A new generation began with it: entries written before are of no use.
    pub(crate) reset: bool,
}

/// How others reach a shard.
#[derive(Clone, Debug)]
pub(crate) struct ShardHandle {
    /// Waits when full.
    pub(crate) inputs: mpsc::Sender<Input>,
}

impl ShardHandle {
    /// A handle and the end that the shard reads.
    pub(crate) fn channel() -> (ShardHandle, mpsc::Receiver<Input>) {
        let (inputs, receiver) = mpsc::channel(QUEUE_LENGTH);
        (ShardHandle { inputs }, receiver)
    }

    /// Hands something over if there is room; what is lost is said again.
    pub(crate) fn offer(&self, input: Input) {
        if self.inputs.try_send(input).is_err() {
            metrics::counter!("storaged_partition_messages_dropped_total").increment(1);
        }
    }

    /// Hands something over, waiting while the queue is full. A shard that has ended takes nothing: the node ends too.
    pub(crate) async fn send(&self, input: Input) {
        // The receiver goes only when the node ends; then nobody is answered anyway.
        let _ended = self.inputs.send(input).await;
    }
}

/// The shards of a node: partition p belongs to shard p mod their number.
#[derive(Clone, Debug)]
pub(crate) struct Shards(Arc<[ShardHandle]>);

impl Shards {
    /// All shards, in order.
    pub(crate) fn new(handles: Vec<ShardHandle>) -> Shards {
        assert!(!handles.is_empty(), "a node has at least one shard");
        Shards(handles.into())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Which one a partition belongs to.
    pub(crate) fn index_of(&self, partition: PartitionId) -> usize {
        partition.0 as usize % self.0.len()
    }

    /// The shard of this index.
    pub(crate) fn at(&self, index: usize) -> &ShardHandle {
        &self.0[index]
    }

    /// The shard of a partition.
    pub(crate) fn of(&self, partition: PartitionId) -> &ShardHandle {
        self.at(self.index_of(partition))
    }

    /// Hands the same to all.
    pub(crate) async fn broadcast(&self, input: impl Fn() -> Input) {
        for shard in self.0.iter() {
            shard.send(input()).await;
        }
    }
}
