//! The shard's task: takes what arrives, steps replicas, and does what they ask.

use crate::applier::{Applier, Part};
use crate::clock::{self, Clock, Moment};
use crate::fatal::Fatal;
use crate::filler::{Filler, Page};
use crate::journal::Journal;
use crate::kv::answer;
use crate::me::Me;
use crate::meters::ShardMeters;
use crate::peer::Links;
use crate::peer::link::Era;
use crate::reports::Reports;
use crate::scanner::{Scan, Scanner};
use crate::shard::burst::Burst;
use crate::shard::input::{Completion, Incoming, Input, Persisted, Shards};
use crate::shard::lag::{self, Lag};
use crate::shard::open::{Open, OpenRequest};
use crate::shard::retention::Retention;
use crate::shard::slot::{PartitionState, Slot};
use crate::shard::timers::Timers;
use crate::watch::feeds::Feeds;
use engine::{Engine, Keyspace};
use replcore::{
    Answer, Body, Effect, Event, Message, Proposal, Replica, Settings, TransactionMessage, TransactionProposal,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use types::{ErrorCode, NodeId, PartitionId, Stamp, View};
use wal::SegmentNumber;
use wire::convert::Operation;

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

    // ------------------------------------------------------------------------------------------------ clients, peers

    fn on_request(&mut self, connection: &Arc<crate::kv::connection::Connection>, request: Incoming) {
        let Incoming { number, partition, operation, deadline } = request;
        let place = self.place_of(partition);
        let (changes, overloaded) = (operation.changes(), self.lag.is_overloaded());
        let calendar_ms = clock::calendar_ms();
        let refused = match (self.stopping, self.slot(place)) {
            (Some(_), _) => Some(ErrorCode::ShuttingDown),
            (None, None) => Some(ErrorCode::NotPrimary),
            (None, Some(_)) if changes && overloaded => Some(ErrorCode::Overloaded),
            (None, Some(slot)) if is_from_the_future(&operation, calendar_ms, slot.replica.refused_before()) => {
                Some(ErrorCode::StampTooOld)
            }
            (None, Some(_)) => None,
        };
        if let Some(code) = refused {
            let view = Some(self.parts.view.as_ref());
            let mut response = answer::refusal(number, self.parts.me.node, Some(partition), code, None, view);
            self.suggest_time(place, code, &mut response);
            self.burst.answer(connection.clone(), response);
            return;
        }
        let token = self.open.insert(OpenRequest { connection: connection.clone(), number, partition, deadline });
        let event = match operation {
            Operation::Get(key) => Event::Read { token, key },
            Operation::Scan(_, query) => Event::ReadPage { token, query },
            Operation::Collect(keys) => Event::Collect { token, keys },
            Operation::Transact(transaction, id, stamp) => {
                let parts = transaction.split(self.parts.view.partition_count);
                let forget_before = clock::forget_before(calendar_ms, stamp);
                let proposal = TransactionProposal { id, stamp, parts, forget_before };
                Event::Transact { token, proposal: Box::new(proposal) }
            }
            Operation::Mutate(mutation, id, stamp) => {
                self.burst_bytes += mutation.kind.value().map_or(0, bytes::Bytes::len);
                let forget_before = clock::forget_before(calendar_ms, stamp);
                let proposal = Proposal { id, stamp, mutation, forget_before };
                Event::Mutate { token, proposal }
            }
        };
        self.step(place, event);
    }

    /// P28: who is refused for its stamp hears of one that would be accepted.
    fn suggest_time(&mut self, place: usize, code: ErrorCode, response: &mut wire::v1::Response) {
        if code == ErrorCode::StampTooOld
            && let Some(slot) = self.slot(place)
        {
            response.server_time_ms = clock::acceptable_ms(clock::calendar_ms(), slot.replica.refused_before());
        }
    }

    fn hear_partitions(&mut self, messages: Vec<(PartitionId, TransactionMessage)>) {
        self.meters.messages_received(messages.len());
        for (partition, message) in messages {
            let place = self.place_of(partition);
            self.step(place, Event::FromPartition { message });
        }
    }

    /// To whoever is that partition's primary by the newest view that this node has.
    fn send_to_partition(&mut self, partition: PartitionId, message: TransactionMessage) {
        let primary = self.parts.view.configuration(partition).and_then(|configuration| configuration.primary());
        match primary {
            Some(node) if node == self.parts.me.node => {
                self.between[partition.0 as usize % self.parts.count].push((partition, message));
            }
            Some(node) => self.burst.send_to_partition(node, partition, message),
            // The partition map is not there yet: it will be said again.
            None => {}
        }
    }

    /// What partitions of this node have to say to each other leaves.
    fn speak_between(&mut self) {
        for index in 0..self.between.len() {
            if self.between[index].is_empty() {
                continue;
            }
            let messages = std::mem::take(&mut self.between[index]);
            if index == self.parts.index {
                // The receiver is this worker.
                let _heard = self.completions.send(Completion::FromPartitions(messages));
            } else {
                self.parts.shards.at(index).offer(Input::FromPartitions(messages));
            }
        }
    }

    fn on_message(&mut self, from: NodeId, partition: PartitionId, message: Message) {
        if partition.0 >= self.parts.view.partition_count.get() {
            tracing::warn!(%from, %partition, "a message for a partition that the cluster does not have");
            return;
        }
        self.burst_bytes += match &message.body {
            Body::Prepare { entries, .. } | Body::Fetched { entries, .. } => {
                entries.iter().map(|entry| entry.payload.len()).sum::<usize>()
            }
            Body::Chunk(chunk) => chunk.bytes(),
            _ => 0,
        };
        let message = if self.lag.is_overloaded() { lag::without_entries(message) } else { message };
        let place = self.place_of(partition);
        // P4: without a record the replica answers that it is no member.
        if self.slot(place).is_none() && !self.create(place, partition) {
            return;
        }
        self.step(place, Event::Message { from, message });
    }

    /// Tells the replicas what has become of a peer's stream.
    fn look_at_peer(&mut self, peer: NodeId) {
        self.burst.set_links(self.parts.links.all());
        let era = self.burst.link(peer).and_then(|link| link.era());
        let event = match (self.peers.insert(peer, era), era) {
            (Some(known), now) if known == now => return,
            (_, Some(_)) => Event::PeerUp { peer },
            (_, None) => Event::PeerDown { peer },
        };
        for place in 0..self.slots.len() {
            self.step(place, event.clone());
        }
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

    fn execute(&mut self, place: usize, partition: PartitionId) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Persist { index, record } => self.burst.persist(partition, index, &record),
                Effect::Send { to, message } => self.burst.send(to, partition, message),
                Effect::SendToPartition { partition, message } => self.send_to_partition(partition, message),
                Effect::Reply { token, answer } => {
                    // Nobody: it was answered before.
                    if let Some(request) = self.open.take(token) {
                        let me = self.parts.me.node;
                        let code = if let Answer::Error(code) = &answer { Some(*code) } else { None };
                        let mut response = answer::response(request.number, me, partition, answer, &self.parts.view);
                        if let Some(code) = code {
                            self.suggest_time(place, code, &mut response);
                        }
                        self.burst.answer(request.connection, response);
                    }
                }
                Effect::ReportActivated { term } => self.parts.reports.activated(partition, term),
                Effect::ReportStuck { term, unreachable, holder } => {
                    tracing::warn!(%partition, %term, ?unreachable, ?holder, "the primary makes no progress");
                    self.parts.reports.stuck(partition, term, unreachable, holder);
                }
                Effect::ReportDamaged => {
                    tracing::error!(%partition, "out of service: its data here is damaged");
                    let configuration = self.parts.view.configuration(partition);
                    let term = configuration.map_or_else(Default::default, |configuration| configuration.term);
                    self.parts.reports.damaged(partition, term);
                }
                Effect::WantView => self.parts.reports.want_view(),
                Effect::Serving { term } => {
                    tracing::debug!(%partition, ?term, "serving");
                    self.parts.reports.serving(partition, term);
                    if let Some(slot) = self.slot(place) {
                        slot.serving = term;
                        slot.told = (Vec::new(), None);
                    }
                    if term.is_none() {
                        self.feeds.end(place, ErrorCode::NotPrimary);
                        self.timers.end(place);
                    }
                }
                Effect::DeleteData { generation } => self.parts.applier.delete(Keyspace { partition, generation }),
                Effect::ReadState { to, snapshot, generation, after, bytes_max } => {
                    let keyspace = Keyspace { partition, generation };
                    let page = Page { keyspace, to, snapshot, after, bytes_max };
                    self.parts.filler.read(page, self.completions.clone());
                }
                Effect::ScanState { token, generation, query } => {
                    let scan = Scan { keyspace: Keyspace { partition, generation }, token, query };
                    self.parts.scanner.read(scan, self.completions.clone());
                }
                Effect::Expiring { key, expiry } => {
                    // Not the burst's beginning, and no part of a millisecond less: never early.
                    let from = self.parts.clock.now().after_ms(1);
                    self.timers.begin(place, &key, expiry, from);
                }
                Effect::ExpiryOver { keys } => self.timers.over(place, &keys),
                Effect::Install { generation, number, records, start } => {
                    let part = Part { keyspace: Keyspace { partition, generation }, number, records, start };
                    self.parts.applier.install(part, self.completions.clone());
                }
            }
        }
        self.effects = effects;
    }

    /// Flushes what was touched and sends everything out.
    fn end_burst(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        for place in &touched {
            self.step(*place, Event::Flush);
        }
        // What a flush touched is in `touched` already.
        self.touched = touched;
        for index in 0..self.touched.len() {
            self.settle(self.touched[index]);
        }
        self.touched.clear();
        self.catch_up();
        self.burst_bytes = 0;
        if self.failed {
            return;
        }
        if self.lag.is_due(self.now) {
            self.hand_over();
        }
        self.speak_between();
        for (lease, begins) in self.timers.take_news() {
            self.parts.reports.relies(self.parts.index, lease, begins);
        }
        let (sent, submitted) = self.burst.leave(self.parts.journal.as_ref(), &self.completions);
        self.submissions += u64::from(submitted);
        self.meters.burst(sent, self.lag.bytes(), self.open.len(), self.timers.len());
        self.answer_trimming();
    }

    /// What the shard remembers of a replica, after its flush.
    fn settle(&mut self, place: usize) {
        let now = self.now;
        let Some(Some(slot)) = self.slots.get_mut(place) else { return };
        slot.touched = false;
        self.feeds.feed(place, &slot.replica);
        // A learner that is full is waited for; one that is gone is not full any more.
        let report = slot.serving.is_some() && slot.told.1 != slot.replica.filled();
        if !slot.ticking && slot.replica.needs_tick() {
            slot.ticking = true;
            self.ticking.push(place);
        }
        let bytes = slot.replica.unapplied_bytes();
        if bytes != slot.unapplied_bytes {
            self.lag.count(slot.unapplied_bytes, bytes, now);
            slot.unapplied_bytes = bytes;
        }
        if bytes > 0 && !slot.lagging {
            slot.lagging = true;
            self.lag.lagging.push(place);
        }
        if report {
            self.report_followers(place);
        }
    }

    // ------------------------------------------------------------------------------------------------ state and log

    /// Gives the engine everything that is committed.
    fn hand_over(&mut self) {
        let mut batches = Vec::new();
        let slots = &mut self.slots;
        let mut take = |slot: &mut Slot| {
            batches.extend(slot.replica.take_apply().map(|apply| (slot.replica.partition(), apply)));
        };
        self.lag.lagging.retain(|place| {
            let Some(Some(slot)) = slots.get_mut(*place) else { return false };
            slot.lagging = slot.unapplied_bytes > 0;
            if slot.lagging {
                take(slot);
            }
            slot.lagging
        });
        if self.lag.is_draining() {
            // Entries that change nothing, such as a term's first, weigh nothing, and still hold up the log.
            slots.iter_mut().flatten().for_each(|slot| take(slot));
        }
        let any = !batches.is_empty();
        if any {
            self.meters.handed_over(batches.iter().map(|(_, apply)| apply.changes.len()).sum());
            self.parts.applier.apply(batches, self.completions.clone());
        }
        let drained = self.lag.handed_over(any, self.now);
        self.answer_drain(drained);
    }

    fn answer_drain(&mut self, drained: Option<Drained>) {
        if let Some(done) = drained {
            for slot in self.slots.iter_mut().flatten() {
                slot.drained = (slot.replica.base().generation, slot.replica.applied().seq);
            }
            // The keeper goes only when the node ends.
            let _ended = done.send(());
        }
    }

    /// The state is on disk as of the last drain: the log before that may go, once the bases are written again.
    fn trim(&mut self, room_before: SegmentNumber, done: oneshot::Sender<Option<SegmentNumber>>) {
        for place in 0..self.slots.len() {
            let Some(Some(slot)) = self.slots.get_mut(place) else { continue };
            let (generation, through) = slot.drained;
            let oldest = slot.retention.oldest_needed(slot.replica.first_kept());
            let make_room = oldest.is_some_and(|oldest| oldest < room_before);
            self.step(place, Event::Checkpointed { generation, through, make_room });
            self.step(place, Event::WriteBase);
        }
        // They leave with this burst.
        self.trimming = Some((self.submissions + 1, done));
    }

    fn answer_trimming(&mut self) {
        let Some((submission, _)) = &self.trimming else { return };
        // A shard without replicas has written no bases: nothing to wait for.
        let written = if self.slots.iter().all(Option::is_none) { 0 } else { *submission };
        if self.durable_submissions < written {
            return;
        }
        let oldest = self.slots.iter_mut().flatten().filter_map(|slot| {
            let first_kept = slot.replica.first_kept();
            slot.retention.oldest_needed(first_kept)
        });
        let oldest = oldest.min();
        if let Some((_, done)) = self.trimming.take() {
            // The keeper goes only when the node ends.
            let _ended = done.send(oldest);
        }
    }

    // ------------------------------------------------------------------------------------------------ the end

    fn stop(&mut self) {
        self.feeds.end_all(ErrorCode::ShuttingDown);
        let latest = self.now.after_ms(STOP_MAX_MS);
        self.stopping = Some(latest.after_ms(10 * TICK_MS));
        self.open.hurry(latest);
    }
}

/// P28: a stamp that would be remembered for too long.
fn is_from_the_future(operation: &Operation, calendar_ms: u64, refused_before: Stamp) -> bool {
    operation.stamp().is_some_and(|stamp| clock::is_too_far_ahead(stamp, calendar_ms, refused_before))
}
