//! What can happen next in a world of transactions, and what follows from it.

use super::history::{DURABLE, value_of};
use super::{Instant, KEYS, PARTITIONS, Request, Tell, count, home_of, place};
use crate::history::{ASSERTED, RECOVERS};
use crate::node::{EmptyState, Node};
use crate::state::{Group, hash_of};
use crate::world::registration;
use bytes::Bytes;
use replcore::{Answer, Effect, Event, Proposal, RoleSummary, Token, TransactionProposal};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use types::{
    Batch, BootNonce, Condition, Incarnation, Mutation, MutationKind, PartitionId, RequestId, Stamp, Transaction,
    TransactionOperation,
};
use viewcore::{Cause, Change, Command, Done};

/// One thing that can happen; a partition stands for the node that has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// A client's request arrives.
    Ask(u8),
    /// It arrives once more.
    Retry(u8),
    /// A client's read of the partition's key arrives.
    Read(PartitionId),
    /// A message arrives.
    Deliver(Arc<Tell>),
    /// A message arrives, and may arrive again.
    Duplicate(Arc<Tell>),
    /// A sync of everything written is done.
    Sync(PartitionId),
    /// Time passes: what is waited for is said again.
    Tick(PartitionId),
    /// A process ends, and so many of its records that were not synced survive.
    Crash(PartitionId, usize),
    /// A process begins, registers, is accepted, and made primary of a new term.
    Restart(PartitionId),
}

/// Reads have tokens above those of requests and their retries.
const FIRST_READ: u64 = 10_000;
/// A retry's tokens are above its request's.
const FIRST_RETRY: u64 = 100;

fn node_mut(instant: &mut Instant, partition: PartitionId) -> &mut Node {
    Arc::make_mut(&mut instant.nodes[place(partition)])
}

/// Everything that can happen now.
pub(super) fn possible(instant: &Instant, actions: &mut Vec<Action>) {
    let left = instant.left;
    for (_, tell) in &instant.tells {
        actions.push(Action::Deliver(tell.clone()));
        if left.duplicates > 0 {
            actions.push(Action::Duplicate(tell.clone()));
        }
    }
    let serves = |partition| {
        let replica = instant.nodes[place(partition)].replica.as_ref();
        replica.is_some_and(|replica| matches!(replica.role(), RoleSummary::Serving(_)))
    };
    for (number, to_begin) in (0u8..).zip(&instant.to_begin) {
        match (serves(home_of(number)), *to_begin) {
            (true, true) => actions.push(Action::Ask(number)),
            (true, false) if left.retries > 0 => actions.push(Action::Retry(number)),
            _ => {}
        }
    }
    for partition in PARTITIONS {
        let node = &instant.nodes[place(partition)];
        if node.replica.is_none() {
            actions.push(Action::Restart(partition));
            continue;
        }
        if !node.pending.is_empty() {
            actions.push(Action::Sync(partition));
        }
        if left.crashes > 0 {
            actions.extend((0..=node.pending.len()).map(|kept| Action::Crash(partition, kept)));
        }
        if serves(partition) && left.reads > 0 {
            actions.push(Action::Read(partition));
        }
        if left.ticks > 0 {
            actions.push(Action::Tick(partition));
        }
    }
}

/// Makes it happen.
pub(super) fn take(instant: &mut Instant, action: Action) {
    match action {
        Action::Ask(number) => {
            instant.to_begin[usize::from(number)] = false;
            Arc::make_mut(&mut instant.history).begins(number, instant.requests);
            ask(instant, number, Token(number.into()));
        }
        Action::Retry(number) => {
            instant.left.retries -= 1;
            Arc::make_mut(&mut instant.history).retries(number);
            let retry = 1 + u64::from(instant.left.retries);
            ask(instant, number, Token(FIRST_RETRY * retry + u64::from(number)));
        }
        Action::Read(partition) => {
            let token = Token(FIRST_READ + u64::from(instant.left.reads));
            instant.left.reads -= 1;
            let history = Arc::make_mut(&mut instant.history);
            history.reads.push((token, partition, history.known.clone()));
            step(instant, partition, vec![Event::Read { token, key: KEYS[place(partition)].clone() }]);
        }
        Action::Deliver(tell) => {
            instant.tells.retain(|(_, there)| there != &tell);
            deliver(instant, &tell);
        }
        Action::Duplicate(tell) => {
            instant.left.duplicates -= 1;
            deliver(instant, &tell);
        }
        Action::Sync(partition) => sync(instant, partition),
        Action::Tick(partition) => {
            instant.left.ticks -= 1;
            step(instant, partition, vec![Event::Tick]);
        }
        Action::Crash(partition, kept) => crash(instant, partition, kept),
        Action::Restart(partition) => restart(instant, partition),
    }
}

