//! What operators ask of the storage nodes ([`Operation`]), and what they are shown before and meanwhile ([`Moves`]).

use types::{Duty, Epoch, NodeId, PartitionId};
use wire::convert::Malformed;
use wire::v1;
use wire::v1::operate_request::Operation as Wanted;

/// What an operator wants. Doing it again changes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// What a node is to do from now on.
    SetDuty {
        /// Which one.
        node: NodeId,
        /// What it is to do.
        duty: Duty,
    },
    /// A node's share relative to others; 100 is usual.
    SetWeight {
        /// Which one.
        node: NodeId,
        /// At least 1.
        weight: u32,
    },
    /// Settings of the whole cluster.
    Configure(Configure),
    /// Begin no more moves; those under way end.
    PauseMoves,
    /// Begin moves again.
    ResumeMoves,
    /// Give up what is being copied, and begin no more.
    AbortMoves,
    /// Let partitions that have lost their majority go on with these members. What only the others had is lost.
    Recover {
        /// The epoch of the [`Moves`] that this was decided on; at any other it is refused.
        planned_on: Epoch,
        /// By partition, each once, in order: its members from now on.
        survivors: Vec<(PartitionId, Vec<NodeId>)>,
    },
}

/// Settings of the whole cluster; what is absent stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Configure {
    /// Replicas of each partition.
    pub replication: Option<u8>,
    /// How long a node is dead before its replicas are rebuilt elsewhere.
    pub replace_after_ms: Option<u64>,
    /// What a node sends at most to fill others; 0: as fast as it can.
    pub fill_bytes_per_second: Option<u64>,
    /// How many replicas a node receives or sends at a time.
    pub moves_per_node: Option<u32>,
}

/// What moves between storage nodes, what will, what blocks it, and the settings that govern it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Moves {
    /// The view's epoch.
    pub epoch: Epoch,
    /// Whether no moves begin until an operator says so.
    pub paused: bool,
    /// Replicas of each partition.
    pub replication: u32,
    /// How long a node is dead before its replicas are rebuilt elsewhere.
    pub replace_after_ms: u64,
    /// What a node sends at most to fill others; 0: as fast as it can.
    pub fill_bytes_per_second: u64,
    /// How many replicas a node receives or sends at a time.
    pub moves_per_node: u32,
    /// Partitions whose members are changing.
    pub underway: Vec<Move>,
    /// What is still to begin, the most urgent first.
    pub planned: Vec<Move>,
    /// Every storage node.
    pub nodes: Vec<NodeMoves>,
    /// How many nodes may fail, whichever they are, before some partition has no majority.
    pub tolerates_now: u32,
    /// The same once everything has moved.
    pub tolerates_then: u32,
    /// Partitions that still get another primary, so that every node leads its share.
    pub handovers: u32,
    /// Everything is where it should be, activated, led by whom it should, and what is surplus is deleted.
    pub complete: bool,
    /// Partitions that have lost their majority.
    pub stranded: Vec<Stranded>,
}

/// A replica that moves, comes to be, or goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// Whose.
    pub partition: PartitionId,
    /// Who gets it, if anybody.
    pub joins: Option<NodeId>,
    /// Who gives it up, if anybody.
    pub leaves: Option<NodeId>,
    /// The partition's primary, who feeds the one that joins.
    pub primary: Option<NodeId>,
    /// Whether it is being copied; otherwise it is planned, or the new members are being activated.
    pub filling: bool,
    /// Keys of the partition, as its primary said last.
    pub keys: u64,
    /// Bytes of the partition, as its primary said last.
    pub bytes: u64,
    /// What keeps it from going on, and what to type next: one line.
    pub blocked: Option<String>,
}

/// What a storage node has to do with moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeMoves {
    /// Which one.
    pub node: NodeId,
    /// What it has sent to fill others since it was started.
    pub filled_bytes: u64,
    /// Partitions that it stores and should not; `None`: it has not looked since the last change.
    pub surplus: Option<u32>,
}

/// A partition that can't serve because too many of its members are dead or damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stranded {
    /// Which one.
    pub partition: PartitionId,
    /// Its members.
    pub members: Vec<NodeId>,
    /// Those that live, the best one to lead first; nobody: everything is lost.
    pub survivors: Vec<NodeId>,
    /// Its last primary is among them: then it has everything that was acknowledged.
    pub primary_survives: bool,
}

impl From<&Operation> for v1::OperateRequest {
    fn from(operation: &Operation) -> Self {
        let operation = match operation {
            Operation::SetDuty { node, duty } => Wanted::SetDuty(v1::SetDuty { node: node.0, duty: duty.number() }),
            Operation::SetWeight { node, weight } => Wanted::SetWeight(v1::SetWeight { node: node.0, weight: *weight }),
            Operation::Configure(configure) => Wanted::Configure(v1::Configure {
                replication: configure.replication.map(u32::from),
                replace_after_ms: configure.replace_after_ms,
                fill_bytes_per_second: configure.fill_bytes_per_second,
                moves_per_node: configure.moves_per_node,
            }),
            Operation::PauseMoves => Wanted::Moves(v1::MovesOrder::Pause.into()),
            Operation::ResumeMoves => Wanted::Moves(v1::MovesOrder::Resume.into()),
            Operation::AbortMoves => Wanted::Moves(v1::MovesOrder::Abort.into()),
            Operation::Recover { planned_on, survivors } => {
                let survivors = survivors.iter().map(|(partition, nodes)| v1::Survivors {
                    partition: partition.0,
                    nodes: nodes.iter().map(|node| node.0).collect(),
                });
                Wanted::Recover(v1::Recover { planned_on: planned_on.0, survivors: survivors.collect() })
            }
        };
        v1::OperateRequest { operation: Some(operation) }
    }
}

