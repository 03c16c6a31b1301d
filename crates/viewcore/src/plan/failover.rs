//! Changes of order: the same members, another primary.

use super::primaries;
use crate::command::{Cause, Change, Step};
use crate::observed::Observed;
use crate::state::ClusterState;
use std::collections::{BTreeMap, BTreeSet};
use types::{Configuration, NodeId, PartitionId};

/// Marks nodes dead and alive, and gives every partition whose primary is dead, damaged or to be avoided to another of
/// its replicas: one change, however many partitions it touches. `dead` and `alive` have no node in common.
///
/// Only usable replicas (alive, in service) are chosen, those last known to be behind and those to be avoided last; among
/// them the node that leads the least for its weight, then the next in order. A primary that is merely to be avoided is
/// moved once it serves: before, nobody can tell who else has its log. A partition without a usable majority keeps its
/// primary: no other could finish a takeover (P14), and the nodes of a whole cluster come back one by one.
pub fn failover(
    state: &ClusterState,
    observed: &Observed,
    dead: &BTreeSet<NodeId>,
    alive: &BTreeSet<NodeId>,
    avoid: &BTreeSet<NodeId>,
) -> Option<Change> {
    let view = state.view()?;
    let dead: Vec<NodeId> = dead.iter().copied().filter(|node| state.is_alive(*node)).collect();
    let alive: Vec<NodeId> =
        alive.iter().copied().filter(|n| view.nodes.contains_key(n) && !state.is_alive(*n)).collect();
    let usable = |partition, node: NodeId| {
        let lives = (state.is_alive(node) || alive.contains(&node)) && !dead.contains(&node);
        lives && !state.out_of_service.contains_key(&(partition, node))
    };
    let mut chooser = Chooser::new(state);
    let mut placements = Vec::new();
    for (partition, configuration) in state.configurations() {
        let Some(primary) = configuration.primary() else { continue };
        let has_majority = |members: &[NodeId]| {
            members.iter().filter(|node| usable(partition, **node)).count() >= Configuration::majority_of(members)
        };
        let can_serve = has_majority(&configuration.replicas)
            && (configuration.is_activated() || has_majority(&configuration.prior));
        let behind = observed.behind(partition, primary, configuration.term);
        let fit = |node: NodeId| usable(partition, node) && !behind.is_some_and(|behind| behind.contains(&node));
        let wanted = |node: NodeId| fit(node) && !avoid.contains(&node);
        let chosen = if !can_serve {
            None
        } else if usable(partition, primary) {
            let moves = avoid.contains(&primary) && behind.is_some();
            moves.then(|| chooser.choose(configuration, wanted)).flatten()
        } else {
            chooser
                .choose(configuration, wanted)
                .or_else(|| chooser.choose(configuration, fit))
                .or_else(|| chooser.choose(configuration, |node| usable(partition, node)))
        };
        if let Some(chosen) = chosen {
            chooser.moved(primary, chosen);
            placements.push((partition, reordered(configuration, chosen, |node| usable(partition, node))));
        }
    }
    Change { dead, alive, placements, ..Change::new(view.epoch, Cause::Failover) }.if_any()
}

/// What a primary that makes no progress reports (P19).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StuckReport {
    /// Members that it could not reach.
    pub unreachable: BTreeSet<NodeId>,
    /// The member that has what it lacks and can't be given any more.
    pub holder: Option<NodeId>,
}

/// Gives partitions that reported themselves stuck to other replicas (P19): to who has what the primary lacks; else to
/// usable ones that `answers` names, rather not to those that the primary could not reach, nor to those to be avoided.
/// Where the members are not activated and lack what only those before have, these are the members again. Where there is no
/// other, and the primary blames nobody, it asks for a new term (P11), and gets it.
pub fn move_primaries(
    state: &ClusterState,
    stuck: &BTreeMap<PartitionId, &StuckReport>,
    avoid: &BTreeSet<NodeId>,
    answers: impl Fn(NodeId) -> bool,
) -> Option<Change> {
    if stuck.is_empty() {
        return None;
    }
    let view = state.view()?;
    let mut chooser = Chooser::new(state);
    let (mut placements, mut steps) = (Vec::new(), Vec::new());
    for (partition, report) in stuck {
        let StuckReport { unreachable, holder } = report;
        let Some(configuration) = view.configuration(*partition) else { continue };
        let Some(primary) = configuration.primary() else { continue };
        let usable = |node: NodeId| state.is_usable(*partition, node);
        let acceptable = |node: NodeId| node != primary && usable(node) && answers(node);
        let reached = |node: NodeId| acceptable(node) && !unreachable.contains(&node);
        let holder = holder.filter(|holder| acceptable(*holder));
        let only_before = holder.is_some_and(|holder| !configuration.replicas.contains(&holder));
        let chosen = match holder {
            Some(holder) if !only_before => Some(holder),
            Some(_) if !configuration.is_activated() => None,
            _ => chooser
                .choose(configuration, |node| reached(node) && !avoid.contains(&node))
                .or_else(|| chooser.choose(configuration, reached))
                .or_else(|| chooser.choose(configuration, acceptable)),
        };
        match chosen {
            Some(chosen) => {
                chooser.moved(primary, chosen);
                let order = reordered(configuration, chosen, |node| usable(node) && node != primary);
                placements.push((*partition, order));
            }
            // P19: it lacks what only the members before have.
            None if !configuration.is_activated() && state.has_majority(*partition, &configuration.prior) => {
                let prior = Configuration { replicas: configuration.prior.clone(), ..configuration.as_ref().clone() };
                let holds = |node: NodeId| acceptable(node) && holder.is_none_or(|holder| holder == node);
                if let Some(chosen) = chooser.choose(&prior, holds) {
                    chooser.moved(primary, chosen);
                    steps.push((*partition, Step::Members(reordered(&prior, chosen, usable))));
                }
            }
            None if unreachable.is_empty() => placements.push((*partition, configuration.replicas.clone())),
            None => {}
        }
    }
    Change { placements, steps, ..Change::new(view.epoch, Cause::Failover) }.if_any()
}

