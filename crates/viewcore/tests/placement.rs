//! What holds for the moves of every running cluster.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use viewcore::plan::Candidate;
use viewcore::plan::assign::assign;
use viewcore::plan::placement::{Holder, Move, moves};
use viewcore::plan::shares::{fill, shares};

type Map = Vec<Vec<usize>>;

/// Numbers zones without gaps, as the first map wants them.
fn candidates(nodes: &[Holder]) -> Vec<Candidate> {
    let mut numbers = BTreeMap::new();
    let candidate = |node: &Holder| {
        let next = numbers.len();
        Candidate { zone: *numbers.entry(node.zone).or_insert(next), weight: node.weight }
    };
    nodes.iter().map(candidate).collect()
}

fn first_map(nodes: &[Holder], partitions: u32, replicas: usize) -> Map {
    assign(&candidates(nodes), partitions, replicas.min(nodes.len()))
}

fn loads(nodes: &[Holder], map: &Map) -> Vec<u32> {
    let mut loads = vec![0; nodes.len()];
    map.iter().flatten().for_each(|place| loads[*place] += 1);
    loads
}

fn most_in_a_zone(nodes: &[Holder], places: &[usize]) -> usize {
    let count = |zone: usize| places.iter().filter(|place| nodes[**place].zone == zone).count();
    places.iter().map(|place| count(nodes[*place].zone)).max().unwrap_or(0)
}

/// Carries out all moves of a round, and checks what holds of every single one.
fn carry_out(nodes: &[Holder], map: &mut Map, moves: &[Move], replicas: usize) -> Result<(), TestCaseError> {
    let mut seen = BTreeSet::new();
    for step in moves {
        prop_assert!(seen.insert(step.partition), "two moves of partition {}", step.partition);
        let places = &mut map[step.partition as usize];
        let (before, crowd) = (places.len(), most_in_a_zone(nodes, places));
        if let Some(leaves) = step.leaves {
            prop_assert!(places.contains(&leaves), "{:?} is no replica", step);
            places.retain(|place| *place != leaves);
        }
        if let Some(joins) = step.joins {
            prop_assert!(nodes[joins].receives && !nodes[joins].leaves, "{:?} may not join", step);
            prop_assert!(!places.contains(&joins), "{:?} is a replica already", step);
            places.push(joins);
        }
        prop_assert!(places.len() >= before.min(replicas), "{:?} leaves a replica too few", step);
        prop_assert!(step.joins.is_some() || before > replicas, "{:?} gives up a replica", step);
        prop_assert!(step.leaves.is_some() || before < replicas, "{:?} adds a replica too many", step);
        if step.joins.is_some() && step.leaves.is_some() {
            prop_assert!(most_in_a_zone(nodes, places) <= crowd.max(zone_max(nodes, places, replicas)));
        }
    }
    Ok(())
}

/// The fewest replicas of one partition in a zone that can be had: what is on nodes that neither receive nor leave stays.
fn zone_max(nodes: &[Holder], places: &[usize], replicas: usize) -> usize {
    let pinned = |place: &usize| !nodes[*place].receives && !nodes[*place].leaves;
    let open = (0..nodes.len()).filter(|place| nodes[*place].receives && !nodes[*place].leaves);
    let (mut sizes, mut stay) = (BTreeMap::new(), BTreeMap::new());
    open.for_each(|place| *sizes.entry(nodes[place].zone).or_insert(0usize) += 1);
    places
        .iter()
        .filter(|place| pinned(place))
        .for_each(|place| *stay.entry(nodes[*place].zone).or_insert(0usize) += 1);
    let wanted = (replicas - stay.values().sum::<usize>().min(replicas)).min(sizes.values().sum());
    let room = |most: usize| -> usize {
        let left = |zone: &usize| most.saturating_sub(stay.get(zone).copied().unwrap_or(0));
        sizes.iter().map(|(zone, size)| *size.min(&left(zone))).sum()
    };
    let most = (1..=replicas).find(|most| room(*most) >= wanted).unwrap_or(replicas);
    most.max(stay.values().copied().max().unwrap_or(0))
}

