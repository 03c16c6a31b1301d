//! The shard's task: takes what arrives, steps replicas, and does what they ask.

mod arriving;
mod checkpoints;
mod leaving;

use crate::applier::Applier;
use crate::clock::{Clock, Moment};
use crate::fatal::Fatal;
use crate::filler::Filler;
use crate::journal::Journal;
use crate::me::Me;
use crate::meters::ShardMeters;
use crate::peer::Links;
use crate::peer::link::Era;
use crate::reports::Reports;
use crate::scanner::Scanner;
use crate::shard::burst::Burst;
use crate::shard::input::{Completion, Input, Persisted, Shards};
use crate::shard::lag::Lag;
use crate::shard::open::Open;
use crate::shard::retention::Retention;
use crate::shard::slot::{PartitionState, Slot};
use crate::shard::timers::Timers;
use crate::watch::feeds::Feeds;
use engine::{Engine, Keyspace};
use replcore::{Effect, Event, Replica, Settings, TransactionMessage};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use types::{ErrorCode, NodeId, PartitionId, View};
use wal::SegmentNumber;

/// How often replicas that ask for it get a tick, and deadlines are looked at.
pub(crate) const TICK_MS: u64 = 20;
/// A burst ends after this many inputs, so that its answers leave.
const BURST_INPUTS_MAX: usize = 256;
/// Or after events with about so many bytes: they become one submission to the log.
const BURST_BYTES_MAX: usize = 4 << 20;
/// How long after the node is told to stop its open requests may still be answered.
const STOP_MAX_MS: u64 = 500;
/// How often remembered requests are looked at.
const FORGET_EVERY: Duration = Duration::from_secs(15);

/// What a shard is made of.
pub(crate) struct Parts {
    /// This node.
    pub(crate) me: Me,
    /// Which shard, of how many.
    pub(crate) index: usize,
    /// See `index`.
    pub(crate) count: usize,
    /// Bounds of its replicas.
    pub(crate) settings: Settings,
    /// Unapplied bytes at which the engine gets them.
    pub(crate) unapplied_bytes_max: usize,
    /// The node's view when it started.
    pub(crate) view: Arc<View>,
    /// The applied state, for reading.
    pub(crate) engine: Arc<dyn Engine>,
    /// The applied state, for writing.
    pub(crate) applier: Applier,
    /// The applied state, for snapshots.
    pub(crate) filler: Filler,
    /// The applied state, for clients' scans.
    pub(crate) scanner: Scanner,
    /// The write-ahead log.
    pub(crate) journal: Arc<dyn Journal>,
    /// All shards of the node, by index: partitions speak to each other.
    pub(crate) shards: Shards,
    /// The ways to the peers.
    pub(crate) links: Arc<Links>,
    /// What the viewleader should hear.
    pub(crate) reports: Arc<Reports>,
    /// How the node ends.
    pub(crate) fatal: Arc<Fatal>,
    /// The node's clock.
    pub(crate) clock: Clock,
}

/// A replica that was found on disk.
pub(crate) struct Recovered {
    /// The replica.
    pub(crate) replica: Replica,
    /// Where the log holds its entries.
    pub(crate) retention: Retention,
    /// It goes out of service at once (P3).
    pub(crate) damaged: bool,
}

/// Who waits for a drain to be over.
type Drained = oneshot::Sender<()>;

/// One shard.
pub(crate) struct Worker {
    pub(super) parts: Parts,
    /// By partition id divided by the number of shards.
    pub(super) slots: Vec<Option<Box<Slot>>>,
    pub(super) open: Open,
    pub(super) now: Moment,
    pub(super) ticking: Vec<usize>,
    pub(super) last_tick: Moment,
    pub(super) ticks: u64,
    pub(super) lag: Lag<Drained>,
    pub(super) stopping: Option<Moment>,
    pub(super) completions: mpsc::UnboundedSender<Completion>,
    pub(super) meters: ShardMeters,
    pub(super) feeds: Feeds,
    pub(super) timers: Timers,
    completed: mpsc::UnboundedReceiver<Completion>,
    peers: BTreeMap<NodeId, Option<Era>>,
    burst: Burst,
    /// What partitions here have to say to others of this node, by shard.
    between: Vec<Vec<(PartitionId, TransactionMessage)>>,
    burst_bytes: usize,
    touched: Vec<usize>,
    effects: Vec<Effect>,
    /// Submissions to the log so far, and those that are on disk.
    submissions: u64,
    durable_submissions: u64,
    /// Who waits for the bases to be on disk, with the submission that holds them.
    trimming: Option<(u64, oneshot::Sender<Option<SegmentNumber>>)>,
    failed: bool,
}

