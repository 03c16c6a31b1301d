//! Members change, step by step (P21): fill a learner, make it a member in another's place, wait for the activation.
//!
//! Each step is committed on its own and can be seen in the view, so whoever leads next goes on where the last one
//! stopped. What is to move where is planned anew whenever nodes, weights or the replication change; a partition with
//! a learner counts as having moved already, so a new plan does not undo what is under way.

use super::failover::{Chooser, reordered};
use super::placement::{self, Holder};
use crate::change::same_members;
use crate::command::{Cause, Change, Step};
use crate::mutants::{Mutant, on};
use crate::observed::Observed;
use crate::state::ClusterState;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use types::{Configuration, Duty, NodeId, PartitionId, View};

/// Steps in one change, at most: the next ones come with the next.
const STEPS_MAX: usize = 256;

/// What is to move, as planned last.
#[derive(Clone, Debug, Default)]
pub struct Planned {
    /// What the plan was made from; something else asks for a new one.
    inputs: Option<Inputs>,
    queue: VecDeque<Queued>,
    /// The epoch at which planning last found nothing.
    settled: Option<types::Epoch>,
}

/// A planned move, and the members that it was planned for: others make it void.
type Queued = (PlannedMove, Vec<NodeId>);

/// One planned move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlannedMove {
    /// Whose replica.
    pub partition: PartitionId,
    /// Who gets it, if anybody.
    pub joins: Option<NodeId>,
    /// Who gives it up, if anybody.
    pub leaves: Option<NodeId>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Inputs {
    holders: Vec<(NodeId, String, u32, bool, bool)>,
    replication: u8,
    out_of_service: usize,
}

/// Who may hold replicas, and how the planner sees them.
fn inputs(state: &ClusterState, view: &View, gone: &BTreeSet<NodeId>) -> Inputs {
    let holder = |info: &types::NodeInfo| {
        let leaves = info.duty.leaves() || gone.contains(&info.id);
        let receives = !leaves && info.alive && info.duty == Duty::Active;
        (info.id, info.zone.clone(), info.weight, receives, leaves)
    };
    Inputs {
        holders: view.nodes.values().map(holder).collect(),
        replication: view.replication,
        out_of_service: state.out_of_service.len(),
    }
}

/// What should move, the most urgent first, if nothing else changes: also what a dry run shows.
///
/// `gone` are nodes that have been dead for so long that their replicas are rebuilt elsewhere.
pub fn plan(state: &ClusterState, gone: &BTreeSet<NodeId>) -> Vec<PlannedMove> {
    let Some(view) = state.view().filter(|view| view.has_map()) else { return Vec::new() };
    let inputs = inputs(state, view, gone);
    let mut zones = BTreeMap::new();
    let holders: Vec<Holder> = inputs
        .holders
        .iter()
        .map(|(_, zone, weight, receives, leaves)| {
            let number = zones.len();
            let zone = *zones.entry(zone).or_insert(number);
            Holder { zone, weight: *weight, receives: *receives, leaves: *leaves }
        })
        .collect();
    let places: BTreeMap<NodeId, usize> = inputs.holders.iter().enumerate().map(|(at, h)| (h.0, at)).collect();
    let current: Vec<Vec<usize>> = state
        .configurations()
        .map(|(partition, configuration)| {
            members_to_be(state, partition, configuration)
                .into_iter()
                .filter_map(|node| places.get(&node).copied())
                .collect()
        })
        .collect();
    let id = |place: usize| inputs.holders[place].0;
    placement::moves(&holders, &current, usize::from(view.replication))
        .into_iter()
        .map(|planned| PlannedMove {
            partition: PartitionId(planned.partition),
            joins: planned.joins.map(id),
            leaves: planned.leaves.map(id),
        })
        .collect()
}

