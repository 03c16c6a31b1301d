//! A storage node: the real replicas, and a driver around them that keeps the core's contract and nothing more.
//!
//! What arrives waits in an inbox. When the process runs, it works the inbox off in order, then flushes every replica
//! that it touched, then hands committed changes to the state. A paused process does none of this; its disk and the
//! network go on.

use crate::context::Context;
use crate::disk::{Disk, Kept};
use crate::happening::{Ask, Envelope, FromGroup, Happening, Input, Process, Request, ToGroup};
use crate::network::Place;
use crate::queue::{MS, Micros};
use crate::trace::Short;
use replcore::{Answer, Body, Effect, Event, Message, Proposal, Recovered, Replica, State, StateDamaged, Token};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use types::{
    BootNonce, ClusterId, Epoch, ErrorCode, Generation, Incarnation, NodeId, PartitionId, Record, RecordKey, Seq,
    Stamp, Term, View,
};
use viewcore::observed::Serving;
use viewcore::{Heartbeat, Registration};

const REGISTER_EVERY: Micros = 80 * MS;
const RECONNECT_EVERY: Micros = 60 * MS;
const FORGET_EVERY: Micros = 400 * MS;
/// Milliseconds since 1970 when a world begins: any number that no skew makes negative.
pub(crate) const BEGINNING_MS: u64 = 1_000_000;

#[derive(Debug)]
pub(crate) struct Node {
    place: usize,
    process: Option<Running>,
    pub(crate) paused: bool,
    /// A sync takes this much longer.
    pub(crate) slow_disk: Micros,
    /// How far its clock is ahead or behind.
    skew_ms: i64,
}

/// One process, from its start to its end.
#[derive(Debug)]
struct Running {
    start: u64,
    /// What the disk gave each partition, until the process is accepted.
    recovered: Vec<Recovered>,
    /// By partition; none before the process is accepted.
    replicas: Vec<Replica>,
    accepted_at: Option<Epoch>,
    session: bool,
    inbox: VecDeque<Input>,
    waking: bool,
    syncing: bool,
    saving: bool,
    /// The newest view that is on its way to disk.
    writing_view: Epoch,
    requests: BTreeMap<Token, Request>,
    tokens: u64,
    serving: BTreeMap<PartitionId, Term>,
    serving_told: BTreeMap<PartitionId, Term>,
    /// Records before the first place can go once everything before the second is synced.
    cut: Option<(u64, u64)>,
}

struct PartitionState<'a> {
    kept: Option<&'a Kept>,
    damaged: bool,
}

impl State for PartitionState<'_> {
    fn get(&self, _: Generation, key: &RecordKey) -> Result<Option<Record>, StateDamaged> {
        if self.damaged {
            return Err(StateDamaged);
        }
        Ok(self.kept.and_then(|kept| kept.records.get(key)).cloned())
    }
}

impl Node {
    pub(crate) fn new(place: usize, ctx: &mut Context) -> Node {
        let most = ctx.plan.clock_skew_ms;
        let skew_ms = ctx.random.between(0, 2 * most) as i64 - most as i64;
        Node { place, process: None, paused: false, slow_disk: 0, skew_ms }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn is_accepted(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.accepted_at.is_some())
    }

    pub(crate) fn start_number(&self) -> Option<u64> {
        self.process.as_ref().map(|process| process.start)
    }

    pub(crate) fn replica(&self, partition: PartitionId) -> Option<&Replica> {
        self.process.as_ref()?.replicas.get(partition.0 as usize)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.process.as_ref().is_none_or(|process| process.requests.is_empty())
    }

    fn now_ms(&self, ctx: &Context) -> u64 {
        (BEGINNING_MS + ctx.now / MS).saturating_add_signed(self.skew_ms)
    }

    // ------------------------------------------------------------------------------------------- start and end

    pub(crate) fn start(&mut self, ctx: &mut Context) {
        let disk = &mut ctx.disks[self.place];
        // P20: the start count is on disk before anybody hears of it.
        disk.starts += 1;
        let start = disk.starts;
        let partitions = (0..ctx.plan.partitions).map(PartitionId);
        let recovered: Result<Vec<_>, _> = partitions.map(|partition| disk.recover(partition)).collect();
        let recovered = match recovered {
            Ok(recovered) => recovered,
            Err(error) => return ctx.watch.violated("recovery", format!("node {}: {error}", self.place)),
        };
        let (now, place) = (ctx.now, self.place);
        ctx.up[place] = true;
        ctx.trace.note(now, &[2, place as u64, start], || format!("node {place}: start {start}"));
        self.process = Some(Running {
            start,
            recovered,
            replicas: Vec::new(),
            accepted_at: None,
            session: false,
            inbox: VecDeque::new(),
            waking: false,
            syncing: false,
            saving: false,
            writing_view: Epoch(0),
            requests: BTreeMap::new(),
            tokens: start << 32,
            serving: BTreeMap::new(),
            serving_told: BTreeMap::new(),
            cut: None,
        });
        self.paused = false;
        let delay = ctx.between(0, 5 * MS);
        ctx.process(delay, place, start, Process::Register);
    }

