//! Those who read much and those whose keys expire: scanners, watchers and expirers, beside the clients.
//!
//! What they see is compared with what is committed, by the invariants in `invariants/readers.rs`: a page with the state
//! at its instant, what a watcher is fed with the log. A watcher behaves as the client library does: it goes on after
//! its cursor wherever the newest view that it has says, takes only what follows on what it has, and begins anew where
//! the history is gone. Its streams lose and double messages like everything here; what is lost ends the subscription.

use crate::checker::{Action, Heard, Operation};
use crate::context::Context;
use crate::happening::{Ask, Happening, Request};
use crate::network::Place;
use crate::node::BEGINNING_MS;
use crate::queue::{MS, Micros};
use bytes::Bytes;
use replcore::{Answer, Fed, NotFed};
use std::sync::Arc;
use types::{
    Condition, LeaseId, Lifetime, Mutation, MutationKind, NodeId, OperationResult, Page, PageQuery, PartitionCount,
    PartitionId, Record, RecordKind, RequestId, Seq, Stamp, Transaction, TransactionOperation, TransactionOutcome,
    View,
};

/// How long an answer is waited for, and a word of a watched partition.
const PATIENCE: Micros = 300 * MS;
/// Keys that expire; others than those that clients fight over.
const EXPIRING_KEYS: u64 = 3;

/// A watched partition is asked for: who, where from, and the number of this asking.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscription {
    pub(crate) watcher: usize,
    pub(crate) number: u64,
    pub(crate) partition: PartitionId,
    pub(crate) after: Seq,
}

#[derive(Debug)]
pub(crate) struct Reader {
    /// Among the readers; as a client it comes after all clients.
    number: usize,
    view: Option<Arc<View>>,
    counter: u64,
    stopped: bool,
    kind: Kind,
    /// What scanners saw of the keys that transactions fight over.
    pub(crate) history: Vec<Operation>,
}

#[derive(Debug)]
enum Kind {
    Scanner(Option<Scanning>),
    Watcher(Vec<Watched>),
    Expirer,
}

#[derive(Debug)]
struct Scanning {
    partition: PartitionId,
    query: PageQuery,
    /// What was acknowledged when it was asked for.
    floor: Seq,
    called_at: Micros,
}

/// One partition of a watcher.
#[derive(Clone, Debug, Default)]
struct Watched {
    cursor: Option<Seq>,
    subscription: u64,
    /// Something was heard since the last look.
    alive: bool,
}

impl Reader {
    /// The readers of a plan.
    pub(crate) fn all(ctx: &mut Context) -> Vec<Reader> {
        let [scanners, watchers, expirers] = ctx.plan.readers;
        let watched = vec![Watched::default(); ctx.plan.partitions as usize];
        let kinds = (0..scanners).map(|_| Kind::Scanner(None));
        let kinds = kinds.chain((0..watchers).map(|_| Kind::Watcher(watched.clone())));
        let kinds = kinds.chain((0..expirers).map(|_| Kind::Expirer));
        let kinds: Vec<Kind> = kinds.collect();
        let reader =
            |(number, kind)| Reader { number, view: None, counter: 0, stopped: false, kind, history: Vec::new() };
        kinds.into_iter().enumerate().map(reader).collect()
    }

    /// Faults are over: nothing new begins, but watchers go on to the end.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    /// A watcher that has not been told everything that is committed: which partition it lacks.
    pub(crate) fn behind(&self, ctx: &Context) -> Option<PartitionId> {
        let Kind::Watcher(watched) = &self.kind else { return None };
        let partitions = (0..).map(PartitionId).zip(watched);
        let lacks = |(partition, watched): &(PartitionId, &Watched)| watched.cursor != Some(ctx.watch.end(*partition));
        partitions.into_iter().find(lacks).map(|(partition, _)| partition)
    }

    fn client(&self, ctx: &Context) -> usize {
        ctx.plan.clients + self.number
    }

