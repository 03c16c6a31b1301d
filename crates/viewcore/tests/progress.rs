//! What is said of moves: how far they are, when all is complete, and what keeps one from going on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use support::{change, cluster, configuration, ids};
use types::{NodeId, PartitionId};
use viewcore::observed::PartitionSize;
use viewcore::progress::progress;
use viewcore::{ClusterState, Command, Heartbeat, Observed, Serving, Step};

/// Guards against "complete" that is said too early (P21): while a partition moves, is not activated, or has left something
/// behind; and while a node has not looked since.
#[test]
fn complete_is_said_when_it_is() {
    let mut state = cluster(4);
    let nobody = BTreeSet::new();
    let mut observed = Observed::default();
    let look = |observed: &mut Observed, state: &ClusterState, surplus: u32| {
        for node in ids([1, 2, 3, 4]) {
            let surplus = if node == NodeId(3) { surplus } else { 0 };
            observed.heartbeat(node, &Heartbeat { surplus, surplus_at: state.epoch(), ..Heartbeat::default() });
        }
    };
    let moved = |state: &mut ClusterState, partition: u32, leaves: u64, members: [u64; 3]| {
        let partition = PartitionId(partition);
        change(state, |change| {
            change.steps = vec![(partition, Step::Fill { joins: NodeId(4), leaves: Some(NodeId(leaves)) })];
        });
        change(state, |change| change.steps = vec![(partition, Step::Members(ids(members)))]);
        let term = configuration(state, partition.0).term;
        state.apply(&Command::ActivatedAll(vec![(partition, term)])).unwrap();
    };
    // Three of four partitions have moved to the node that joined: its share.
    moved(&mut state, 0, 3, [1, 2, 4]);
    moved(&mut state, 1, 2, [1, 3, 4]);
    look(&mut observed, &state, 0);
    let before = progress(&state, &observed, &nobody);
    assert!(!before.is_complete() && !before.planned.is_empty(), "there is more to move");
    moved(&mut state, 2, 1, [2, 3, 4]);
    let unknown = progress(&state, &observed, &nobody).surplus;
    assert_eq!(
        unknown,
        ids([1, 2, 3, 4]).into_iter().map(|node| (node, None)).collect::<Vec<_>>(),
        "nobody has looked"
    );
    look(&mut observed, &state, 1);
    let left = progress(&state, &observed, &nobody);
    assert_eq!((left.surplus.clone(), left.is_complete()), (vec![(NodeId(3), Some(1))], false));
    look(&mut observed, &state, 0);
    let after = progress(&state, &observed, &nobody);
    assert!(after.is_complete(), "{after:?}");
    assert_eq!((after.tolerates_now, after.tolerates_then), (1, 1));

    // Something moves again: filled, then a member, then activated.
    let partition = PartitionId(3);
    change(&mut state, |change| {
        change.steps = vec![(partition, Step::Fill { joins: NodeId(4), leaves: Some(NodeId(2)) })];
    });
    look(&mut observed, &state, 0);
    let size = PartitionSize { keys: 5, bytes: 70 };
    let primary = configuration(&state, 3).primary().unwrap();
    observed.heartbeat(
        primary,
        &Heartbeat { sizes: vec![(partition, size)], surplus_at: state.epoch(), ..Heartbeat::default() },
    );
    let filling = progress(&state, &observed, &nobody);
    let [underway] = &filling.underway[..] else { panic!("{:?}", filling.underway) };
    assert_eq!((underway.partition, underway.joins, underway.leaves), (partition, Some(NodeId(4)), Some(NodeId(2))));
    assert_eq!((underway.filling, underway.size, underway.primary), (true, size, primary));
    change(&mut state, |change| change.steps = vec![(partition, Step::Members(ids([1, 3, 4])))]);
    look(&mut observed, &state, 0);
    let joined = progress(&state, &observed, &nobody);
    let [underway] = &joined.underway[..] else { panic!("{:?}", joined.underway) };
    assert_eq!((underway.joins, underway.leaves, underway.filling), (Some(NodeId(4)), Some(NodeId(2)), false));
    assert!(!joined.is_complete(), "not activated");
}

/// Guards against a move that stands still and does not say why, or blames somebody else; and against one that goes on and
/// complains.
#[test]
fn what_a_move_waits_for_is_said() {
    let partition = PartitionId(0);
    let mut state = cluster(4);
    let mut observed = Observed::default();
    let said = |state: &ClusterState, observed: &Observed| {
        let underway = progress(state, observed, &BTreeSet::new()).underway;
        let moving = underway.into_iter().find(|moving| moving.partition == partition).unwrap();
        moving.blocked.unwrap_or_default()
    };
    let fill = Step::Fill { joins: NodeId(4), leaves: Some(NodeId(3)) };
    change(&mut state, |change| change.steps = vec![(partition, fill)]);
    let primary = configuration(&state, 0).primary().unwrap();
    assert_eq!(said(&state, &observed), format!("{primary} does not serve p0 yet: see dhtctl status"));

    let term = configuration(&state, 0).term;
    let serving = vec![Serving { partition, term, behind: BTreeSet::new(), filled: None }];
    observed.heartbeat(primary, &Heartbeat { epoch: state.epoch(), serving, ..Heartbeat::default() });
    assert_eq!(said(&state, &observed), "", "it is being filled");

    let dead = |state: &mut ClusterState, nodes: Vec<NodeId>| change(state, |change| change.dead = nodes);
    let mut without_learner = state.clone();
    dead(&mut without_learner, ids([4]));
    let why = said(&without_learner, &observed);
    assert_eq!(why, "n4, which p0 is being copied to, is dead: start it again, or wait");

    let mut damaged = state.clone();
    damaged.apply(&Command::NoteDamage { node: primary, partition, term }).unwrap();
    let why = said(&damaged, &observed);
    assert_eq!(why, format!("p0 waits for another primary than {primary}, which is dead or damaged"));

    let mut stranded = state.clone();
    dead(&mut stranded, ids([2, 3]));
    let why = said(&stranded, &observed);
    assert!(why.starts_with("p0 has no majority without n2, n3: ") && why.contains("dhtctl recover"), "{why}");

    // The members before it count as long as the new ones are not activated.
    change(&mut state, |change| change.steps = vec![(partition, Step::Members(ids([1, 2, 4])))]);
    assert_eq!(said(&state, &observed), "", "it is being activated");
    dead(&mut state, ids([2, 3]));
    let why = said(&state, &observed);
    assert!(why.starts_with("p0 has no majority without n2, n3: "), "{why}");
}
