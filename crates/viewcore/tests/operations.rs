//! What operators and replicas may ask of the group, and where the bounds lie.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use support::{change, cluster, configuration, ids};
use types::limits::REPLICATION_MAX;
use types::{BootNonce, ClusterId, Duty, Epoch, Incarnation, NodeId, PartitionId, Term};
use viewcore::plan::moving::{Planned, steps};
use viewcore::progress::progress;
use viewcore::state::RECOVERIES_MAX;
use viewcore::{
    ClusterState, Command, Configure, Done, Heartbeat, Observed, Operation, Refusal, Registration, Serving, Step,
    status,
};

fn operate(state: &mut ClusterState, operation: Operation) -> Result<(), String> {
    match state.apply(&Command::Operate(operation)) {
        Ok(_) => Ok(()),
        Err(Refusal::Operation(why)) => Err(why),
        Err(other) => panic!("{other:?}"),
    }
}

/// Guards against weights that place nothing, or overflow what is computed of them, and against a view that changes although
/// nothing has.
#[test]
fn weights() {
    let mut state = cluster(3);
    let weigh =
        |state: &mut ClusterState, node, weight| operate(state, Operation::SetWeight { node: NodeId(node), weight });
    for weight in [1, 1_000_000, 250] {
        weigh(&mut state, 2, weight).unwrap();
        assert_eq!(state.node(NodeId(2)).unwrap().weight, weight);
    }
    let epoch = state.epoch();
    for (node, weight) in [(2, 0), (2, 1_000_001), (2, u32::MAX), (9, 100)] {
        weigh(&mut state, node, weight).unwrap_err();
    }
    weigh(&mut state, 2, 250).unwrap();
    assert_eq!((state.epoch(), state.node(NodeId(2)).unwrap().weight), (epoch, 250));
}

/// Guards against a node that comes back and forgets what an operator set.
#[test]
fn what_an_operator_set_outlives_a_restart() {
    let mut state = cluster(4);
    operate(&mut state, Operation::SetWeight { node: NodeId(2), weight: 250 }).unwrap();
    operate(&mut state, Operation::SetDuty { node: NodeId(2), duty: Duty::Cordoned }).unwrap();
    for (node, weight, duty) in [(2, 250, Duty::Cordoned), (3, 70, Duty::Active)] {
        let registration = Registration {
            cluster: ClusterId(7),
            node: Some(NodeId(node)),
            incarnation: Incarnation(2),
            nonce: BootNonce(90 + node),
            address: format!("host{node}:2"),
            http_address: String::new(),
            zone: "b".into(),
            weight: 70,
            highest_epoch: Epoch(0),
            highest_promised: Term(0),
        };
        state.apply(&Command::Register(registration)).unwrap();
        let info = state.node(NodeId(node)).unwrap();
        assert_eq!((info.weight, info.duty), (weight, duty));
        assert_eq!((&info.address[..], &info.zone[..]), (&format!("host{node}:2")[..], "b"));
    }
}

/// Guards against a promise of more failures, or fewer, than a majority survives.
#[test]
fn failures_tolerated() {
    for (nodes, replication, tolerated) in [(5, 1, 0), (5, 2, 0), (5, 3, 1), (5, 4, 1), (5, 5, 2), (9, 9, 4)] {
        let mut state = cluster(nodes);
        let configure = Configure { replication: Some(replication), ..Configure::default() };
        operate(&mut state, Operation::Configure(configure)).unwrap();
        let shown = |state: &ClusterState| {
            let progress = progress(state, &Observed::default(), &BTreeSet::new());
            (progress.tolerates_now, progress.tolerates_then)
        };
        assert_eq!(shown(&state), (1, tolerated), "{replication} of {nodes}");
        change(&mut state, |change| change.dead = ids([3]));
        let then = (u32::from(replication).min(nodes as u32 - 1)).saturating_sub(1) / 2;
        assert_eq!(shown(&state), (0, then), "{replication} of {nodes}, and one dead");
    }
}

