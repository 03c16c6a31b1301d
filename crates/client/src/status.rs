//! What people ask about a cluster.

use types::{ClusterId, Epoch, NodeInfo, PartitionId, Term};
use wire::v1;

/// The cluster as the Raft leader of the viewleader group knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterStatus {
    /// Its id.
    pub cluster: ClusterId,
    /// Its view's epoch.
    pub epoch: Epoch,
    /// The viewleaders.
    pub members: Vec<MemberStatus>,
    /// The storage nodes.
    pub nodes: Vec<NodeStatus>,
    /// Partitions.
    pub partition_count: u32,
    /// Replicas that each partition should have.
    pub replication: u32,
    /// Storage nodes that must register before the first map.
    pub expected_nodes: u32,
    /// Whether the first map has been committed.
    pub has_map: bool,
    /// Partitions of whose replicas no majority is alive.
    pub without_quorum: Vec<PartitionId>,
    /// Partitions whose primary has not said that it serves.
    pub not_serving: Vec<PartitionId>,
    /// Partitions with fewer living replicas than they should have.
    pub under_replicated: Vec<PartitionId>,
    /// What an operator must act on, one line each.
    pub alarms: Vec<String>,
}

/// A viewleader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberStatus {
    /// Its Raft id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// leader, follower, learner or unreachable.
    pub role: String,
    /// Its Raft term.
    pub raft_term: Term,
    /// The last log entry that it has applied.
    pub last_applied: u64,
}

/// A storage node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeStatus {
    /// As the view has it.
    pub info: NodeInfo,
    /// Milliseconds since its last heartbeat, where there has been one.
    pub heartbeat_age_ms: Option<u64>,
    /// Partitions it replicates.
    pub partitions: u32,
    /// Those of which it is primary.
    pub primaries: u32,
    /// Keys it stores.
    pub keys: u64,
    /// Bytes it stores.
    pub bytes: u64,
    /// The highest epoch it has seen.
    pub epoch: Epoch,
}

impl TryFrom<v1::StatusReply> for ClusterStatus {
    type Error = wire::Malformed;

    fn try_from(reply: v1::StatusReply) -> Result<Self, wire::Malformed> {
        let partitions = |list: Vec<u32>| list.into_iter().map(PartitionId).collect();
        Ok(ClusterStatus {
            cluster: wire::convert::cluster_from_wire(&reply.cluster)?,
            epoch: Epoch(reply.epoch),
            members: reply.members.into_iter().map(Into::into).collect(),
            nodes: reply.nodes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            partition_count: reply.partition_count,
            replication: reply.replication,
            expected_nodes: reply.expected_nodes,
            has_map: reply.has_map,
            without_quorum: partitions(reply.without_quorum),
            not_serving: partitions(reply.not_serving),
            under_replicated: partitions(reply.under_replicated),
            alarms: reply.alarms,
        })
    }
}

impl From<v1::Member> for MemberStatus {
    fn from(member: v1::Member) -> Self {
        MemberStatus {
            id: member.id,
            name: member.name,
            address: member.address,
            role: member.role,
            raft_term: Term(member.raft_term),
            last_applied: member.last_applied,
        }
    }
}

impl TryFrom<v1::NodeStatus> for NodeStatus {
    type Error = wire::Malformed;

    fn try_from(node: v1::NodeStatus) -> Result<Self, wire::Malformed> {
        Ok(NodeStatus {
            info: wire::convert::required(node.node, "a node's description")?.try_into()?,
            heartbeat_age_ms: node.heartbeat_age_ms,
            partitions: node.partitions,
            primaries: node.primaries,
            keys: node.keys,
            bytes: node.bytes,
            epoch: Epoch(node.epoch),
        })
    }
}
