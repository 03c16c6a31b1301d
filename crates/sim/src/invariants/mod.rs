//! What must hold at every instant of every world, one invariant in a file each.
//!
//! They look at what leaves a replica (its records, messages and answers) and at what the disks hold, never at its
//! memory, so that a replica that fools itself fools nobody here. The first violation ends the world.

mod acknowledged;
mod applied;
mod fences;
mod once;
mod prefixes;
mod promises;
mod readers;
mod rest;
mod serving;
mod terms;
mod truncation;

pub(crate) use rest::{Standstill, nodes as nodes_at_rest};

use crate::disk::{Disk, Folds};
use crate::queue::Micros;
use replcore::Fed;
use replcore::{Apply, Message, PersistRecord, Replica};
use std::collections::BTreeMap;
use std::fmt;
use types::{EntryId, Fence, NodeId, Page, PageQuery, PartitionId, RequestId, Seq, Term, View};

/// Which rule of the world was broken, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The invariant's short name.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// What an invariant says about what it saw.
type Verdict = Result<(), String>;

/// Everything that the invariants remember.
#[derive(Debug)]
pub(crate) struct Watch {
    violation: Option<Violation>,
    chosen: prefixes::Chosen,
    fences: fences::Fences,
    once: once::Once,
    serving: serving::Serving,
    terms: terms::Terms,
    living: readers::Living,
    /// By partition, the highest version that was acknowledged.
    acknowledged: Vec<Seq>,
}

/// Where a step happened, and what the disks hold.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) node: usize,
    pub(crate) start: u64,
    pub(crate) partition: PartitionId,
    pub(crate) disks: &'a [Disk],
    pub(crate) places: &'a BTreeMap<NodeId, usize>,
    pub(crate) lost: &'a BTreeMap<NodeId, Disk>,
}

impl<'a> Scene<'a> {
    fn folds(&self) -> &'a Folds {
        self.disks[self.node].folds(self.partition)
    }

    fn at(&self, node: NodeId) -> Option<&'a Folds> {
        let disk = match self.places.get(&node) {
            Some(place) => &self.disks[*place],
            None => self.lost.get(&node)?,
        };
        Some(disk.folds(self.partition))
    }

    /// How many of `members` have the entry on disk.
    fn holders(&self, members: &[NodeId], id: EntryId) -> usize {
        members.iter().filter(|n| self.at(**n).is_some_and(|folds| folds.durable.holds(id))).count()
    }
}

impl Watch {
    pub(crate) fn new(nodes: usize, partitions: u32) -> Watch {
        Watch {
            violation: None,
            chosen: prefixes::Chosen::new(nodes, partitions),
            fences: fences::Fences::default(),
            once: once::Once::new(partitions),
            serving: serving::Serving::default(),
            terms: terms::Terms::new(nodes, partitions),
            living: readers::Living::default(),
            acknowledged: vec![Seq(0); partitions as usize],
        }
    }

    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    pub(crate) fn violated(&mut self, invariant: &'static str, what: String) {
        self.violation.get_or_insert(Violation { invariant, what });
    }

    fn note(&mut self, invariant: &'static str, scene: Scene<'_>, verdict: Verdict) {
        if let Err(what) = verdict {
            let node = scene.disks[scene.node].id.unwrap_or_default();
            self.violated(invariant, format!("{node} {}: {what}", scene.partition));
        }
    }

    /// A client sends a fenced write.
    pub(crate) fn fenced(&mut self, request: RequestId, fence: &Fence) {
        self.fences.asked(request, fence);
    }

    /// A replica is about to write a record.
    pub(crate) fn writing(&mut self, scene: Scene<'_>, record: &PersistRecord) {
        if matches!(record, PersistRecord::Reset(_)) {
            self.chosen.begins_anew(scene);
        }
        let verdict = truncation::check(&self.chosen, scene, record);
        self.note("truncation", scene, verdict);
    }

