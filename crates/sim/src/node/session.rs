//! The node and the viewleader group: registration (P20), heartbeats, views (P5).

use super::Node;
use crate::context::Context;
use crate::happening::{FromGroup, Happening, Input, Process, ToGroup};
use crate::network::Place;
use crate::queue::{MS, Micros};
use replcore::{Event, Replica};
use std::collections::BTreeSet;
use std::sync::Arc;
use types::{BootNonce, ClusterId, Epoch, Incarnation, NodeId, PartitionId, View};
use viewcore::observed::Serving;
use viewcore::{Heartbeat, Refusal, Registration};

const REGISTER_EVERY: Micros = 80 * MS;

impl Node {
    /// A peer that has started again has a new stream (P6).
    pub(super) fn meet(&self, ctx: &mut Context, start: u64, view: &View) {
        let disk = &ctx.disks[self.place];
        let known = |id: NodeId| Some(disk.view.as_ref()?.nodes.get(&id)?.incarnation);
        let others = view.nodes.values().filter(|info| Some(info.id) != disk.id);
        let peers: Vec<NodeId> = others.filter(|info| known(info.id) != Some(info.incarnation)).map(|i| i.id).collect();
        for peer in peers {
            let delay = ctx.between(MS, 10 * MS);
            ctx.process(delay, self.place, start, Process::Input(Input::PeerUp(peer)));
        }
    }

    pub(super) fn register(&mut self, ctx: &mut Context) {
        let Some(process) = self.process.as_ref().filter(|process| !process.session) else { return };
        let start = process.start;
        if !self.paused {
            let disk = &ctx.disks[self.place];
            let highest_epoch = disk.view.as_ref().map_or(Epoch(0), |view| view.epoch);
            let registration = Registration {
                cluster: if disk.id.is_some() { ClusterId(7) } else { ClusterId::NONE },
                node: disk.id,
                incarnation: Incarnation(start),
                nonce: BootNonce((self.place as u64) << 32 | start),
                address: format!("node{}:1", self.place),
                http_address: String::new(),
                zone: format!("z{}", self.place % ctx.plan.zones),
                weight: 100,
                highest_epoch,
                highest_promised: disk.highest_promised(),
            };
            let what = ToGroup::Register { node: self.place, start, registration };
            ctx.send(Place::Node(self.place), Place::Leader, Happening::ToGroup(what));
        }
        ctx.process(REGISTER_EVERY, self.place, start, Process::Register);
    }

    pub(super) fn heartbeat(&mut self, ctx: &mut Context) {
        let Some(process) = &mut self.process else { return };
        ctx.process(ctx.plan.heartbeat_every, self.place, process.start, Process::Heartbeat);
        let (Some(id), false, true) = (ctx.disks[self.place].id, self.paused, process.session) else { return };
        let mut serving = Vec::new();
        for partition in (0..ctx.plan.partitions).map(PartitionId) {
            let term = process.serving.get(&partition).copied().unwrap_or_default();
            let replica = process.replicas.get(partition.0 as usize);
            let behind = replica.map(Replica::behind).unwrap_or_default().into_iter().collect();
            // All of it each time: here heartbeats can be lost.
            serving.push(Serving { partition, term, behind, filled: replica.and_then(Replica::filled) });
        }
        let epoch = ctx.disks[self.place].view.as_ref().map_or(Epoch(0), |view| view.epoch);
        let heartbeat = Heartbeat { epoch, serving, ..Heartbeat::default() };
        let what = ToGroup::Heartbeat { node: self.place, start: process.start, id, heartbeat };
        ctx.send(Place::Node(self.place), Place::Leader, Happening::ToGroup(what));
    }