impl TryFrom<v1::MovesReply> for Moves {
    type Error = Malformed;

    fn try_from(reply: v1::MovesReply) -> Result<Self, Malformed> {
        let moves = |list: Vec<v1::Moving>| list.into_iter().map(TryInto::try_into).collect::<Result<_, _>>();
        Ok(Moves {
            epoch: Epoch(reply.epoch),
            paused: reply.paused,
            replication: reply.replication,
            replace_after_ms: reply.replace_after_ms,
            fill_bytes_per_second: reply.fill_bytes_per_second,
            moves_per_node: reply.moves_per_node,
            underway: moves(reply.underway)?,
            planned: moves(reply.planned)?,
            nodes: reply.nodes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            tolerates_now: reply.tolerates_now,
            tolerates_then: reply.tolerates_then,
            handovers: reply.handovers,
            complete: reply.complete,
            stranded: reply.stranded.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<v1::Moving> for Move {
    type Error = Malformed;

    fn try_from(moving: v1::Moving) -> Result<Self, Malformed> {
        let node = |id: u64| (id != 0).then_some(NodeId(id));
        // Damaged replicas may go without anybody who joins, and the other way round. One who is both moves nothing.
        if moving.joins != 0 && moving.joins == moving.leaves {
            return Err(Malformed(format!("a move of p{} from n{} to itself", moving.partition, moving.joins)));
        }
        Ok(Move {
            partition: PartitionId(moving.partition),
            joins: node(moving.joins),
            leaves: node(moving.leaves),
            primary: node(moving.primary),
            filling: moving.filling,
            keys: moving.keys,
            bytes: moving.bytes,
            blocked: (!moving.blocked.is_empty()).then_some(moving.blocked),
        })
    }
}

impl TryFrom<v1::NodeMoves> for NodeMoves {
    type Error = Malformed;

    fn try_from(node: v1::NodeMoves) -> Result<Self, Malformed> {
        Ok(NodeMoves { node: known(node.node)?, filled_bytes: node.filled_bytes, surplus: node.surplus })
    }
}

impl TryFrom<v1::Stranded> for Stranded {
    type Error = Malformed;

    fn try_from(stranded: v1::Stranded) -> Result<Self, Malformed> {
        let nodes = |list: Vec<u64>| list.into_iter().map(known).collect::<Result<Vec<_>, _>>();
        Ok(Stranded {
            partition: PartitionId(stranded.partition),
            members: nodes(stranded.members)?,
            survivors: nodes(stranded.survivors)?,
            primary_survives: stranded.primary_survives,
        })
    }
}

fn known(node: u64) -> Result<NodeId, Malformed> {
    if node == 0 { Err(Malformed("a node without an id".into())) } else { Ok(NodeId(node)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a setting that is changed though nobody asked for it, and an order that arrives as another.
    #[test]
    fn operations_travel_as_they_are() {
        let sent = |operation: &Operation| v1::OperateRequest::from(operation).operation.unwrap();
        let configure = Configure { fill_bytes_per_second: Some(0), ..Configure::default() };
        assert_eq!(
            sent(&Operation::Configure(configure)),
            Wanted::Configure(v1::Configure { fill_bytes_per_second: Some(0), ..Default::default() })
        );
        assert_eq!(sent(&Operation::AbortMoves), Wanted::Moves(v1::MovesOrder::Abort as i32));
        let drain = Operation::SetDuty { node: NodeId(3), duty: Duty::Draining };
        assert_eq!(sent(&drain), Wanted::SetDuty(v1::SetDuty { node: 3, duty: Duty::Draining.number() }));
    }

    /// Guards against "nobody" that is taken for a node, and against a server's nonsense that is shown to people.
    #[test]
    fn moves_are_checked() {
        let moving = v1::Moving { partition: 7, joins: 4, primary: 1, bytes: 9, ..Default::default() };
        let moved = Move::try_from(moving.clone()).unwrap();
        assert_eq!((moved.joins, moved.leaves, moved.blocked), (Some(NodeId(4)), None, None));
        assert!(Move::try_from(v1::Moving { leaves: 4, ..moving }).is_err());
        let nobody = v1::Stranded { partition: 7, survivors: vec![0], ..Default::default() };
        assert!(Stranded::try_from(nobody).is_err());
        let reply = v1::MovesReply { nodes: vec![v1::NodeMoves::default()], ..Default::default() };
        assert!(Moves::try_from(reply).is_err());
    }
}