/// The members once what is under way has come to its end. Damaged replicas have nothing to keep (P3).
fn members_to_be(state: &ClusterState, partition: PartitionId, configuration: &Configuration) -> Vec<NodeId> {
    let underway = state.moves.get(&partition);
    let mut members: Vec<NodeId> = configuration
        .replicas
        .iter()
        .copied()
        .filter(|node| underway.is_none_or(|underway| underway.leaves != Some(*node)))
        .filter(|node| !state.out_of_service.contains_key(&(partition, *node)))
        .collect();
    members.extend(underway.map(|underway| underway.joins));
    members
}

/// The next steps of everything that moves, in one change.
pub fn steps(
    state: &ClusterState,
    observed: &Observed,
    gone: &BTreeSet<NodeId>,
    avoid: &BTreeSet<NodeId>,
    planned: &mut Planned,
) -> Option<Change> {
    let view = state.view().filter(|view| view.has_map())?;
    let mut next = Next { state, observed, view, avoid, chooser: Chooser::new(state), steps: BTreeMap::new() };
    for (partition, configuration) in state.configurations() {
        if next.steps.len() < STEPS_MAX
            && let Some(step) = next.underway(partition, configuration)
        {
            next.steps.insert(partition, step);
        }
    }
    if !state.policy().paused {
        next.begin(gone, planned);
    }
    let forgotten = view
        .nodes
        .values()
        .filter(|info| info.duty == Duty::Removed || info.duty == Duty::Draining && !info.alive)
        .map(|info| info.id)
        .filter(|node| !view.configurations.iter().any(|configuration| configuration.names(*node)))
        .collect();
    Change { steps: next.steps.into_iter().collect(), forgotten, ..Change::new(view.epoch, Cause::Rebalance) }.if_any()
}

struct Next<'a> {
    state: &'a ClusterState,
    observed: &'a Observed,
    view: &'a View,
    avoid: &'a BTreeSet<NodeId>,
    chooser: Chooser,
    steps: BTreeMap<PartitionId, Step>,
}