    /// The process ends at once. What is lost is for the disk to say.
    pub(crate) fn crash(&mut self, ctx: &mut Context) {
        let Some(process) = self.process.take() else { return };
        self.paused = false;
        ctx.up[self.place] = false;
        let disk = &mut ctx.disks[self.place];
        let lost = disk.crash(&mut ctx.random);
        ctx.counts.crashes += 1;
        ctx.counts.records_lost += lost;
        ctx.watch.crashed(self.place, disk);
        let (now, place) = (ctx.now, self.place);
        ctx.trace.note(now, &[3, place as u64, lost], || {
            format!("node {place}: start {} ends, {lost} records are lost", process.start)
        });
    }

    pub(crate) fn resume(&mut self, ctx: &mut Context) {
        self.paused = false;
        if let Some(process) = &mut self.process {
            process.waking = true;
            ctx.process(0, self.place, process.start, Process::Wake);
        }
    }

    // ------------------------------------------------------------------------------------------- what arrives

    /// P6: only what is meant for this start of this node; P20: nothing before it is accepted.
    pub(crate) fn deliver(&mut self, ctx: &mut Context, envelope: Envelope) {
        let Envelope { from, incarnation, partition, message, .. } = envelope;
        if self.is_accepted() && self.start_number() == Some(incarnation.0) {
            ctx.counts.messages += 1;
            self.take(ctx, Input::Peer { from, partition, message });
        }
    }

    pub(crate) fn request(&mut self, ctx: &mut Context, request: Request) {
        if self.is_up() {
            self.take(ctx, Input::Request(request));
        }
    }

    pub(crate) fn take(&mut self, ctx: &mut Context, input: Input) {
        let Some(process) = &mut self.process else { return };
        process.inbox.push_back(input);
        if !process.waking && !self.paused {
            process.waking = true;
            let delay = ctx.random.between(1, 60);
            ctx.process(delay, self.place, process.start, Process::Wake);
        }
    }

    pub(crate) fn happen(&mut self, ctx: &mut Context, start: u64, what: Process) {
        let Some(process) = self.process.as_mut().filter(|process| process.start == start) else { return };
        match what {
            Process::Wake => {
                if !self.paused {
                    process.waking = false;
                    self.run(ctx);
                }
            }
            Process::Register => self.register(ctx),
            Process::Tick => {
                ctx.process(ctx.plan.tick_every, self.place, start, Process::Tick);
                if !self.paused {
                    self.take(ctx, Input::Tick);
                }
            }
            Process::Heartbeat => self.heartbeat(ctx),
            Process::Synced { end } => self.synced(ctx, end),
            Process::InState { partition, apply } => {
                let (generation, through) = (apply.generation, apply.through);
                ctx.disks[self.place].apply(partition, apply);
                self.take(ctx, Input::Applied { partition, generation, through });
            }
            Process::ViewOnDisk(view) => {
                if ctx.disks[self.place].view.as_ref().is_none_or(|there| there.epoch < view.epoch) {
                    self.meet(ctx, start, &view);
                    ctx.disks[self.place].view = Some(view.clone());
                }
                self.take(ctx, Input::View(view));
            }
            Process::Checkpoint => {
                ctx.process(ctx.plan.checkpoint_every, self.place, start, Process::Checkpoint);
                if !self.paused && !process.saving {
                    process.saving = true;
                    let count = ctx.disks[self.place].unsaved();
                    let delay = ctx.between(100, 20 * MS);
                    ctx.process(delay, self.place, start, Process::Saved { count });
                    self.take(ctx, Input::Forget);
                }
            }
            Process::Saved { count } => {
                process.saving = false;
                ctx.disks[self.place].save(count);
                self.take(ctx, Input::Saved);
            }
            Process::Reconnect(peer) => {
                let there = ctx.places.get(&peer).copied().filter(|at| ctx.up[*at]).map(Place::Node);
                let here = Place::Node(self.place);
                match there {
                    Some(there) if !ctx.network.is_cut(here, there) && !ctx.network.is_cut(there, here) => {
                        self.take(ctx, Input::PeerUp(peer));
                    }
                    _ => ctx.process(RECONNECT_EVERY, self.place, start, Process::Reconnect(peer)),
                }
            }
            Process::Input(input) => self.take(ctx, input),
        }
    }

