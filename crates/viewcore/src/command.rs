//! What is written to the group's log, and what applying it answers.
//!
//! The encoding names variants and fields by their place: append, never reorder or remove.

use crate::coordination;
use serde::{Deserialize, Serialize};
use types::{BootNonce, ClusterId, Duty, Epoch, ErrorCode, Incarnation, NodeId, PartitionCount, PartitionId, Term};

/// One entry of the group's log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Gives the cluster its identity. The first one committed wins.
    Bootstrap(Bootstrap),
    /// A storage node's process begins (P20).
    Register(Registration),
    /// A planned change of the view.
    Change(Change),
    /// A primary has adopted everything that the prior configuration committed (P16).
    Activated {
        /// Which partition.
        partition: PartitionId,
        /// The term that the primary serves in.
        term: Term,
    },
    /// A replica is damaged and out of service (P3).
    NoteDamage {
        /// The node that reports it, about itself.
        node: NodeId,
        /// Which of its replicas.
        partition: PartitionId,
        /// The partition's, by the node's newest view. What is said of an earlier one may be said of an earlier life of
        /// the replica.
        term: Term,
    },
    /// An operator wants something.
    Operate(Operation),
    /// Several [`Command::Activated`] at once: one change of the view, however many they are.
    ActivatedAll(Vec<(PartitionId, Term)>),
    /// What clients ask of leases and locks, in order: see [`Coordination`](crate::Coordination).
    Coordinate(Vec<coordination::Request>),
}

/// What an operator can ask for. Refused at once, with the reason, where it can't succeed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// A node's duty.
    SetDuty {
        /// Which node.
        node: NodeId,
        /// What it is to do.
        duty: Duty,
    },
    /// A node's share relative to others; from now on the node's own setting counts no more.
    SetWeight {
        /// Which node.
        node: NodeId,
        /// At least 1.
        weight: u32,
    },
    /// Settings of the whole cluster; what is `None` stays.
    Configure(Configure),
    /// No replica begins to move; those that move already go on.
    PauseMoves,
    /// Replicas move again.
    ResumeMoves,
    /// As [`Operation::PauseMoves`], and learners that are being filled are given up.
    AbortMoves,
    /// Partitions that lost the majority of their members go on with those that are left. What only the others had is
    /// lost. `None`: with an empty replica on any node, everything is lost.
    Recover {
        /// The epoch of the view that the operator was shown: on any other it is refused.
        planned_on: Epoch,
        /// By ascending partition, its members from now on, the first to lead before the others.
        survivors: Vec<(PartitionId, Vec<NodeId>)>,
    },
}

/// Settings of the whole cluster that can change while it runs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Configure {
    /// Replicas that each partition should have.
    pub replication: Option<u8>,
    /// How long a node may be dead before its replicas are rebuilt elsewhere, in milliseconds.
    pub replace_after_ms: Option<u64>,
    /// What a node sends at most to fill others, in bytes per second; 0: as fast as it can.
    pub fill_bytes_per_second: Option<u64>,
    /// Replicas that one node receives at a time, and sends at a time.
    pub moves_per_node: Option<u32>,
}

/// Settings that a cluster keeps for ever.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Drawn at random by the proposer.
    pub cluster: ClusterId,
    /// Partitions of the cluster.
    pub partition_count: PartitionCount,
    /// Replicas that each partition should have, 1 to [`types::limits::REPLICATION_MAX`].
    pub replication: u8,
    /// Storage nodes that must be alive before the first partition map is planned; at least 1.
    pub expected_nodes: u32,
}

/// How a storage node's process presents itself (P20).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Registration {
    /// The cluster that the data directory belongs to; [`ClusterId::NONE`] for a new one.
    pub cluster: ClusterId,
    /// The id that the data directory was given; `None` asks for one.
    pub node: Option<NodeId>,
    /// The directory's start count, from 1.
    pub incarnation: Incarnation,
    /// Drawn at this start.
    pub nonce: BootNonce,
    /// Where its gRPC services are reached, `host:port`.
    pub address: String,
    /// Where its HTTP gateway is reached, `host:port`, or empty.
    pub http_address: String,
    /// Its failure domain; empty is a zone like any other.
    pub zone: String,
    /// Its share of partitions relative to others, at least 1.
    pub weight: u32,
    /// The highest epoch that the directory has seen.
    pub highest_epoch: Epoch,
    /// The highest term that any of its replicas has promised.
    pub highest_promised: Term,
}

/// A change of the view, planned by the leader and checked again when it is applied.
///
/// Everything in it becomes visible at one epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// The epoch of the view it was planned on: on any other it is refused.
    pub planned_on: Epoch,
    /// Why, for the log of operations.
    pub cause: Cause,
    /// Nodes now believed dead.
    pub dead: Vec<NodeId>,
    /// Nodes now believed alive.
    pub alive: Vec<NodeId>,
    /// New orders of replicas, the primary first, by ascending partition. Before the first map: all partitions'
    /// replicas. Afterwards: the same members; the order that is there already asks for a new term alone.
    pub placements: Vec<(PartitionId, Vec<NodeId>)>,
    /// Steps of partitions whose members change, by ascending partition; none of them is in `placements`.
    pub steps: Vec<(PartitionId, Step)>,
    /// Nodes that hold nothing and are forgotten.
    pub forgotten: Vec<NodeId>,
}

impl Change {
    /// A change of nothing.
    pub fn new(planned_on: Epoch, cause: Cause) -> Change {
        Change {
            planned_on,
            cause,
            dead: Vec::new(),
            alive: Vec::new(),
            placements: Vec::new(),
            steps: Vec::new(),
            forgotten: Vec::new(),
        }
    }

