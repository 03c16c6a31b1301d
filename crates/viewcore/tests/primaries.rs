//! Which primaries are moved, and which are left alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use support::{change, cluster, configuration, ids};
use types::{NodeId, PartitionId};
use viewcore::plan::StuckReport;
use viewcore::{ClusterState, Command, Heartbeat, Observed, Serving, Step};

/// Guards P19: a primary that is moved for balance where that would interrupt: where nobody serves, the members are new, its
/// own replica is damaged, or who would lead lacks something.
#[test]
fn only_what_serves_is_balanced() {
    let serving = |observed: &mut Observed, state: &ClusterState, partition: u32, behind: &[u64]| {
        let configuration = configuration(state, partition);
        let serving = Serving {
            partition: PartitionId(partition),
            term: configuration.term,
            behind: behind.iter().copied().map(NodeId).collect(),
            filled: None,
        };
        let heartbeat = Heartbeat { serving: vec![serving], ..Heartbeat::default() };
        observed.heartbeat(configuration.primary().unwrap(), &heartbeat);
    };
    let moves = |state: &ClusterState, observed: &Observed, avoided: &[u64], moves_max| {
        let avoided = avoided.iter().copied().map(NodeId).collect();
        let change = viewcore::plan::balance(state, observed, &avoided, moves_max);
        let placements = change.map(|change| change.placements).unwrap_or_default();
        placements.into_iter().map(|(partition, order)| (partition.0, order[0].0)).collect::<Vec<_>>()
    };
    // Node 1 leads all four.
    let state = cluster(3);
    let mut all = Observed::default();
    (0..4).for_each(|partition| serving(&mut all, &state, partition, &[]));
    let balanced = moves(&state, &all, &[], 10);
    assert_eq!(balanced.len(), 2, "{balanced:?}");
    assert_eq!(balanced.iter().map(|(_, to)| *to).collect::<BTreeSet<_>>(), BTreeSet::from([2, 3]));
    assert_eq!(moves(&state, &all, &[], 1), balanced[..1]);
    assert_eq!(moves(&state, &Observed::default(), &[], 10), [], "nobody serves");

    let mut some = Observed::default();
    serving(&mut some, &state, 3, &[]);
    let moved = moves(&state, &some, &[], 10);
    assert!(matches!(moved[..], [(3, _)]), "{moved:?}");
    assert!(moves(&state, &all, &[3], 10).iter().all(|(_, to)| *to == 2), "node 3 is avoided");
    let mut behind = Observed::default();
    (0..4).for_each(|partition| serving(&mut behind, &state, partition, &[2]));
    assert!(moves(&state, &behind, &[], 10).iter().all(|(_, to)| *to == 3), "node 2 is behind");

    // The members of three are new, and not activated; their primaries serve all the same.
    let mut state = cluster(4);
    for partition in 0..3 {
        let partition = PartitionId(partition);
        change(&mut state, |change| {
            change.steps = vec![(partition, Step::Fill { joins: NodeId(4), leaves: Some(NodeId(3)) })];
        });
        change(&mut state, |change| change.steps = vec![(partition, Step::Members(ids([1, 2, 4])))]);
    }
    let mut all = Observed::default();
    (0..4).for_each(|partition| serving(&mut all, &state, partition, &[]));
    let moved = moves(&state, &all, &[], 10);
    assert!(matches!(moved[..], [(3, _)]), "{moved:?}");

    // The primary's own replica of three is damaged: that is failover's.
    let mut state = cluster(3);
    for partition in 0..3 {
        let term = configuration(&state, partition).term;
        let noted = Command::NoteDamage { node: NodeId(1), partition: PartitionId(partition), term };
        state.apply(&noted).unwrap();
    }
    let mut all = Observed::default();
    (0..4).for_each(|partition| serving(&mut all, &state, partition, &[]));
    let moved = moves(&state, &all, &[], 10);
    assert!(matches!(moved[..], [(3, _)]), "{moved:?}");
}

/// Guards P19: a takeover that waits for what only a member before has, and is given to another new member instead, again
/// and again.
#[test]
fn what_only_a_member_before_has_brings_the_members_before_back() {
    let mut state = cluster(5);
    change(&mut state, |change| {
        change.steps = vec![(PartitionId(0), Step::Fill { joins: NodeId(4), leaves: Some(NodeId(3)) })];
    });
    change(&mut state, |change| change.steps = vec![(PartitionId(0), Step::Members(ids([1, 2, 4])))]);
    let moved = |state: &ClusterState, unreachable: &[u64], holder: Option<u64>| {
        let unreachable = unreachable.iter().copied().map(NodeId).collect();
        let report = StuckReport { unreachable, holder: holder.map(NodeId) };
        let stuck = BTreeMap::from([(PartitionId(0), &report)]);
        let change = viewcore::plan::move_primaries(state, &stuck, &BTreeSet::new(), |_| true);
        let change = change.expect("a stuck partition is moved");
        let orders: Vec<Vec<NodeId>> = change.placements.into_iter().map(|(_, order)| order).collect();
        let members = change.steps.into_iter().map(|(_, step)| step).collect::<Vec<_>>();
        (orders, members)
    };
    let (orders, members) = moved(&state, &[], Some(3));
    let [Step::Members(before)] = &members[..] else { panic!("{members:?}") };
    assert_eq!((orders.len(), before[0]), (0, NodeId(3)), "it has what is lacking, so it leads");
    assert_eq!(before.iter().copied().collect::<BTreeSet<_>>(), ids([1, 2, 3]).into_iter().collect());
    // A member that has it leads; and without one who blames nobody gets a new term, or another primary does.
    assert_eq!(moved(&state, &[], Some(4)).0[0][0], NodeId(4));
    assert_eq!(moved(&state, &[4], None).0[0][0], NodeId(2), "node 4 can't be reached");
    // Once they are activated nothing brings the members before back.
    let term = configuration(&state, 0).term;
    state.apply(&Command::ActivatedAll(vec![(PartitionId(0), term)])).unwrap();
    let (orders, members) = moved(&state, &[], Some(3));
    assert_eq!((orders.len(), members), (1, vec![]));
}