impl Worker {
    /// A shard with the replicas that were found on disk.
    pub(crate) fn new(parts: Parts, recovered: Vec<Recovered>) -> Worker {
        let (completions, completed) = mpsc::unbounded_channel();
        let mut worker = Worker {
            slots: Vec::new(),
            open: Open::default(),
            now: parts.clock.now(),
            ticking: Vec::new(),
            last_tick: Moment(0),
            ticks: 0,
            lag: Lag::new(parts.unapplied_bytes_max),
            stopping: None,
            completions,
            meters: ShardMeters::new(parts.index),
            feeds: Feeds::default(),
            timers: Timers::default(),
            completed,
            peers: BTreeMap::new(),
            burst: Burst::default(),
            between: (0..parts.count).map(|_| Vec::new()).collect(),
            burst_bytes: 0,
            touched: Vec::new(),
            effects: Vec::new(),
            submissions: 0,
            durable_submissions: 0,
            trimming: None,
            failed: false,
            parts,
        };
        for Recovered { replica, retention, damaged } in recovered {
            let place = worker.place_of(replica.partition());
            worker.put(place, Slot::new(replica, retention));
            if damaged {
                worker.step(place, Event::Damaged);
            }
        }
        worker
    }

    /// Works until it is told to stop, or the node fails.
    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let mut ticker = tokio::time::interval(Duration::from_millis(TICK_MS));
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut forgetting = tokio::time::interval(FORGET_EVERY);
        let recovered: Vec<usize> = (0..self.slots.len()).filter(|place| self.slots[*place].is_some()).collect();
        for place in recovered {
            self.touch(place);
        }
        self.change_view(&self.parts.view.clone());
        self.end_burst();
        while !self.failed && !self.is_finished() {
            let (until_timer, any_timer) = (self.until_timer(), self.timers.next().is_some());
            tokio::select! {
                biased;
                Some(completion) = self.completed.recv() => {
                    self.now = self.parts.clock.now();
                    self.on_completion(completion);
                }
                input = inputs.recv() => {
                    let Some(input) = input else { break };
                    self.now = self.parts.clock.now();
                    self.on_input(input);
                }
                _ = ticker.tick(), if self.wants_ticks() => self.now = self.parts.clock.now(),
                () = tokio::time::sleep(until_timer), if any_timer => {
                    self.now = self.parts.clock.now();
                }
                _ = forgetting.tick() => {
                    self.now = self.parts.clock.now();
                    self.forget();
                }
            }
            // Who is ready to fill the queue does so first: larger bursts, fewer fsyncs and messages.
            tokio::task::yield_now().await;
            self.drain_queues(&mut inputs);
            if self.now >= self.last_tick.after_ms(TICK_MS) && self.wants_ticks() {
                self.on_tick();
            }
            self.propose_expired();
            self.end_burst();
        }
        tracing::debug!(shard = self.parts.index, "the shard has ended");
    }

    /// Takes what else is there, as long as the burst is not too large.
    fn drain_queues(&mut self, inputs: &mut mpsc::Receiver<Input>) {
        for _ in 0..BURST_INPUTS_MAX {
            if self.burst_bytes > BURST_BYTES_MAX {
                return;
            }
            if let Ok(completion) = self.completed.try_recv() {
                self.on_completion(completion);
            } else if let Ok(input) = inputs.try_recv() {
                self.on_input(input);
            } else {
                return;
            }
        }
    }

    fn is_finished(&self) -> bool {
        self.stopping.is_some_and(|latest| self.open.is_empty() || self.now >= latest)
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::Requests { connection, requests } => {
                self.meters.requests(requests.len());
                for request in requests {
                    self.on_request(&connection, request);
                }
            }
            Input::Messages { from, messages } => {
                self.meters.messages_received(messages.len());
                for (partition, message) in messages {
                    self.on_message(from, partition, message);
                }
            }
            Input::FromPartitions(messages) => self.hear_partitions(messages),
            Input::Peer(peer) => self.look_at_peer(peer),
            Input::View(view) => self.change_view(&view),
            Input::ActivationAnswered { partition, term, accepted } => {
                let place = self.place_of(partition);
                self.step(place, Event::ActivationAnswered { term, accepted });
            }
            Input::DamageNoted { partition, epoch } => {
                let place = self.place_of(partition);
                self.step(place, Event::DamageNoted { epoch });
            }
            Input::LeasesEnded(leases) => self.timers.leases_ended(&leases, self.now),
            Input::Drain(done) => self.lag.ask_to_drain(done),
            Input::Checkpointed { room_before, done } => self.trim(room_before, done),
            Input::Watch { watcher, wanted } => self.watch(&watcher, wanted),
            Input::WatchRoom(watcher) => self.feeds.room(&watcher),
            Input::WatchProgress(watcher) => self.feeds.progress(&watcher),
            Input::Stop => self.stop(),
        }
    }

    fn on_completion(&mut self, completion: Completion) {
        match completion {
            Completion::Persisted { segment, persisted } => {
                self.durable_submissions += 1;
                for Persisted { partition, through, highest, reset } in persisted {
                    let place = self.place_of(partition);
                    if let Some(slot) = self.slot(place) {
                        if reset {
                            slot.retention = Retention::default();
                        }
                        if let Some(highest) = highest {
                            slot.retention.note(segment, highest);
                        }
                    }
                    self.step(place, Event::Persisted { through });
                }
                self.answer_trimming();
            }
            Completion::FromPartitions(messages) => self.hear_partitions(messages),
            Completion::Applied(applied) => {
                for (Keyspace { partition, generation }, through) in applied {
                    let place = self.place_of(partition);
                    self.step(place, Event::Applied { generation, through });
                }
                let drained = self.lag.applied();
                self.answer_drain(drained);
            }
            Completion::Installed { keyspace: Keyspace { partition, generation }, number } => {
                let place = self.place_of(partition);
                self.step(place, Event::Installed { generation, number });
            }
            Completion::StateRead { partition, to, snapshot, records } => {
                self.burst_bytes += records.iter().map(|(_, record)| record.value.len()).sum::<usize>();
                let place = self.place_of(partition);
                self.step(place, Event::StateRead { to, snapshot, records });
            }
            Completion::Scanned { partition, token, applied, records, ended } => {
                let place = self.place_of(partition);
                self.step(place, Event::Scanned { token, applied, records, ended });
            }
            Completion::CatchUp => self.feeds.woken(),
            Completion::Damaged(partition) => {
                let place = self.place_of(partition);
                self.step(place, Event::Damaged);
            }
        }
    }

    fn stop(&mut self) {
        self.feeds.end_all(ErrorCode::ShuttingDown);
        let latest = self.now.after_ms(STOP_MAX_MS);
        self.stopping = Some(latest.after_ms(10 * TICK_MS));
        self.open.hurry(latest);
    }

    // ------------------------------------------------------------------------------------------------ views

    fn change_view(&mut self, view: &Arc<View>) {
        let before = std::mem::replace(&mut self.parts.view, view.clone());
        self.burst.set_links(self.parts.links.all());
        for place in 0..(view.configurations.len().saturating_sub(self.parts.index)).div_ceil(self.parts.count) {
            let partition = self.partition_at(place);
            let Some(configuration) = view.configuration(partition) else { continue };
            // What has not changed says nothing new, but to a replica that waits for any later view (P3).
            let is_known = before.configuration(partition).is_some_and(|before| Arc::ptr_eq(before, configuration));
            if is_known && self.slot(place).is_some_and(|slot| slot.seen_view && !slot.replica.is_out_of_service()) {
                continue;
            }
            if self.slot(place).is_none() && !(configuration.names(self.parts.me.node) && self.create(place, partition))
            {
                continue;
            }
            let event = Event::View { epoch: view.epoch, configuration: configuration.clone() };
            self.step(place, event);
            if let Some(slot) = self.slot(place) {
                slot.seen_view = true;
            }
        }
    }

    fn create(&mut self, place: usize, partition: PartitionId) -> bool {
        let Me { node, accepted_at, .. } = self.parts.me;
        match Replica::new(node, partition, accepted_at, self.parts.settings, Default::default()) {
            Ok(replica) => {
                self.put(place, Slot::new(replica, Retention::default()));
                true
            }
            Err(error) => {
                self.fail(crate::Error::Bug(format!("{partition} cannot begin empty: {error}")));
                false
            }
        }
    }

    fn put(&mut self, place: usize, slot: Slot) {
        if self.slots.len() <= place {
            self.slots.resize_with(place + 1, || None);
        }
        self.slots[place] = Some(Box::new(slot));
        let down: Vec<NodeId> = self.peers.iter().filter(|(_, era)| era.is_none()).map(|(peer, _)| *peer).collect();
        for peer in down {
            self.step(place, Event::PeerDown { peer });
        }
    }

    pub(super) fn place_of(&self, partition: PartitionId) -> usize {
        partition.0 as usize / self.parts.count
    }

    fn partition_at(&self, place: usize) -> PartitionId {
        PartitionId((place * self.parts.count + self.parts.index) as u32)
    }

    pub(super) fn slot(&mut self, place: usize) -> Option<&mut Slot> {
        self.slots.get_mut(place)?.as_deref_mut()
    }

    // ------------------------------------------------------------------------------------------------ steps

    /// Gives a replica an event and does what it asks. A place without a replica takes nothing.
    pub(super) fn step(&mut self, place: usize, event: Event) {
        let Some(Some(slot)) = self.slots.get_mut(place) else { return };
        let partition = slot.replica.partition();
        let state = PartitionState::new(self.parts.engine.as_ref(), partition);
        slot.replica.step(event, &state, &mut self.effects);
        if !slot.touched {
            slot.touched = true;
            self.touched.push(place);
        }
        if let Some(error) = state.failure() {
            self.fail(error.into());
        }
        if !self.effects.is_empty() {
            self.execute(place, partition);
        }
    }

    fn touch(&mut self, place: usize) {
        if let Some(slot) = self.slot(place)
            && !slot.touched
        {
            slot.touched = true;
            self.touched.push(place);
        }
    }

    /// The node ends: nothing that this burst holds leaves any more.
    fn fail(&mut self, error: crate::Error) {
        self.failed = true;
        self.effects.clear();
        self.parts.fatal.end(error);
    }
}
