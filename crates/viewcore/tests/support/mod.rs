//! A cluster, as the group has it after it committed these commands.

#![allow(dead_code, clippy::unwrap_used, reason = "shared by tests, which fail by panicking")]

use types::{BootNonce, ClusterId, Configuration, Epoch, Incarnation, NodeId, PartitionCount, PartitionId, Term};
use viewcore::{Bootstrap, Cause, Change, ClusterState, Command, Registration};

pub(crate) fn ids<const N: usize>(numbers: [u64; N]) -> Vec<NodeId> {
    numbers.into_iter().map(NodeId).collect()
}

/// Four partitions on nodes 1, 2 and 3, of so many.
pub(crate) fn cluster(nodes: u64) -> ClusterState {
    cluster_of(4, nodes)
}

/// So many partitions on nodes 1, 2 and 3, of so many.
pub(crate) fn cluster_of(partitions: u32, nodes: u64) -> ClusterState {
    let mut state = ClusterState::default();
    let partition_count = PartitionCount::new(partitions).unwrap();
    let bootstrap = Bootstrap { cluster: ClusterId(7), partition_count, replication: 3, expected_nodes: 3 };
    state.apply(&Command::Bootstrap(bootstrap)).unwrap();
    for nonce in 1..=nodes {
        let registration = Registration {
            cluster: ClusterId::NONE,
            node: None,
            incarnation: Incarnation(1),
            nonce: BootNonce(nonce),
            address: format!("host{nonce}:1"),
            http_address: String::new(),
            zone: String::new(),
            weight: 100,
            highest_epoch: Epoch(0),
            highest_promised: Term(0),
        };
        state.apply(&Command::Register(registration)).unwrap();
    }
    change(&mut state, |change| {
        change.placements = (0..partitions).map(|partition| (PartitionId(partition), ids([1, 2, 3]))).collect();
    });
    state
}

pub(crate) fn change(state: &mut ClusterState, edit: impl FnOnce(&mut Change)) {
    let mut change = Change::new(state.epoch(), Cause::Rebalance);
    edit(&mut change);
    state.apply(&Command::Change(change)).unwrap();
}

pub(crate) fn configuration(state: &ClusterState, partition: u32) -> &Configuration {
    state.view().unwrap().configuration(PartitionId(partition)).unwrap()
}