    /// A peer that has started again has a new stream (P6).
    fn meet(&self, ctx: &mut Context, start: u64, view: &View) {
        let disk = &ctx.disks[self.place];
        let known = |id: NodeId| Some(disk.view.as_ref()?.nodes.get(&id)?.incarnation);
        let others = view.nodes.values().filter(|info| Some(info.id) != disk.id);
        let peers: Vec<NodeId> = others.filter(|info| known(info.id) != Some(info.incarnation)).map(|i| i.id).collect();
        for peer in peers {
            let delay = ctx.between(MS, 10 * MS);
            ctx.process(delay, self.place, start, Process::Input(Input::PeerUp(peer)));
        }
    }

    fn register(&mut self, ctx: &mut Context) {
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
                zone: String::new(),
                weight: 100,
                highest_epoch,
                highest_promised: disk.highest_promised(),
            };
            let what = ToGroup::Register { node: self.place, start, registration };
            ctx.send(Place::Node(self.place), Place::Leader, Happening::ToGroup(what));
        }
        ctx.process(REGISTER_EVERY, self.place, start, Process::Register);
    }

    fn heartbeat(&mut self, ctx: &mut Context) {
        let Some(process) = &mut self.process else { return };
        ctx.process(ctx.plan.heartbeat_every, self.place, process.start, Process::Heartbeat);
        let (Some(id), false, true) = (ctx.disks[self.place].id, self.paused, process.session) else { return };
        let mut serving = Vec::new();
        for partition in (0..ctx.plan.partitions).map(PartitionId) {
            let term = process.serving.get(&partition).copied().unwrap_or_default();
            if process.serving_told.insert(partition, term) != Some(term) {
                let behind = process.replicas.get(partition.0 as usize).map(Replica::behind).unwrap_or_default();
                serving.push(Serving { partition, term, behind: behind.into_iter().collect() });
            }
        }
        let epoch = ctx.disks[self.place].view.as_ref().map_or(Epoch(0), |view| view.epoch);
        let heartbeat = Heartbeat { epoch, serving, keys: 0, bytes: 0 };
        let what = ToGroup::Heartbeat { node: self.place, start: process.start, id, heartbeat };
        ctx.send(Place::Node(self.place), Place::Leader, Happening::ToGroup(what));
    }

    fn synced(&mut self, ctx: &mut Context, end: u64) {
        let disk = &mut ctx.disks[self.place];
        let covered = disk.sync(end);
        if let Some(process) = &mut self.process {
            process.syncing = false;
            if let Some((cut, _)) = process.cut.take_if(|(_, written)| *written <= end) {
                disk.cut(cut);
            }
        }
        for (partition, through) in covered {
            self.take(ctx, Input::Persisted { partition, through });
        }
        self.sync(ctx);
    }

    fn sync(&mut self, ctx: &mut Context) {
        let Some(process) = &mut self.process else { return };
        let end = ctx.disks[self.place].end();
        if !process.syncing && end > ctx.disks[self.place].synced() {
            process.syncing = true;
            let (low, high) = ctx.plan.sync;
            let delay = ctx.between(low, high) + ctx.random.below(self.slow_disk + 1);
            ctx.process(delay, self.place, process.start, Process::Synced { end });
        }
    }

    // ------------------------------------------------------------------------------------------- the process runs

    fn run(&mut self, ctx: &mut Context) {
        let mut touched = BTreeSet::new();
        while let Some(input) = self.process.as_mut().and_then(|process| process.inbox.pop_front()) {
            self.work(ctx, input, &mut touched);
        }
        for partition in &touched {
            self.step(ctx, *partition, Event::Flush);
        }
        for partition in touched {
            self.apply(ctx, partition);
        }
        self.sync(ctx);
    }

    fn work(&mut self, ctx: &mut Context, input: Input, touched: &mut BTreeSet<PartitionId>) {
        let mut one = |node: &mut Node, ctx: &mut Context, partition, event| {
            touched.insert(partition);
            node.step(ctx, partition, event);
        };
        match input {
            Input::Peer { from, partition, message } => {
                self.trace_message(ctx, "from", from, partition, &message);
                one(self, ctx, partition, Event::Message { from, message });
            }
            Input::Persisted { partition, through } => one(self, ctx, partition, Event::Persisted { through }),
            Input::Applied { partition, generation, through } => {
                one(self, ctx, partition, Event::Applied { generation, through });
            }
            Input::Expire { partition, token } => {
                if self.process.as_ref().is_some_and(|process| process.requests.contains_key(&token)) {
                    one(self, ctx, partition, Event::Expire { tokens: vec![token] });
                }
            }
            Input::Damaged(partition) => one(self, ctx, partition, Event::Damaged),
            Input::View(view) => {
                let (now, place) = (ctx.now, self.place);
                ctx.trace.note(now, &[4, place as u64, view.epoch.0], || format!("node {place}: view {}", view.epoch));
                for (partition, configuration) in view.partition_count.ids().zip(&view.configurations) {
                    let configuration = configuration.clone();
                    one(self, ctx, partition, Event::View { epoch: view.epoch, configuration });
                }
            }
            Input::Tick => {
                for partition in (0..ctx.plan.partitions).map(PartitionId) {
                    if self.replica(partition).is_some_and(Replica::needs_tick) {
                        one(self, ctx, partition, Event::Tick);
                    }
                }
            }
            Input::Forget => {
                let before = Stamp(self.now_ms(ctx).saturating_sub(ctx.plan.request_memory_ms));
                for partition in (0..ctx.plan.partitions).map(PartitionId) {
                    if self.replica(partition).and_then(Replica::oldest_request).is_some_and(|oldest| oldest < before) {
                        one(self, ctx, partition, Event::Forget { before });
                    }
                }
            }
            Input::PeerUp(peer) => {
                for partition in (0..ctx.plan.partitions).map(PartitionId) {
                    one(self, ctx, partition, Event::PeerUp { peer });
                }
            }
            Input::PeerDown(peer) => {
                if let Some(start) = self.start_number() {
                    let delay = ctx.between(MS, RECONNECT_EVERY);
                    ctx.process(delay, self.place, start, Process::Reconnect(peer));
                }
                for partition in (0..ctx.plan.partitions).map(PartitionId) {
                    one(self, ctx, partition, Event::PeerDown { peer });
                }
            }
            Input::Saved => {
                for partition in (0..ctx.plan.partitions).map(PartitionId) {
                    let (generation, through) = ctx.disks[self.place].saved_through(partition);
                    one(self, ctx, partition, Event::Checkpointed { generation, through });
                }
                self.trim(ctx);
            }
            Input::Request(request) => {
                let partition = request.partition;
                if self.is_accepted() {
                    touched.insert(partition);
                }
                self.begin(ctx, request);
            }
            Input::Group(what) => self.hear(ctx, what, touched),
        }
    }

    /// Lets old records of the log go, once what else they said is written again.
    fn trim(&mut self, ctx: &mut Context) {
        let Some(process) = self.process.as_ref().filter(|p| p.cut.is_none() && !p.replicas.is_empty()) else { return };
        let first_kept: Vec<Seq> = process.replicas.iter().map(Replica::first_kept).collect();
        let cut = ctx.disks[self.place].needless(&first_kept);
        for partition in (0..ctx.plan.partitions).map(PartitionId) {
            self.step(ctx, partition, Event::WriteBase);
        }
        let written = ctx.disks[self.place].end();
        if let Some(process) = &mut self.process {
            process.cut = Some((cut, written));
        }
    }

    fn begin(&mut self, ctx: &mut Context, request: Request) {
        let forget_before = Stamp(self.now_ms(ctx).saturating_sub(ctx.plan.request_memory_ms));
        let Some(process) = &mut self.process else { return };
        if process.accepted_at.is_none() {
            return self.answer(ctx, &request, Answer::Error(ErrorCode::Unavailable));
        }
        process.tokens += 1;
        let (token, partition) = (Token(process.tokens), request.partition);
        let event = match &request.ask {
            Ask::Get(key) => Event::Read { token, key: key.clone() },
            Ask::Mutate { id, stamp, mutation } => {
                let (id, stamp, mutation) = (*id, *stamp, mutation.clone());
                Event::Mutate { token, proposal: Proposal { id, stamp, mutation, forget_before } }
            }
        };
        let expire = Process::Input(Input::Expire { partition, token });
        ctx.process(request.patience, self.place, process.start, expire);
        process.requests.insert(token, request);
        self.step(ctx, partition, event);
    }

    fn answer(&mut self, ctx: &mut Context, request: &Request, answer: Answer) {
        let Request { client, number, attempt, .. } = *request;
        let what = Happening::Answered { client, number, attempt, answer };
        ctx.send(Place::Node(self.place), Place::Clients, what);
    }

    // ------------------------------------------------------------------------------------------- the group speaks

    fn hear(&mut self, ctx: &mut Context, what: FromGroup, touched: &mut BTreeSet<PartitionId>) {
        match what {
            FromGroup::Accepted { id, accepted_at, view } => self.accepted(ctx, id, accepted_at, view),
            FromGroup::Refused(why) => {
                ctx.watch.violated("viewleader", format!("node {} is refused: {why}", self.place));
            }
            FromGroup::View(view) => self.learn(ctx, view),
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

    fn accepted(&mut self, ctx: &mut Context, id: NodeId, accepted_at: Epoch, view: Arc<View>) {
        let Some(process) = &mut self.process else { return };
        process.session = true;
        process.serving_told.clear();
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
        for partition in disk.damaged.clone() {
            self.take(ctx, Input::Damaged(partition));
        }
        if let Some(known) = known {
            self.take(ctx, Input::View(known));
        }
        self.learn(ctx, view);
        for (what, every) in [
            (Process::Tick, ctx.plan.tick_every),
            (Process::Heartbeat, 1),
            (Process::Checkpoint, ctx.plan.checkpoint_every.max(FORGET_EVERY / 8)),
        ] {
            let delay = ctx.between(1, every);
            ctx.process(delay, self.place, start, what);
        }
    }

    /// P5: a view is on disk before it is acted on, and only a newer one counts.
    fn learn(&mut self, ctx: &mut Context, view: Arc<View>) {
        let Some(process) = &mut self.process else { return };
        let known = ctx.disks[self.place].view.as_ref();
        if known.is_some_and(|known| known.epoch >= view.epoch) || process.writing_view >= view.epoch {
            return;
        }
        process.writing_view = view.epoch;
        let start = process.start;
        let delay = ctx.random.between(50, ctx.plan.view_write_max);
        ctx.process(delay, self.place, start, Process::ViewOnDisk(view));
    }

    // ------------------------------------------------------------------------------------------- the replicas

    fn step(&mut self, ctx: &mut Context, partition: PartitionId, event: Event) {
        let Some(process) = &mut self.process else { return };
        let Some(replica) = process.replicas.get_mut(partition.0 as usize) else { return };
        let disk = &ctx.disks[self.place];
        let damaged = disk.damaged.contains(&partition);
        let state = PartitionState { kept: disk.live(partition, replica.base().generation), damaged };
        let mut effects = Vec::new();
        replica.step(event, &state, &mut effects);
        for effect in effects {
            self.carry_out(ctx, partition, effect);
        }
        let Some(process) = &self.process else { return };
        let scene = scene(self.place, process.start, partition, &ctx.disks, &ctx.places);
        ctx.watch.stepped(scene, &process.replicas[partition.0 as usize]);
    }

    fn apply(&mut self, ctx: &mut Context, partition: PartitionId) {
        let Some(process) = &mut self.process else { return };
        let Some(replica) = process.replicas.get_mut(partition.0 as usize) else { return };
        let Some(apply) = replica.take_apply() else { return };
        let scene = scene(self.place, process.start, partition, &ctx.disks, &ctx.places);
        ctx.watch.applying(scene, replica, &apply);
        let (delay, start) = (ctx.random.between(10, ctx.plan.apply_max), process.start);
        ctx.process(delay, self.place, start, Process::InState { partition, apply });
    }

    fn carry_out(&mut self, ctx: &mut Context, partition: PartitionId, effect: Effect) {
        let Some(process) = &mut self.process else { return };
        let (place, start, now) = (self.place, process.start, ctx.now);
        let scene = scene(place, start, partition, &ctx.disks, &ctx.places);
        let here = Place::Node(place);
        match effect {
            Effect::Persist { index, record } => {
                ctx.watch.writing(scene, &record);
                ctx.trace
                    .note(now, &[5, place as u64, index.0], || format!("node {place}: {partition} writes {record:?}"));
                ctx.disks[place].append(partition, index, record);
            }
            Effect::Send { to, message } => {
                ctx.watch.sending(scene, &message);
                self.trace_message(ctx, "to", to, partition, &message);
                let from = ctx.disks[place].id.unwrap_or_default();
                let known = ctx.disks[place].view.as_ref().and_then(|view| view.nodes.get(&to));
                if let (Some(at), Some(incarnation)) = (ctx.places.get(&to).copied(), known.map(|n| n.incarnation)) {
                    let envelope = Envelope { from, to: at, incarnation, partition, message };
                    ctx.send(here, Place::Node(at), Happening::Peer(envelope));
                }
            }
            Effect::Reply { token, answer } => {
                if let Answer::Written { outcome, durable_on, .. } = &answer {
                    let replica = &process.replicas[partition.0 as usize];
                    ctx.watch.acknowledging(scene, replica, outcome.version, *durable_on);
                }
                let Some(request) = process.requests.remove(&token) else {
                    return ctx.watch.violated("answers", format!("node {place} answers {token:?} twice: {answer:?}"));
                };
                ctx.trace.note(now, &[6, place as u64, token.0], || {
                    format!("node {place}: {partition} answers client {} {answer:?}", request.client)
                });
                self.answer(ctx, &request, answer);
            }
            Effect::Serving { term } => {
                ctx.trace.note(now, &[7, place as u64, term.map_or(0, |t| t.0)], || {
                    format!("node {place}: {partition} serves {term:?}")
                });
                match term {
                    Some(term) => {
                        ctx.counts.terms_served += 1;
                        ctx.watch.serving(scene, ctx.disks[place].id.unwrap_or_default(), term);
                        process.serving.insert(partition, term);
                    }
                    None => drop(process.serving.remove(&partition)),
                }
            }
            Effect::DeleteData { generation } => ctx.disks[place].delete(partition, generation),
            Effect::ReportActivated { term } => {
                let what = ToGroup::Activated { node: place, start, partition, term };
                ctx.send(here, Place::Leader, Happening::ToGroup(what));
            }
            Effect::ReportStuck { term, unreachable } => {
                let node = ctx.disks[place].id.unwrap_or_default();
                ctx.trace.note(now, &[8, place as u64, term.0], || {
                    format!("node {place}: {partition} is stuck at {term}, {unreachable:?} do not answer")
                });
                let what = ToGroup::Stuck { node, partition, term, unreachable };
                ctx.send(here, Place::Leader, Happening::ToGroup(what));
            }
            Effect::ReportDamaged => {
                let id = ctx.disks[place].id.unwrap_or_default();
                let what = ToGroup::Damaged { node: place, start, id, partition };
                ctx.send(here, Place::Leader, Happening::ToGroup(what));
            }
            Effect::WantView => {
                let epoch = ctx.disks[place].view.as_ref().map_or(Epoch(0), |view| view.epoch);
                ctx.send(here, Place::Leader, Happening::ToGroup(ToGroup::WantView { node: place, start, epoch }));
            }
        }
    }

    fn trace_message(&self, ctx: &mut Context, way: &str, peer: NodeId, partition: PartitionId, message: &Message) {
        let (now, place) = (ctx.now, self.place);
        let Message { term, body } = message;
        let numbers = match body {
            Body::Prepare { prev, entries, committed, .. } => [prev.seq.0, entries.len() as u64, committed.0],
            Body::Prepared { seq } => [seq.0, 1, 0],
            Body::Confirm { nonce } | Body::Confirmed { nonce } => [*nonce, 2, 0],
            Body::Mismatch { last, committed } | Body::Sealed { last, committed } => [last.seq.0, 3, committed.0],
            _ => [0, 4, 0],
        };
        ctx.trace.note(now, &[9, place as u64, peer.0, term.0, numbers[0], numbers[1], numbers[2]], || {
            format!("node {place}: {partition} {way} {peer}: {term} {}", describe(body))
        });
    }
}

fn scene<'a>(
    node: usize,
    start: u64,
    partition: PartitionId,
    disks: &'a [Disk],
    places: &'a BTreeMap<NodeId, usize>,
) -> crate::invariants::Scene<'a> {
    crate::invariants::Scene { node, start, partition, disks, places }
}

fn describe(body: &Body) -> String {
    match body {
        Body::Prepare { prev, entries, committed, .. } => {
            let ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
            format!("prepare {ids:?} after {prev:?}, committed {committed}")
        }
        other => format!("{other:?}"),
    }
}

/// A request's value, short.
pub(crate) fn short(bytes: &[u8]) -> Short<'_> {
    Short(bytes)
}
