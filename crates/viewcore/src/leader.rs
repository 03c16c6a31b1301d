//! One leadership: events in, effects out.
//!
//! The Raft leader feeds everything that concerns storage nodes to [`Leader::step`] and carries out what it answers:
//! commands to propose, one at a time, and addresses to probe. A new leadership begins with a new `Leader`.

use crate::command::{Bootstrap, Change, Command};
use crate::detector::Detector;
use crate::observed::{Heartbeat, Observed};
use crate::patience::Patience;
use crate::plan;
use crate::plan::moving::Planned;
use crate::state::ClusterState;
use std::collections::{BTreeMap, BTreeSet};
use types::{NodeId, PartitionId, Term};

/// Primaries that one rebalancing change moves at most: each costs its partition a moment.
const BALANCE_MOVES_MAX: usize = 32;
/// Between two changes that move replicas: what gets ready meanwhile goes together. Every change costs every node a sync.
const STEPS_EVERY_MS: u64 = 100;
/// Time between two rebalancing changes, and since the last failure or return of a node.
const BALANCE_AFTER_MS: u64 = 2_000;
/// A stuck primary reports again and again; a report that was not repeated for this long is no longer believed.
const STUCK_BELIEVED_MS: u64 = 5_000;
/// Time between two probes of a node.
const PROBE_PAUSE_MS: u64 = 100;

/// What a leadership is told to keep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaderSettings {
    /// Silence after which a node counts as dead, in milliseconds.
    pub node_timeout_ms: u64,
    /// How long a node may be dead before its replicas are rebuilt elsewhere, in milliseconds, unless an operator set it.
    pub replace_after_ms: u64,
    /// Proposed if the cluster has no identity yet.
    pub bootstrap: Bootstrap,
}

/// What happens to a leader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Time passes: to be sent every 50 ms or so.
    Tick,
    /// The last proposal was applied, refused or lost.
    Settled,
    /// The state has changed.
    Changed,
    /// A node registered with this leader. Its session is open from now on.
    Registered {
        /// Which node.
        node: NodeId,
        /// Whether it was known with an earlier incarnation.
        restarted: bool,
    },
    /// A node's session ended.
    SessionEnded(NodeId),
    /// A node's heartbeat.
    Heartbeat(NodeId, Heartbeat),
    /// Someone thinks that this node is gone.
    Suspect(NodeId),
    /// A probe ended: whether the connection was refused.
    Probed {
        /// Which node.
        node: NodeId,
        /// Refused: nothing listens there. Otherwise it says nothing.
        refused: bool,
    },
    /// An operator says that this node is gone: evidence, unless it was heard within the timeout (P21).
    Vouched(NodeId),
    /// A primary can't commit, or can't finish its takeover (P19), or lost its memory of the term (P11).
    Stuck {
        /// Who reports.
        node: NodeId,
        /// Its partition.
        partition: PartitionId,
        /// The term it is stuck at.
        term: Term,
        /// Members that it could not reach.
        unreachable: BTreeSet<NodeId>,
        /// The member that has what it lacks and can't be given any more.
        holder: Option<NodeId>,
    },
}

/// What a leader wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Write this command to the log; then answer [`Event::Settled`], whatever became of it.
    Propose(Command),
    /// Try to connect to the node's address; then answer [`Event::Probed`].
    Probe {
        /// Which node.
        node: NodeId,
        /// Where, `host:port`.
        address: String,
    },
}

/// A primary's report that it is stuck.
#[derive(Clone, Debug)]
struct Stuck {
    term: Term,
    report: plan::StuckReport,
    reported_ms: u64,
}

/// The memory of one leadership.
#[derive(Clone, Debug)]
pub struct Leader {
    settings: LeaderSettings,
    detector: Detector,
    observed: Observed,
    patience: Patience,
    sessions: BTreeSet<NodeId>,
    probing: BTreeSet<NodeId>,
    probed_ms: BTreeMap<NodeId, u64>,
    stuck: BTreeMap<PartitionId, Stuck>,
    held_back: BTreeSet<NodeId>,
    proposing: bool,
    unrest_ms: u64,
    /// When replicas were moved on last.
    stepped_ms: u64,
    /// Since when nodes have been dead, as far as this leader knows.
    dead_since_ms: BTreeMap<NodeId, u64>,
    planned: Planned,
}

impl Leader {
    /// A leadership that begins at `now_ms`.
    pub fn new(settings: LeaderSettings, now_ms: u64) -> Leader {
        Leader {
            detector: Detector::new(settings.node_timeout_ms, now_ms),
            settings,
            observed: Observed::default(),
            patience: Patience::default(),
            sessions: BTreeSet::new(),
            probing: BTreeSet::new(),
            probed_ms: BTreeMap::new(),
            stuck: BTreeMap::new(),
            held_back: BTreeSet::new(),
            proposing: false,
            dead_since_ms: BTreeMap::new(),
            planned: Planned::default(),
            unrest_ms: now_ms,
            stepped_ms: now_ms,
        }
    }

