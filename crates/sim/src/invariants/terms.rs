//! Terms grow: a promise never falls, not even through a crash (P1, P2); views follow each other by one epoch, and a
//! partition's term grows with every change of its order (P18).

use super::acknowledged::Members;
use super::{Scene, Verdict};
use crate::disk::Disk;
use std::collections::BTreeMap;
use types::{Epoch, NodeId, PartitionId, Term, View};

#[derive(Debug)]
pub(super) struct Terms {
    /// By node and partition.
    promised: Vec<Vec<Term>>,
    epoch: Epoch,
    /// Each partition's term now, and its members.
    present: Vec<(Term, Vec<NodeId>)>,
    /// Each partition's members by term.
    members: Vec<Members>,
    /// The members of each partition's last activated configuration.
    activated: Vec<Vec<NodeId>>,
    primaries: BTreeMap<(PartitionId, Term), NodeId>,
}

impl Terms {
    pub(super) fn new(nodes: usize, partitions: u32) -> Terms {
        Terms {
            promised: vec![vec![Term(0); partitions as usize]; nodes],
            epoch: Epoch(0),
            present: vec![(Term(0), Vec::new()); partitions as usize],
            members: vec![Members::new(); partitions as usize],
            activated: vec![Vec::new(); partitions as usize],
            primaries: BTreeMap::new(),
        }
    }

    pub(super) fn members(&self, partition: PartitionId) -> &Members {
        &self.members[partition.0 as usize]
    }

    pub(super) fn primary(&self, partition: PartitionId, term: Term) -> Option<NodeId> {
        self.primaries.get(&(partition, term)).copied()
    }

    pub(super) fn promised(&mut self, scene: Scene<'_>, term: Term) -> Verdict {
        let before = &mut self.promised[scene.node][scene.partition.0 as usize];
        if term < *before {
            return Err(format!("the promise falls from {before} to {term}"));
        }
        *before = term;
        let written = scene.folds().written.promised;
        if written != term {
            return Err(format!("promises {term} and has written {written}"));
        }
        Ok(())
    }

    pub(super) fn crashed(&mut self, node: usize, disk: &Disk) {
        for (partition, promised) in (0..).zip(&mut self.promised[node]) {
            *promised = disk.folds(PartitionId(partition)).durable.promised;
        }
    }

    pub(super) fn published(&mut self, view: &View) -> Verdict {
        if view.epoch != self.epoch.next() {
            return Err(format!("the view goes from {} to {}", self.epoch, view.epoch));
        }
        self.epoch = view.epoch;
        for ((partition, configuration), (term, members)) in (0..).zip(&view.configurations).zip(&mut self.present) {
            let partition = PartitionId(partition);
            let unchanged = configuration.term == *term && configuration.replicas == *members;
            if !unchanged && configuration.term <= *term {
                return Err(format!("{partition} changes its order at {}, not above {term}", configuration.term));
            }
            if let Some(primary) = configuration.primary() {
                self.primaries.insert((partition, configuration.term), primary);
            }
            // P18: who was activated last stays known until others are.
            let activated = &mut self.activated[partition.0 as usize];
            let sorted = |nodes: &[NodeId]| {
                let mut nodes = nodes.to_vec();
                nodes.sort_unstable();
                nodes
            };
            let (now, prior) = (sorted(&configuration.replicas), sorted(&configuration.prior));
            if prior.is_empty() {
                let known = activated.is_empty() || now == *activated || configuration.term == *term;
                if !known {
                    return Err(format!("{partition} is activated at {} with other members", configuration.term));
                }
                *activated = now;
            } else if prior != *activated {
                return Err(format!("{partition} has the prior {prior:?}; {activated:?} were activated last"));
            }
            self.members[partition.0 as usize].insert(configuration.term, configuration.replicas.clone());
            *term = configuration.term;
            members.clone_from(&configuration.replicas);
        }
        Ok(())
    }
}
