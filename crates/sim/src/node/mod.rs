//! A storage node: the real replicas, and a driver around them that keeps the core's contract and nothing more.
//!
//! What arrives waits in an inbox. When the process runs, it works the inbox off in order, then flushes every replica
//! that it touched, then hands committed changes to the state. A paused process does none of this; its disk and the
//! network go on.

mod replicas;
mod serving;
mod session;
mod work;

use crate::context::Context;
use crate::happening::{Envelope, Input, Process, Request};
use crate::network::Place;
use crate::queue::{MS, Micros};
use crate::readers::Subscription;
use bytes::Bytes;
use replcore::{Recovered, Replica, Token, TransactionMessage};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use types::{Epoch, Incarnation, NodeId, PartitionId, Seq, Term};

const RECONNECT_EVERY: Micros = 60 * MS;
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
    /// The state's thread has jobs until then.
    state_busy_until: Micros,
    /// The newest view that is on its way to disk.
    writing_view: Epoch,
    requests: BTreeMap<Token, Request>,
    tokens: u64,
    serving: BTreeMap<PartitionId, Term>,
    /// Who watches, and what it has been told.
    watchers: BTreeMap<(PartitionId, usize), Subscription>,
    /// Versions that will expire.
    timers: BTreeMap<(PartitionId, Bytes), Seq>,
    /// Records before the first place can go once everything before the second is synced.
    cut: Option<(u64, u64)>,
}

/// How a node is called in a trace: by its id once it has one.
#[derive(Clone, Copy)]
struct Name(usize, Option<NodeId>);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(id) => write!(f, "{id}"),
            None => write!(f, "node {}", self.0),
        }
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

    fn name(&self, ctx: &Context) -> Name {
        Name(self.place, ctx.disks[self.place].id)
    }

    fn now_ms(&self, ctx: &Context) -> u64 {
        (BEGINNING_MS + ctx.now / MS).saturating_add_signed(self.skew_ms)
    }

    // ------------------------------------------------------------------------------------------- start and end

    pub(crate) fn start(&mut self, ctx: &mut Context) {
        let disk = &mut ctx.disks[self.place];
        // P20: the start count is on disk before anybody hears of it.
        disk.starts += 1;
        disk.forget_other_generations();
        let start = disk.starts;
        let partitions = (0..ctx.plan.partitions).map(PartitionId);
        let recovered: Result<Vec<_>, _> = partitions.map(|partition| disk.recover(partition)).collect();
        let recovered = match recovered {
            Ok(recovered) => recovered,
            Err(error) => return ctx.watch.violated("recovery", format!("node {}: {error}", self.place)),
        };
        let (now, place, name) = (ctx.now, self.place, self.name(ctx));
        ctx.up[place] = true;
        ctx.starts[place] = start;
        ctx.trace.note(now, &[2, place as u64, start], || format!("{name}: start {start}"));
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
            state_busy_until: 0,
            writing_view: Epoch(0),
            requests: BTreeMap::new(),
            tokens: start << 32,
            serving: BTreeMap::new(),
            watchers: BTreeMap::new(),
            timers: BTreeMap::new(),
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
        let (now, place, name) = (ctx.now, self.place, self.name(ctx));
        ctx.trace.note(now, &[3, place as u64, lost], || {
            format!("{name}: start {} ends, {lost} records are lost", process.start)
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

    /// P6: only what is meant for this start of this node.
    pub(crate) fn deliver_between_partitions(
        &mut self,
        ctx: &mut Context,
        incarnation: Incarnation,
        partition: PartitionId,
        message: TransactionMessage,
    ) {
        if self.is_accepted() && self.start_number() == Some(incarnation.0) {
            ctx.counts.messages += 1;
            self.take(ctx, Input::Partition { partition, message });
        }
    }

    pub(crate) fn request(&mut self, ctx: &mut Context, request: Request) {
        if self.is_up() {
            self.take(ctx, Input::Request(request));
        }
    }

    pub(crate) fn subscribe(&mut self, ctx: &mut Context, subscription: Subscription) {
        if self.is_accepted() {
            self.take(ctx, Input::Subscribe(subscription));
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
            Process::State(job) => self.job_done(ctx, job),
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
}
