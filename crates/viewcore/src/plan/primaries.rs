//! Which replica of each partition is its primary, so that every node leads its share.
//!
//! A node's share is the sum, over the partitions that it could lead, of one divided by how many could lead them. Giving
//! each partition to all its candidates in equal parts reaches every share exactly, so a whole solution exists with every
//! node at its share rounded up or down (a bipartite flow with whole bounds has a whole solution). It is found by moving
//! partitions along shortest paths from nodes that lead too many to nodes that lead too few.

use std::collections::VecDeque;

/// Divisible by 1 to 9: shares are exact in units of one part.
const PARTS: u64 = 2520;

/// A start: each partition goes to the candidate that leads the fewest so far; of those to the one whose partitions have
/// had the others of this one least often, so that what a node leads can be taken over by many.
pub fn first_choice(candidates: &[Vec<usize>], nodes: usize) -> Vec<usize> {
    let mut led = vec![0u32; nodes];
    let mut beside = vec![0u32; nodes * nodes];
    let choose = |places: &Vec<usize>| {
        let shared = |place: usize| places.iter().map(|other| beside[place * nodes + other]).sum::<u32>();
        let primary = places.iter().copied().min_by_key(|place| (led[*place], shared(*place), *place));
        let primary = primary.unwrap_or_default();
        for other in places.iter().filter(|other| **other != primary) {
            beside[primary * nodes + other] += 1;
        }
        if let Some(count) = led.get_mut(primary) {
            *count += 1;
        }
        primary
    };
    candidates.iter().map(choose).collect()
}

/// Moves as few primaries as it needs, from `start`, until every node leads its share rounded up or down, as far as
/// those that stay allow. `candidates` are the places of the nodes that could lead each partition, of `nodes` nodes in
/// all; a partition that `stays`, or whose start is no candidate, stays where it is, and counts like all others.
pub fn balanced(candidates: &[Vec<usize>], nodes: usize, start: &[usize], stays: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut primaries = start.to_vec();
    let mut shares = vec![0u64; nodes];
    let mut led = vec![0u64; nodes];
    for (places, primary) in candidates.iter().zip(&primaries) {
        if !places.contains(primary) {
            continue;
        }
        led[*primary] += 1;
        for place in places {
            shares[*place] += PARTS / places.len() as u64;
        }
    }
    let least: Vec<u64> = shares.iter().map(|share| share / PARTS).collect();
    let most: Vec<u64> = shares.iter().map(|share| share.div_ceil(PARTS)).collect();
    let pinned: Vec<bool> = (0..start.len()).map(stays).collect();
    let mut graph = Graph { candidates, pinned: &pinned, primaries: &mut primaries, nodes };
    // First nobody above, then nobody below; the second never undoes the first. What has to go goes to those below as long
    // as there are any: else they would need another move each.
    for from in 0..nodes {
        while led[from] > most[from] {
            let is_below = |place: usize| led[place] < least[place];
            let to_below = if (0..nodes).any(is_below) { graph.shift(from, is_below, Direction::Away) } else { None };
            let to = to_below.or_else(|| graph.shift(from, |place| led[place] < most[place], Direction::Away));
            let Some(to) = to else { break };
            led[from] -= 1;
            led[to] += 1;
        }
    }
    for to in 0..nodes {
        while led[to] < least[to] {
            let Some(from) = graph.shift(to, |place| led[place] > least[place], Direction::Toward) else { break };
            led[from] -= 1;
            led[to] += 1;
        }
    }
    primaries
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    /// The start gives one partition away.
    Away,
    /// The start gets one.
    Toward,
}

/// Who leads what, and who could.
struct Graph<'a> {
    candidates: &'a [Vec<usize>],
    pinned: &'a [bool],
    primaries: &'a mut [usize],
    nodes: usize,
}

impl Graph<'_> {
    /// Moves one partition along each step of a shortest path from `start` to a node that `accepts`; answers that node.
    fn shift(&mut self, start: usize, accepts: impl Fn(usize) -> bool, direction: Direction) -> Option<usize> {
        let nodes = self.nodes;
        // step[a * nodes + b]: a partition that a leads and b could.
        let mut step: Vec<Option<usize>> = vec![None; nodes * nodes];
        for (partition, places) in self.candidates.iter().enumerate() {
            let primary = self.primaries[partition];
            if places.contains(&primary) && !self.pinned[partition] {
                for place in places.iter().filter(|place| **place != primary) {
                    step[primary * nodes + place].get_or_insert(partition);
                }
            }
        }
        let edge = |from: usize, to: usize| match direction {
            Direction::Away => step[from * nodes + to],
            Direction::Toward => step[to * nodes + from],
        };
        let mut came_from: Vec<Option<usize>> = vec![None; nodes];
        let mut queue = VecDeque::from([start]);
        let mut end = None;
        while let Some(at) = queue.pop_front() {
            if at != start && accepts(at) {
                end = Some(at);
                break;
            }
            for (next, from) in came_from.iter_mut().enumerate() {
                if next != start && from.is_none() && edge(at, next).is_some() {
                    *from = Some(at);
                    queue.push_back(next);
                }
            }
        }
        let end = end?;
        let mut at = end;
        while at != start {
            let before = came_from[at]?;
            let partition = edge(before, at)?;
            self.primaries[partition] = if direction == Direction::Away { at } else { before };
            at = before;
        }
        Some(end)
    }
}

/// Puts each partition's primary first, then orders the others so that a node's partitions have their second places,
/// the first to take over, on many nodes.
pub fn spread_seconds(candidates: Vec<Vec<usize>>, primaries: &[usize], nodes: usize) -> Vec<Vec<usize>> {
    let mut seconds = vec![0u32; nodes * nodes];
    candidates
        .into_iter()
        .zip(primaries)
        .map(|(mut places, primary)| {
            places.sort_by_key(|place| (place != primary, seconds[primary * nodes + place], *place));
            if let Some(second) = places.get(1) {
                seconds[primary * nodes + second] += 1;
            }
            places
        })
        .collect()
}
