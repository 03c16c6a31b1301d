//! Clients: each has one operation at a time, tries it until it is answered or its time is over, and writes down what it
//! heard. They fight over few keys, keep old views until something goes wrong, and sometimes ask the wrong node.

use crate::checker::{Action, Heard, Operation};
use crate::context::Context;
use crate::happening::{Ask, Happening, Request, Timer};
use crate::network::Place;
use crate::node::BEGINNING_MS;
use crate::queue::{MS, Micros};
use crate::transactions::{self, Collecting, Next};
use bytes::Bytes;
use replcore::{Answer, Collected};
use std::collections::BTreeMap;
use std::sync::Arc;
use types::{
    Condition, ErrorCode, Fence, FencingToken, Mutation, MutationKind, NodeId, OperationResult, Record, RequestId,
    Stamp, Transaction, View,
};

/// How long an operation is retried.
const OPERATION: Micros = 1_500 * MS;
/// How often the lock is granted anew.
const GRANT: Micros = 50 * MS;

#[derive(Debug)]
pub(crate) struct Client {
    number: usize,
    skew_ms: i64,
    view: Option<Arc<View>>,
    operations: u64,
    open: Option<Open>,
    /// What it last knew of each key.
    seen: BTreeMap<Bytes, Record>,
    /// Keys that are still to be read at the end.
    to_read: Vec<Bytes>,
    stopped: bool,
    history: Vec<Operation>,
    /// Which of them nobody heard the outcome of.
    unknown: Vec<(usize, RequestId)>,
}

#[derive(Debug)]
struct Open {
    number: u64,
    key: Bytes,
    action: Action,
    /// Of a transaction that only reads: without locks, as long as that may succeed.
    collecting: Option<Collecting>,
    stamp: Stamp,
    fence: Option<Fence>,
    called_at: Micros,
    attempts: Vec<Attempt>,
    /// Of the final reads: they are tried for ever.
    must: bool,
}

impl Open {
    /// Takes what was collected; `None` where that is an earlier question's answer.
    fn collected(&mut self, attempt: u32, found: Vec<Collected>) -> Option<Next> {
        let Action::Transact(transaction) = &self.action else { return None };
        if attempt as usize + 1 != self.attempts.len() {
            return None;
        }
        let keys = transaction.then.iter().map(|operation| operation.key().clone());
        Some(self.collecting.as_mut()?.take(found, keys))
    }
}

/// What became of one attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Attempt {
    Unanswered,
    NotDone,
    /// So many attempts had been sent when that was heard.
    Unknown {
        sent: u32,
    },
}

