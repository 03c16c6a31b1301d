//! What operators ask of the storage nodes, and what they are shown before and meanwhile.

use super::forward::{Leader, forwarded};
use super::{LeadersService, no_leader};
use crate::leading::{Input, Knowledge};
use crate::raft::NotDone;
use std::time::Duration;
use tokio::time::timeout;
use tonic::Request;
use types::{Duty, Epoch, ErrorCode, NodeId, PartitionId};
use viewcore::progress::{self, Progress};
use viewcore::{ClusterState, Command, Configure, Done, Event, Operation};
use wire::convert::{Malformed, error, required};
use wire::v1;
use wire::v1::operate_request::Operation as Wanted;

/// How long an operation is waited for.
const OPERATE_MAX: Duration = Duration::from_secs(4);
/// How long a silent node's death is waited for once an operator has vouched for it.
const DEATH_MAX: Duration = Duration::from_secs(2);

impl LeadersService {
    pub(super) async fn operate_or_forward(&self, request: Request<v1::OperateRequest>) -> v1::OperateReply {
        let refused = |error| v1::OperateReply { error: Some(error), epoch: 0 };
        match self.find_leader(&request).await {
            Leader::Here => self.operate_here(request.into_inner()).await.unwrap_or_else(refused),
            Leader::Nowhere => refused(no_leader()),
            Leader::At(leader) => {
                let answer = match self.forwarder.client(&leader) {
                    Ok(mut client) => {
                        client.operate(forwarded(request.into_inner())).await.map_err(|status| status.to_string())
                    }
                    Err(error) => Err(error.to_string()),
                };
                answer.map_or_else(|why| refused(silent(&leader, &why)), tonic::Response::into_inner)
            }
        }
    }

    async fn operate_here(&self, request: v1::OperateRequest) -> Result<v1::OperateReply, v1::Error> {
        let operation = operation(request).map_err(|malformed| error(ErrorCode::Invalid, malformed.to_string()))?;
        tracing::info!(?operation, "an operator asks");
        if let Operation::SetDuty { node, duty: Duty::Removed } = operation {
            self.vouch(node).await;
        }
        let proposed = timeout(OPERATE_MAX, self.group.propose(Command::Operate(operation))).await;
        match proposed {
            Ok(Ok(Ok(Done::Operated(epoch)))) => Ok(v1::OperateReply { error: None, epoch: epoch.0 }),
            Ok(Ok(Ok(other))) => Err(error(ErrorCode::Internal, format!("an operation was answered with {other:?}"))),
            Ok(Ok(Err(refusal))) => Err(error(refusal.code(), refusal.to_string())),
            Ok(Err(NotDone::NotLeader)) => Err(no_leader()),
            Ok(Err(NotDone::Stopped(why))) => Err(error(ErrorCode::ShuttingDown, why)),
            Err(_) => {
                let why =
                    "the viewleaders have no majority at the moment: it may still be done; ask again to make sure";
                Err(error(ErrorCode::Unknown, why))
            }
        }
    }

    /// P21: that an operator calls it gone is the evidence against a node that says nothing.
    async fn vouch(&self, node: NodeId) {
        let mut state = self.group.state();
        let is_alive = |state: &ClusterState| state.node(node).is_some_and(|info| info.alive);
        if !is_alive(&state.borrow()) {
            return;
        }
        let Some(leading) = self.take_up().await else { return };
        if leading.inputs.send(Input::Event(Event::Vouched(node))).await.is_ok() {
            // One that answers stays alive, and the removal is then refused.
            let _in_time = timeout(DEATH_MAX, state.wait_for(|state| !is_alive(state))).await;
        }
    }

    pub(super) async fn moves_or_forward(&self, request: Request<v1::MovesRequest>) -> v1::MovesReply {
        let refused = |error| v1::MovesReply { error: Some(error), ..Default::default() };
        match self.find_leader(&request).await {
            Leader::Here => match self.knowledge().await {
                Some(knowledge) => self.moves_here(request.into_inner(), &knowledge).unwrap_or_else(refused),
                None => refused(no_leader()),
            },
            Leader::Nowhere => refused(no_leader()),
            Leader::At(leader) => {
                let answer = match self.forwarder.client(&leader) {
                    Ok(mut client) => {
                        client.moves(forwarded(request.into_inner())).await.map_err(|status| status.to_string())
                    }
                    Err(error) => Err(error.to_string()),
                };
                answer.map_or_else(|why| refused(silent(&leader, &why)), tonic::Response::into_inner)
            }
        }
    }

    fn moves_here(&self, request: v1::MovesRequest, knowledge: &Knowledge) -> Result<v1::MovesReply, v1::Error> {
        let mut state = self.group.state().borrow().as_ref().clone();
        let Knowledge { leader, now_ms } = knowledge;
        let mut gone = leader.gone(*now_ms, &state);
        if let Some(if_done) = request.if_done {
            let operation = operation(if_done).map_err(|malformed| error(ErrorCode::Invalid, malformed.to_string()))?;
            if let Operation::SetDuty { node, duty: Duty::Removed } = operation {
                gone.insert(node);
            }
            let outcome = state.apply(&Command::Operate(operation));
            outcome.map_err(|refusal| error(refusal.code(), refusal.to_string()))?;
        }
        let progress = progress::progress(&state, leader.observed(), &gone);
        Ok(reply(&state, knowledge, progress))
    }
}