/// Plans and carries out until nothing is left to do, and counts the replicas that moved.
fn to_the_end(nodes: &[Holder], map: &mut Map, replicas: usize) -> Result<u64, TestCaseError> {
    let mut joined = 0;
    for _ in 0..50 {
        let planned = moves(nodes, map, replicas);
        if planned.is_empty() {
            return Ok(joined);
        }
        joined += planned.iter().filter(|step| step.joins.is_some()).count() as u64;
        carry_out(nodes, map, &planned, replicas)?;
    }
    Err(TestCaseError::fail("no end of moves"))
}

fn node() -> impl Strategy<Value = Holder> {
    let weight = prop_oneof![3 => Just(100u32), 1 => 1u32..400];
    (0usize..7, weight).prop_map(|(zone, weight)| Holder { zone, weight, receives: true, leaves: false })
}

/// Nodes in zones, or, as often, each in its own.
fn nodes(most: usize) -> impl Strategy<Value = Vec<Holder>> {
    (proptest::collection::vec(node(), 1..most), any::<bool>()).prop_map(|(mut nodes, zones)| {
        if !zones {
            nodes.iter_mut().enumerate().for_each(|(place, node)| node.zone = 100 + place);
        }
        nodes
    })
}

#[derive(Clone, Debug)]
enum Change {
    Join(Holder),
    Leave(usize),
    Weigh(usize, u32),
    Cordon(usize),
    Uncordon(usize),
    Replicate(usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => node().prop_map(Change::Join),
        3 => (0usize..64).prop_map(Change::Leave),
        2 => (0usize..64, 0u32..400).prop_map(|(place, weight)| Change::Weigh(place, weight)),
        1 => (0usize..64).prop_map(Change::Cordon),
        1 => (0usize..64).prop_map(Change::Uncordon),
        1 => (1usize..6).prop_map(Change::Replicate),
    ]
}

fn apply(nodes: &mut Vec<Holder>, replicas: &mut usize, change: &Change) {
    let count = nodes.len();
    match change {
        Change::Join(node) => nodes.push(*node),
        Change::Leave(place) => nodes[place % count].leaves = true,
        Change::Weigh(place, weight) => nodes[place % count].weight = *weight,
        Change::Cordon(place) => nodes[place % count].receives = false,
        Change::Uncordon(place) => nodes[place % count].receives = true,
        Change::Replicate(wanted) => *replicas = *wanted,
    }
}

