//! What operators ask for: refused at once, with the reason, where it can't succeed.

use crate::change::begin_term;
use crate::command::{Configure, Done, Operation, Outcome, Refusal};
use crate::mutants::{Mutant, on};
use crate::state::{ClusterState, RECOVERIES_MAX, Recovery};
use std::sync::Arc;
use types::limits::REPLICATION_MAX;
use types::{Duty, Epoch, NodeId, PartitionId, View};

/// Greatest weight: enough for any ratio, and sums of all nodes' stay far from overflow.
const WEIGHT_MAX: u32 = 1_000_000;
/// Most replicas that one node may receive or send at a time.
const MOVES_PER_NODE_MAX: u32 = 256;

impl ClusterState {
    pub(crate) fn operate(&mut self, view: &View, operation: &Operation) -> Outcome {
        match operation {
            Operation::SetDuty { node, duty } => self.set_duty(view, *node, *duty)?,
            Operation::SetWeight { node, weight } => self.set_weight(view, *node, *weight)?,
            Operation::Configure(configure) => self.configure(view, configure)?,
            Operation::PauseMoves => self.policy.paused = true,
            Operation::ResumeMoves => self.policy.paused = false,
            Operation::AbortMoves => self.abort_moves(),
            Operation::Recover { planned_on, survivors } => self.recover(view, *planned_on, survivors)?,
        }
        Ok(Done::Operated(self.epoch()))
    }

    fn set_duty(&mut self, view: &View, node: NodeId, duty: Duty) -> Result<(), Refusal> {
        let info = known(view, node)?;
        if info.duty == duty {
            return Ok(());
        }
        let holds = view.configurations.iter().any(|configuration| configuration.names(node));
        if duty == Duty::Removed && info.alive && holds {
            return refuse(format!(
                "{node} is alive and holds partitions: drain it first (dhtctl node drain {node}), or stop it"
            ));
        }
        if duty.leaves() && holds && !on(Mutant::RefusesNothing) {
            self.check_others_suffice(view, node)?;
        }
        self.next_epoch(|view, _| {
            if let Some(info) = view.nodes.get_mut(&node) {
                info.duty = duty;
            }
        });
        Ok(())
    }

    /// Whether everything that the node holds can be rebuilt on others.
    fn check_others_suffice(&self, view: &View, node: NodeId) -> Result<(), Refusal> {
        let others = view.nodes.values().filter(|info| info.id != node && info.duty == Duty::Active && info.alive);
        let (others, wanted) = (others.count(), usize::from(view.replication));
        if others < wanted {
            return refuse(format!(
                "{node} can't leave: {wanted} replicas need {wanted} other nodes, and {others} are there; \
                 start another storage node, or want fewer replicas first (dhtctl cluster set replication {})",
                others.max(1)
            ));
        }
        let stuck: Vec<PartitionId> = self
            .configurations()
            .filter(|(_, configuration)| configuration.names(node))
            .filter(|(partition, configuration)| {
                !self.has_majority(*partition, &configuration.replicas)
                    || !(configuration.is_activated() || self.has_majority(*partition, &configuration.prior))
            })
            .map(|(partition, _)| partition)
            .collect();
        if !stuck.is_empty() {
            return refuse(format!(
                "{node} can't leave: {} of its partitions have no majority ({}); start their nodes again, \
                 or give up what only those had (dhtctl recover)",
                stuck.len(),
                some(&stuck)
            ));
        }
        Ok(())
    }

    fn set_weight(&mut self, view: &View, node: NodeId, weight: u32) -> Result<(), Refusal> {
        let info = known(view, node)?;
        if weight == 0 || weight > WEIGHT_MAX {
            return refuse(format!("a weight is 1 to {WEIGHT_MAX}; a node that should hold nothing is drained"));
        }
        self.weights.insert(node, weight);
        if info.weight != weight {
            self.next_epoch(|view, _| {
                if let Some(info) = view.nodes.get_mut(&node) {
                    info.weight = weight;
                }
            });
        }
        Ok(())
    }

