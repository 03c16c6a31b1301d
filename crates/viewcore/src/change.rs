//! Planned changes of the view: checked again, then carried out as one change of the epoch.

use crate::command::{Change, Done, Outcome, Refusal, Step};
use crate::mutants::{Mutant, on};
use crate::state::{ClusterState, Move};
use std::collections::BTreeSet;
use std::sync::Arc;
use types::limits::REPLICATION_MAX;
use types::{Configuration, NodeId, Term, View};

impl ClusterState {
    pub(crate) fn change(&mut self, view: &View, change: &Change) -> Outcome {
        if change.planned_on != view.epoch && !on(Mutant::StalePlan) {
            return Err(Refusal::StalePlan { planned_on: change.planned_on, at: view.epoch });
        }
        check_change(view, change)?;
        let turns = |nodes: &[NodeId], alive| {
            nodes.iter().any(|node| view.nodes.get(node).is_some_and(|info| info.alive != alive))
        };
        let is_empty = change.placements.is_empty() && change.steps.is_empty() && change.forgotten.is_empty();
        if is_empty && !turns(&change.dead, false) && !turns(&change.alive, true) {
            return Ok(Done::Changed(view.epoch));
        }
        let begun = view.epoch.next();
        for (partition, step) in &change.steps {
            match step {
                Step::Fill { joins, leaves } => {
                    self.moves.insert(*partition, Move { joins: *joins, leaves: *leaves, begun });
                }
                Step::Members(_) | Step::GiveUp => drop(self.moves.remove(partition)),
            }
        }
        for node in &change.forgotten {
            // Its nonce stays: a late copy of its first registration is no new node.
            self.weights.remove(node);
        }
        self.next_epoch(|view, term| {
            for (nodes, alive) in [(&change.dead, false), (&change.alive, true)] {
                for node in nodes {
                    if let Some(info) = view.nodes.get_mut(node) {
                        info.alive = alive;
                    }
                }
            }
            if !view.has_map() {
                view.configurations.resize_with(change.placements.len(), Default::default);
            }
            for (partition, replicas) in &change.placements {
                if let Some(configuration) = view.configurations.get_mut(partition.0 as usize) {
                    begin_term(configuration, term, Some(replicas));
                }
            }
            for (partition, step) in &change.steps {
                if let Some(configuration) = view.configurations.get_mut(partition.0 as usize) {
                    take_step(Arc::make_mut(configuration), term, step);
                }
            }
            for node in &change.forgotten {
                view.nodes.remove(node);
            }
        });
        self.forget_damage();
        Ok(Done::Changed(self.epoch()))
    }

    /// P3: damage is over once no view names the node there, or names it as learner alone.
    pub(crate) fn forget_damage(&mut self) {
        let Some(view) = self.view.clone() else { return };
        self.out_of_service.retain(|(partition, node), _| {
            view.configuration(*partition).is_some_and(|configuration| configuration.votes(*node))
                && !on(Mutant::P3Forgotten)
        });
    }
}

/// P18, P21. Checked before.
fn take_step(configuration: &mut Configuration, term: Term, step: &Step) {
    match step {
        // A learner coming or going changes no term.
        Step::Fill { joins, .. } => configuration.learner = Some(*joins),
        Step::GiveUp => configuration.learner = None,
        Step::Members(replicas) => {
            let activated = match configuration.is_activated() {
                true => std::mem::take(&mut configuration.replicas),
                false => std::mem::take(&mut configuration.prior),
            };
            let same = same_members(&activated, replicas) || on(Mutant::P18NoPrior);
            configuration.prior = if same { Vec::new() } else { activated };
            configuration.term = term;
            configuration.replicas.clone_from(replicas);
            configuration.learner = None;
        }
    }
}

pub(crate) fn same_members(a: &[NodeId], b: &[NodeId]) -> bool {
    a.len() == b.len() && a.iter().all(|node| b.contains(node))
}

/// P18: members stay, so `prior` and the learner stay too; the term grows.
pub(crate) fn begin_term(configuration: &mut Arc<Configuration>, term: Term, replicas: Option<&[NodeId]>) {
    assert!(configuration.term < term, "a partition's terms strictly grow: {} to {term}", configuration.term);
    let configuration = Arc::make_mut(configuration);
    configuration.term = term;
    if on(Mutant::P18PriorLost) {
        configuration.prior.clear();
    }
    if let Some(replicas) = replicas {
        configuration.replicas = replicas.to_vec();
    }
}

