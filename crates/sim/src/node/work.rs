//! What a process does when it runs: its inbox in order, then a flush of every replica touched.

use super::{Node, RECONNECT_EVERY};
use crate::context::Context;
use crate::happening::{Ask, Happening, Input, Process, Request};
use crate::network::Place;
use crate::queue::MS;
use replcore::{Answer, Event, Proposal, Replica, Token, TransactionProposal};
use std::collections::BTreeSet;
use types::{ErrorCode, PartitionCount, PartitionId, Seq, Stamp};

impl Node {
    pub(super) fn run(&mut self, ctx: &mut Context) {
        let mut touched = BTreeSet::new();
        while let Some(input) = self.process.as_mut().and_then(|process| process.inbox.pop_front()) {
            self.work(ctx, input, &mut touched);
        }
        for partition in &touched {
            self.step(ctx, *partition, Event::Flush);
        }
        for partition in touched {
            self.feed(ctx, partition);
            self.apply(ctx, partition);
        }
        self.sync(ctx);
    }

    pub(super) fn work(&mut self, ctx: &mut Context, input: Input, touched: &mut BTreeSet<PartitionId>) {
        let mut one = |node: &mut Node, ctx: &mut Context, partition, event| {
            touched.insert(partition);
            node.step(ctx, partition, event);
        };
        match input {
            Input::Peer { from, partition, message } => {
                self.trace_message(ctx, "from", from, partition, &message);
                one(self, ctx, partition, Event::Message { from, message });
            }
            Input::Partition { partition, message } => {
                let (now, place, name) = (ctx.now, self.place, self.name(ctx));
                let numbers = [15, place as u64, u64::from(partition.0), message.attempt.counter];
                ctx.trace.note(now, &numbers, || {
                    format!("{name}: {partition} from {}: {} {:?}", message.from, message.attempt, message.body)
                });
                one(self, ctx, partition, Event::FromPartition { message });
            }
            Input::Persisted { partition, through } => one(self, ctx, partition, Event::Persisted { through }),
            Input::Applied { partition, generation, through } => {
                one(self, ctx, partition, Event::Applied { generation, through });
            }
            Input::Installed { partition, generation, number } => {
                one(self, ctx, partition, Event::Installed { generation, number });
            }
            Input::StateRead { partition, to, snapshot, records } => {
                one(self, ctx, partition, Event::StateRead { to, snapshot, records });
            }
            Input::Expire { partition, token } => {
                if self.process.as_ref().is_some_and(|process| process.requests.contains_key(&token)) {
                    one(self, ctx, partition, Event::Expire { tokens: vec![token] });
                }
            }
            Input::Scanned { partition, token, applied, records, ended } => {
                one(self, ctx, partition, Event::Scanned { token, applied, records, ended });
            }
            Input::Subscribe(subscription) => {
                touched.insert(subscription.partition);
                self.watch(subscription);
            }
            Input::KeyExpired { partition, key, version } => {
                if self.key_expired(ctx, partition, &key, version) {
                    one(self, ctx, partition, Event::Expired { keys: vec![(key, version)] });
                }
            }
            Input::Damaged(partition) => one(self, ctx, partition, Event::Damaged),
            Input::View(view) => {
                let (now, place, name) = (ctx.now, self.place, self.name(ctx));
                ctx.trace.note(now, &[4, place as u64, view.epoch.0], || format!("{name}: view {}", view.epoch));
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
                    // Now and then, as where the log is needed for others.
                    let make_room = through.0 % 8 == 7;
                    one(self, ctx, partition, Event::Checkpointed { generation, through, make_room });
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
    pub(super) fn trim(&mut self, ctx: &mut Context) {
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

    pub(super) fn begin(&mut self, ctx: &mut Context, request: Request) {
        let forget_before = Stamp(self.now_ms(ctx).saturating_sub(ctx.plan.request_memory_ms));
        let Some(process) = &mut self.process else { return };
        if process.accepted_at.is_none() {
            return self.answer(ctx, &request, Answer::Error(ErrorCode::Unavailable));
        }
        process.tokens += 1;
        let (token, partition) = (Token(process.tokens), request.partition);
        let event = match &request.ask {
            Ask::Get(key) => Event::Read { token, key: key.clone() },
            Ask::Page(query) => Event::ReadPage { token, query: query.clone() },
            Ask::Mutate { id, stamp, mutation } => {
                let (id, stamp, mutation) = (*id, *stamp, mutation.clone());
                Event::Mutate { token, proposal: Proposal { id, stamp, mutation, forget_before } }
            }
            Ask::Transact { id, stamp, transaction } => {
                let count = PartitionCount::new(ctx.plan.partitions).expect("a plan's partitions are a power of two");
                let (id, stamp, parts) = (*id, *stamp, transaction.split(count));
                let proposal = Box::new(TransactionProposal { id, stamp, parts, forget_before });
                Event::Transact { token, proposal }
            }
            Ask::Collect(keys) => Event::Collect { token, keys: keys.clone() },
        };
        let expire = Process::Input(Input::Expire { partition, token });
        ctx.process(request.patience, self.place, process.start, expire);
        process.requests.insert(token, request);
        self.step(ctx, partition, event);
    }

    pub(super) fn answer(&mut self, ctx: &mut Context, request: &Request, answer: Answer) {
        let Request { client, number, attempt, .. } = *request;
        let what = Happening::Answered { client, number, attempt, answer };
        ctx.send(Place::Node(self.place), Place::Clients, what);
    }
}