    fn configure(&mut self, view: &View, configure: &Configure) -> Result<(), Refusal> {
        let Configure { replication, replace_after_ms, fill_bytes_per_second, moves_per_node } = configure;
        if let Some(replication) = *replication {
            let nodes = view.nodes.values().filter(|info| info.duty == Duty::Active).count();
            if replication == 0 || replication > REPLICATION_MAX {
                return refuse(format!("the replication is 1 to {REPLICATION_MAX}"));
            }
            if usize::from(replication) > nodes && replication > view.replication {
                return refuse(format!(
                    "{replication} replicas need {replication} storage nodes, and {nodes} are there; start more first"
                ));
            }
        }
        if replace_after_ms.is_some_and(|after_ms| after_ms < 1_000) {
            return refuse("replace-after is at least 1s: a node that restarts is not gone".into());
        }
        if moves_per_node.is_some_and(|moves| moves == 0 || moves > MOVES_PER_NODE_MAX) {
            return refuse(format!(
                "moves-per-node is 1 to {MOVES_PER_NODE_MAX}; to stop moves: dhtctl rebalance pause"
            ));
        }
        self.policy.replace_after_ms = replace_after_ms.or(self.policy.replace_after_ms);
        self.policy.moves_per_node = moves_per_node.unwrap_or(self.policy.moves_per_node);
        let replication = replication.unwrap_or(view.replication);
        let fill_bytes_per_second = fill_bytes_per_second.unwrap_or(view.fill_bytes_per_second);
        if (replication, fill_bytes_per_second) != (view.replication, view.fill_bytes_per_second) {
            self.next_epoch(|view, _| {
                view.replication = replication;
                view.fill_bytes_per_second = fill_bytes_per_second;
            });
        }
        Ok(())
    }

    fn abort_moves(&mut self) {
        self.policy.paused = true;
        let given_up = std::mem::take(&mut self.moves);
        if !given_up.is_empty() {
            self.next_epoch(|view, _| {
                for partition in given_up.keys() {
                    if let Some(configuration) = view.configurations.get_mut(partition.0 as usize) {
                        Arc::make_mut(configuration).learner = None;
                    }
                }
            });
        }
    }

    fn recover(
        &mut self,
        view: &View,
        planned_on: Epoch,
        survivors: &[(PartitionId, Vec<NodeId>)],
    ) -> Result<(), Refusal> {
        if planned_on != view.epoch {
            return Err(Refusal::StalePlan { planned_on, at: view.epoch });
        }
        if survivors.is_empty() || !survivors.is_sorted_by(|(a, _), (b, _)| a < b) {
            return refuse("a recovery names partitions, each once, in order".into());
        }
        let mut recovered = Vec::new();
        for (partition, members) in survivors {
            let configuration = view.configuration(*partition).ok_or(Refusal::NoSuchPartition(*partition))?;
            let can_serve = self.has_majority(*partition, &configuration.replicas)
                && (configuration.is_activated() || self.has_majority(*partition, &configuration.prior));
            if can_serve && !on(Mutant::RecoversMajorities) {
                return refuse(format!("{partition} has a majority: there is nothing to recover"));
            }
            let unfit = members.iter().find(|node| !self.is_usable(*partition, **node));
            let twice = members.iter().enumerate().any(|(place, node)| members[..place].contains(node));
            if let Some(node) = unfit {
                return refuse(format!("{partition} can't go on with {node}: it is dead, or its replica is damaged"));
            }
            if members.is_empty() || twice || members.len() > usize::from(REPLICATION_MAX) {
                return refuse(format!("{partition} can't go on with no node, too many, or one twice"));
            }
            recovered.push((*partition, configuration.replicas.clone(), members.clone()));
        }
        self.moves.retain(|partition, _| !survivors.iter().any(|(recovered, _)| recovered == partition));
        self.next_epoch(|view, term| {
            for (partition, members) in survivors {
                if let Some(configuration) = view.configurations.get_mut(partition.0 as usize) {
                    begin_term(configuration, term, Some(members));
                    let configuration = Arc::make_mut(configuration);
                    (configuration.learner, configuration.prior) = (None, Vec::new());
                }
            }
        });
        self.forget_damage();
        self.recoveries.push(Recovery { epoch: self.epoch(), partitions: recovered });
        let surplus = self.recoveries.len().saturating_sub(RECOVERIES_MAX);
        self.recoveries.drain(..surplus);
        Ok(())
    }
}

fn known(view: &View, node: NodeId) -> Result<&types::NodeInfo, Refusal> {
    view.nodes.get(&node).ok_or_else(|| Refusal::Operation(format!("there is no node {node}; dhtctl nodes lists them")))
}

fn refuse<T>(why: String) -> Result<T, Refusal> {
    Err(Refusal::Operation(why))
}

/// The first few, for a line.
fn some(partitions: &[PartitionId]) -> String {
    let shown: Vec<String> = partitions.iter().take(5).map(PartitionId::to_string).collect();
    let more = if partitions.len() > shown.len() { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}