    /// The change, unless it changes nothing.
    pub fn if_any(self) -> Option<Change> {
        let lists = [&self.dead, &self.alive, &self.forgotten];
        let any = lists.iter().any(|nodes| !nodes.is_empty()) || !self.placements.is_empty() || !self.steps.is_empty();
        any.then_some(self)
    }
}

/// One step of a partition whose members change (P21): a learner, then a member instead of another, then activated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Step {
    /// A learner is named: it is filled, and counts for nothing.
    Fill {
        /// The learner.
        joins: NodeId,
        /// Who goes when it is full; `None`: the partition has too few replicas.
        leaves: Option<NodeId>,
    },
    /// The members are these from now on, the primary first. The learner is one of them, or none any more.
    Members(Vec<NodeId>),
    /// The learner is given up.
    GiveUp,
}

/// Why a view changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Cause {
    /// Enough storage nodes have registered.
    FirstMap,
    /// Nodes died, returned, or a primary can't be one any more.
    Failover,
    /// Primaries are spread evenly again.
    Balance,
    /// Members change: nodes join, leave, are lost, or are to hold more or less.
    Rebalance,
}

/// What applying a command did. Deterministic: the same on every member.
pub type Outcome = Result<Done, Refusal>;

/// A command that was carried out, or that had been already.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Done {
    /// The cluster has this id: the command's own, or that of an earlier one.
    Bootstrapped(ClusterId),
    /// The node is registered.
    Registered {
        /// Its id, minted now or known.
        node: NodeId,
        /// The epoch at which this incarnation was first accepted (P11).
        accepted_at: Epoch,
    },
    /// The view has this epoch now.
    Changed(Epoch),
    /// The configuration is activated.
    Activated,
    /// The damage is recorded with this epoch (P3).
    DamageNoted(Epoch),
    /// Of each activation whether its configuration is activated, in their order.
    ActivatedAll(Vec<bool>),
    /// The operation is carried out, or was before; the view has this epoch.
    Operated(Epoch),
    /// What became of each request, in their order.
    Coordinated(Vec<coordination::Outcome>),
}

/// A command that changed nothing, and why: one line for a person.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// Nothing else is possible before [`Command::Bootstrap`].
    #[error("the cluster is not bootstrapped yet; try again in a moment")]
    NotBootstrapped,
    /// Bootstrap settings outside their limits.
    #[error("{0}")]
    Settings(String),
    /// The directory belongs to another cluster.
    #[error(
        "the data directory belongs to cluster {theirs}, this is cluster {ours}; \
         point --leaders at its own cluster, or start with an empty --data-dir to join this one as a new node"
    )]
    WrongCluster {
        /// This cluster.
        ours: ClusterId,
        /// The directory's.
        theirs: ClusterId,
    },
    /// The directory claims an id that was never minted here.
    #[error(
        "node {0} was never registered with this cluster; \
         the viewleaders may have been restored from an old copy: restore the newest one"
    )]
    UnknownNode(NodeId),
    /// The directory is an older copy, or there are two (P20).
    #[error(
        "the data directory of node {node} is a stale copy: its start count is {presented}, but {used} was used already; \
         use the newest directory, or start with an empty --data-dir to join as a new node"
    )]
    StaleDirectory {
        /// Whose directory.
        node: NodeId,
        /// The incarnation that it presents.
        presented: Incarnation,
        /// The latest one that was accepted.
        used: Incarnation,
    },
    /// A registration that contradicts itself.
    #[error("{0}")]
    Registration(String),
    /// The group is stopped by an alarm (P20).
    #[error("{0}")]
    Halted(String),
    /// The view moved on after the change was planned.
    #[error("the change was planned on {planned_on}, the view is at {at}; plan again")]
    StalePlan {
        /// The plan's epoch.
        planned_on: Epoch,
        /// The view's.
        at: Epoch,
    },
    /// A plan that breaks a rule: a bug of whoever planned it.
    #[error("the change breaks a rule: {0}")]
    BadPlan(String),
    /// The term is not the partition's current one (P16).
    #[error("{partition} is at {current}, not at {presented}")]
    StaleTerm {
        /// Which partition.
        partition: PartitionId,
        /// Its term now.
        current: Term,
        /// The term presented.
        presented: Term,
    },
    /// An operation that can't succeed: why, and what to do instead.
    #[error("{0}")]
    Operation(String),
    /// The node was removed from the cluster for good.
    #[error("node {0} was removed from the cluster; start with an empty --data-dir to join as a new node")]
    Forgotten(NodeId),
    /// The cluster has no such partition, or no map yet.
    #[error("there is no {0}")]
    NoSuchPartition(PartitionId),
}

impl Refusal {
    /// The code that travels with the message.
    pub fn code(&self) -> ErrorCode {
        match self {
            Refusal::NotBootstrapped => ErrorCode::NotBootstrapped,
            Refusal::WrongCluster { .. } => ErrorCode::WrongCluster,
            Refusal::Settings(_) | Refusal::Registration(_) | Refusal::NoSuchPartition(_) => ErrorCode::Invalid,
            Refusal::BadPlan(_) => ErrorCode::Internal,
            // Passes when the viewleaders are restored; storage nodes wait for that and go on serving.
            Refusal::Halted(_) => ErrorCode::Unavailable,
            Refusal::UnknownNode(_)
            | Refusal::StaleDirectory { .. }
            | Refusal::Operation(_)
            | Refusal::Forgotten(_)
            | Refusal::StalePlan { .. }
            | Refusal::StaleTerm { .. } => ErrorCode::Refused,
        }
    }
}