/// What is even: without pinned replicas the shares of the first map, as far as weights reach.
fn assert_even(nodes: &[Holder], map: &Map, replicas: usize) -> Result<(), TestCaseError> {
    let open: Vec<usize> = (0..nodes.len()).filter(|place| nodes[*place].receives && !nodes[*place].leaves).collect();
    let holders: Vec<Holder> =
        open.iter().map(|place| Holder { weight: nodes[*place].weight.max(1), ..nodes[*place] }).collect();
    if open.is_empty() {
        return Ok(());
    }
    let shares = shares(&candidates(&holders), map.len() as u32, replicas.min(open.len())).loads;
    let loads = loads(nodes, map);
    for (place, share) in open.into_iter().zip(shares) {
        prop_assert!(loads[place].abs_diff(share) <= 1, "{} holds {} of {}: {:?}", place, loads[place], share, loads);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Guards against a plan that never ends, a node named twice, a replica lost on the way, replicas on a node that has
    /// left or on nodes that may not receive, zones shared without need, and loads that are not even in the end.
    #[test]
    fn after_any_changes_the_placement_is_even_again(
        mut nodes in nodes(25),
        mut replicas in 1usize..6,
        bits in 0u32..9,
        changes in proptest::collection::vec(proptest::collection::vec(change(), 1..4), 1..5),
        partial in any::<bool>(),
    ) {
        let mut map = first_map(&nodes, 1 << bits, replicas);
        for round in &changes {
            for change in round {
                apply(&mut nodes, &mut replicas, change);
            }
            if partial {
                // Only some of the moves are done when the next change comes.
                let mut planned = moves(&nodes, &map, replicas);
                planned.truncate(planned.len() / 2);
                carry_out(&nodes, &mut map, &planned, replicas)?;
                continue;
            }
            to_the_end(&nodes, &mut map, replicas)?;
        }
        let before = map.clone();
        to_the_end(&nodes, &mut map, replicas)?;
        let open = nodes.iter().filter(|node| node.receives && !node.leaves).count();
        for (places, before) in map.iter().zip(&before) {
            let pinned = |place: &&usize| !nodes[**place].receives && !nodes[**place].leaves;
            let (held, held_before) = (places.iter().filter(pinned).count(), before.iter().filter(pinned).count());
            prop_assert!(held == held_before || before.len() > replicas, "a pinned replica moved");
            prop_assert!(places.len() >= replicas.min(open + held), "{:?} is too few", places);
            let left = places.iter().filter(|place| nodes[**place].leaves).count();
            prop_assert!(left == 0 || (places.len() <= replicas && places.len() == open + held + left), "{:?} has not left", places);
            if left == 0 {
                prop_assert!(places.len() <= replicas);
                prop_assert!(most_in_a_zone(&nodes, places) <= zone_max(&nodes, places, replicas), "{:?} share a zone", places);
            }
        }
        if nodes.iter().all(|node| node.receives || node.leaves) {
            assert_even(&nodes, &map, replicas)?;
        }
    }

    /// Guards against moves that nobody needs: a first map is even already.
    #[test]
    fn a_first_map_needs_no_moves(nodes in nodes(30), replicas in 1usize..6, bits in 0u32..9) {
        let map = first_map(&nodes, 1 << bits, replicas);
        prop_assert_eq!(moves(&nodes, &map, replicas), vec![]);
    }

    /// Guards against a node that joins, or leaves, and makes more move than its share.
    #[test]
    fn one_node_moves_its_own_share_and_nothing_else(
        count in 1usize..30,
        replicas in 1usize..6,
        joins in any::<bool>(),
        place in 0usize..64,
    ) {
        let node = Holder { zone: 0, weight: 100, receives: true, leaves: false };
        let mut nodes: Vec<Holder> = (0..count).map(|zone| Holder { zone, ..node }).collect();
        let mut map = first_map(&nodes, 256, replicas);
        let first = map.clone();
        let changed = if joins { count } else { place % count };
        if joins {
            nodes.push(Holder { zone: count, ..node });
        } else {
            nodes[changed].leaves = true;
        }
        let moved = to_the_end(&nodes, &mut map, replicas)?;
        assert_even(&nodes, &map, replicas)?;
        let change = u64::from(loads(&nodes, &map)[changed].abs_diff(loads(&nodes, &first)[changed]));
        // A cluster that grows to no more than the replicas asked for moves nothing: it adds some.
        prop_assert_eq!(moved, change);
    }

    /// Guards against a move more than there have to be, whatever joins, leaves and changes its weight at once.
    #[test]
    fn nothing_moves_without_need(
        mut nodes in nodes(25),
        replicas in 1usize..6,
        bits in 0u32..7,
        joins in proptest::collection::vec(node(), 0..4),
        leaves in proptest::collection::vec(0usize..64, 0..3),
        weights in proptest::collection::vec((0usize..64, 1u32..400), 0..3),
    ) {
        let mut map = first_map(&nodes, 1 << bits, replicas);
        let first = map.clone();
        let count = nodes.len();
        leaves.iter().for_each(|place| nodes[place % count].leaves = true);
        weights.iter().for_each(|(place, weight)| nodes[place % count].weight = *weight);
        nodes.extend(joins);
        let open = nodes.iter().filter(|node| !node.leaves).count();
        let moved = to_the_end(&nodes, &mut map, replicas)?;
        assert_even(&nodes, &map, replicas)?;
        // Which of the nodes of a crowded zone goes is chosen by load: that may cost a move more.
        let crowded = first.iter().any(|places| most_in_a_zone(&nodes, places) > zone_max(&nodes, &[], replicas));
        if open >= replicas && first[0].len() == replicas && !crowded {
            prop_assert_eq!(moved as i64, fewest(&nodes, &first, replicas));
        }
    }

    /// Guards against a search that gives up too early: from a map that nobody planned, direct moves lead to dead ends.
    #[test]
    fn nothing_moves_without_need_from_any_map(
        nodes in nodes(9),
        replicas in 1usize..5,
        drawn in proptest::collection::vec((any::<u64>(), 0usize..8), 1..24),
    ) {
        let replicas = replicas.min(nodes.len());
        let zone_max = zone_max(&nodes, &[], replicas);
        let mut map: Map = drawn
            .iter()
            .map(|(seed, lacks)| {
                let mut order: Vec<usize> = (0..nodes.len()).collect();
                order.sort_by_key(|place| (seed >> 1).wrapping_mul(2 * *place as u64 + 1) >> 7 & 0xffff);
                let mut places = Vec::new();
                for place in order {
                    let inside = places.iter().filter(|other: &&usize| nodes[**other].zone == nodes[place].zone).count();
                    // One partition in four lacks a replica.
                    if inside < zone_max && places.len() < replicas - usize::from(*lacks < 2) {
                        places.push(place);
                    }
                }
                places
            })
            .collect();
        let first = map.clone();
        let moved = to_the_end(&nodes, &mut map, replicas)?;
        assert_even(&nodes, &map, replicas)?;
        prop_assert_eq!(moved as i64, fewest(&nodes, &first, replicas));
    }
}

/// The fewest replicas that have to move, found in another way: as a flow of least cost from nothing, by Bellman and Ford.
fn fewest(nodes: &[Holder], current: &Map, replicas: usize) -> i64 {
    // Every unit that lets a node have its least is worth more than all moves.
    const NEEDED: i64 = 1 << 20;
    let open: Vec<Holder> = nodes.iter().filter(|node| !node.leaves).copied().collect();
    let candidates = candidates(&open);
    let zones = candidates.iter().map(|node| node.zone + 1).max().unwrap();
    let per_zone_max = shares(&candidates, 1, replicas).per_zone_max;
    let partitions = current.len();
    let cap = partitions as f64;
    let share = fill(&candidates, cap * replicas as f64, &vec![cap; zones], &vec![cap * per_zone_max as f64; zones]);
    // 0 the source, 1 the sink, then partitions, their zones, nodes.
    let zone_at = |partition: usize, zone: usize| 2 + partitions + partition * zones + zone;
    let node_at = |place: usize| 2 + partitions + partitions * zones + place;
    let mut flow = Flow { edges: vec![], out: vec![vec![]; node_at(open.len())] };
    let places: Vec<usize> = (0..nodes.len()).filter(|place| !nodes[*place].leaves).collect();
    for (partition, now) in current.iter().enumerate() {
        flow.edge(0, 2 + partition, replicas as i64, 0);
        (0..zones).for_each(|zone| flow.edge(2 + partition, zone_at(partition, zone), per_zone_max as i64, 0));
        for (nth, place) in places.iter().enumerate() {
            flow.edge(zone_at(partition, candidates[nth].zone), node_at(nth), 1, i64::from(!now.contains(place)));
        }
    }
    for (nth, share) in share.iter().enumerate() {
        let (least, most) = ((share + 1e-6).floor() as i64, (share - 1e-6).ceil() as i64);
        flow.edge(node_at(nth), 1, least, -NEEDED);
        flow.edge(node_at(nth), 1, most - least, 0);
    }
    let mut cost = 0;
    while let Some(length) = flow.push() {
        cost += length;
    }
    cost.rem_euclid(NEEDED)
}

/// A network: per edge where it leads, what still passes and what that costs; the edge back is the next or the one before.
struct Flow {
    edges: Vec<(usize, i64, i64)>,
    out: Vec<Vec<usize>>,
}

impl Flow {
    fn edge(&mut self, from: usize, to: usize, passes: i64, cost: i64) {
        self.out[from].push(self.edges.len());
        self.edges.push((to, passes, cost));
        self.out[to].push(self.edges.len());
        self.edges.push((from, 0, -cost));
    }

    /// Sends one unit along a cheapest path from 0 to 1.
    fn push(&mut self) -> Option<i64> {
        let mut length = vec![i64::MAX; self.out.len()];
        let mut by = vec![usize::MAX; self.out.len()];
        length[0] = 0;
        let mut queue = VecDeque::from([0]);
        let mut queued = vec![false; self.out.len()];
        while let Some(at) = queue.pop_front() {
            queued[at] = false;
            for &edge in &self.out[at] {
                let (to, passes, cost) = self.edges[edge];
                if passes > 0 && length[at] + cost < length[to] {
                    (length[to], by[to]) = (length[at] + cost, edge);
                    if !std::mem::replace(&mut queued[to], true) {
                        queue.push_back(to);
                    }
                }
            }
        }
        let mut at = 1;
        while at != 0 {
            let edge = *by.get(at).filter(|edge| **edge != usize::MAX)?;
            self.edges[edge].1 -= 1;
            self.edges[edge ^ 1].1 += 1;
            at = self.edges[edge ^ 1].0;
        }
        Some(length[1])
    }
}

fn open(zone: usize) -> Holder {
    Holder { zone, weight: 100, receives: true, leaves: false }
}

/// Guards against a node that joins, or the heirs of one that leaves, sharing their partitions with a few others only:
/// losing one more would lose many.
#[test]
fn partitions_stay_spread_when_nodes_join_and_leave() {
    let mut nodes: Vec<Holder> = (0..10).map(open).collect();
    let mut map = first_map(&nodes, 256, 3);
    nodes.extend((10..12).map(open));
    to_the_end(&nodes, &mut map, 3).unwrap();
    nodes[0].leaves = true;
    nodes[1].leaves = true;
    to_the_end(&nodes, &mut map, 3).unwrap();
    for node in 2..12 {
        for other in (2..12).filter(|other| *other != node) {
            let shared = map.iter().filter(|places| places.contains(&node) && places.contains(&other)).count();
            // 77 partitions with two others each, spread over nine: about 17.
            assert!((11..=23).contains(&shared), "{node} and {other} share {shared}");
        }
    }
}

/// Guards against a balance that is made while a partition lacks a replica, or a node waits to leave.
#[test]
fn the_urgent_comes_first() {
    let mut nodes: Vec<Holder> = (0..6).map(open).collect();
    nodes[1].zone = 0;
    nodes[5].leaves = true;
    let map = vec![
        vec![2, 3, 4], // Nothing, unless the load asks for it.
        vec![0, 1, 2], // Two in a zone.
        vec![2, 3, 4],
        vec![2, 3, 5], // One leaves.
        vec![2, 3],    // One too few.
        vec![4],       // Two too few.
        vec![0, 1, 5], // Two in a zone, and one leaves.
    ];
    let planned = moves(&nodes, &map, 3);
    let order: Vec<u32> = planned.iter().map(|step| step.partition).collect();
    assert_eq!(order[..5], [5, 4, 3, 6, 1], "{planned:?}");
    let leaves: Vec<Option<usize>> = planned.iter().map(|step| step.leaves).collect();
    assert_eq!(leaves[..4], [None, None, Some(5), Some(5)]);
    assert!(matches!(leaves[4], Some(0 | 1)));
    assert!(order.len() > 5, "then balance: {planned:?}");
}

/// Guards against giving up a replica that lives for one that may not, when replicas are too many.
#[test]
fn of_replicas_too_many_those_go_that_are_worth_least() {
    let mut nodes: Vec<Holder> = (0..5).map(open).collect();
    nodes[0].leaves = true;
    nodes[1].receives = false;
    nodes[3].zone = 2;
    let mut map = vec![vec![0, 1, 2, 3, 4]];
    let mut gone = Vec::new();
    for _ in 0..4 {
        let planned = moves(&nodes, &map, 1);
        assert_eq!((planned.len(), planned[0].joins), (1, None));
        gone.push(planned[0].leaves.unwrap());
        carry_out(&nodes, &mut map, &planned, 1).unwrap();
    }
    assert_eq!(gone[..2], [0, 1]);
    assert!([2, 3].contains(&gone[2]), "{gone:?}: 2 and 3 share a zone");
    assert_eq!(moves(&nodes, &map, 1), vec![]);
}

/// Guards against a node that neither receives nor leaves, and loses what it holds or gets more.
#[test]
fn a_cordoned_node_keeps_what_it_holds() {
    let mut nodes: Vec<Holder> = (0..4).map(open).collect();
    let mut map = first_map(&nodes, 64, 3);
    nodes[0].receives = false;
    nodes[1].leaves = true;
    nodes.extend((4..7).map(open));
    let before: Vec<bool> = map.iter().map(|places| places.contains(&0)).collect();
    to_the_end(&nodes, &mut map, 3).unwrap();
    let after: Vec<bool> = map.iter().map(|places| places.contains(&0)).collect();
    assert_eq!(before, after);
    // 48 stay where they are; the others share 144.
    let loads = loads(&nodes, &map);
    assert!(loads[2..].iter().all(|load| [28, 29].contains(load)), "{loads:?}");
}

/// Guards against a panic on what nobody should ask for.
#[test]
fn nonsense_is_survived() {
    assert_eq!(moves(&[], &[vec![], vec![0, 7]], 3), vec![]);
    let mut nodes = vec![open(usize::MAX), open(usize::MAX), open(3)];
    assert_eq!(moves(&nodes, &[], 3), vec![]);
    nodes[0].weight = 0;
    nodes[1].weight = u32::MAX;
    let mut map = vec![vec![9, 1, 1, usize::MAX], vec![], vec![0, 1, 2], vec![2, 2]];
    for replicas in [0, 1, usize::MAX] {
        for step in moves(&nodes, &map, replicas) {
            assert!(step.joins.into_iter().chain(step.leaves).all(|place| place < 3), "{step:?}");
        }
    }
    map.iter_mut().for_each(|places| places.retain(|place| *place < 3));
    nodes.iter_mut().for_each(|node| node.leaves = true);
    assert_eq!(moves(&nodes, &map, 3), vec![], "nobody can take anything");
    nodes.iter_mut().for_each(|node| (node.leaves, node.receives) = (false, false));
    assert_eq!(moves(&nodes, &map, 3), vec![], "nobody may take anything");
}

/// Guards against the wrong node of a crowded zone giving way: the other would have to give something later.
#[test]
fn of_a_crowded_zone_the_fullest_node_goes() {
    let nodes = [open(0), open(0), open(1), open(2)];
    let mut map = vec![vec![0, 1], vec![0, 2], vec![0, 2], vec![0, 3]];
    assert_eq!(to_the_end(&nodes, &mut map, 2).unwrap(), 2);
    assert_eq!(loads(&nodes, &map), [2, 2, 2, 2]);
}

/// Guards against replicas that all stay in one zone where too few nodes are left to take them.
#[test]
fn of_leaving_nodes_those_stay_that_keep_zones_distinct() {
    let mut nodes = [open(1), open(0), open(0)];
    (nodes[0].leaves, nodes[1].leaves) = (true, true);
    let mut map = vec![vec![0, 1]];
    to_the_end(&nodes, &mut map, 2).unwrap();
    assert_eq!(map, [[0, 2]]);
}

/// Guards against shares that count on room which a cordoned node takes away: what nodes of its zone can't hold is to be
/// shared by the others according to their weights.
#[test]
fn a_cordoned_node_takes_room_from_its_zone() {
    let mut nodes = [open(0), open(0), open(1), open(2), open(0)];
    nodes[0].receives = false;
    (nodes[1].weight, nodes[2].weight, nodes[4].weight) = (1000, 200, 1000);
    let mut map = vec![vec![0, 3]; 8];
    map.extend(vec![vec![1, 2]; 4]);
    to_the_end(&nodes, &mut map, 2).unwrap();
    assert_eq!(loads(&nodes, &map), [8, 2, 8, 4, 2]);
}

/// Guards against a full node that is left as it is because all that could take something from it are replicas already:
/// it takes a third, which hands on something else.
#[test]
fn a_full_node_gives_by_way_of_another() {
    let weights = [200, 350, 350, 400, 400, 400];
    let nodes: Vec<Holder> =
        weights.iter().enumerate().map(|(zone, weight)| Holder { weight: *weight, ..open(zone) }).collect();
    let mut map = vec![vec![0, 1, 2]; 3];
    map.extend(vec![vec![3, 4, 5]; 4]);
    assert_eq!(to_the_end(&nodes, &mut map, 3).unwrap(), 2);
    assert_eq!(loads(&nodes, &map)[0], 2);
}

/// Guards against a node that is left with too little because it shares everything with those that could give.
#[test]
fn a_poor_node_receives_by_way_of_another() {
    let weights = [400, 250, 250, 400, 400, 400];
    let nodes: Vec<Holder> =
        weights.iter().enumerate().map(|(zone, weight)| Holder { weight: *weight, ..open(zone) }).collect();
    let mut map = vec![vec![0, 1, 2]; 3];
    map.extend(vec![vec![3, 4, 5]; 4]);
    assert_eq!(to_the_end(&nodes, &mut map, 3).unwrap(), 2);
    assert_eq!(loads(&nodes, &map)[0], 4);
}
