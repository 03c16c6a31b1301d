//! The placement of a running cluster: which replica moves where, in the fewest moves.
//!
//! **What is aimed at.** A node that may be given replicas carries its weighted share, rounded up or down; replicas of
//! one partition lie in distinct zones where zones allow; a node that leaves has nothing; every partition has as many
//! replicas as asked for, or as there are nodes. Nodes that neither receive nor leave keep what they hold, and the others
//! share the rest. All this depends on the nodes and on what is pinned to such nodes, never on what the others hold
//! (`rules`), so that it stays the same from one round to the next.
//!
//! **How.** A placement is a flow: from each partition one unit per replica, through the partition's zones, each of which
//! lets at most so many pass, to the nodes, each of which takes its share rounded down at least and rounded up at most.
//! A unit that goes where it did not go before costs one move, so the fewest moves are a flow of least cost. It is
//! found by successive shortest paths (Jewell, Iri, Busacker and Gowen; Ahuja, Magnanti and Orlin, *Network Flows*,
//! chapter 9): start with what is there, which costs nothing, and as long as a replica is missing, a node has too many or
//! one too few, move replicas along the cheapest path (`flow`). Nearly always that path is one move from where there is
//! too much to where there is too little, which is found without a search.
//!
//! **Rounds.** A partition takes one step at a time: a step adds a replica, replaces one or removes one, and after each
//! the partition has as many replicas as before, up to those asked for, and no zone is fuller than it must be. What is
//! still to be done is found by planning again; with all steps applied nothing is left to do in the end.
//!
//! **Left out.** Primaries (`super::primaries`), how many steps run at once, and bytes: every partition counts the same.
//! Which of several nodes of a crowded zone goes is chosen by load, not by search, so that a repair of zones may cost a
//! move more than the fewest.

mod flow;
mod rules;
mod table;

use rules::{Aim, Rules};
use table::Table;

/// What the planner of moves knows of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Number of its zone: nodes of one zone have the same.
    pub zone: usize,
    /// Its share relative to others; 0 counts as 1.
    pub weight: u32,
    /// May be given replicas. A node that neither receives nor leaves, because it is cordoned, or dead and perhaps about
    /// to return, keeps what it holds.
    pub receives: bool,
    /// Must give all its replicas away: drained, removed, dead for good. Such a node receives nothing.
    pub leaves: bool,
}

/// One step of one partition: `joins` is to be filled, and when it has caught up, `leaves` goes. Either may be `None`: a
/// replica too few, or too many; never both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// Index into the partitions.
    pub partition: u32,
    /// The node that becomes a replica, which it was not.
    pub joins: Option<usize>,
    /// The replica that is one no longer.
    pub leaves: Option<usize>,
}

/// The moves that lead from `current` (per partition the places of its replicas, in any order) to an even placement: the
/// fewest possible, at most one per partition, so that more may follow once these are done. None where all is well.
///
/// The order is that of urgency: partitions with replicas too few, those with the fewest first; then those on leaving
/// nodes; then those with replicas in one zone without need; then what makes the load even and what is a replica too
/// many.
///
/// Of replicas too many those on leaving nodes go first, then those on nodes that don't receive, which may be dead, then
/// those in crowded zones, then those of the most loaded nodes. A replica on a leaving node stays where nobody can take
/// its place. Places that are not in `nodes` are passed over, as if they were not in `current`; `replicas` is at least 1.
pub fn moves(nodes: &[Holder], current: &[Vec<usize>], replicas: usize) -> Vec<Move> {
    let rules = Rules::new(nodes, current, replicas);
    let mut table = Table::new(&rules);
    flow::settle(&mut table);
    let mut steps: Vec<(Urgency, Move)> = (0u32..)
        .zip(&rules.aims)
        .filter_map(|(partition, aim)| step(nodes, &rules, partition, aim, table.placed(partition)))
        .collect();
    steps.sort_by_key(|(urgency, step)| (*urgency, step.partition));
    steps.into_iter().map(|(_, step)| step).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Urgency {
    TooFew { replicas: usize },
    Leaving,
    Zones,
    Balance,
}

/// The first step of a partition towards where it is `placed`.
///
/// There is always one that keeps the zones: where every node that joins is in a full zone, as many leave these zones as
/// join them; so more would leave in all than join if the one that leaves were of another zone.
fn step(nodes: &[Holder], rules: &Rules, partition: u32, aim: &Aim, placed: &[usize]) -> Option<(Urgency, Move)> {
    let in_zone = |zone: usize| aim.now.iter().filter(|place| rules.zones[**place] == zone).count();
    let crowded = |place: usize| in_zone(rules.zones[place]) > aim.per_zone_max;
    let goes = aim
        .now
        .iter()
        .copied()
        .filter(|place| !placed.contains(place) && !aim.kept.contains(place))
        .min_by_key(|place| (!nodes[*place].leaves, nodes[*place].receives, !crowded(*place), *place));
    let room_for = |place: &usize, goes: Option<usize>| {
        let zone = rules.zones[*place];
        in_zone(zone) < aim.per_zone_max || goes.is_some_and(|goes| rules.zones[goes] == zone)
    };
    let joins = |goes: Option<usize>| {
        let new = placed.iter().copied().filter(|place| !aim.now.contains(place));
        new.min_by_key(|place| (!room_for(place, goes), *place))
    };
    let (urgency, joins, leaves) = if aim.now.len() > rules.replicas {
        let leaving = goes.is_some_and(|place| nodes[place].leaves);
        (if leaving { Urgency::Leaving } else { Urgency::Balance }, None, Some(goes?))
    } else if aim.now.len() < placed.len() + aim.kept.len() {
        (Urgency::TooFew { replicas: aim.now.len() }, Some(joins(None)?), None)
    } else {
        let goes = goes?;
        let urgency = match () {
            () if nodes[goes].leaves => Urgency::Leaving,
            () if crowded(goes) => Urgency::Zones,
            () => Urgency::Balance,
        };
        (urgency, Some(joins(Some(goes))?), Some(goes))
    };
    Some((urgency, Move { partition, joins, leaves }))
}
