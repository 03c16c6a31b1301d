//! Which nodes replicate which partition, given how many partitions each node holds.
//!
//! Partition by partition. A node whose remaining load equals the partitions that are left must be taken, and so must
//! nodes of a zone that could not place its remaining load otherwise; these never exceed the places of a partition,
//! because loads fit the partitions and zones at the start and after every step. The other places go to nodes that have
//! shared the fewest partitions with those chosen, so that the partitions of one node are spread over many others.

use super::Candidate;
use super::shares::shares;

/// For every partition the places of its `replicas` nodes, in no particular order. Needs at least `replicas` nodes.
pub fn assign(nodes: &[Candidate], partitions: u32, replicas: usize) -> Vec<Vec<usize>> {
    let shares = shares(nodes, partitions, replicas);
    let zones = nodes.iter().map(|node| node.zone + 1).max().unwrap_or(0);
    let mut dealer = Dealer {
        nodes,
        replicas,
        per_zone_max: shares.per_zone_max,
        weights: shares.loads.iter().map(|load| u64::from(*load).max(1)).collect(),
        zone_remaining: vec![0; zones],
        remaining: shares.loads,
        together: vec![0; nodes.len() * nodes.len()],
    };
    for (node, load) in nodes.iter().zip(&dealer.remaining) {
        dealer.zone_remaining[node.zone] += u64::from(*load);
    }
    (0..partitions).rev().map(|left_after| dealer.deal(left_after)).collect()
}

struct Dealer<'a> {
    nodes: &'a [Candidate],
    replicas: usize,
    per_zone_max: usize,
    /// Loads at the start, at least 1: what sharing is measured against.
    weights: Vec<u64>,
    remaining: Vec<u32>,
    zone_remaining: Vec<u64>,
    /// Partitions that two nodes share, by both places.
    together: Vec<u32>,
}

impl Dealer<'_> {
    /// The nodes of one partition, with `left_after` partitions to come.
    fn deal(&mut self, left_after: u32) -> Vec<usize> {
        let mut chosen: Vec<usize> =
            (0..self.nodes.len()).filter(|place| self.remaining[*place] > left_after).collect();
        for zone in 0..self.zone_remaining.len() {
            let later = u64::from(left_after) * self.per_zone_max as u64;
            let needed = self.zone_remaining[zone].saturating_sub(later) as usize;
            while self.in_zone(&chosen, zone) < needed {
                let Some(place) = self.best(&chosen, Some(zone)) else { break };
                chosen.push(place);
            }
        }
        while chosen.len() < self.replicas {
            let Some(place) = self.best(&chosen, None) else { break };
            chosen.push(place);
        }
        for place in &chosen {
            self.remaining[*place] -= 1;
            self.zone_remaining[self.nodes[*place].zone] -= 1;
            for other in chosen.iter().filter(|other| *other != place) {
                self.together[place * self.nodes.len() + other] += 1;
            }
        }
        chosen
    }

    fn in_zone(&self, chosen: &[usize], zone: usize) -> usize {
        chosen.iter().filter(|place| self.nodes[**place].zone == zone).count()
    }

    /// The node that has shared the least with those chosen, measured by its load; then the one with most to place.
    fn best(&self, chosen: &[usize], zone: Option<usize>) -> Option<usize> {
        let shared = |place: usize| -> u64 {
            chosen.iter().map(|other| u64::from(self.together[place * self.nodes.len() + other])).sum()
        };
        (0..self.nodes.len())
            .filter(|place| self.remaining[*place] > 0 && !chosen.contains(place))
            .filter(|place| zone.is_none_or(|zone| self.nodes[*place].zone == zone))
            .filter(|place| self.in_zone(chosen, self.nodes[*place].zone) < self.per_zone_max)
            .min_by(|a, b| {
                let (of_a, of_b) = (shared(*a) * self.weights[*b], shared(*b) * self.weights[*a]);
                of_a.cmp(&of_b).then(self.remaining[*b].cmp(&self.remaining[*a])).then(a.cmp(b))
            })
    }
}
