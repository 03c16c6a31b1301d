//! The viewleader group as one: the real state machine and the real leader of `viewcore`, with Raft reduced to what it
//! promises. A command is applied some time after it was proposed; one that was under way when its leader was lost may
//! be applied or not, and nobody hears of it.

use crate::context::Context;
use crate::happening::{FromGroup, Group as What, Happening, ToGroup, Whose};
use crate::network::Place;
use crate::queue::{MS, Micros};
use std::collections::BTreeMap;
use std::sync::Arc;
use types::{ClusterId, NodeId, PartitionCount, View};
use viewcore::leader::{Effect, Event, Leader, LeaderSettings};
use viewcore::{Bootstrap, ClusterState, Command, Done, Step};

const TICK_EVERY: Micros = 50 * MS;
const COMMIT: (Micros, Micros) = (MS, 12 * MS);

#[derive(Debug)]
pub(crate) struct Group {
    state: ClusterState,
    leader: Option<Leader>,
    /// Counts leaders; what an earlier one was waiting for is void.
    leadership: u64,
    sessions: BTreeMap<NodeId, (usize, u64)>,
    settings: LeaderSettings,
}

impl Group {
    pub(crate) fn new(ctx: &mut Context) -> Group {
        let bootstrap = Bootstrap {
            cluster: ClusterId(7),
            partition_count: PartitionCount::new(ctx.plan.partitions).expect("a plan's partitions are a power of two"),
            replication: ctx.plan.replication,
            expected_nodes: ctx.plan.founders as u32,
        };
        let settings =
            LeaderSettings { node_timeout_ms: ctx.plan.node_timeout_ms, replace_after_ms: 600_000, bootstrap };
        ctx.after(0, Happening::Group(What::NewLeader));
        Group { state: ClusterState::default(), leader: None, leadership: 0, sessions: BTreeMap::new(), settings }
    }

    pub(crate) fn view(&self) -> Option<&Arc<View>> {
        self.state.view()
    }

    pub(crate) fn state(&self) -> &ClusterState {
        &self.state
    }

    pub(crate) fn has_leader(&self) -> bool {
        self.leader.is_some()
    }

    pub(crate) fn lose_leader(&mut self) {
        self.leader = None;
        self.sessions.clear();
        self.leadership += 1;
    }

    pub(crate) fn hear(&mut self, ctx: &mut Context, what: ToGroup) {
        if self.leader.is_none() {
            return;
        }
        match what {
            ToGroup::Register { node, start, registration } => {
                self.propose(ctx, Command::Register(registration), Whose::Registering { node, start });
            }
            ToGroup::Heartbeat { node, start, id, heartbeat } => {
                if self.sessions.get(&id) != Some(&(node, start)) {
                    return ctx.tell(node, start, FromGroup::NoSession);
                }
                if let Some(view) = self.state.view().filter(|view| view.epoch > heartbeat.epoch) {
                    ctx.tell(node, start, FromGroup::View(view.clone()));
                }
                self.step(ctx, Event::Heartbeat(id, heartbeat));
            }
            ToGroup::Stuck { node, partition, term, unreachable, holder } => {
                let unreachable = unreachable.into_iter().collect();
                self.step(ctx, Event::Stuck { node, partition, term, unreachable, holder });
            }
            ToGroup::Activated { node, start, partition, term } => {
                let whose = Whose::Activating { node, start, partition, term };
                self.propose(ctx, Command::Activated { partition, term }, whose);
            }
            ToGroup::Damaged { node, start, id, partition, term } => {
                let whose = Whose::Damaged { node, start, partition };
                self.propose(ctx, Command::NoteDamage { node: id, partition, term }, whose);
            }
            ToGroup::WantView { node, start, epoch } => {
                if let Some(view) = self.state.view().filter(|view| view.epoch > epoch) {
                    ctx.tell(node, start, FromGroup::View(view.clone()));
                }
            }
            ToGroup::Suspect(node) => self.step(ctx, Event::Suspect(node)),
            ToGroup::Vouch(node) => self.step(ctx, Event::Vouched(node)),
            ToGroup::Operate(operation) => self.propose(ctx, Command::Operate(operation), Whose::Operator),
        }
    }

