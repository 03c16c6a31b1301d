//! What the group never does, whoever asks: each test names the rule that would be broken.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use support::{cluster_of, configuration, ids};
use types::limits::REPLICATION_MAX;
use types::{ClusterId, Duty, NodeId, PartitionCount, PartitionId};
use viewcore::plan::moving::{Planned, steps};
use viewcore::state::NODES_MAX;
use viewcore::{Bootstrap, Cause, Change, ClusterState, Command, Done, Observed, Operation, Refusal, Step};

const PARTITION: PartitionId = PartitionId(0);

/// One partition on nodes 1, 2 and 3, of so many.
fn cluster(nodes: u64) -> ClusterState {
    cluster_of(1, nodes)
}

fn change(state: &mut ClusterState, edit: impl FnOnce(&mut Change)) -> Result<(), Refusal> {
    let mut change = Change::new(state.epoch(), Cause::Rebalance);
    edit(&mut change);
    state.apply(&Command::Change(change)).map(drop)
}

fn step(state: &mut ClusterState, step: Step) -> Result<(), Refusal> {
    change(state, |change| change.steps = vec![(PARTITION, step)])
}

/// Node 4 stands in node 3's place, and nothing is activated yet.
fn with_new_members() -> ClusterState {
    let mut state = cluster(5);
    step(&mut state, Step::Fill { joins: NodeId(4), leaves: Some(NodeId(3)) }).unwrap();
    step(&mut state, Step::Members(ids([1, 2, 4]))).unwrap();
    state
}

/// Guards P18: new members that count as activated at once, so that a takeover asks none of the old ones.
#[test]
fn new_members_stand_beside_the_prior_ones() {
    assert_eq!(configuration(&with_new_members(), PARTITION.0).prior, ids([1, 2, 3]));
}

/// Guards P19: members that are not activated and are replaced by others than those before: two majorities that do not meet.
#[test]
fn what_is_not_activated_gives_way_only_to_what_it_was() {
    let mut state = with_new_members();
    // Two of the prior members are gone from there, as after a step that was planned on something else.
    let refused = step(&mut state, Step::Members(ids([1, 4])));
    assert!(matches!(refused, Err(Refusal::BadPlan(_))), "{refused:?}");
    step(&mut state, Step::Members(ids([1, 2, 3]))).unwrap();
    assert!(configuration(&state, PARTITION.0).is_activated());
}

/// Guards P19: members that can't be activated any more and stay all the same, and such that give way although they can be.
#[test]
fn what_cannot_be_activated_gives_way() {
    let next = |dead: Vec<NodeId>| {
        let mut state = with_new_members();
        change(&mut state, |change| change.dead = dead).unwrap();
        let nobody = BTreeSet::new();
        let planned = steps(&state, &Observed::default(), &nobody, &nobody, &mut Planned::default());
        planned.map(|change| change.steps).unwrap_or_default()
    };
    assert_eq!(next(ids([4])), [], "1 and 2 are a majority of the new members, too");
    assert_eq!(next(ids([2, 4])), [(PARTITION, Step::Members(ids([1, 3, 2])))]);
    assert_eq!(next(ids([1, 2, 4])), [], "nobody can serve");
}

/// Guards P21: a learner that becomes a member while it lacks what the others have.
#[test]
fn a_learner_waits_until_it_is_full() {
    let mut state = cluster(4);
    step(&mut state, Step::Fill { joins: NodeId(4), leaves: Some(NodeId(3)) }).unwrap();
    let nobody = BTreeSet::new();
    let planned = steps(&state, &Observed::default(), &nobody, &nobody, &mut Planned::default());
    assert_eq!(planned.map(|change| change.steps).unwrap_or_default(), []);
}

/// Guards against a report that comes so late that the replica was let go and filled again meanwhile: a healthy member would
/// count as damaged for good, and with too few others nothing could ever change that.
#[test]
fn late_reports_of_damage_are_not_believed() {
    let mut state = cluster(4);
    let before = configuration(&state, PARTITION.0).term;
    change(&mut state, |change| change.placements = vec![(PARTITION, ids([3, 1, 2]))]).unwrap();
    let late = state.apply(&Command::NoteDamage { node: NodeId(2), partition: PARTITION, term: before });
    assert!(matches!(late, Err(Refusal::StaleTerm { .. })), "{late:?}");
    assert!(state.is_usable(PARTITION, NodeId(2)));
}

/// Guards P3: a replica's damage that is forgotten when something else changes: it would vote with an empty log.
#[test]
fn damage_is_remembered_until_the_node_is_let_go() {
    let mut state = cluster(4);
    let term = configuration(&state, PARTITION.0).term;
    state.apply(&Command::NoteDamage { node: NodeId(2), partition: PARTITION, term }).unwrap();
    change(&mut state, |change| change.placements = vec![(PARTITION, ids([3, 1, 2]))]).unwrap();
    assert!(!state.is_usable(PARTITION, NodeId(2)));
}

/// Guards against a node that is let go although nobody can take what it holds.
#[test]
fn a_node_stays_that_the_others_cannot_replace() {
    let mut state = cluster(3);
    let leave = Operation::SetDuty { node: NodeId(3), duty: Duty::Draining };
    let refused = state.apply(&Command::Operate(leave.clone()));
    assert!(matches!(refused, Err(Refusal::Operation(_))), "{refused:?}");
    assert_eq!(state.node(NodeId(3)).unwrap().duty, Duty::Active);
    cluster(4).apply(&Command::Operate(leave)).unwrap();
}

