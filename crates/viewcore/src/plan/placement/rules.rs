//! What a placement has to keep: how many replicas each partition wants of the nodes that receive, how many may share a
//! zone, and how many each node is to hold.

use super::Holder;
use crate::plan::Candidate;
use crate::plan::shares::fill;
use std::collections::BTreeMap;

/// What holds for all placements of these nodes.
pub(super) struct Rules {
    /// Replicas asked for, at least 1.
    pub(super) replicas: usize,
    /// Zones by place, numbered from 0 without gaps.
    pub(super) zones: Vec<usize>,
    /// Nodes that receive and don't leave: those among which replicas are shared.
    pub(super) open: Vec<bool>,
    /// Partitions that each node is to hold at least and at most, by place; 0 for nodes that are not open.
    pub(super) least: Vec<u32>,
    pub(super) most: Vec<u32>,
    pub(super) aims: Vec<Aim>,
}

/// What one partition is to have.
pub(super) struct Aim {
    /// Its replicas now, each once.
    pub(super) now: Vec<usize>,
    /// Those that stay because their nodes neither receive nor leave.
    pub(super) pinned: Vec<usize>,
    /// Those on leaving nodes that stay because there are too few other nodes.
    pub(super) kept: Vec<usize>,
    /// Replicas that it wants on open nodes.
    pub(super) wanted: usize,
    /// Replicas that may share a zone: as few as the open nodes and the pinned replicas allow.
    pub(super) per_zone_max: usize,
}

impl Rules {
    pub(super) fn new(nodes: &[Holder], current: &[Vec<usize>], replicas: usize) -> Self {
        let mut numbers = BTreeMap::new();
        for node in nodes {
            let next = numbers.len();
            numbers.entry(node.zone).or_insert(next);
        }
        let zones: Vec<usize> = nodes.iter().map(|node| numbers[&node.zone]).collect();
        let open: Vec<bool> = nodes.iter().map(|node| node.receives && !node.leaves).collect();
        let mut zone_sizes = vec![0; numbers.len()];
        for (zone, _) in zones.iter().zip(&open).filter(|(_, open)| **open) {
            zone_sizes[*zone] += 1;
        }
        let replicas = replicas.max(1);
        let spread = Spread::new(zone_sizes, replicas);
        let aims: Vec<Aim> = current.iter().map(|places| Aim::new(nodes, places, replicas, &zones, &spread)).collect();
        let mut rules = Self { replicas, least: vec![0; nodes.len()], most: vec![0; nodes.len()], zones, open, aims };
        rules.share(nodes, numbers.len());
        rules
    }

    /// The shares of the open nodes, within what pinned replicas leave of each zone.
    fn share(&mut self, nodes: &[Holder], zones: usize) {
        // Sums over all partitions as if nothing were pinned, then what pinned replicas take from their zones.
        let (mut total, mut node_sum, mut zone_sum) = (0, 0, 0);
        let (mut node_taken, mut zone_taken) = (vec![0usize; zones], vec![0usize; zones]);
        for aim in self.aims.iter().filter(|aim| aim.wanted > 0) {
            let room = aim.wanted.min(aim.per_zone_max);
            total += aim.wanted;
            node_sum += 1;
            zone_sum += room;
            for (nth, place) in aim.pinned.iter().enumerate() {
                let zone = self.zones[*place];
                if !aim.pinned[..nth].iter().any(|before| self.zones[*before] == zone) {
                    let left = aim.wanted.min(aim.per_zone_max.saturating_sub(aim.pinned_in(zone, &self.zones)));
                    zone_taken[zone] += room - left;
                    node_taken[zone] += usize::from(left == 0);
                }
            }
        }
        let open: Vec<usize> = (0..nodes.len()).filter(|place| self.open[*place]).collect();
        let candidates: Vec<Candidate> = open
            .iter()
            .map(|place| Candidate { zone: self.zones[*place], weight: nodes[*place].weight.max(1) })
            .collect();
        let node_caps: Vec<f64> = node_taken.iter().map(|taken| (node_sum - taken) as f64).collect();
        let zone_caps: Vec<f64> = zone_taken.iter().map(|taken| (zone_sum - taken) as f64).collect();
        // A share a hair off a whole number is that number: it was found by bisection.
        for (place, share) in open.into_iter().zip(fill(&candidates, total as f64, &node_caps, &zone_caps)) {
            self.least[place] = (share + 1e-6).floor() as u32;
            self.most[place] = (share - 1e-6).ceil() as u32;
        }
    }
}

impl Aim {
    fn new(nodes: &[Holder], places: &[usize], replicas: usize, zones: &[usize], spread: &Spread) -> Self {
        let mut now: Vec<usize> = places.iter().copied().filter(|place| *place < nodes.len()).collect();
        now.sort_unstable();
        now.dedup();
        let mut leaving: Vec<usize> = now.iter().copied().filter(|place| nodes[*place].leaves).collect();
        let mut pinned: Vec<usize> =
            now.iter().copied().filter(|place| !nodes[*place].leaves && !nodes[*place].receives).collect();
        // A pinned replica too many goes before one that may be the only living one.
        let surplus = now.len().saturating_sub(replicas).saturating_sub(leaving.len());
        pinned.drain(..surplus.min(pinned.len()));
        let wanted = (replicas - pinned.len()).min(spread.open);
        // If any has to stay, all open nodes are replicas: best those stay that are in zones where these are few.
        leaving.sort_by_key(|place| (spread.zone_sizes[zones[*place]], *place));
        let kept = leaving.into_iter().take(replicas - pinned.len() - wanted).collect();
        let mut aim = Self { now, pinned, kept, wanted, per_zone_max: 1 };
        aim.per_zone_max = spread.per_zone_max(&aim, zones);
        aim
    }

    fn pinned_in(&self, zone: usize, zones: &[usize]) -> usize {
        self.pinned.iter().filter(|place| zones[**place] == zone).count()
    }
}

/// How replicas can be spread over the zones of open nodes.
struct Spread {
    open: usize,
    zone_sizes: Vec<usize>,
    /// Replicas that find a place with at most 0, 1, 2, … in a zone, up to all replicas.
    places: Vec<usize>,
}

impl Spread {
    fn new(zone_sizes: Vec<usize>, replicas: usize) -> Self {
        let places = (0..=replicas.min(zone_sizes.iter().sum()))
            .map(|most| zone_sizes.iter().map(|size| *size.min(&most)).sum());
        Self { open: zone_sizes.iter().sum(), places: places.collect(), zone_sizes }
    }

    /// The fewest replicas in a zone with which the wanted ones find a place beside the pinned.
    fn per_zone_max(&self, aim: &Aim, zones: &[usize]) -> usize {
        let fits = |most: usize| {
            let all = self.places.get(most).copied().unwrap_or(self.open);
            let taken: usize = aim
                .pinned
                .iter()
                .enumerate()
                .filter(|(nth, place)| !aim.pinned[..*nth].iter().any(|before| zones[*before] == zones[**place]))
                .map(|(_, place)| {
                    let zone = zones[*place];
                    let size = self.zone_sizes[zone];
                    size.min(most) - size.min(most.saturating_sub(aim.pinned_in(zone, zones)))
                })
                .sum();
            all - taken >= aim.wanted
        };
        // With all replicas in one zone allowed, whatever is wanted fits.
        let most = aim.pinned.len() + aim.wanted;
        (1..most).find(|most| fits(*most)).unwrap_or(most.max(1))
    }
}