    pub(super) fn hear(&mut self, ctx: &mut Context, what: FromGroup, touched: &mut BTreeSet<PartitionId>) {
        match what {
            FromGroup::Accepted { id, accepted_at, view } => self.accepted(ctx, id, accepted_at, view),
            // An operator gives it a new directory.
            FromGroup::Refused(Refusal::Forgotten(_)) => {
                self.wipe(ctx);
                self.start(ctx);
            }
            FromGroup::Refused(why) => {
                ctx.watch.violated("viewleader", format!("node {} is refused: {why}", self.place));
            }
            // A session's first message is its acceptance; a view that overtook it belongs to an earlier session.
            FromGroup::View(view) if self.is_accepted() => self.learn(ctx, view),
            FromGroup::View(_) => {}
            FromGroup::NoSession => {
                let Some(process) = &mut self.process else { return };
                if std::mem::take(&mut process.session) {
                    ctx.process(0, self.place, process.start, Process::Register);
                }
            }
            FromGroup::ActivationAnswered { partition, term, accepted } => {
                touched.insert(partition);
                self.step(ctx, partition, Event::ActivationAnswered { term, accepted });
            }
            FromGroup::DamageNoted { partition, epoch } => {
                touched.insert(partition);
                self.step(ctx, partition, Event::DamageNoted { epoch });
            }
        }
    }

    pub(super) fn accepted(&mut self, ctx: &mut Context, id: NodeId, accepted_at: Epoch, view: Arc<View>) {
        let Some(process) = &mut self.process else { return };
        process.session = true;
        if let Some(first) = process.accepted_at {
            // P20: a registration that is retried gets the same epoch.
            if first != accepted_at {
                let what = format!("node {} was accepted at {first}, and again at {accepted_at}", self.place);
                ctx.watch.violated("viewleader", what);
            }
            return self.learn(ctx, view);
        }
        process.accepted_at = Some(accepted_at);
        let disk = &mut ctx.disks[self.place];
        disk.id = Some(id);
        for (partition, recovered) in (0..).map(PartitionId).zip(std::mem::take(&mut process.recovered)) {
            match Replica::new(id, partition, accepted_at, ctx.plan.settings, recovered) {
                Ok(replica) => process.replicas.push(replica),
                Err(error) => return ctx.watch.violated("recovery", format!("{id} {partition}: {error}")),
            }
        }
        let start = process.start;
        let known = disk.view.clone();
        // Streams with it are up only from now on (P20).
        let others = (0..ctx.plan.nodes).filter(|other| *other != self.place && ctx.up[*other]);
        for other in others.collect::<Vec<_>>() {
            let delay = ctx.random.between(MS, 10 * MS);
            let other_start = ctx.starts[other];
            ctx.process(delay, other, other_start, Process::Input(Input::PeerUp(id)));
        }
        let disk = &mut ctx.disks[self.place];
        for partition in disk.damaged() {
            self.take(ctx, Input::Damaged(partition));
        }
        if let Some(known) = known {
            self.take(ctx, Input::View(known));
        }
        self.learn(ctx, view);
        for (what, every) in [
            (Process::Tick, ctx.plan.tick_every),
            (Process::Heartbeat, 1),
            (Process::Checkpoint, ctx.plan.checkpoint_every),
        ] {
            let delay = ctx.between(1, every);
            ctx.process(delay, self.place, start, what);
        }
    }

    /// The disk is lost, with everything on it: what starts here next is another node.
    pub(crate) fn wipe(&mut self, ctx: &mut Context) {
        self.crash(ctx);
        let (place, partitions) = (self.place, ctx.plan.partitions);
        let lost = std::mem::replace(&mut ctx.disks[place], crate::disk::Disk::new(partitions));
        // Starts are numbered on: what is under way to an earlier one must not reach a later one.
        ctx.disks[place].starts = lost.starts;
        if let Some(id) = lost.id {
            ctx.places.remove(&id);
            ctx.lost.insert(id, lost);
        }
        ctx.watch.crashed(place, &ctx.disks[place]);
        ctx.counts.wiped += 1;
    }

    /// P5: a view is on disk before it is acted on, and only a newer one counts.
    pub(super) fn learn(&mut self, ctx: &mut Context, view: Arc<View>) {
        let Some(process) = &mut self.process else { return };
        let known = ctx.disks[self.place].view.as_ref();
        if known.is_some_and(|known| known.epoch >= view.epoch) || process.writing_view >= view.epoch {
            return;
        }
        // Forgotten while it was away: an operator gives it a new directory.
        let own = ctx.disks[self.place].id;
        if own.is_some_and(|own| !view.nodes.contains_key(&own)) {
            self.wipe(ctx);
            return self.start(ctx);
        }
        process.writing_view = view.epoch;
        let start = process.start;
        let delay = ctx.random.between(50, ctx.plan.view_write_max);
        ctx.process(delay, self.place, start, Process::ViewOnDisk(view));
    }
}