/// Guards against an operator's recovery that gives up acknowledged writes where a majority still has them.
#[test]
fn nothing_is_given_up_where_there_is_a_majority() {
    let mut state = cluster(3);
    change(&mut state, |change| change.dead = ids([3])).unwrap();
    let recover = |state: &ClusterState, survivors: Vec<NodeId>| {
        Command::Operate(Operation::Recover { planned_on: state.epoch(), survivors: vec![(PARTITION, survivors)] })
    };
    let refused = state.apply(&recover(&state.clone(), ids([1])));
    assert!(matches!(refused, Err(Refusal::Operation(_))), "{refused:?}");
    change(&mut state, |change| change.dead = ids([2])).unwrap();
    state.apply(&recover(&state.clone(), ids([1]))).unwrap();
    assert_eq!(configuration(&state, PARTITION.0).replicas, ids([1]));
}

/// Guards against a cluster that is founded with settings it can never serve with, and against a bound that is one off.
#[test]
fn a_cluster_is_founded_within_bounds_and_once() {
    let bootstrap = |cluster: u64, replication: u8, expected_nodes: usize| {
        let (partition_count, expected_nodes) = (PartitionCount::new(8).unwrap(), expected_nodes as u32);
        let founded = Bootstrap { cluster: ClusterId(cluster.into()), partition_count, replication, expected_nodes };
        ClusterState::default().apply(&Command::Bootstrap(founded))
    };
    for (cluster, replication, expected_nodes) in
        [(0, 3, 3), (7, 0, 3), (7, REPLICATION_MAX + 1, 3), (7, 3, 0), (7, 3, NODES_MAX + 1)]
    {
        let refused = bootstrap(cluster, replication, expected_nodes);
        assert!(
            matches!(refused, Err(Refusal::Settings(_))),
            "{cluster}, {replication}, {expected_nodes}: {refused:?}"
        );
    }
    bootstrap(7, 1, 1).unwrap();
    bootstrap(7, REPLICATION_MAX, NODES_MAX).unwrap();
    let again = Bootstrap {
        cluster: ClusterId(8),
        partition_count: PartitionCount::new(16).unwrap(),
        replication: 5,
        expected_nodes: 9,
    };
    let done = cluster(3).apply(&Command::Bootstrap(again)).unwrap();
    assert_eq!(done, Done::Bootstrapped(ClusterId(7)), "it is what it was");
}

/// Guards against a change that gives one partition two terms at once, and one that is refused for another's step.
#[test]
fn a_partition_is_placed_or_moved_and_others_may_move_meanwhile() {
    let mut state = cluster_of(2, 4);
    let fill = Step::Fill { joins: NodeId(4), leaves: Some(NodeId(3)) };
    let placed = (PARTITION, ids([2, 1, 3]));
    let refused = change(&mut state, |change| {
        (change.placements, change.steps) = (vec![placed.clone()], vec![(PARTITION, fill.clone())]);
    });
    assert!(matches!(refused, Err(Refusal::BadPlan(_))), "{refused:?}");
    change(&mut state, |change| {
        (change.placements, change.steps) = (vec![placed], vec![(PartitionId(1), fill)]);
    })
    .unwrap();
    assert_eq!(configuration(&state, 0).primary(), Some(NodeId(2)));
    assert_eq!(configuration(&state, 1).learner, Some(NodeId(4)));
}

/// Guards against more replicas than anybody counts with, and against one fewer than there may be.
#[test]
fn a_partition_has_as_many_replicas_as_the_replication_may_be() {
    let most = u64::from(REPLICATION_MAX);
    let mut state = cluster(most + 1);
    for joins in 4..=most + 1 {
        step(&mut state, Step::Fill { joins: NodeId(joins), leaves: None }).unwrap();
        let grown = step(&mut state, Step::Members((1..=joins).map(NodeId).collect()));
        if joins > most {
            assert!(matches!(grown, Err(Refusal::BadPlan(_))), "{joins} replicas: {grown:?}");
            break;
        }
        grown.unwrap();
        let term = configuration(&state, PARTITION.0).term;
        state.apply(&Command::Activated { partition: PARTITION, term }).unwrap();
    }
    assert_eq!(configuration(&state, PARTITION.0).replicas.len(), usize::from(REPLICATION_MAX));
}

/// Guards against a node that is removed while it serves, one that can't be though it is dead or empty, and a duty that is
/// refused for another's reason.
#[test]
fn who_serves_is_drained_before_it_is_removed() {
    let duty = |state: &mut ClusterState, node: u64, duty: Duty| {
        state.apply(&Command::Operate(Operation::SetDuty { node: NodeId(node), duty })).map(drop)
    };
    let mut state = cluster(5);
    // Node 1 holds the partition, node 4 nothing.
    let refused = duty(&mut state, 1, Duty::Removed);
    assert!(refused.as_ref().is_err_and(|why| why.to_string().contains("drain it first")), "{refused:?}");
    for allowed in [Duty::Cordoned, Duty::Draining, Duty::Active] {
        duty(&mut state, 1, allowed).unwrap();
        assert_eq!(state.node(NodeId(1)).unwrap().duty, allowed);
    }
    duty(&mut state, 4, Duty::Removed).unwrap();
    change(&mut state, |change| change.dead = ids([1])).unwrap();
    // Three replicas need three nodes: without the newest one there are two.
    duty(&mut state, 5, Duty::Cordoned).unwrap();
    assert!(duty(&mut state, 1, Duty::Removed).is_err());
    duty(&mut state, 5, Duty::Active).unwrap();
    duty(&mut state, 1, Duty::Removed).unwrap();
    // Who stays, and who holds nothing, needs nobody to take anything.
    duty(&mut cluster(3), 1, Duty::Cordoned).unwrap();
    let mut state = cluster(4);
    change(&mut state, |change| change.dead = ids([2])).unwrap();
    duty(&mut state, 4, Duty::Removed).unwrap();
}