impl Next<'_> {
    /// The next step of a partition whose members are changing, or have to.
    fn underway(&mut self, partition: PartitionId, configuration: &Configuration) -> Option<Step> {
        let has_majority = |members: &[NodeId]| self.state.has_majority(partition, members);
        if !configuration.is_activated() {
            // P19: it can't be activated any more; what it was before can serve.
            let stuck = !has_majority(&configuration.replicas) && has_majority(&configuration.prior);
            return stuck.then(|| self.members(partition, configuration, &configuration.prior)).flatten();
        }
        if let Some(underway) = self.state.moves.get(&partition) {
            let wanted = self.view.nodes.get(&underway.joins).is_some_and(|info| !info.duty.leaves());
            if !wanted || !self.state.is_usable(partition, underway.joins) {
                return Some(Step::GiveUp);
            }
            let primary = configuration.primary()?;
            let is_filled = self.observed.filled(partition, primary, configuration.term) == Some(underway.joins)
                && self.observed.facts(primary).is_some_and(|facts| facts.epoch >= underway.begun);
            if !is_filled && !on(Mutant::P21Unfilled) {
                return None;
            }
            let mut members = configuration.replicas.clone();
            members.retain(|node| Some(*node) != underway.leaves);
            members.push(underway.joins);
            return self.members(partition, configuration, &members);
        }
        // P3: a damaged replica is let go; then its node may be filled like any other.
        let damaged = |node: &&NodeId| self.state.out_of_service.contains_key(&(partition, **node));
        let damaged = *configuration.replicas.iter().find(damaged)?;
        let members: Vec<NodeId> = configuration.replicas.iter().copied().filter(|node| *node != damaged).collect();
        self.members(partition, configuration, &members)
    }

    /// New members, where a majority of the old and of the new can vote; with the primary that there is, if it stays.
    fn members(&mut self, partition: PartitionId, configuration: &Configuration, members: &[NodeId]) -> Option<Step> {
        let serves = self.state.has_majority(partition, members)
            && (!configuration.is_activated() || self.state.has_majority(partition, &configuration.replicas));
        if !serves || same_members(members, &configuration.replicas) {
            return None;
        }
        let present = configuration.primary()?;
        let behind = self.observed.behind(partition, present, configuration.term);
        let fit = |node: NodeId| {
            members.contains(&node)
                && self.state.is_usable(partition, node)
                && !behind.is_some_and(|behind| behind.contains(&node))
        };
        let next = Configuration { replicas: members.to_vec(), ..configuration.clone() };
        let primary = if fit(present) && !self.avoid.contains(&present) {
            present
        } else {
            let chosen = self.chooser.choose(&next, |node| fit(node) && !self.avoid.contains(&node));
            let chosen = chosen.or_else(|| self.chooser.choose(&next, fit));
            chosen.or_else(|| self.chooser.choose(&next, |node| self.state.is_usable(partition, node)))?
        };
        self.chooser.moved(present, primary);
        let usable = |node| self.state.is_usable(partition, node);
        Some(Step::Members(reordered(&next, primary, usable)))
    }

    /// Begins what is planned, as much as nodes may receive and send at a time.
    fn begin(&mut self, gone: &BTreeSet<NodeId>, planned: &mut Planned) {
        let now = inputs(self.state, self.view, gone);
        if planned.inputs.as_ref() != Some(&now) {
            *planned = Planned { inputs: Some(now), ..Planned::default() };
        }
        if planned.queue.is_empty() {
            if planned.settled == Some(self.view.epoch) {
                return;
            }
            let with_members = |planned_move: PlannedMove| {
                let configuration = self.view.configuration(planned_move.partition)?;
                Some((planned_move, members_to_be(self.state, planned_move.partition, configuration)))
            };
            planned.queue = plan(self.state, gone).into_iter().filter_map(with_members).collect();
            if planned.queue.is_empty() {
                planned.settled = Some(self.view.epoch);
            }
        }
        let mut busy: BTreeMap<NodeId, u32> = BTreeMap::new();
        for (partition, configuration) in self.state.configurations() {
            if let Some(underway) = self.state.moves.get(&partition) {
                *busy.entry(underway.joins).or_default() += 1;
            }
            if configuration.learner.is_some() || !configuration.is_activated() {
                *busy.entry(configuration.primary().unwrap_or_default()).or_default() += 1;
            }
        }
        let most = self.state.policy().moves_per_node;
        let mut later = VecDeque::new();
        while let Some((planned_move, members)) = planned.queue.pop_front() {
            if self.steps.len() >= STEPS_MAX {
                later.push_back((planned_move, members));
                break;
            }
            let PlannedMove { partition, joins, leaves } = planned_move;
            let Some(configuration) = self.view.configuration(partition).cloned() else { continue };
            if members_to_be(self.state, partition, &configuration) != members {
                continue;
            }
            let primary = configuration.primary().unwrap_or_default();
            let waits = self.steps.contains_key(&partition)
                || !configuration.is_activated()
                || configuration.learner.is_some()
                || self.observed.behind(partition, primary, configuration.term).is_none()
                || [joins, Some(primary)].iter().flatten().any(|node| busy.get(node).copied().unwrap_or(0) >= most);
            if waits {
                later.push_back((planned_move, members));
                continue;
            }
            let step = match joins {
                Some(joins) if configuration.names(joins) || !self.state.is_alive(joins) => None,
                Some(joins) => {
                    let leaves = leaves.filter(|node| configuration.replicas.contains(node));
                    Some(Step::Fill { joins, leaves })
                }
                None => {
                    let mut members = configuration.replicas.clone();
                    members.retain(|node| Some(*node) != leaves);
                    self.members(partition, &configuration, &members)
                }
            };
            if let Some(step) = step {
                for node in [joins, Some(primary)].into_iter().flatten() {
                    *busy.entry(node).or_default() += 1;
                }
                self.steps.insert(partition, step);
            }
        }
        later.append(&mut planned.queue);
        planned.queue = later;
    }
}