    /// Its timer.
    pub(crate) fn happen(&mut self, ctx: &mut Context, newest: Option<&Arc<View>>) {
        if self.view.is_none() || ctx.random.chance(500) || ctx.healed {
            let from_node = ctx.disks[ctx.random.index(ctx.plan.nodes)].view.clone();
            let found = if ctx.random.chance(500) || ctx.healed { newest.cloned().or(from_node) } else { from_node };
            self.view = found.or_else(|| self.view.take());
        }
        let delay = match &self.kind {
            Kind::Watcher(_) => {
                self.look(ctx);
                ctx.between(20 * MS, PATIENCE)
            }
            Kind::Scanner(_) if self.stopped => return,
            Kind::Scanner(_) => {
                self.scan(ctx);
                ctx.between(MS, PATIENCE)
            }
            Kind::Expirer if self.stopped => return,
            Kind::Expirer => {
                self.put(ctx);
                ctx.between(MS, PATIENCE)
            }
        };
        ctx.after(delay, Happening::Reader(self.number));
    }

    fn scan(&mut self, ctx: &mut Context) {
        let partition = PartitionId(ctx.random.below(ctx.plan.partitions.into()) as u32);
        let text = |choice: usize| Bytes::from_static([&b""[..], b"k", b"k1", b"t", b"h"][choice]);
        let query = PageQuery {
            kind: RecordKind::User,
            prefix: text(ctx.random.index(5)),
            after: text(ctx.random.index(5)),
            records_max: [1, 2, 100][ctx.random.index(3)],
            bytes_max: [1, 30, 1000][ctx.random.index(3)],
            names_only: ctx.random.chance(200),
        };
        let floor = ctx.watch.acknowledged(partition);
        self.ask(ctx, partition, Ask::Page(query.clone()));
        self.kind = Kind::Scanner(Some(Scanning { partition, query, floor, called_at: ctx.now }));
    }

    fn put(&mut self, ctx: &mut Context) {
        let key = Bytes::from(format!("t{}", ctx.random.below(EXPIRING_KEYS)));
        let value = Bytes::from(format!("{}.{}", self.number, self.counter));
        let ttl_ms = ctx.random.between(1, 400);
        let kind = match ctx.random.below(10) {
            0 => MutationKind::Delete,
            1 | 2 => MutationKind::Put(value),
            3 | 4 => {
                // A lease is named by when it ends.
                let lease = LeaseId(ctx.now / MS + ttl_ms);
                MutationKind::PutExpiring { value, lifetime: Lifetime::Lease(lease) }
            }
            _ => MutationKind::PutExpiring { value, lifetime: Lifetime::Milliseconds(ttl_ms) },
        };
        let count = PartitionCount::new(ctx.plan.partitions).expect("a plan's partitions are a power of two");
        let partition = count.partition_of(&key);
        let id = RequestId { client: self.client(ctx) as u64 + 1, counter: self.counter + 1 };
        let stamp = Stamp(BEGINNING_MS + ctx.now / MS);
        let mutation = Mutation { key, kind, condition: Condition::None, fence: None };
        self.ask(ctx, partition, Ask::Mutate { id, stamp, mutation });
    }

    /// Once, and wherever it gets.
    fn ask(&mut self, ctx: &mut Context, partition: PartitionId, ask: Ask) {
        self.counter += 1;
        let node = self.primary(ctx, partition);
        let (client, number) = (self.client(ctx), self.counter);
        let request = Request { client, number, attempt: 0, partition, ask, patience: PATIENCE };
        ctx.send(Place::Clients, Place::Node(node), Happening::Request { node, request });
    }

    fn primary(&self, ctx: &mut Context, partition: PartitionId) -> usize {
        let primary = self.view.as_ref().and_then(|view| view.configuration(partition)?.primary());
        match primary.and_then(|id: NodeId| ctx.places.get(&id).copied()) {
            Some(node) if !ctx.random.chance(60) => node,
            _ => ctx.random.index(ctx.plan.nodes),
        }
    }

    // ------------------------------------------------------------------------------------------- answers

    pub(crate) fn hear(&mut self, ctx: &mut Context, number: u64, answer: Answer) {
        let Answer::Page(page) = answer else { return };
        match &mut self.kind {
            Kind::Scanner(scanning) if number == self.counter => {
                if let Some(Scanning { partition, query, floor, called_at }) = scanning.take() {
                    ctx.counts.pages += 1;
                    ctx.watch.scanned(partition, &query, &page, floor);
                    let client = self.client(ctx) as u64;
                    self.history.extend(as_transaction(ctx, client, partition, &query, &page, called_at));
                }
            }
            Kind::Watcher(watched) => {
                // Its number is the partition's: see `look`.
                let partitions = watched.len() as u64;
                let place = (number % partitions) as usize;
                watched[place].cursor.get_or_insert(page.at);
                self.subscribe(ctx, place);
            }
            Kind::Scanner(_) | Kind::Expirer => {}
        }
    }