/// Guards against settings that no cluster can follow, or that stop it from healing.
#[test]
fn settings() {
    let mut state = cluster(4);
    let configure = |state: &mut ClusterState, configure| operate(state, Operation::Configure(configure));
    let replication = |replication| Configure { replication: Some(replication), ..Configure::default() };
    let after = |replace_after_ms| Configure { replace_after_ms: Some(replace_after_ms), ..Configure::default() };
    let moves = |moves_per_node| Configure { moves_per_node: Some(moves_per_node), ..Configure::default() };
    for bad in
        [replication(0), replication(5), replication(REPLICATION_MAX + 1), after(0), after(999), moves(0), moves(257)]
    {
        let before = state.clone();
        configure(&mut state, bad.clone()).expect_err(&format!("{bad:?}"));
        assert_eq!(state, before, "{bad:?}");
    }
    for good in [replication(1), replication(4), after(1_000), moves(1), moves(256)] {
        configure(&mut state, good.clone()).unwrap_or_else(|why| panic!("{good:?}: {why}"));
    }
    let policy = state.policy();
    assert_eq!((policy.replace_after_ms, policy.moves_per_node), (Some(1_000), 256));
    assert_eq!(state.view().unwrap().replication, 4);
    // As many as ever can be, where there are as many nodes.
    let mut large = cluster(12);
    configure(&mut large, replication(REPLICATION_MAX)).unwrap();
    configure(&mut large, replication(REPLICATION_MAX + 1)).unwrap_err();
    // The view changes with what it holds, and with nothing else.
    let epoch = state.epoch();
    configure(&mut state, moves(3)).unwrap();
    configure(&mut state, replication(4)).unwrap();
    assert_eq!(state.epoch(), epoch);
    configure(&mut state, Configure { fill_bytes_per_second: Some(5), ..Configure::default() }).unwrap();
    assert_eq!((state.epoch(), state.view().unwrap().fill_bytes_per_second), (epoch.next(), 5));
}

/// Guards P16 and P20 where many are told at once: a term that is over must not count, and one that is current must, whatever
/// stands beside it.
#[test]
fn only_current_terms_are_activated() {
    let mut state = cluster(4);
    for partition in [0, 1] {
        let partition = PartitionId(partition);
        change(&mut state, |change| {
            change.steps = vec![(partition, Step::Fill { joins: NodeId(4), leaves: Some(NodeId(3)) })];
        });
        change(&mut state, |change| change.steps = vec![(partition, Step::Members(ids([1, 2, 4])))]);
    }
    let term = |state: &ClusterState, partition| configuration(state, partition).term;
    let told = vec![
        (PartitionId(0), Term(term(&state, 0).0 - 1)),
        (PartitionId(1), term(&state, 1)),
        (PartitionId(2), term(&state, 2)),
        (PartitionId(9), term(&state, 2)),
    ];
    let epoch = state.epoch();
    let answered = state.apply(&Command::ActivatedAll(told.clone())).unwrap();
    assert_eq!(answered, Done::ActivatedAll(vec![false, true, true, false]));
    let activated = |state: &ClusterState| (0..3).map(|p| configuration(state, p).is_activated()).collect::<Vec<_>>();
    assert_eq!((activated(&state), state.epoch()), (vec![false, true, true], epoch.next()));
    // Said again it is true again, and changes nothing.
    let answered = state.apply(&Command::ActivatedAll(told)).unwrap();
    assert_eq!((answered, state.epoch()), (Done::ActivatedAll(vec![false, true, true, false]), epoch.next()));
}

/// Guards against a recovery that touches partitions it does not name, or is made of what is not there.
#[test]
fn recoveries() {
    let mut state = cluster(5);
    change(&mut state, |change| {
        change.steps = [0, 1]
            .map(|partition| (PartitionId(partition), Step::Fill { joins: NodeId(4), leaves: Some(NodeId(3)) }))
            .to_vec();
    });
    change(&mut state, |change| change.dead = ids([2, 3]));
    let recover = |state: &mut ClusterState, survivors: Vec<(u32, Vec<NodeId>)>| {
        let survivors = survivors.into_iter().map(|(partition, nodes)| (PartitionId(partition), nodes)).collect();
        let planned_on = state.epoch();
        state.apply(&Command::Operate(Operation::Recover { planned_on, survivors })).map(drop)
    };
    let before = state.clone();
    for bad in [
        vec![],
        vec![(0, vec![])],
        vec![(0, ids([1, 1]))],
        vec![(0, ids([1, 2]))],
        vec![(1, ids([1])), (0, ids([1]))],
        vec![(0, ids([1])), (0, ids([1]))],
        vec![(9, ids([1]))],
        vec![(0, ids([1])), (1, ids([3]))],
    ] {
        recover(&mut state, bad.clone()).expect_err(&format!("{bad:?}"));
        assert_eq!(state, before, "{bad:?}");
    }
    let late =
        Operation::Recover { planned_on: Epoch(state.epoch().0 - 1), survivors: vec![(PartitionId(0), ids([1]))] };
    assert!(matches!(state.apply(&Command::Operate(late)), Err(Refusal::StalePlan { .. })));

    recover(&mut state, vec![(0, ids([1])), (2, ids([1]))]).unwrap();
    for (partition, replicas) in [(0, ids([1])), (1, ids([1, 2, 3])), (2, ids([1])), (3, ids([1, 2, 3]))] {
        assert_eq!(configuration(&state, partition).replicas, replicas, "p{partition}");
    }
    assert_eq!(configuration(&state, 0).learner, None);
    assert_eq!(configuration(&state, 1).learner, Some(NodeId(4)));
    assert_eq!(state.moves().keys().copied().collect::<Vec<_>>(), [PartitionId(1)], "what was moving there still is");
    assert_eq!(configuration(&state, 0).term, Term::begun_at(state.epoch()));
    let record = state.recoveries().last().unwrap();
    assert_eq!(record.epoch, state.epoch());
    let wanted = [0, 2].map(|partition| (PartitionId(partition), ids([1, 2, 3]), ids([1])));
    assert_eq!(record.partitions, wanted);
}