    pub(crate) fn happen(&mut self, ctx: &mut Context, what: What) {
        match what {
            What::NewLeader => {
                self.leadership += 1;
                self.leader = Some(Leader::new(self.settings.clone(), ctx.now / MS));
                ctx.after(0, Happening::Group(What::Tick { leadership: self.leadership }));
            }
            What::Tick { leadership } if leadership == self.leadership => {
                self.step(ctx, Event::Tick);
                ctx.after(TICK_EVERY, Happening::Group(What::Tick { leadership }));
            }
            What::Commit { leadership, command, whose } => self.commit(ctx, leadership, &command, whose),
            What::SessionEnded { node, start } => {
                if self.sessions.get(&node).is_some_and(|(_, open)| *open == start) {
                    self.sessions.remove(&node);
                    self.step(ctx, Event::SessionEnded(node));
                }
            }
            What::Probed { leadership, node } if leadership == self.leadership => {
                let place = ctx.places.get(&node).copied();
                let reached = place.is_some_and(|at| !ctx.network.is_cut(Place::Leader, Place::Node(at)));
                let refused = reached && place.is_some_and(|at| !ctx.up[at]);
                self.step(ctx, Event::Probed { node, refused });
            }
            What::Tick { .. } | What::Probed { .. } => {}
        }
    }

    fn propose(&mut self, ctx: &mut Context, command: Command, whose: Whose) {
        let delay = ctx.between(COMMIT.0, COMMIT.1);
        ctx.after(delay, Happening::Group(What::Commit { leadership: self.leadership, command, whose }));
    }

    fn commit(&mut self, ctx: &mut Context, leadership: u64, command: &Command, whose: Whose) {
        let heard = leadership == self.leadership && self.leader.is_some();
        if !heard && ctx.random.chance(500) {
            return;
        }
        let known: Vec<NodeId> = self.state.nodes().map(|node| node.id).collect();
        let epoch = self.state.epoch();
        let outcome = self.state.apply(command);
        if let (Command::Change(change), Ok(_)) = (command, &outcome) {
            ctx.counts.moved += change.steps.iter().filter(|(_, step)| matches!(step, Step::Members(_))).count() as u64;
        }
        let at = ctx.now;
        ctx.trace.note(at, &[1, self.state.epoch().0], || format!("group: {command:?} -> {outcome:?}"));
        if let Some(alarm) = self.state.halted() {
            ctx.watch.violated("viewleader", format!("the viewleader group stopped: {alarm}"));
        }
        if let Some(view) = self.state.view().filter(|view| view.epoch > epoch).cloned() {
            ctx.watch.published(&view);
            for (_, (node, start)) in self.sessions.clone() {
                ctx.tell(node, start, FromGroup::View(view.clone()));
            }
        }
        if !heard {
            return;
        }
        match (whose, outcome) {
            (Whose::Leader, _) => self.step(ctx, Event::Settled),
            (Whose::Registering { node, start }, Ok(Done::Registered { node: id, accepted_at })) => {
                if let Some(view) = self.state.view().cloned() {
                    // A copy that arrives after its disk was lost says nothing about the disk that is there now.
                    if !ctx.lost.contains_key(&id) {
                        ctx.places.insert(id, node);
                    }
                    let open = self.sessions.get(&id).map_or(0, |(_, start)| *start);
                    // A late copy of an earlier start's registration is refused, never accepted over a later one.
                    if start >= open {
                        self.sessions.insert(id, (node, start));
                    }
                    ctx.tell(node, start, FromGroup::Accepted { id, accepted_at, view });
                    self.step(ctx, Event::Registered { node: id, restarted: known.contains(&id) && open != start });
                }
            }
            // A refusal that ends by itself is met by asking again.
            (Whose::Registering { node, start }, Err(refusal)) if !refusal.code().is_retryable() => {
                ctx.tell(node, start, FromGroup::Refused(refusal));
            }
            (Whose::Activating { node, start, partition, term }, outcome) => {
                let accepted = outcome.is_ok();
                ctx.tell(node, start, FromGroup::ActivationAnswered { partition, term, accepted });
            }
            (Whose::Damaged { node, start, partition }, Ok(Done::DamageNoted(epoch))) => {
                ctx.tell(node, start, FromGroup::DamageNoted { partition, epoch });
            }
            (Whose::Damaged { .. } | Whose::Registering { .. } | Whose::Operator, _) => {}
        }
    }

    fn step(&mut self, ctx: &mut Context, event: Event) {
        let Some(leader) = &mut self.leader else { return };
        for effect in leader.step(ctx.now / MS, event, &self.state) {
            match effect {
                Effect::Propose(command) => {
                    let delay = ctx.between(COMMIT.0, COMMIT.1);
                    let (leadership, whose) = (self.leadership, Whose::Leader);
                    ctx.after(delay, Happening::Group(What::Commit { leadership, command, whose }));
                }
                Effect::Probe { node, .. } => {
                    let delay = ctx.between(MS, 5 * MS);
                    let what = What::Probed { leadership: self.leadership, node };
                    ctx.after(delay, Happening::Group(what));
                }
            }
        }
    }
}