impl Client {
    pub(crate) fn new(number: usize, ctx: &mut Context) -> Client {
        let most = ctx.plan.clock_skew_ms;
        let skew_ms = ctx.random.between(0, 2 * most) as i64 - most as i64;
        Client {
            number,
            skew_ms,
            view: None,
            operations: 0,
            open: None,
            seen: BTreeMap::new(),
            to_read: Vec::new(),
            stopped: false,
            history: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// No new operations, but for a read of each of these keys.
    pub(crate) fn stop(&mut self, ctx: &mut Context, to_read: Vec<Bytes>) {
        self.stopped = true;
        self.to_read = to_read;
        if self.open.is_none() {
            self.after(ctx, 1, Timer::Next);
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.open.is_none() && self.to_read.is_empty()
    }

    /// The history, with what is still open. Of what nobody heard the outcome of, that which was not done in the end is
    /// left out: each such operation could double the search for an order. If it left a mark all the same, no order
    /// explains that.
    pub(crate) fn into_history(mut self, was_done: impl Fn(RequestId) -> bool) -> Vec<Operation> {
        self.give_up();
        for (at, request) in self.unknown.into_iter().rev() {
            if !was_done(request) {
                self.history.remove(at);
            }
        }
        self.history
    }

    fn request(&self, number: u64) -> RequestId {
        RequestId { client: self.number as u64 + 1, counter: number }
    }

    fn after(&self, ctx: &mut Context, delay: Micros, what: Timer) {
        ctx.after(delay, Happening::Client { client: self.number, what });
    }

    pub(crate) fn happen(&mut self, ctx: &mut Context, what: Timer, newest: Option<&Arc<View>>) {
        match what {
            Timer::Next => self.next(ctx, newest),
            Timer::Impatient { number, attempt } => {
                let is_last = |open: &Open| open.number == number && open.attempts.len() == attempt as usize + 1;
                if self.open.as_ref().is_some_and(is_last) {
                    if !ctx.random.chance(ctx.plan.loyal_permille) || ctx.healed {
                        self.look_for_view(ctx, newest);
                    }
                    self.retry(ctx);
                }
            }
            Timer::Retry { number, attempt } => {
                let is_last = |open: &Open| open.number == number && open.attempts.len() == attempt as usize + 1;
                if self.open.as_ref().is_some_and(is_last) {
                    // Somebody said that it is not the one to ask.
                    if ctx.random.chance(500) {
                        self.look_for_view(ctx, newest);
                    }
                    self.retry(ctx);
                }
            }
        }
    }

    fn next(&mut self, ctx: &mut Context, newest: Option<&Arc<View>>) {
        if self.open.is_some() {
            return;
        }
        let (key, action, must) = if self.stopped {
            let Some(key) = self.to_read.pop() else { return };
            (key, Action::Get, true)
        } else {
            let (key, action) = self.draw(ctx);
            (key, action, false)
        };
        let collecting = match &action {
            Action::Transact(transaction)
                if transaction.is_read_only() && transaction.conditions.is_empty() && ctx.random.chance(700) =>
            {
                let keys: Vec<Bytes> = transaction.keys().cloned().collect();
                Some(Collecting::new(ctx.plan.partitions, &keys))
            }
            _ => None,
        };
        if self.view.is_none() {
            self.look_for_view(ctx, newest);
        }
        self.operations += 1;
        ctx.counts.operations += 1;
        let stamp = Stamp((BEGINNING_MS + ctx.now / MS).saturating_add_signed(self.skew_ms));
        let (number, called_at) = (self.operations, ctx.now);
        let fence = self.choose_fence(ctx, &action);
        if let Some(fence) = &fence {
            ctx.watch.fenced(self.request(number), fence);
        }
        let attempts = Vec::new();
        self.open = Some(Open { number, key, action, collecting, stamp, fence, called_at, attempts, must });
        self.attempt(ctx);
    }

    /// The next operation: on a key, or on several hot ones.
    fn draw(&mut self, ctx: &mut Context) -> (Bytes, Action) {
        if !ctx.random.chance(ctx.plan.hot_permille) {
            let key = ctx.random.below(ctx.plan.keys as u64);
            let key = Bytes::from(format!("k{key}"));
            return (key.clone(), self.choose(ctx, &key));
        }
        if ctx.random.chance(300) {
            let key = ctx.plan.hot[ctx.random.index(ctx.plan.hot.len())].clone();
            return (key.clone(), self.choose(ctx, &key));
        }
        let value = format!("{}.{}", self.number, self.operations + 1);
        let transaction = transactions::draw(&mut ctx.random, &ctx.plan, &self.seen, &value);
        let key = transaction.first_key().cloned().unwrap_or_default();
        (key, Action::Transact(transaction))
    }

    fn choose(&mut self, ctx: &mut Context, key: &Bytes) -> Action {
        let random = &mut ctx.random;
        let chance = random.below(100);
        if chance < 35 {
            return Action::Get;
        }
        let value = Bytes::from(format!("{}.{}", self.number, self.operations + 1));
        let kind = if chance < 88 { MutationKind::Put(value) } else { MutationKind::Delete };
        let condition = match (random.below(8), self.seen.get(key)) {
            (0, _) => Condition::Absent,
            (1, _) => Condition::Present,
            (2 | 3, Some(record)) => Condition::Value(record.value.clone()),
            (4, Some(record)) => Condition::Version(record.seq),
            _ => Condition::None,
        };
        Action::Mutate { kind, condition }
    }

    /// Some writes are those of a lock's holder, or of who was one: tokens rise with the time, and some are old.
    fn choose_fence(&self, ctx: &mut Context, action: &Action) -> Option<Fence> {
        if !action.changes() || !ctx.random.chance(250) {
            return None;
        }
        let age = if ctx.random.chance(300) { ctx.random.below(4) } else { 0 };
        let token = FencingToken((1 + ctx.now / GRANT).saturating_sub(age).max(1));
        Some(Fence { name: Bytes::from_static(b"lock"), token })
    }

    fn attempt(&mut self, ctx: &mut Context) {
        let Some(open) = &mut self.open else { return };
        let attempt = open.attempts.len() as u32;
        open.attempts.push(Attempt::Unanswered);
        let number = open.number;
        let id = RequestId { client: self.number as u64 + 1, counter: number };
        let partitions =
            types::PartitionCount::new(ctx.plan.partitions).expect("a plan's partitions are a power of two");
        let mut partition = partitions.partition_of(&open.key);
        let ask = match &open.action {
            Action::Transact(transaction) => match &open.collecting {
                Some(collecting) => {
                    let (of, keys) = collecting.part().clone();
                    partition = of;
                    Ask::Collect(keys)
                }
                None => {
                    let transaction = Transaction { fence: open.fence.clone(), ..transaction.clone() };
                    Ask::Transact { id, stamp: open.stamp, transaction }
                }
            },
            Action::Get => Ask::Get(open.key.clone()),
            Action::Mutate { kind, condition } => Ask::Mutate {
                id,
                stamp: open.stamp,
                mutation: Mutation {
                    key: open.key.clone(),
                    kind: kind.clone(),
                    condition: condition.clone(),
                    fence: open.fence.clone(),
                },
            },
        };
        let primary = self.view.as_ref().and_then(|view| view.configuration(partition)?.primary());
        let node = match primary.and_then(|id: NodeId| ctx.places.get(&id).copied()) {
            Some(node) if !ctx.random.chance(60) => node,
            _ => ctx.random.index(ctx.plan.nodes),
        };
        let patience = ctx.between(20 * MS, 500 * MS);
        let request = Request { client: self.number, number, attempt, partition, ask, patience };
        let (now, client, key) = (ctx.now, self.number, open.key.clone());
        let at = ctx.disks[node].id.unwrap_or_default();
        ctx.trace.note(now, &[10, client as u64, number, u64::from(attempt), node as u64], || {
            let key = key.escape_ascii();
            format!("client {client}: operation {number} on {key}, attempt {attempt}, at {at}: {:?}", request.ask)
        });
        ctx.send(Place::Clients, Place::Node(node), Happening::Request { node, request });
        // Now and then it gives up on an answer that is on its way.
        let waits = if ctx.random.chance(100) { patience / 2 } else { patience + 20 * MS };
        self.after(ctx, waits, Timer::Impatient { number, attempt });
    }

    fn retry(&mut self, ctx: &mut Context) {
        let Some(open) = &self.open else { return };
        if !open.must && ctx.now > open.called_at + OPERATION {
            self.give_up();
            ctx.counts.unknown += 1;
            return self.think(ctx);
        }
        self.attempt(ctx);
    }

    /// Somebody's view: the newest one, or that of any node.
    fn look_for_view(&mut self, ctx: &mut Context, newest: Option<&Arc<View>>) {
        let from_node = ctx.disks[ctx.random.index(ctx.plan.nodes)].view.clone();
        let found = if ctx.random.chance(500) { newest.cloned().or(from_node) } else { from_node };
        self.view = found.or_else(|| self.view.take());
    }

    pub(crate) fn hear(&mut self, ctx: &mut Context, number: u64, attempt: u32, answer: Answer) {
        let Some(open) = self.open.as_mut().filter(|open| open.number == number) else { return };
        let heard = match answer {
            Answer::Written { outcome, .. } => Heard::Written(outcome),
            Answer::Found(record) => Heard::Found(record),
            Answer::NotFound => Heard::NotFound,
            Answer::ConditionFailed { version } => Heard::ConditionFailed(version),
            Answer::Transacted { outcome, .. } => Heard::Transacted(outcome),
            Answer::Collected(found) => match open.collected(attempt, found) {
                None => return,
                Some(Next::Done(outcome)) => Heard::Transacted(outcome),
                Some(next) => {
                    if next == Next::GiveUp {
                        open.collecting = None;
                    }
                    return self.attempt(ctx);
                }
            },
            // Only readers ask for pages.
            Answer::Page(_) => return,
            Answer::Fenced { .. } => return self.hear_fenced(ctx),
            Answer::Error(code) => return self.hear_error(ctx, attempt, code),
        };
        // P29: an attempt that nobody answered may still be on its way, and find the condition true. One that is unknown
        // can't be done any more if this one was sent after that was heard: who judged this one would have found it.
        let others_open = open.attempts.iter().enumerate().any(|(other, state)| match state {
            Attempt::NotDone => false,
            Attempt::Unknown { sent } => attempt < *sent,
            Attempt::Unanswered => other != attempt as usize,
        });
        let did_nothing = match &heard {
            Heard::NotFound | Heard::ConditionFailed(_) => true,
            Heard::Transacted(outcome) => !transactions::has_changed(outcome),
            _ => false,
        };
        let heard = if did_nothing && open.action.changes() && others_open { Heard::Unknown } else { heard };
        self.remember(ctx, heard);
        ctx.counts.answered += 1;
        self.think(ctx);
    }

    /// Not done, and never will be, whatever became of other attempts: it leaves no mark.
    fn hear_fenced(&mut self, ctx: &mut Context) {
        self.open = None;
        ctx.counts.answered += 1;
        self.think(ctx);
    }

    fn hear_error(&mut self, ctx: &mut Context, attempt: u32, code: ErrorCode) {
        let Some(open) = &mut self.open else { return };
        let sent = open.attempts.len() as u32;
        let unknown = code == ErrorCode::Unknown;
        open.attempts[attempt as usize] = if unknown { Attempt::Unknown { sent } } else { Attempt::NotDone };
        if open.attempts.len() != attempt as usize + 1 {
            return;
        }
        if code.is_retryable() || code == ErrorCode::DeadlineExceeded {
            let number = open.number;
            let delay = ctx.between(MS, 40 * MS);
            return self.after(ctx, delay, Timer::Retry { number, attempt });
        }
        self.give_up();
        self.think(ctx);
    }

    /// The operation ends without an answer. What was definitely not done leaves no mark.
    fn give_up(&mut self) {
        let Some(open) = &self.open else { return };
        let may_be_done = open.attempts.iter().any(|attempt| *attempt != Attempt::NotDone);
        if open.action.changes() && may_be_done {
            let (key, called_at, action) = (open.key.clone(), open.called_at, open.action.clone());
            let client = self.number as u64;
            let heard = Heard::Unknown;
            self.unknown.push((self.history.len(), self.request(open.number)));
            self.history.push(Operation { client, key, called_at, answered_at: called_at, action, heard });
        }
        self.open = None;
    }

    fn remember(&mut self, ctx: &mut Context, heard: Heard) {
        let Some(Open { number, key, action, called_at, .. }) = self.open.take() else { return };
        if heard == Heard::Unknown {
            self.unknown.push((self.history.len(), self.request(number)));
        }
        match (&heard, &action) {
            (Heard::Transacted(outcome), Action::Transact(transaction)) => {
                let branch = if outcome.succeeded { &transaction.then } else { &transaction.otherwise };
                for (step, result) in branch.iter().zip(&outcome.results) {
                    if let OperationResult::Found(record) = result {
                        self.seen.insert(step.key().clone(), record.clone());
                    }
                }
            }
            (Heard::Found(record), _) => drop(self.seen.insert(key.clone(), record.clone())),
            (Heard::Written(outcome), Action::Mutate { kind: MutationKind::Put(value), .. }) => {
                drop(self.seen.insert(key.clone(), Record { seq: outcome.version, value: value.clone() }));
            }
            _ => {}
        }
        let client = self.number as u64;
        let operation = Operation { client, key, called_at, answered_at: ctx.now, action, heard };
        let now = ctx.now;
        ctx.trace.note(now, &[11, client, called_at], || format!("client {client}: {operation}"));
        self.history.push(operation);
    }

    fn think(&mut self, ctx: &mut Context) {
        let delay = ctx.between(1, ctx.plan.think_max);
        self.after(ctx, delay, Timer::Next);
    }
}
