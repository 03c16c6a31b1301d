//! Planning: from a state to the next [`Change`]. Pure, deterministic, done by the leader only.
//!
//! - [`first_map`]: who replicates what, once enough nodes are there ([`shares`], [`assign`], [`primaries`]).
//! - [`failover()`]: nodes die and return, and no partition keeps a primary that can't be one.
//! - [`balance`]: primaries go back to where the load is even.
//!
//! A plan returns `None` where nothing is to be changed.

pub mod assign;
pub mod failover;
pub mod moving;
pub mod placement;
pub mod primaries;
pub mod shares;

pub use failover::{StuckReport, balance, failover, move_primaries};

use crate::command::{Cause, Change};
use crate::state::ClusterState;
use std::collections::BTreeMap;
use types::{Duty, NodeId};

/// A node as the planner of the first map sees it; places in a list of these stand for nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Number of its zone: nodes of one zone have the same.
    pub zone: usize,
    /// Its share relative to others, at least 1.
    pub weight: u32,
}

/// The first partition map, once as many nodes as expected are alive. With fewer nodes than the replication asks for,
/// all of them replicate everything.
///
/// Every node's load is within one partition of its weighted share (as far as zones and the number of partitions allow
/// one), primaries too; zones are distinct where there are enough; and the partitions of one node have their other
/// replicas on many nodes.
pub fn first_map(state: &ClusterState) -> Option<Change> {
    let view = state.view()?;
    let alive: Vec<_> = view.nodes.values().filter(|node| node.alive && node.duty == Duty::Active).collect();
    if view.has_map() || alive.is_empty() || alive.len() < state.expected_nodes() as usize {
        return None;
    }
    let mut zones = BTreeMap::new();
    for node in &alive {
        let number = zones.len();
        zones.entry(&node.zone).or_insert(number);
    }
    let candidates: Vec<Candidate> =
        alive.iter().map(|node| Candidate { zone: zones[&node.zone], weight: node.weight }).collect();
    let replicas = usize::from(view.replication).min(candidates.len());
    let assigned = assign::assign(&candidates, view.partition_count.get(), replicas);
    let primaries =
        primaries::balanced(&assigned, candidates.len(), &primaries::first_choice(&assigned, candidates.len()), |_| {
            false
        });
    let orders = primaries::spread_seconds(assigned, &primaries, candidates.len());
    let placements = view
        .partition_count
        .ids()
        .zip(orders)
        .map(|(partition, order)| (partition, order.into_iter().map(|place| alive[place].id).collect::<Vec<NodeId>>()))
        .collect();
    Some(Change { placements, ..Change::new(view.epoch, Cause::FirstMap) })
}
