//! What a cluster lacks, for people: computed from the view and from what the leader observed.

use crate::observed::Observed;
use crate::state::ClusterState;
use types::{Configuration, NodeId, PartitionId};

/// Partitions that lack something; all empty before the first map.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lacks {
    /// Fewer usable replicas than a majority: no write can commit.
    pub without_quorum: Vec<PartitionId>,
    /// Its primary has not said that it serves at the present term.
    pub not_serving: Vec<PartitionId>,
    /// Fewer usable replicas than the cluster wants.
    pub under_replicated: Vec<PartitionId>,
}

/// What the partitions lack.
pub fn lacks(state: &ClusterState, observed: &Observed) -> Lacks {
    let mut lacks = Lacks::default();
    let Some(view) = state.view() else { return lacks };
    for (partition, configuration) in state.configurations() {
        let usable = |members: &[NodeId]| members.iter().filter(|node| state.is_usable(partition, **node)).count();
        let has_majority = |members: &[NodeId]| usable(members) >= Configuration::majority_of(members);
        // A takeover needs a majority of the prior members too (P14).
        if !has_majority(&configuration.replicas)
            || !(configuration.is_activated() || has_majority(&configuration.prior))
        {
            lacks.without_quorum.push(partition);
        }
        let serves = configuration
            .primary()
            .is_some_and(|primary| observed.behind(partition, primary, configuration.term).is_some());
        if !serves {
            lacks.not_serving.push(partition);
        }
        if usable(&configuration.replicas) < usize::from(view.replication) {
            lacks.under_replicated.push(partition);
        }
    }
    lacks
}

/// Partitions that a node replicates, and how many of them it leads.
pub fn load(state: &ClusterState, node: NodeId) -> (u32, u32) {
    state.configurations().fold((0, 0), |(holds, leads), (_, configuration)| {
        let holds_it = u32::from(configuration.replicas.contains(&node));
        (holds + holds_it, leads + u32::from(configuration.primary() == Some(node)))
    })
}
