//! How many replicas each node should hold.
//!
//! Water-filling: every node gets a load proportional to its weight, up to all partitions, and every zone up to what
//! keeps replicas in distinct zones; what is cut off flows to the others. Then whole numbers: each share is rounded up
//! or down, never further.

use super::Candidate;
use crate::mutants::{Mutant, on};

/// What the assignment must keep: each node's load, and the most replicas of one partition in one zone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shares {
    /// Replicas per node, by place.
    pub loads: Vec<u32>,
    /// Replicas of one partition that may share a zone; 1 where there are zones enough.
    pub per_zone_max: usize,
}

/// Shares of `partitions × replicas` among `nodes`, of which there are at least `replicas`.
pub fn shares(nodes: &[Candidate], partitions: u32, replicas: usize) -> Shares {
    let zones = nodes.iter().map(|node| node.zone + 1).max().unwrap_or(0);
    let mut zone_sizes = vec![0usize; zones];
    for node in nodes {
        zone_sizes[node.zone] += 1;
    }
    let fits = |most: &usize| zone_sizes.iter().map(|size| *size.min(most)).sum::<usize>() >= replicas;
    let per_zone_max = (1..=replicas).find(fits).unwrap_or(replicas);
    let cap = f64::from(partitions);
    let exact = fill(nodes, cap * replicas as f64, &vec![cap; zones], &vec![cap * per_zone_max as f64; zones]);
    Shares { loads: whole(nodes, &exact, partitions, replicas, per_zone_max), per_zone_max }
}

/// Each node's part of `total` by weight, where a node of a zone holds at most that zone's `node_caps` and all nodes of
/// a zone together at most its `zone_caps`; what is cut off flows to the others.
pub fn fill(nodes: &[Candidate], total: f64, node_caps: &[f64], zone_caps: &[f64]) -> Vec<f64> {
    let mut members: Vec<Vec<f64>> = vec![Vec::new(); zone_caps.len()];
    for node in nodes {
        members[node.zone].push(weight(node));
    }
    let zone_load = |zone: usize, level: f64| -> f64 {
        members[zone].iter().map(|weight| (level * weight).min(node_caps[zone])).sum()
    };
    let highest = node_caps.iter().copied().fold(0.0, f64::max);
    let zones = 0..zone_caps.len();
    let full = level_where(
        |level| zones.clone().map(|zone| zone_load(zone, level).min(zone_caps[zone])).sum(),
        total,
        highest,
    );
    let levels: Vec<f64> = zones
        .clone()
        .map(|zone| {
            if zone_load(zone, full) > zone_caps[zone] {
                level_where(|level| zone_load(zone, level), zone_caps[zone], highest)
            } else {
                full
            }
        })
        .collect();
    nodes.iter().map(|node| (levels[node.zone] * weight(node)).min(node_caps[node.zone])).collect()
}

fn weight(node: &Candidate) -> f64 {
    if on(Mutant::WeightsIgnored) { 1.0 } else { f64::from(node.weight) }
}

/// The level at which a growing `load` reaches `wanted`. A node of weight 1 is full at the level `cap`.
fn level_where(load: impl Fn(f64) -> f64, wanted: f64, cap: f64) -> f64 {
    let (mut low, mut high) = (0.0, cap);
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if load(middle) < wanted {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// Rounds to whole numbers that sum up: those with the greatest remainders are rounded up, within their zone's bound.
fn whole(nodes: &[Candidate], exact: &[f64], partitions: u32, replicas: usize, per_zone_max: usize) -> Vec<u32> {
    // A share a hair below a whole number is that number: bisection stops a hair off.
    let mut loads: Vec<u32> = exact.iter().map(|share| (share + 1e-6) as u32).collect();
    let mut zone_loads = vec![0u64; nodes.iter().map(|node| node.zone + 1).max().unwrap_or(0)];
    for (node, load) in nodes.iter().zip(&loads) {
        zone_loads[node.zone] += u64::from(*load);
    }
    let wanted = u64::from(partitions) * replicas as u64;
    let mut missing = wanted.saturating_sub(zone_loads.iter().sum());
    let mut by_remainder: Vec<usize> = (0..nodes.len()).collect();
    let remainder = |place: usize| exact[place] - f64::from(loads[place]);
    let remainders: Vec<f64> = (0..nodes.len()).map(remainder).collect();
    by_remainder.sort_by(|a, b| remainders[*b].total_cmp(&remainders[*a]).then(a.cmp(b)));
    for place in by_remainder {
        let zone = nodes[place].zone;
        let zone_has_room = zone_loads[zone] < u64::from(partitions) * per_zone_max as u64;
        if missing > 0 && loads[place] < partitions && zone_has_room {
            loads[place] += 1;
            zone_loads[zone] += 1;
            missing -= 1;
        }
    }
    loads
}
