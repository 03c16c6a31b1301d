//! Liveness: once faults are over, every partition serves again within a bounded time, its replicas become equal, and
//! everything that waits is answered.

use crate::disk::{Disk, Kept};
use crate::node::Node;
use replcore::RoleSummary;
use std::collections::BTreeMap;
use std::fmt;
use types::{NodeId, PartitionId, Record, RecordKey, RecordKind, View};

/// Why a world has not come to rest yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Standstill {
    NoView,
    Down(usize),
    Unserved(PartitionId),
    Behind { partition: PartitionId, node: NodeId, what: String },
    Differs { partition: PartitionId, node: NodeId, from: NodeId },
    Waiting { client: usize },
    Watching { partition: PartitionId },
    Expiring(PartitionId),
    Moving(PartitionId),
    ToMove(viewcore::plan::moving::PlannedMove),
    Surplus { partition: PartitionId, node: NodeId },
    InDoubt { partition: PartitionId, what: String },
}

impl fmt::Display for Standstill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standstill::NoView => write!(f, "there is no partition map"),
            Standstill::Down(node) => write!(f, "node {node} does not run"),
            Standstill::Unserved(partition) => write!(f, "{partition} is not served"),
            Standstill::Behind { partition, node, what } => write!(f, "{partition} on {node} is behind: {what}"),
            Standstill::Differs { partition, node, from } => {
                write!(f, "the state of {partition} on {node} is not that on {from}")
            }
            Standstill::Moving(partition) => write!(f, "{partition} is not activated, or has a learner"),
            Standstill::ToMove(planned) => write!(f, "it should be that {planned:?}"),
            Standstill::Surplus { partition, node } => write!(f, "{node} keeps data of {partition}"),
            Standstill::InDoubt { partition, what } => {
                write!(f, "{partition} has transactions that are not over: {what}")
            }
            Standstill::Watching { partition } => write!(f, "a watcher of {partition} lacks something"),
            Standstill::Expiring(partition) => write!(f, "a key of {partition} has not expired yet"),
            Standstill::Waiting { client } => write!(f, "client {client} waits for an answer"),
        }
    }
}

/// Whether the nodes have come to rest in `view`.
pub(crate) fn nodes(
    view: &View,
    nodes: &[Node],
    disks: &[Disk],
    places: &BTreeMap<NodeId, usize>,
) -> Result<(), Standstill> {
    if let Some(down) = nodes.iter().position(|node| !node.is_accepted()) {
        return Err(Standstill::Down(down));
    }
    for (partition, configuration) in view.partition_count.ids().zip(&view.configurations) {
        if !configuration.is_activated() || configuration.learner.is_some() {
            return Err(Standstill::Moving(partition));
        }
        let primary = configuration.primary().unwrap_or_default();
        let replica = |id: NodeId| places.get(&id).and_then(|at| nodes[*at].replica(partition));
        let leads = replica(primary).ok_or(Standstill::Unserved(partition))?;
        if leads.role() != RoleSummary::Serving(configuration.term) {
            return Err(Standstill::Unserved(partition));
        }
        if let Some(doubt) = leads.in_doubt().first() {
            return Err(Standstill::InDoubt { partition, what: format!("{doubt:?}") });
        }
        let mut first: Option<(NodeId, Vec<(&RecordKey, &Record)>)> = None;
        for id in &configuration.replicas {
            let behind = |what: String| Standstill::Behind { partition, node: *id, what };
            let disk = places.get(id).map(|at| &disks[*at]).ok_or_else(|| behind("unknown".into()))?;
            let replica = replica(*id).ok_or_else(|| behind("no replica".into()))?;
            let (end, committed, applied) = (replica.last(), replica.base().committed, replica.applied());
            if end != leads.last() || committed != end.seq || applied != end {
                let own = leads.last();
                return Err(behind(format!("log ends {end:?} of {own:?}, committed {committed}, applied {applied:?}")));
            }
            let hidden = |key: &&RecordKey| matches!(key.kind, RecordKind::Prepared | RecordKind::Decision);
            if let Some(key) = disk.live_now(partition).and_then(|kept| kept.records.keys().find(hidden)) {
                return Err(Standstill::InDoubt { partition, what: format!("{id} keeps {key:?}") });
            }
            let state = user_records(disk.live_now(partition));
            match &first {
                None => first = Some((*id, state)),
                Some((from, theirs)) if *theirs != state => {
                    return Err(Standstill::Differs { partition, node: *id, from: *from });
                }
                Some(_) => {}
            }
        }
    }
    for disk in disks {
        let node = disk.id.unwrap_or_default();
        let is_named = |partition| view.configuration(partition).is_some_and(|configuration| configuration.names(node));
        if let Some(partition) = disk.surplus(is_named) {
            return Err(Standstill::Surplus { partition, node });
        }
    }
    Ok(())
}

/// How hidden records are cut differs between replicas; users' records may not.
fn user_records(kept: Option<&Kept>) -> Vec<(&RecordKey, &Record)> {
    kept.iter().flat_map(|kept| &kept.records).filter(|(key, _)| key.kind == RecordKind::User).collect()
}