/// Moves at most `moves_max` primaries towards an even load: only of partitions that serve, and only to replicas that
/// are usable, not avoided, and by their primary's word not behind.
pub fn balance(
    state: &ClusterState,
    observed: &Observed,
    avoid: &BTreeSet<NodeId>,
    moves_max: usize,
) -> Option<Change> {
    let view = state.view()?;
    let ids: Vec<NodeId> = view.nodes.keys().copied().collect();
    let places: BTreeMap<NodeId, usize> = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    let mut start = Vec::new();
    let (mut candidates, mut stays) = (Vec::new(), Vec::new());
    for (partition, configuration) in state.configurations() {
        let primary = configuration.primary()?;
        start.push(*places.get(&primary)?);
        let behind = observed.behind(partition, primary, configuration.term);
        stays.push(behind.is_none() || !configuration.is_activated() || !state.is_usable(partition, primary));
        let could_lead = |node: NodeId| {
            let lags = behind.is_some_and(|behind| behind.contains(&node));
            node == primary || (state.is_usable(partition, node) && !lags && !avoid.contains(&node))
        };
        let could_lead = configuration.replicas.iter().filter(|node| could_lead(**node));
        candidates.push(could_lead.filter_map(|node| places.get(node).copied()).collect::<Vec<_>>());
    }
    let target = primaries::balanced(&candidates, ids.len(), &start, |partition| stays[partition]);
    let placements: Vec<_> = state
        .configurations()
        .zip(start.iter().zip(&target))
        .filter(|(_, (from, to))| from != to)
        .take(moves_max)
        .map(|((partition, configuration), (_, to))| {
            (partition, reordered(configuration, ids[*to], |node| state.is_usable(partition, node)))
        })
        .collect();
    Change { placements, ..Change::new(view.epoch, Cause::Balance) }.if_any()
}

/// The new primary first, then the usable ones in their order, then the others.
pub(super) fn reordered(
    configuration: &Configuration,
    primary: NodeId,
    usable: impl Fn(NodeId) -> bool,
) -> Vec<NodeId> {
    let mut order = configuration.replicas.clone();
    order.sort_by_key(|node| (*node != primary, !usable(*node)));
    order
}

/// Spreads new primaries: knows how many partitions each node leads.
pub(super) struct Chooser {
    led: BTreeMap<NodeId, u64>,
    weights: BTreeMap<NodeId, u64>,
}

impl Chooser {
    pub(super) fn new(state: &ClusterState) -> Chooser {
        let mut led = BTreeMap::new();
        for primary in state.configurations().filter_map(|(_, configuration)| configuration.primary()) {
            *led.entry(primary).or_default() += 1;
        }
        Chooser { led, weights: state.nodes().map(|node| (node.id, u64::from(node.weight).max(1))).collect() }
    }

    pub(super) fn choose(&self, configuration: &Configuration, acceptable: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let led = |node: &NodeId| self.led.get(node).copied().unwrap_or(0) + 1;
        let weight = |node: &NodeId| self.weights.get(node).copied().unwrap_or(1);
        // The first of equals is the next in order.
        configuration
            .replicas
            .iter()
            .copied()
            .filter(|node| acceptable(*node))
            .min_by(|a, b| (led(a) * weight(b)).cmp(&(led(b) * weight(a))))
    }

    pub(super) fn moved(&mut self, from: NodeId, to: NodeId) {
        if let Some(count) = self.led.get_mut(&from) {
            *count -= 1;
        }
        *self.led.entry(to).or_default() += 1;
    }
}