    /// What heartbeats said.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Milliseconds since a node was last heard.
    pub fn silent_for_ms(&self, node: NodeId, now_ms: u64) -> Option<u64> {
        self.detector.silent_for_ms(node, now_ms)
    }

    /// Nodes that are silent, but too many at once to be declared dead without evidence (P21).
    pub fn held_back(&self) -> &BTreeSet<NodeId> {
        &self.held_back
    }

    /// Takes in one event; `state` is what is applied by now.
    pub fn step(&mut self, now_ms: u64, event: Event, state: &ClusterState) -> Vec<Effect> {
        let mut effects = Vec::new();
        // Before anything is judged: whatever the first event after a long sleep is, nobody was heard meanwhile.
        self.detector.tick(now_ms);
        match event {
            Event::Tick => {
                for node in state.nodes() {
                    if node.alive {
                        self.dead_since_ms.remove(&node.id);
                    } else {
                        self.dead_since_ms.entry(node.id).or_insert(now_ms);
                    }
                }
                // A node that lost its session and whose port was still open may be closing it just now.
                let without_session: Vec<NodeId> =
                    state.nodes().map(|node| node.id).filter(|node| !self.sessions.contains(node)).collect();
                for node in without_session {
                    self.probe(now_ms, node, state, &mut effects);
                }
                for node in self.held_back.clone() {
                    let Some(address) = state.node(node).map(|info| &info.address) else { continue };
                    let at_its_address = state.nodes().filter(|other| other.id != node && other.address == *address);
                    for other in at_its_address.map(|other| other.id).collect::<Vec<_>>() {
                        if self.detector.answers(other, now_ms) {
                            self.replaced_at_its_address(now_ms, other, state);
                        }
                    }
                }
            }
            Event::Settled => self.proposing = false,
            Event::Changed => {}
            Event::Registered { node, restarted } => {
                self.detector.heard(node, now_ms);
                self.sessions.insert(node);
                self.observed.forget_serving(node);
                self.unrest_ms = now_ms;
                if restarted {
                    self.patience.restarted(node, now_ms);
                }
                self.replaced_at_its_address(now_ms, node, state);
            }
            Event::SessionEnded(node) => {
                self.sessions.remove(&node);
                self.observed.forget_serving(node);
                self.probed_ms.remove(&node);
                self.probe(now_ms, node, state, &mut effects);
            }
            Event::Heartbeat(node, heartbeat) => {
                self.detector.heard(node, now_ms);
                self.observed.heartbeat(node, &heartbeat);
                // The most frequent event by far, and nothing that can't wait for the next tick but a learner that is full.
                if heartbeat.serving.iter().all(|serving| serving.filled.is_none()) {
                    return effects;
                }
            }
            Event::Vouched(node) => {
                if !self.detector.answers(node, now_ms) {
                    self.detector.refused(node);
                }
            }
            Event::Suspect(node) => self.probe(now_ms, node, state, &mut effects),
            Event::Probed { node, refused } => {
                self.probing.remove(&node);
                // An open session speaks louder than a closed port.
                if refused && !self.sessions.contains(&node) {
                    self.detector.refused(node);
                }
            }
            Event::Stuck { node, partition, term, unreachable, holder } => {
                let current = state.view().and_then(|view| view.configuration(partition));
                if current.is_some_and(|current| current.term == term && current.primary() == Some(node)) {
                    let report = plan::StuckReport { unreachable, holder };
                    self.stuck.insert(partition, Stuck { term, report, reported_ms: now_ms });
                }
            }
        }
        self.plan(now_ms, state, &mut effects);
        effects
    }

    fn probe(&mut self, now_ms: u64, node: NodeId, state: &ClusterState, effects: &mut Vec<Effect>) {
        let just_probed = self.probed_ms.get(&node).is_some_and(|at| now_ms.saturating_sub(*at) < PROBE_PAUSE_MS);
        if let Some(info) = state.node(node).filter(|info| info.alive)
            && !just_probed
            && self.probing.insert(node)
        {
            self.probed_ms.insert(node, now_ms);
            effects.push(Effect::Probe { node, address: info.address.clone() });
        }
    }

    /// A node whose address another one has now, and which has no session or is silent, is not there any more.
    fn replaced_at_its_address(&mut self, now_ms: u64, newcomer: NodeId, state: &ClusterState) {
        let Some(address) = state.node(newcomer).map(|info| &info.address) else { return };
        for other in state.nodes() {
            let speaks = self.sessions.contains(&other.id) && self.detector.answers(other.id, now_ms);
            if other.alive && other.id != newcomer && other.address == *address && !speaks {
                self.detector.refused(other.id);
            }
        }
    }