fn ask(instant: &mut Instant, number: u8, token: Token) {
    let value = Bytes::copy_from_slice(&value_of(number));
    let home = home_of(number);
    let (id, stamp) = (RequestId { client: 1, counter: number.into() }, Stamp(1 + u64::from(number)));
    let mut keys = KEYS.clone();
    // The home is the partition of the first key.
    keys.rotate_left(place(home));
    let then = match instant.requests[usize::from(number)] {
        Request::WriteBoth => keys.map(|key| TransactionOperation::Put { key, value: value.clone() }),
        Request::ReadBoth => keys.map(|key| TransactionOperation::Get { key }),
        Request::WriteOne => {
            let key = KEYS[place(home)].clone();
            let mutation = Mutation { key, kind: MutationKind::Put(value), condition: Condition::None, fence: None };
            let proposal = Proposal { id, stamp, mutation, forget_before: Stamp(0) };
            return step(instant, home, vec![Event::Mutate { token, proposal }]);
        }
    };
    let parts = Transaction { then: then.to_vec(), ..Transaction::default() }.split(count());
    let proposal = Box::new(TransactionProposal { id, stamp, parts, forget_before: Stamp(0) });
    step(instant, home, vec![Event::Transact { token, proposal }]);
}

fn deliver(instant: &mut Instant, tell: &Tell) {
    step(instant, tell.to, vec![Event::FromPartition { message: tell.message.clone() }]);
}

/// Everything that is written is on disk now.
pub(super) fn sync(instant: &mut Instant, partition: PartitionId) {
    let node = node_mut(instant, partition);
    let everything = node.pending.len();
    match node.sync(everything) {
        Ok(Some(through)) => step(instant, partition, vec![Event::Persisted { through }]),
        Ok(None) => {}
        Err(error) => broke(instant, RECOVERS, error.to_string()),
    }
}

fn crash(instant: &mut Instant, partition: PartitionId, kept: usize) {
    instant.left.crashes -= 1;
    let node = node_mut(instant, partition);
    let in_doubt = node.replica.as_ref().is_some_and(|replica| !replica.in_doubt().is_empty());
    let crashed = node.crash(kept);
    node.rehash();
    // What was on its way to the process is gone with it.
    instant.tells.retain(|(_, tell)| tell.to != partition);
    let history = Arc::make_mut(&mut instant.history);
    history.interrupted |= in_doubt;
    history.reads.retain(|(_, of, _)| *of != partition);
    if let Err(error) = crashed {
        broke(instant, RECOVERS, error.to_string());
    }
}

/// P20, P11: the process counts its start and registers; the viewleaders give it a term that nobody has served in.
fn restart(instant: &mut Instant, partition: PartitionId) {
    let node = node_mut(instant, partition);
    node.incarnation = Incarnation(node.incarnation.0 + 1);
    let seen = node.view.as_ref().map(|view| view.epoch).unwrap_or_default();
    let nonce = BootNonce(node.id.0 + 100 * node.incarnation.0);
    let promised = node.durable.base().promised;
    let (id, registration) = (node.id, registration(Some(node.id), node.incarnation, nonce, seen, promised));
    let mut state = instant.group.state.clone();
    let accepted_at = match state.apply(&Command::Register(registration)) {
        Ok(Done::Registered { accepted_at, .. }) => accepted_at,
        outcome => return broke(instant, RECOVERS, format!("{id} is refused: {outcome:?}")),
    };
    let placements = vec![(partition, vec![id])];
    let change = Change { placements, ..Change::new(state.epoch(), Cause::Failover) };
    let outcome = state.apply(&Command::Change(change));
    assert!(matches!(outcome, Ok(Done::Changed(_))), "the viewleaders refused what was possible: {outcome:?}");
    instant.group = Arc::new(Group::new(state));
    if let Err(error) = node_mut(instant, partition).start(accepted_at) {
        return broke(instant, RECOVERS, error.to_string());
    }
    learn(instant, partition);
}