/// Guards against a record of recoveries that grows for ever, or forgets the newest.
#[test]
fn the_newest_recoveries_are_remembered() {
    let mut state = cluster(3);
    change(&mut state, |change| change.dead = ids([2, 3]));
    let mut epochs = Vec::new();
    for round in 0..RECOVERIES_MAX + 3 {
        // Alone, and then without a majority again.
        let planned_on = state.epoch();
        let survivors = vec![(PartitionId(0), ids([1]))];
        state.apply(&Command::Operate(Operation::Recover { planned_on, survivors })).unwrap();
        epochs.push(state.epoch());
        assert_eq!(state.recoveries().len(), (round + 1).min(RECOVERIES_MAX));
        change(&mut state, |change| {
            change.alive = ids([2, 3]);
        });
        change(&mut state, |change| {
            change.steps = vec![(PartitionId(0), Step::Fill { joins: NodeId(2), leaves: None })];
        });
        change(&mut state, |change| change.steps = vec![(PartitionId(0), Step::Members(ids([1, 2])))]);
        let term = configuration(&state, 0).term;
        state.apply(&Command::ActivatedAll(vec![(PartitionId(0), term)])).unwrap();
        change(&mut state, |change| change.dead = ids([2, 3]));
    }
    let remembered: Vec<Epoch> = state.recoveries().iter().map(|recovery| recovery.epoch).collect();
    assert_eq!(remembered, epochs[3..]);
}

/// Guards against a load that is shown and is not there.
#[test]
fn loads() {
    let mut state = cluster(4);
    assert_eq!(status::load(&state, NodeId(4)), (0, 0));
    let held: Vec<(u32, u32)> = ids([1, 2, 3]).into_iter().map(|node| status::load(&state, node)).collect();
    assert_eq!(held, [(4, 4), (4, 0), (4, 0)]);
    change(&mut state, |change| change.placements = vec![(PartitionId(3), ids([3, 1, 2]))]);
    let held: Vec<(u32, u32)> = ids([1, 2, 3]).into_iter().map(|node| status::load(&state, node)).collect();
    assert_eq!(held, [(4, 3), (4, 0), (4, 1)]);
}

/// Guards against what a term served that is over, or another node.
#[test]
fn what_serves_is_what_was_said_last() {
    let (partition, node) = (PartitionId(0), NodeId(1));
    let mut observed = Observed::default();
    let serving =
        |term| Serving { partition, term: Term(term), behind: BTreeSet::from([NodeId(2)]), filled: Some(NodeId(4)) };
    observed.heartbeat(node, &Heartbeat { serving: vec![serving(5)], ..Heartbeat::default() });
    assert_eq!(observed.behind(partition, node, Term(5)), Some(&BTreeSet::from([NodeId(2)])));
    assert_eq!(observed.filled(partition, node, Term(5)), Some(NodeId(4)));
    for (other, term) in [(node, 4), (node, 6), (NodeId(2), 5)] {
        assert_eq!(
            (observed.behind(partition, other, Term(term)), observed.filled(partition, other, Term(term))),
            (None, None)
        );
    }
    observed.forget_serving(NodeId(2));
    assert!(observed.behind(partition, node, Term(5)).is_some());
    observed.heartbeat(node, &Heartbeat { serving: vec![serving(0)], ..Heartbeat::default() });
    assert_eq!(observed.behind(partition, node, Term(5)), None);
    observed.heartbeat(node, &Heartbeat { serving: vec![serving(6)], ..Heartbeat::default() });
    observed.forget_serving(node);
    assert_eq!(observed.behind(partition, node, Term(6)), None);
}

