//! How far the members have got to where they should be, for people: what moves, what will, what blocks it, what to type
//! next; and what can be saved where a majority is lost.

use crate::observed::{Observed, PartitionSize};
use crate::plan::moving::{self, PlannedMove};
use crate::state::ClusterState;
use std::collections::BTreeSet;
use types::{Configuration, Duty, NodeId, PartitionId};

/// What moves, and what will.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Partitions whose members are changing.
    pub underway: Vec<Underway>,
    /// What is still to begin, the most urgent first.
    pub planned: Vec<(PlannedMove, PartitionSize)>,
    /// Nodes that store what they should not, and how many keyspaces; also those that have not looked since the last
    /// change (`None`).
    pub surplus: Vec<(NodeId, Option<u32>)>,
    /// How many nodes may fail, whichever they are, before some partition has no majority.
    pub tolerates_now: u32,
    /// The same once everything has moved.
    pub tolerates_then: u32,
    /// Partitions that can't serve: they can't move either.
    pub stranded: Vec<Stranded>,
}

/// A partition whose members are changing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Underway {
    /// Which one.
    pub partition: PartitionId,
    /// Who gets a replica, if anybody.
    pub joins: Option<NodeId>,
    /// Who gives it up, if anybody.
    pub leaves: Option<NodeId>,
    /// Its primary, which feeds the learner.
    pub primary: NodeId,
    /// Whether it is being filled; otherwise its new members are being activated.
    pub filling: bool,
    /// What it held when its primary last said.
    pub size: PartitionSize,
    /// Who or what keeps it from going on, and what to do: one line.
    pub blocked: Option<String>,
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

impl Progress {
    /// P21: everything is where it should be, activated, and what is surplus is deleted.
    pub fn is_complete(&self) -> bool {
        self.underway.is_empty() && self.planned.is_empty() && self.surplus.is_empty() && self.stranded.is_empty()
    }
}

/// How far the members have got. `gone` are nodes whose replicas are rebuilt elsewhere.
pub fn progress(state: &ClusterState, observed: &Observed, gone: &BTreeSet<NodeId>) -> Progress {
    let Some(view) = state.view().filter(|view| view.has_map()) else { return Progress::default() };
    let underway = state.configurations().filter_map(|(partition, configuration)| {
        let moving = state.moves().get(&partition);
        if moving.is_none() && configuration.is_activated() {
            return None;
        }
        let new = |among: &[NodeId], others: &[NodeId]| among.iter().copied().find(|node| !others.contains(node));
        let (joins, leaves) = match moving {
            Some(moving) => (Some(moving.joins), moving.leaves),
            None => {
                (new(&configuration.replicas, &configuration.prior), new(&configuration.prior, &configuration.replicas))
            }
        };
        Some(Underway {
            partition,
            joins,
            leaves,
            primary: configuration.primary().unwrap_or_default(),
            filling: moving.is_some(),
            size: observed.size(partition),
            blocked: blocked(state, observed, partition, configuration),
        })
    });
    let planned = moving::plan(state, gone).into_iter().map(|planned| (planned, observed.size(planned.partition)));
    let planned: Vec<_> = planned.collect();
    let looked = |node: NodeId| observed.facts(node).filter(|facts| facts.surplus_at >= view.epoch);
    let surplus = view.nodes.values().filter(|info| info.alive).filter_map(|info| match looked(info.id) {
        Some(facts) if facts.surplus == 0 => None,
        facts => Some((info.id, facts.map(|facts| facts.surplus))),
    });
    let tolerates = |usable: usize, members: usize| usable.saturating_sub(members / 2 + 1) as u32;
    let now = state.configurations().map(|(partition, configuration)| {
        let usable = |members: &[NodeId]| members.iter().filter(|node| state.is_usable(partition, **node)).count();
        let of = |members: &[NodeId]| tolerates(usable(members), members.len());
        if configuration.is_activated() {
            of(&configuration.replicas)
        } else {
            of(&configuration.replicas).min(of(&configuration.prior))
        }
    });
    let holders = view.nodes.values().filter(|info| info.alive && info.duty == Duty::Active).count();
    let then = holders.min(usize::from(view.replication));
    Progress {
        underway: underway.collect(),
        surplus: surplus.collect(),
        tolerates_now: now.min().unwrap_or(0),
        tolerates_then: tolerates(then, then),
        stranded: stranded(state),
        planned,
    }
}

/// What keeps a partition from its next step, if anything does.
fn blocked(
    state: &ClusterState,
    observed: &Observed,
    partition: PartitionId,
    configuration: &Configuration,
) -> Option<String> {
    let dead = |members: &[NodeId]| {
        let dead = members.iter().filter(|node| !state.is_usable(partition, **node));
        dead.map(NodeId::to_string).collect::<Vec<_>>().join(", ")
    };
    for members in [&configuration.replicas, &configuration.prior] {
        if !members.is_empty() && !state.has_majority(partition, members) {
            return Some(format!(
                "{partition} has no majority without {}: start them again, or give up what only they have (dhtctl recover)",
                dead(members)
            ));
        }
    }
    let primary = configuration.primary()?;
    if !state.is_usable(partition, primary) {
        return Some(format!("{partition} waits for another primary than {primary}, which is dead or damaged"));
    }
    if let Some(joins) = configuration.learner.filter(|joins| !state.is_alive(*joins)) {
        return Some(format!("{joins}, which {partition} is being copied to, is dead: start it again, or wait"));
    }
    if configuration.is_activated() && observed.behind(partition, primary, configuration.term).is_none() {
        return Some(format!("{primary} does not serve {partition} yet: see dhtctl status"));
    }
    None
}

/// Partitions that can't serve because too many of their members are dead or damaged.
fn stranded(state: &ClusterState) -> Vec<Stranded> {
    let stranded = state.configurations().filter_map(|(partition, configuration)| {
        let Configuration { replicas, prior, .. } = configuration.as_ref();
        let can_serve = state.has_majority(partition, replicas)
            && (configuration.is_activated() || state.has_majority(partition, prior));
        if can_serve {
            return None;
        }
        // P9: before the activation only the members before have what was acknowledged.
        let holders = if configuration.is_activated() { replicas } else { prior };
        let usable = |node: &&NodeId| state.is_usable(partition, **node);
        let survivors: Vec<NodeId> = holders.iter().filter(usable).copied().collect();
        let primary = holders.first().copied();
        Some(Stranded {
            partition,
            members: replicas.clone(),
            primary_survives: configuration.is_activated() && primary.is_some_and(|node| survivors.contains(&node)),
            survivors,
        })
    });
    stranded.collect()
}