fn check_change(view: &View, change: &Change) -> Result<(), Refusal> {
    let refuse = |what: String| Err(Refusal::BadPlan(what));
    let placed = change.placements.iter().flat_map(|(_, replicas)| replicas);
    if let Some(node) = change.dead.iter().chain(&change.alive).chain(placed).find(|n| !view.nodes.contains_key(n)) {
        return refuse(format!("{node} is not registered"));
    }
    if let Some(node) = change.dead.iter().find(|node| change.alive.contains(node)) {
        return refuse(format!("{node} is called dead and alive"));
    }
    if !change.placements.is_sorted_by(|(a, _), (b, _)| a < b) {
        return refuse("partitions are not in ascending order".into());
    }
    if let Some((partition, _)) = change.placements.last().filter(|(p, _)| p.0 >= view.partition_count.get()) {
        return refuse(format!("there is no {partition}"));
    }
    if !view.has_map()
        && !change.placements.is_empty()
        && change.placements.len() != view.partition_count.get() as usize
    {
        return refuse("the first map is not whole".into());
    }
    for (partition, replicas) in &change.placements {
        let members: BTreeSet<NodeId> = replicas.iter().copied().collect();
        if members.len() != replicas.len() {
            return refuse(format!("{partition} names a node twice"));
        }
        if change.steps.iter().any(|(moved, _)| moved == partition) {
            return refuse(format!("{partition} is placed and moved at once"));
        }
        match view.configuration(*partition) {
            Some(present) if members != present.replicas.iter().copied().collect() => {
                return refuse(format!("{partition} gets other members: only their order may change"));
            }
            None if replicas.is_empty() || replicas.len() > usize::from(view.replication) => {
                return refuse(format!(
                    "{partition} has {} replicas, at most {} are wanted",
                    replicas.len(),
                    view.replication
                ));
            }
            _ => {}
        }
    }
    if !change.steps.is_sorted_by(|(a, _), (b, _)| a < b) {
        return refuse("steps are not in ascending order".into());
    }
    for (partition, step) in &change.steps {
        let Some(present) = view.configuration(*partition) else {
            return refuse(format!("{partition} takes a step before there is a map"));
        };
        if let Err(why) = check_step(view, present, step) {
            return refuse(format!("{partition}: {why}"));
        }
    }
    for node in &change.forgotten {
        let leaves = view.nodes.get(node).is_some_and(|info| info.duty.leaves());
        if !leaves || view.configurations.iter().any(|configuration| configuration.names(*node)) {
            return refuse(format!("{node} is forgotten while it is wanted or holds something"));
        }
    }
    Ok(())
}

fn check_step(view: &View, present: &Configuration, step: &Step) -> Result<(), &'static str> {
    match step {
        Step::Fill { joins, leaves } => {
            if !present.is_activated() || present.learner.is_some() {
                return Err("it is not activated, or has a learner already");
            }
            if !view.nodes.contains_key(joins) || present.names(*joins) {
                return Err("its learner is not registered, or a member already");
            }
            if leaves.is_some_and(|leaves| !present.replicas.contains(&leaves)) {
                return Err("who is to go is no replica");
            }
        }
        Step::GiveUp if present.learner.is_none() => return Err("it has no learner"),
        Step::GiveUp => {}
        Step::Members(replicas) => {
            let distinct: BTreeSet<&NodeId> = replicas.iter().collect();
            if replicas.is_empty() || distinct.len() != replicas.len() || replicas.len() > usize::from(REPLICATION_MAX)
            {
                return Err("its members are none, too many, or one twice");
            }
            let known = |node: &NodeId| present.names(*node) && view.nodes.contains_key(node);
            if !replicas.iter().all(known) {
                return Err("a member was never filled");
            }
            if same_members(replicas, &present.replicas) {
                return Err("its members do not change");
            }
            // P19: what is not activated is superseded only by what it was before.
            let others = !same_members(replicas, &present.prior) && !on(Mutant::P19Superseded);
            if !present.is_activated() && others {
                return Err("it is not activated: its members can only be what they were");
            }
        }
    }
    Ok(())
}
