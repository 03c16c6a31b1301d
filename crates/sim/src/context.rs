//! What every part of a world may use: time, chance, the network, all disks, and those who watch.

use crate::disk::Disk;
use crate::happening::{FromGroup, Happening, Input, Process};
use crate::invariants::Watch;
use crate::network::{Network, Place};
use crate::plan::Plan;
use crate::queue::{Micros, Queue};
use crate::random::Random;
use crate::trace::Trace;
use crate::trap::Trap;
use std::collections::BTreeMap;
use types::NodeId;

/// What a run counted; says whether a world was lively enough to prove anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Things that happened.
    pub events: u64,
    /// Operations that clients began.
    pub operations: u64,
    /// Of those, answered.
    pub answered: u64,
    /// Of those, with an unknown outcome.
    pub unknown: u64,
    /// Messages delivered between replicas.
    pub messages: u64,
    /// Terms in which some node began to serve.
    pub terms_served: u64,
    /// Processes that ended.
    pub crashes: u64,
    /// Records that crashes took.
    pub records_lost: u64,
    /// Committed entries, over all partitions.
    pub entries: u64,
    /// Snapshots begun.
    pub snapshots: u64,
    /// Partitions whose members changed.
    pub moved: u64,
    /// Disks lost.
    pub wiped: u64,
    /// Transactions answered.
    pub transactions: u64,
    /// Pages that scanners were given.
    pub pages: u64,
    /// Changes that watchers were told.
    pub fed: u64,
    /// Times that a watcher had to begin anew.
    pub compacted: u64,
    /// Keys that expired.
    pub expired: u64,
}

impl Counts {
    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Counts) -> Counts {
        Counts {
            events: self.events + other.events,
            operations: self.operations + other.operations,
            answered: self.answered + other.answered,
            unknown: self.unknown + other.unknown,
            messages: self.messages + other.messages,
            terms_served: self.terms_served + other.terms_served,
            crashes: self.crashes + other.crashes,
            records_lost: self.records_lost + other.records_lost,
            entries: self.entries + other.entries,
            snapshots: self.snapshots + other.snapshots,
            moved: self.moved + other.moved,
            wiped: self.wiped + other.wiped,
            transactions: self.transactions + other.transactions,
            pages: self.pages + other.pages,
            fed: self.fed + other.fed,
            compacted: self.compacted + other.compacted,
            expired: self.expired + other.expired,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) now: Micros,
    pub(crate) random: Random,
    pub(crate) plan: Plan,
    queue: Queue<Happening>,
    pub(crate) network: Network,
    pub(crate) disks: Vec<Disk>,
    /// Disks that were lost, as they were: what lay on them still counts as having been there.
    pub(crate) lost: BTreeMap<NodeId, Disk>,
    /// Which nodes have a process.
    pub(crate) up: Vec<bool>,
    /// The latest start of each node.
    pub(crate) starts: Vec<u64>,
    /// Which node an id belongs to.
    pub(crate) places: BTreeMap<NodeId, usize>,
    pub(crate) watch: Watch,
    pub(crate) trace: Trace,
    pub(crate) counts: Counts,
    /// Faults are over.
    pub(crate) healed: bool,
    /// Where a process is to die.
    pub(crate) trap: Trap,
}

impl Context {
    pub(crate) fn new(random: Random, plan: Plan, trace: Trace) -> Context {
        Context {
            now: 0,
            random,
            queue: Queue::new(),
            network: Network::new(plan.link),
            disks: (0..plan.nodes).map(|_| Disk::new(plan.partitions)).collect(),
            lost: BTreeMap::new(),
            up: vec![false; plan.nodes],
            starts: vec![0; plan.nodes],
            places: BTreeMap::new(),
            watch: Watch::new(plan.nodes, plan.partitions),
            trace,
            counts: Counts::default(),
            healed: false,
            trap: Trap::default(),
            plan,
        }
    }

    /// The next thing that happens; time moves to it.
    pub(crate) fn next(&mut self) -> Option<Happening> {
        let (at, happening) = self.queue.take()?;
        self.now = at;
        self.counts.events += 1;
        Some(happening)
    }

    /// Lets something happen `delay` from now.
    pub(crate) fn after(&mut self, delay: Micros, happening: Happening) {
        self.queue.put(self.now + delay, happening);
    }

    pub(crate) fn process(&mut self, delay: Micros, node: usize, start: u64, what: Process) {
        self.after(delay, Happening::Process { node, start, what });
    }

    /// Sends over the network, which may lose, delay or double it.
    pub(crate) fn send(&mut self, from: Place, to: Place, happening: Happening) {
        match self.network.delays(&mut self.random, from, to) {
            [Some(delay), Some(again)] => {
                self.after(delay, happening.clone());
                self.after(again, happening);
            }
            [Some(delay), None] => self.after(delay, happening),
            [None, _] => {}
        }
    }

    /// The group tells a node's process something.
    pub(crate) fn tell(&mut self, node: usize, start: u64, what: FromGroup) {
        let what = Process::Input(Input::Group(what));
        self.send(Place::Leader, Place::Node(node), Happening::Process { node, start, what });
    }

    /// A time between two bounds.
    pub(crate) fn between(&mut self, low: Micros, high: Micros) -> Micros {
        self.random.between(low, high)
    }
}