    /// A replica has taken a step; its effects are carried out.
    pub(crate) fn stepped(&mut self, now: Micros, scene: Scene<'_>, replica: &Replica) {
        let base = replica.base();
        let verdict = self.terms.promised(scene, base.promised);
        self.note("terms", scene, verdict);
        loop {
            match self.chosen.next(scene, base.committed) {
                Ok(None) => return,
                Ok(Some(entry)) => {
                    let verdict = acknowledged::committed(scene, self.terms.members(scene.partition), entry.id);
                    self.note("acknowledged", scene, verdict);
                    let verdict = self.once.committed(scene.partition, &entry);
                    self.note("once", scene, verdict);
                    let verdict = self.living.committed(now, scene.partition, &entry);
                    self.note("expiry", scene, verdict);
                    let verdict = self.fences.committed(scene.partition, &entry);
                    self.note("fences", scene, verdict);
                }
                Err(what) => return self.note("prefixes", scene, Err(what)),
            }
        }
    }

    /// A message leaves.
    pub(crate) fn sending(&mut self, scene: Scene<'_>, message: &Message) {
        let primary = self.terms.primary(scene.partition, message.term);
        let verdict = promises::check(scene, message, primary);
        self.note("promises", scene, verdict);
    }

    /// A write is answered as done.
    pub(crate) fn acknowledging(&mut self, scene: Scene<'_>, replica: &Replica, version: types::Seq, durable_on: u32) {
        let highest = &mut self.acknowledged[scene.partition.0 as usize];
        *highest = version.max(*highest);
        let members = self.terms.members(scene.partition);
        let verdict = acknowledged::check(scene, replica, members, version, durable_on);
        self.note("acknowledged", scene, verdict);
    }

    /// The state is handed committed changes.
    pub(crate) fn applying(&mut self, scene: Scene<'_>, replica: &Replica, apply: &Apply) {
        let verdict = applied::check(&self.chosen, scene, replica, apply);
        self.note("applied", scene, verdict);
    }

    /// A node begins to serve.
    pub(crate) fn serving(&mut self, scene: Scene<'_>, id: NodeId, term: Term) {
        let verdict = self.serving.begins(scene.partition, term, id, scene.start);
        self.note("serving", scene, verdict);
        if self.terms.primary(scene.partition, term).is_some_and(|primary| primary != id) {
            self.note("serving", scene, Err(format!("serves {term}, which is another node's")));
        }
    }

    /// A view was committed.
    pub(crate) fn published(&mut self, view: &View) {
        if let Err(what) = self.terms.published(view) {
            self.violated("terms", what);
        }
    }

    /// A process ended: what it knew beyond its disk is gone.
    pub(crate) fn crashed(&mut self, node: usize, disk: &Disk) {
        self.chosen.crashed(node);
        self.terms.crashed(node, disk);
    }

    /// Whether some partition has committed what this request asks.
    pub(crate) fn was_done(&self, request: RequestId) -> bool {
        self.once.was_done(request)
    }

    /// The highest version that was acknowledged in a partition.
    pub(crate) fn acknowledged(&self, partition: PartitionId) -> Seq {
        self.acknowledged[partition.0 as usize]
    }

    /// The last entry that is committed in a partition.
    pub(crate) fn end(&self, partition: PartitionId) -> Seq {
        self.chosen.end(partition)
    }

    /// A partition with a key that will expire.
    pub(crate) fn expiring(&self) -> Option<PartitionId> {
        self.living.any()
    }

    /// A scanner was given a page.
    pub(crate) fn scanned(&mut self, partition: PartitionId, query: &PageQuery, page: &Page, floor: Seq) {
        if let Err(what) = readers::scanned(&self.chosen, partition, query, page, floor) {
            self.violated("scanned", format!("{partition}: {what}"));
        }
    }

    /// A watcher was told something.
    pub(crate) fn fed(&mut self, partition: PartitionId, after: Seq, fed: &Fed) {
        if let Err(what) = readers::fed(&self.chosen, partition, after, fed) {
            self.violated("watched", format!("{partition}: {what}"));
        }
    }

    /// Committed entries, over all partitions.
    pub(crate) fn entries(&self) -> u64 {
        self.chosen.count()
    }
}