    fn plan(&mut self, now_ms: u64, state: &ClusterState, effects: &mut Vec<Effect>) {
        if self.proposing || state.halted().is_some() {
            return;
        }
        let command = if state.view().is_none() {
            Some(Command::Bootstrap(self.settings.bootstrap.clone()))
        } else {
            self.next_change(now_ms, state).map(Command::Change)
        };
        if let Some(command) = command {
            self.proposing = true;
            effects.push(Effect::Propose(command));
        }
    }

    fn next_change(&mut self, now_ms: u64, state: &ClusterState) -> Option<Change> {
        let alive: BTreeSet<NodeId> = state.nodes().filter(|node| node.alive).map(|node| node.id).collect();
        let verdict = self.detector.verdict(&alive, now_ms);
        let returned = self
            .sessions
            .iter()
            .copied()
            .filter(|node| !alive.contains(node) && self.detector.answers(*node, now_ms))
            .collect();
        self.held_back = verdict.held_back;
        let avoid = self.patience.avoided(now_ms);
        if let Some(change) = plan::failover(state, &self.observed, &verdict.dead, &returned, &avoid) {
            self.detector.declared_dead(&change.dead, now_ms);
            self.unrest_ms = now_ms;
            return Some(change);
        }
        // A node that is marked alive but has no session may be gone already.
        if alive.is_subset(&self.sessions)
            && let Some(change) = plan::first_map(state)
        {
            return Some(change);
        }
        if let Some(change) = self.next_stuck(now_ms, state, &avoid) {
            return Some(change);
        }
        let gone = self.gone(now_ms, state);
        let shunned = avoid.union(&self.held_back).copied().collect();
        if now_ms.saturating_sub(self.stepped_ms) >= STEPS_EVERY_MS
            && let Some(change) = plan::moving::steps(state, &self.observed, &gone, &shunned, &mut self.planned)
        {
            (self.unrest_ms, self.stepped_ms) = (now_ms, now_ms);
            return Some(change);
        }
        if now_ms.saturating_sub(self.unrest_ms) < BALANCE_AFTER_MS {
            return None;
        }
        // Whether or not there is something to do: planning this is the dearest part of a tick.
        self.unrest_ms = now_ms;
        plan::balance(state, &self.observed, &shunned, BALANCE_MOVES_MAX)
    }

    /// How many partitions still get another primary, so that every node leads its share.
    pub fn handovers(&self, now_ms: u64, state: &ClusterState) -> usize {
        let shunned = self.patience.avoided(now_ms).union(&self.held_back).copied().collect();
        let balance = plan::balance(state, &self.observed, &shunned, usize::MAX);
        balance.map_or(0, |change| change.placements.len())
    }

    /// How long a node may be dead before its replicas are rebuilt elsewhere, in milliseconds.
    pub fn replace_after_ms(&self, state: &ClusterState) -> u64 {
        state.policy().replace_after_ms.unwrap_or(self.settings.replace_after_ms)
    }

    /// Nodes that have been dead for so long that their replicas are rebuilt elsewhere.
    pub fn gone(&self, now_ms: u64, state: &ClusterState) -> BTreeSet<NodeId> {
        let patience_ms = self.replace_after_ms(state);
        let over = |since_ms: &u64| now_ms.saturating_sub(*since_ms) >= patience_ms;
        let dead = state.nodes().filter(|node| !node.alive).map(|node| node.id);
        dead.filter(|node| self.dead_since_ms.get(node).is_some_and(over)).collect()
    }

    /// Everything stuck that may move now, in one change.
    fn next_stuck(&mut self, now_ms: u64, state: &ClusterState, avoid: &BTreeSet<NodeId>) -> Option<Change> {
        let view = state.view()?;
        self.stuck.retain(|partition, stuck| {
            now_ms.saturating_sub(stuck.reported_ms) <= STUCK_BELIEVED_MS
                && view.configuration(*partition).is_some_and(|current| current.term == stuck.term)
        });
        let stuck: BTreeMap<PartitionId, &plan::StuckReport> = self
            .stuck
            .iter()
            .filter(|(partition, _)| self.patience.may_move(**partition, now_ms))
            .map(|(partition, stuck)| (*partition, &stuck.report))
            .collect();
        let change = plan::move_primaries(state, &stuck, avoid, |node| self.detector.answers(node, now_ms))?;
        let moved = change.placements.iter().map(|(partition, _)| partition);
        for partition in moved.chain(change.steps.iter().map(|(partition, _)| partition)) {
            self.patience.moved(*partition, now_ms);
        }
        self.unrest_ms = now_ms;
        Some(change)
    }
}