/// The newest view reaches the partition's node.
pub(super) fn learn(instant: &mut Instant, partition: PartitionId) {
    let view = instant.group.state.view().expect("the group is bootstrapped").clone();
    let configuration = view.configuration(partition).expect("the first map is made").clone();
    node_mut(instant, partition).view = Some(view.clone());
    step(instant, partition, vec![Event::View { epoch: view.epoch, configuration }]);
}

fn broke(instant: &mut Instant, property: &'static str, what: String) {
    Arc::make_mut(&mut instant.history).broke(property, what);
}

/// Events, then a flush, with their effects carried out in order.
fn step(instant: &mut Instant, partition: PartitionId, events: Vec<Event>) {
    for event in events.into_iter().chain([Event::Flush]) {
        let Some(replica) = &mut node_mut(instant, partition).replica else { return };
        let mut effects = Vec::new();
        let stepped = catch_unwind(AssertUnwindSafe(|| replica.step(event, &EmptyState, &mut effects)));
        if let Err(panic) = stepped {
            let text = panic.downcast_ref::<String>().cloned();
            broke(instant, ASSERTED, format!("{partition}: {}", text.unwrap_or_else(|| "an assertion".into())));
            node_mut(instant, partition).rehash();
            return;
        }
        effects.into_iter().for_each(|effect| carry_out(instant, partition, effect));
    }
    node_mut(instant, partition).rehash();
    // Once nothing can crash any more, a sync that takes long is an answer that takes long.
    if instant.left.crashes == 0 && !instant.nodes[place(partition)].pending.is_empty() {
        return sync(instant, partition);
    }
    stepped(instant, partition);
}

fn stepped(instant: &mut Instant, partition: PartitionId) {
    if let Some(replica) = &instant.nodes[place(partition)].replica {
        Arc::make_mut(&mut instant.history).stepped(partition, replica);
    }
}

fn carry_out(instant: &mut Instant, partition: PartitionId, effect: Effect) {
    match effect {
        Effect::Persist { index, record } => node_mut(instant, partition).pending.push((index, record)),
        // Whoever is down hears nothing, and is told again.
        Effect::SendToPartition { partition: to, message } if instant.nodes[place(to)].replica.is_some() => {
            let tell = Tell { to, message };
            let hash = hash_of(&tell);
            let place = instant.tells.partition_point(|(other, _)| *other < hash);
            if instant.tells.get(place).is_none_or(|(other, _)| *other != hash) {
                instant.tells.insert(place, (hash, Arc::new(tell)));
            }
        }
        Effect::Reply { token, answer } => {
            // What is answered is committed, though this step may not have been compared yet.
            stepped(instant, partition);
            if token.0 >= FIRST_READ {
                return Arc::make_mut(&mut instant.history).answered(token, &answer, instant.requests);
            }
            let number = (token.0 % FIRST_RETRY) as u8;
            if instant.requests[usize::from(number)] == Request::ReadBoth {
                return Arc::make_mut(&mut instant.history).read_both(number, &answer, instant.requests);
            }
            if matches!(answer, Answer::Transacted { .. } | Answer::Written { .. }) {
                check_durable(instant, partition, number);
            }
            Arc::make_mut(&mut instant.history).wrote(number, &answer);
        }
        // One replica has no peers and no members that change, and its state is never written; no key expires.
        _ => {}
    }
}

/// P2: what a client hears of is on disk.
fn check_durable(instant: &mut Instant, partition: PartitionId, number: u8) {
    let node = &instant.nodes[place(partition)];
    let decides = |request: types::Remembered| request.id.counter == u64::from(number);
    let holds = |entry: &types::Entry| Batch::decode(&entry.payload).is_ok_and(|b| b.request.is_some_and(decides));
    if !node.durable.log().iter().any(holds) {
        broke(instant, DURABLE, format!("request {number} is acknowledged, and not on the disk of {partition}"));
    }
}