fn reply(state: &ClusterState, knowledge: &Knowledge, progress: Progress) -> v1::MovesReply {
    // Before the first map nothing is where it should be.
    let handovers = knowledge.leader.handovers(knowledge.now_ms, state);
    let complete = state.view().is_some_and(|view| view.has_map()) && progress.is_complete() && handovers == 0;
    let Progress { underway, planned, surplus, tolerates_now, tolerates_then, stranded } = progress;
    let number = |node: Option<NodeId>| node.unwrap_or_default().0;
    let numbers = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0).collect();
    let view = state.view();
    let nodes = state.nodes().map(|info| {
        let facts = knowledge.leader.observed().facts(info.id).unwrap_or_default();
        let surplus = surplus.iter().find(|(node, _)| *node == info.id).map_or(Some(0), |(_, surplus)| *surplus);
        v1::NodeMoves { node: info.id.0, filled_bytes: facts.filled_bytes, surplus }
    });
    v1::MovesReply {
        error: None,
        epoch: state.epoch().0,
        paused: state.policy().paused,
        replace_after_ms: knowledge.leader.replace_after_ms(state),
        fill_bytes_per_second: view.map_or(0, |view| view.fill_bytes_per_second),
        moves_per_node: state.policy().moves_per_node,
        replication: view.map_or(0, |view| u32::from(view.replication)),
        underway: underway
            .into_iter()
            .map(|moving| v1::Moving {
                partition: moving.partition.0,
                joins: number(moving.joins),
                leaves: number(moving.leaves),
                primary: moving.primary.0,
                filling: moving.filling,
                keys: moving.size.keys,
                bytes: moving.size.bytes,
                blocked: moving.blocked.unwrap_or_default(),
            })
            .collect(),
        planned: planned
            .into_iter()
            .map(|(planned, size)| v1::Moving {
                partition: planned.partition.0,
                joins: number(planned.joins),
                leaves: number(planned.leaves),
                primary: view.and_then(|view| view.configuration(planned.partition)?.primary()).unwrap_or_default().0,
                filling: false,
                keys: size.keys,
                bytes: size.bytes,
                blocked: String::new(),
            })
            .collect(),
        nodes: nodes.collect(),
        tolerates_now,
        tolerates_then,
        complete,
        handovers: handovers as u32,
        stranded: stranded
            .into_iter()
            .map(|stranded| v1::Stranded {
                partition: stranded.partition.0,
                members: numbers(stranded.members),
                survivors: numbers(stranded.survivors),
                primary_survives: stranded.primary_survives,
            })
            .collect(),
    }
}

/// # Errors
/// [`Malformed`] for what no operation says; whether it can be done is for the state to say.
fn operation(request: v1::OperateRequest) -> Result<Operation, Malformed> {
    Ok(match required(request.operation, "an operation")? {
        Wanted::SetDuty(v1::SetDuty { node, duty }) => {
            let duty = Duty::from_number(duty).ok_or_else(|| Malformed("an unknown duty of a node".into()))?;
            Operation::SetDuty { node: NodeId(node), duty }
        }
        Wanted::SetWeight(v1::SetWeight { node, weight }) => Operation::SetWeight { node: NodeId(node), weight },
        Wanted::Configure(configure) => Operation::Configure(Configure {
            replication: configure
                .replication
                .map(|replication| u8::try_from(replication).map_err(|_| Malformed("a replication above 255".into())))
                .transpose()?,
            replace_after_ms: configure.replace_after_ms,
            fill_bytes_per_second: configure.fill_bytes_per_second,
            moves_per_node: configure.moves_per_node,
        }),
        Wanted::Moves(order) => match v1::MovesOrder::try_from(order) {
            Ok(v1::MovesOrder::Pause) => Operation::PauseMoves,
            Ok(v1::MovesOrder::Resume) => Operation::ResumeMoves,
            Ok(v1::MovesOrder::Abort) => Operation::AbortMoves,
            Ok(v1::MovesOrder::None) | Err(_) => return Err(Malformed("an unknown order about moves".into())),
        },
        Wanted::Recover(v1::Recover { planned_on, survivors }) => Operation::Recover {
            planned_on: Epoch(planned_on),
            survivors: survivors
                .into_iter()
                .map(|s| (PartitionId(s.partition), s.nodes.into_iter().map(NodeId).collect()))
                .collect(),
        },
    })
}

fn silent(leader: &str, why: &str) -> v1::Error {
    error(ErrorCode::NoLeader, format!("the leader at {leader} does not answer: {why}; try again"))
}
