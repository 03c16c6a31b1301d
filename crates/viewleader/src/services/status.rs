//! What people ask: who is there, and what lacks something.

use super::forward::{Leader, forwarded};
use super::{LeadersService, no_leader};
use crate::leading::{Input, Knowledge};
use crate::raft::MemberFacts;
use std::collections::BTreeMap;
use tokio::sync::oneshot;
use tonic::Request;
use types::{ClusterId, ErrorCode, NodeId, PartitionId};
use viewcore::{ClusterState, Observed, status};
use wire::convert::{cluster_to_wire, error};
use wire::v1;

impl LeadersService {
    pub(super) async fn answer_status(&self, request: Request<v1::StatusRequest>) -> v1::StatusReply {
        let why = match self.find_leader(&request).await {
            Leader::Here => match self.knowledge().await {
                Some(knowledge) => return self.own_status(Some(&knowledge)).await,
                None => no_leader(),
            },
            Leader::Nowhere => no_leader(),
            Leader::At(leader) => {
                let answer = match self.forwarder.client(&leader) {
                    Ok(mut client) => client.status(forwarded(v1::StatusRequest {})).await.map_err(|s| s.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                match answer {
                    Ok(reply) => return reply.into_inner(),
                    Err(why) => error(
                        ErrorCode::NoLeader,
                        format!("the leader at {leader} does not answer: {why}; this is what another member knows"),
                    ),
                }
            }
        };
        v1::StatusReply { error: Some(why), ..self.own_status(None).await }
    }

    /// What the leading task knows; `None` if this member does not lead.
    pub(super) async fn knowledge(&self) -> Option<Knowledge> {
        let leading = self.take_up().await?;
        let (ask, answer) = oneshot::channel();
        leading.inputs.send(Input::Ask(ask)).await.ok()?;
        answer.await.ok()
    }

    async fn own_status(&self, knowledge: Option<&Knowledge>) -> v1::StatusReply {
        let members = self.group.members().await.into_iter().map(member).collect();
        let state = self.group.state().borrow().clone();
        let nothing = Observed::default();
        let observed = knowledge.map_or(&nothing, |knowledge| knowledge.leader.observed());
        let lacks = status::lacks(&state, observed);
        let numbers = |partitions: Vec<PartitionId>| partitions.into_iter().map(|partition| partition.0).collect();
        let view = state.view();
        v1::StatusReply {
            cluster: match state.cluster() {
                ClusterId::NONE => bytes::Bytes::new(),
                cluster => cluster_to_wire(cluster),
            },
            epoch: state.epoch().0,
            members,
            nodes: nodes(&state, knowledge),
            partition_count: view.map_or(0, |view| view.partition_count.get()),
            replication: view.map_or(0, |view| u32::from(view.replication)),
            expected_nodes: state.expected_nodes(),
            has_map: view.is_some_and(|view| view.has_map()),
            without_quorum: numbers(lacks.without_quorum),
            // Only the leader hears who serves.
            not_serving: if knowledge.is_some() { numbers(lacks.not_serving) } else { Vec::new() },
            under_replicated: numbers(lacks.under_replicated),
            alarms: alarms(&state, knowledge),
            error: None,
        }
    }
}

fn nodes(state: &ClusterState, knowledge: Option<&Knowledge>) -> Vec<v1::NodeStatus> {
    let mut loads: BTreeMap<NodeId, (u32, u32)> = BTreeMap::new();
    for (_, configuration) in state.configurations() {
        for (place, node) in configuration.replicas.iter().enumerate() {
            let (holds, leads) = loads.entry(*node).or_default();
            *holds += 1;
            *leads += u32::from(place == 0);
        }
    }
    let of = |node: &types::NodeInfo| {
        let facts = knowledge.and_then(|k| k.leader.observed().facts(node.id)).unwrap_or_default();
        let (partitions, primaries) = loads.get(&node.id).copied().unwrap_or_default();
        v1::NodeStatus {
            node: Some(node.into()),
            heartbeat_age_ms: knowledge.and_then(|k| k.leader.silent_for_ms(node.id, k.now_ms)),
            partitions,
            primaries,
            keys: facts.keys,
            bytes: facts.bytes,
            epoch: facts.epoch.0,
        }
    };
    state.nodes().map(of).collect()
}

fn alarms(state: &ClusterState, knowledge: Option<&Knowledge>) -> Vec<String> {
    let halted = state.halted().map(str::to_owned);
    let damaged = state.out_of_service().map(|(partition, node, _)| {
        format!("the replica of {partition} on {node} is damaged and out of service; it needs to be replaced")
    });
    let held_back = knowledge.map(|knowledge| knowledge.leader.held_back()).filter(|nodes| !nodes.is_empty());
    let silent = held_back.map(|nodes| {
        let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
        format!(
            "{} are silent, more than a third at once, and nothing proves them dead: check the network, or stop them",
            names.join(", ")
        )
    });
    let doubts = knowledge.into_iter().flat_map(|knowledge| knowledge.leader.observed().doubts()).map(str::to_owned);
    halted.into_iter().chain(damaged).chain(silent).chain(doubts).collect()
}

fn member(facts: MemberFacts) -> v1::Member {
    match facts.hello {
        Some(hello) => v1::Member {
            id: facts.member,
            name: hello.name,
            address: facts.address,
            role: hello.role,
            raft_term: hello.raft_term,
            last_applied: hello.last_applied,
        },
        None => {
            v1::Member { id: facts.member, address: facts.address, role: "unreachable".into(), ..Default::default() }
        }
    }
}