    // ------------------------------------------------------------------------------------------- watching

    /// Asks again for every partition of which nothing was heard.
    fn look(&mut self, ctx: &mut Context) {
        let Kind::Watcher(watched) = &mut self.kind else { return };
        let partitions = watched.len();
        let silent: Vec<usize> = (0..partitions).filter(|place| !std::mem::take(&mut watched[*place].alive)).collect();
        for place in silent {
            let Kind::Watcher(watched) = &self.kind else { return };
            if watched[place].cursor.is_some() {
                self.subscribe(ctx, place);
                continue;
            }
            // The answer's number tells the partition.
            while (self.counter + 1) % partitions as u64 != place as u64 {
                self.counter += 1;
            }
            let none = Bytes::new();
            let query = PageQuery {
                kind: RecordKind::User,
                prefix: none.clone(),
                after: none,
                records_max: 0,
                bytes_max: 0,
                names_only: true,
            };
            self.ask(ctx, PartitionId(place as u32), Ask::Page(query));
        }
    }

    fn subscribe(&mut self, ctx: &mut Context, place: usize) {
        let partition = PartitionId(place as u32);
        let node = self.primary(ctx, partition);
        let watcher = self.number;
        let Kind::Watcher(watched) = &mut self.kind else { return };
        let Some(after) = watched[place].cursor else { return };
        watched[place].subscription += 1;
        let subscription = Subscription { watcher, number: watched[place].subscription, partition, after };
        ctx.send(Place::Clients, Place::Node(node), Happening::Subscribe { node, subscription });
    }

    pub(crate) fn fed(
        &mut self,
        ctx: &mut Context,
        partition: PartitionId,
        number: u64,
        after: Seq,
        fed: &Result<Fed, NotFed>,
    ) {
        let Kind::Watcher(watched) = &mut self.kind else { return };
        let watched = &mut watched[partition.0 as usize];
        if watched.subscription != number || watched.cursor != Some(after) {
            return; // late, doubled, or after one that was lost
        }
        match fed {
            Ok(fed) => {
                ctx.counts.fed += fed.changes.len() as u64;
                ctx.watch.fed(partition, after, fed);
                watched.cursor = Some(fed.through);
                watched.alive = true;
            }
            Err(NotFed::Compacted(_)) => {
                ctx.counts.compacted += 1;
                watched.cursor = None;
            }
            Err(NotFed::Refused(_) | NotFed::Beyond(_)) => {}
        }
    }
}

/// A page is a read of all its keys at one instant, also of those that are not there: for the checker, of the keys that
/// transactions fight over.
fn as_transaction(
    ctx: &Context,
    client: u64,
    partition: PartitionId,
    query: &PageQuery,
    page: &Page,
    called_at: Micros,
) -> Option<Operation> {
    let count = PartitionCount::new(ctx.plan.partitions).expect("a plan's partitions are a power of two");
    let covered = |key: &&Bytes| {
        let within = query.covers(key) && page.resume.as_ref().is_none_or(|end| *key <= end);
        within && count.partition_of(key) == partition
    };
    let (mut then, mut results) = (Vec::new(), Vec::new());
    for key in ctx.plan.hot.iter().filter(covered) {
        let result = match page.items.iter().find(|item| item.name == *key) {
            None => OperationResult::NotFound,
            Some(item) => {
                // A name alone says nothing of the value.
                let Some(value) = item.value.clone() else { continue };
                OperationResult::Found(Record { seq: item.seq, value })
            }
        };
        then.push(TransactionOperation::Get { key: key.clone() });
        results.push(result);
    }
    let key = then.first()?.key().clone();
    let action = Action::Transact(Transaction { then, ..Transaction::default() });
    let heard = Heard::Transacted(TransactionOutcome { succeeded: true, results });
    Some(Operation { client, key, called_at, answered_at: ctx.now, action, heard })
}