/// Guards against a learner's damage that ends moves of others, or leaves its own.
#[test]
fn a_damaged_learner_is_let_go() {
    let mut state = cluster(5);
    change(&mut state, |change| {
        change.steps = vec![
            (PartitionId(0), Step::Fill { joins: NodeId(4), leaves: Some(NodeId(3)) }),
            (PartitionId(1), Step::Fill { joins: NodeId(4), leaves: Some(NodeId(3)) }),
            (PartitionId(2), Step::Fill { joins: NodeId(5), leaves: Some(NodeId(3)) }),
        ];
    });
    let term = configuration(&state, 0).term;
    let noted = |node, partition| Command::NoteDamage { node: NodeId(node), partition: PartitionId(partition), term };
    let epoch = state.epoch();
    assert_eq!(state.apply(&noted(4, 0)).unwrap(), Done::DamageNoted(epoch));
    assert_eq!(state.epoch(), epoch.next(), "the view that ends it comes after the one noted");
    assert_eq!(state.moves().keys().copied().collect::<Vec<_>>(), [PartitionId(1), PartitionId(2)]);
    let learners: Vec<_> = (0..3).map(|partition| configuration(&state, partition).learner).collect();
    assert_eq!(learners, [None, Some(NodeId(4)), Some(NodeId(5))]);
    // Of a node that is nothing there any more, nothing else changes.
    state.apply(&noted(4, 2)).unwrap();
    assert_eq!(state.moves().keys().copied().collect::<Vec<_>>(), [PartitionId(1), PartitionId(2)]);
    assert_eq!(configuration(&state, 2).learner, Some(NodeId(5)));
    assert!(matches!(state.apply(&noted(9, 0)), Err(Refusal::UnknownNode(_))));
    assert!(matches!(state.apply(&noted(4, 9)), Err(Refusal::NoSuchPartition(_))));
}

/// Guards P20: an older directory of a node that lives, whatever else is the same.
#[test]
fn an_older_incarnation_is_refused() {
    let mut state = cluster(3);
    let registration = |incarnation, nonce| {
        Command::Register(Registration {
            cluster: ClusterId(7),
            node: Some(NodeId(2)),
            incarnation: Incarnation(incarnation),
            nonce: BootNonce(nonce),
            address: "host2:1".into(),
            http_address: String::new(),
            zone: String::new(),
            weight: 100,
            highest_epoch: Epoch(0),
            highest_promised: Term(0),
        })
    };
    let again = state.apply(&registration(5, 50)).unwrap();
    let epoch = state.epoch();
    assert_eq!(state.apply(&registration(5, 50)).unwrap(), again, "the same start asks again");
    for (incarnation, nonce) in [(4, 50), (4, 51), (5, 51), (1, 2)] {
        let refused = state.apply(&registration(incarnation, nonce));
        assert!(matches!(refused, Err(Refusal::StaleDirectory { .. })), "{incarnation} {nonce}: {refused:?}");
    }
    assert_eq!(state.epoch(), epoch);
}

/// Guards against nodes that are gone and never forgotten, or forgotten while they live, may come back, or hold something.
#[test]
fn who_is_gone_for_good_is_forgotten() {
    let mut state = cluster(7);
    let duty = |state: &mut ClusterState, node, duty| {
        operate(state, Operation::SetDuty { node: NodeId(node), duty }).unwrap();
    };
    change(&mut state, |change| change.dead = ids([3, 5, 6]));
    duty(&mut state, 5, Duty::Draining);
    duty(&mut state, 7, Duty::Draining);
    let forgotten = |state: &ClusterState| {
        let nobody = BTreeSet::new();
        let planned = steps(state, &Observed::default(), &nobody, &nobody, &mut Planned::default());
        planned.map(|change| change.forgotten).unwrap_or_default()
    };
    assert_eq!(forgotten(&state), ids([5]), "6 may come back, 7 still lives");
    duty(&mut state, 6, Duty::Removed);
    duty(&mut state, 3, Duty::Removed);
    assert_eq!(forgotten(&state), ids([5, 6]), "3 still is a member");
    change(&mut state, |change| change.forgotten = ids([5, 6]));
    assert_eq!(state.nodes().map(|info| info.id.0).collect::<Vec<_>>(), [1, 2, 3, 4, 7]);
}
