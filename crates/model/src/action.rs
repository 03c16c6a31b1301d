//! What can happen next, and what follows from it.

use crate::history::{ASSERTED, DURABLE, PROMISE, RECOVERS, check_answer};
use crate::node::EmptyState;
use crate::state::{Envelope, Group, Instant};
use crate::world::{NOTHING, PARTITION, registration};
use bytes::Bytes;
use replcore::{Answer, Body, Effect, Event, Proposal, RoleSummary, Token};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use types::{
    BootNonce, Condition, Configuration, Incarnation, Mutation, MutationKind, NodeId, RequestId, Seq, Stamp, Term,
};
use viewcore::{Cause, Change, Command, Done, Step};

/// One thing that can happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// A message arrives.
    Deliver(Arc<Envelope>),
    /// A message arrives, and may arrive again.
    Duplicate(Arc<Envelope>),
    /// A sync of everything written is done.
    Sync(NodeId),
    /// A process ends, and so many of its records that were not synced survive.
    Crash(NodeId, usize),
    /// A process begins, registers and is accepted.
    Restart(NodeId),
    /// The newest view reaches a node.
    Learn(NodeId),
    /// A client's write arrives.
    Write(NodeId),
    /// A write that there was arrives once more.
    Retry(NodeId, u8),
    /// A client's read arrives.
    Read(NodeId),
    /// The viewleaders make this replica primary.
    Lead(NodeId),
    /// The viewleaders have node 4 filled.
    Fill,
    /// The viewleaders put node 4 in node 3's place.
    Members,
    /// The viewleaders commit an activation that was asked for, or refuse it.
    Activate(NodeId, Incarnation, Term),
    /// A primary hears what became of its activation.
    Hear(NodeId, Incarnation, Term, bool),
}

const KEY: Bytes = Bytes::from_static(b"k");
const JOINS: NodeId = NodeId(4);
const LEAVES: NodeId = NodeId(3);

/// Everything that can happen now.
pub(crate) fn possible(instant: &Instant, actions: &mut Vec<Action>) {
    let left = instant.left;
    let (mut previous, mut stream) = (None, None);
    for (hash, envelope) in &instant.network {
        // Copies of one message are one choice; of a stream that keeps its order only the oldest is one.
        let first = stream.replace(envelope.link()) != Some(envelope.link());
        if previous.replace(*hash) != Some(*hash) && (first || !left.ordered) {
            actions.push(Action::Deliver(envelope.clone()));
            if left.duplicates > 0 {
                actions.push(Action::Duplicate(envelope.clone()));
            }
        }
    }
    let epoch = instant.group.epoch();
    for node in &instant.nodes {
        let id = node.id;
        let Some(replica) = &node.replica else {
            actions.push(Action::Restart(id));
            continue;
        };
        if !node.pending.is_empty() {
            actions.push(Action::Sync(id));
        }
        if node.view.as_ref().is_none_or(|view| view.epoch < epoch) {
            actions.push(Action::Learn(id));
        }
        if left.crashes > 0 {
            actions.extend((0..=node.pending.len()).map(|kept| Action::Crash(id, kept)));
        }
        if matches!(replica.role(), RoleSummary::Serving(_)) {
            if left.writes > 0 {
                actions.push(Action::Write(id));
            }
            if left.retries > 0 {
                let begun = instant.history.begun;
                actions.extend((0..begun).map(|write| Action::Retry(id, write)));
            }
            if left.reads > 0 {
                actions.push(Action::Read(id));
            }
        }
    }
    let configuration = instant.group.configuration();
    if left.takeovers > 0 {
        actions.extend(configuration.replicas.iter().skip(1).map(|next| Action::Lead(*next)));
    }
    if left.member_change {
        let filled = |id: &NodeId| instant.node(*id).replica.as_ref().and_then(replcore::Replica::filled);
        match configuration.learner {
            None if configuration.is_activated() => actions.push(Action::Fill),
            // P21: once its primary says that it is full.
            Some(learner) if configuration.primary().as_ref().and_then(filled) == Some(learner) => {
                actions.push(Action::Members);
            }
            _ => {}
        }
    }
    actions.extend(instant.reports.iter().map(|(id, start, term)| Action::Activate(*id, *start, *term)));
    actions.extend(instant.answers.iter().map(|(id, start, term, yes)| Action::Hear(*id, *start, *term, *yes)));
}

/// Makes it happen.
pub(crate) fn take(instant: &mut Instant, action: Action) {
    match action {
        Action::Deliver(envelope) => {
            instant.unpost(&envelope);
            deliver(instant, &envelope);
        }
        Action::Duplicate(envelope) => {
            instant.left.duplicates -= 1;
            deliver(instant, &envelope);
        }
        Action::Sync(id) => sync(instant, id),
        Action::Crash(id, kept) => {
            instant.left.crashes -= 1;
            if let Err(error) = instant.node_mut(id).crash(kept) {
                broke(instant, RECOVERS, error.to_string());
            }
            instant.network.retain(|(_, envelope)| envelope.to != id);
            instant.reports.retain(|(of, ..)| *of != id);
            instant.answers.retain(|(of, ..)| *of != id);
            instant.changed(id);
        }
        Action::Restart(id) => restart(instant, id),
        Action::Learn(id) => learn(instant, id),
        Action::Write(id) => {
            instant.left.writes -= 1;
            let history = Arc::make_mut(&mut instant.history);
            let write = history.begun;
            history.begun += 1;
            step(instant, id, [Event::Mutate { token: Token(write.into()), proposal: proposal(write) }]);
        }
        Action::Retry(id, write) => {
            instant.left.retries -= 1;
            let token = Token(100 * (1 + u64::from(instant.left.retries)) + u64::from(write));
            step(instant, id, [Event::Mutate { token, proposal: proposal(write) }]);
        }
        Action::Read(id) => {
            let token = Token(10_000 + u64::from(instant.left.reads));
            instant.left.reads -= 1;
            let history = Arc::make_mut(&mut instant.history);
            history.reads.push((token, history.floor()));
            step(instant, id, [Event::Read { token, key: KEY }]);
        }
        Action::Lead(next) => {
            instant.left.takeovers -= 1;
            let mut order = instant.group.configuration().replicas.clone();
            order.retain(|node| *node != next);
            order.insert(0, next);
            change(instant, |change| change.placements = vec![(PARTITION, order)]);
        }
        Action::Fill => {
            let fill = Step::Fill { joins: JOINS, leaves: Some(LEAVES) };
            change(instant, |change| change.steps = vec![(PARTITION, fill)]);
        }
        Action::Members => {
            instant.left.member_change = false;
            let mut members = instant.group.configuration().replicas.clone();
            members.iter_mut().filter(|node| **node == LEAVES).for_each(|node| *node = JOINS);
            change(instant, |change| change.steps = vec![(PARTITION, Step::Members(members))]);
        }
        Action::Activate(id, start, term) => {
            instant.reports.retain(|report| *report != (id, start, term));
            let mut state = instant.group.state.clone();
            let accepted = state.apply(&Command::Activated { partition: PARTITION, term }).is_ok();
            instant.group = Arc::new(Group::new(state));
            instant.answers.push((id, start, term, accepted));
            instant.answers.sort_unstable();
        }
        Action::Hear(id, start, term, accepted) => {
            instant.answers.retain(|answer| *answer != (id, start, term, accepted));
            step(instant, id, [Event::ActivationAnswered { term, accepted }]);
        }
    }
}

/// Lets everything happen in one order until nothing is under way: how a world begins.
pub(crate) fn settle(instant: &mut Instant) {
    loop {
        let mut actions = Vec::new();
        let left = instant.left;
        instant.left = NOTHING.into();
        possible(instant, &mut actions);
        // Views first: who has none knows nobody to answer.
        let learn = actions.iter().position(|action| matches!(action, Action::Learn(_)));
        if let Some(action) = (!actions.is_empty()).then(|| actions.swap_remove(learn.unwrap_or(0))) {
            take(instant, action);
        } else {
            instant.left = left;
            return;
        }
        instant.left = left;
    }
}

fn sync(instant: &mut Instant, id: NodeId) {
    let node = instant.node_mut(id);
    let everything = node.pending.len();
    match node.sync(everything) {
        Ok(Some(through)) => step(instant, id, [Event::Persisted { through }]),
        Ok(None) => {}
        Err(error) => broke(instant, RECOVERS, error.to_string()),
    }
}

fn deliver(instant: &mut Instant, envelope: &Envelope) {
    let message = envelope.message.clone();
    step(instant, envelope.to, [Event::Message { from: envelope.from, message }]);
}

fn proposal(write: u8) -> Proposal {
    let value = Bytes::copy_from_slice(&[b'a' + write]);
    Proposal {
        id: RequestId { client: 1, counter: write.into() },
        stamp: Stamp(1),
        mutation: Mutation { key: KEY, kind: MutationKind::Put(value), condition: Condition::None, fence: None },
        forget_before: Stamp(0),
    }
}

fn change(instant: &mut Instant, edit: impl FnOnce(&mut Change)) {
    let mut state = instant.group.state.clone();
    let mut change = Change::new(state.epoch(), Cause::Failover);
    edit(&mut change);
    let outcome = state.apply(&Command::Change(change));
    assert!(matches!(outcome, Ok(Done::Changed(_))), "the viewleaders refused what was possible: {outcome:?}");
    instant.group = Arc::new(Group::new(state));
}

/// P20, P11: the process counts its start, registers, and begins with the view that it is given.
fn restart(instant: &mut Instant, id: NodeId) {
    let node = instant.node_mut(id);
    node.incarnation = Incarnation(node.incarnation.0 + 1);
    let seen = node.view.as_ref().map(|view| view.epoch).unwrap_or_default();
    let nonce = BootNonce(id.0 + 100 * node.incarnation.0);
    let registration = registration(Some(id), node.incarnation, nonce, seen, node.durable.base().promised);
    let mut state = instant.group.state.clone();
    let outcome = state.apply(&Command::Register(registration));
    let Ok(Done::Registered { accepted_at, .. }) = outcome else {
        return broke(instant, RECOVERS, format!("{id} is refused: {outcome:?}"));
    };
    instant.group = Arc::new(Group::new(state));
    if let Err(error) = instant.node_mut(id).start(accepted_at) {
        return broke(instant, RECOVERS, error.to_string());
    }
    learn(instant, id);
}

/// The newest view, and what its news about peers means for the streams to them.
fn learn(instant: &mut Instant, id: NodeId) {
    let view = instant.group.state.view().expect("the group is bootstrapped").clone();
    let node = instant.node_mut(id);
    let known = node.view.replace(view.clone());
    let configuration = instant.group.configuration().clone();
    let mut events = vec![Event::View { epoch: view.epoch, configuration }];
    // A stream to another start of a peer is another stream.
    let restarted = view.nodes.values().filter(|now| {
        let before = known.as_ref().and_then(|known| known.nodes.get(&now.id));
        now.id != id && before.is_some_and(|before| before.incarnation != now.incarnation)
    });
    events.extend(restarted.map(|peer| Event::PeerUp { peer: peer.id }));
    step(instant, id, events);
}

fn broke(instant: &mut Instant, property: &'static str, what: String) {
    Arc::make_mut(&mut instant.history).broke(property, what);
}

/// Events, then a flush, with their effects carried out in order.
fn step(instant: &mut Instant, id: NodeId, events: impl IntoIterator<Item = Event>) {
    for event in events.into_iter().chain([Event::Flush]) {
        let Some(replica) = &mut instant.node_mut(id).replica else { return };
        let mut effects = Vec::new();
        let step = catch_unwind(AssertUnwindSafe(|| replica.step(event, &EmptyState, &mut effects)));
        if let Err(panic) = step {
            let text = panic.downcast_ref::<String>().cloned();
            broke(instant, ASSERTED, format!("{id}: {}", text.unwrap_or_else(|| "an assertion".into())));
            instant.changed(id);
            return;
        }
        for effect in effects {
            carry_out(instant, id, effect);
        }
    }
    instant.changed(id);
    // Once nothing can crash any more, a sync that takes long is an answer that takes long.
    if instant.left.crashes == 0 && !instant.node(id).pending.is_empty() {
        return sync(instant, id);
    }
    instant.tidy(id);
    let Instant { nodes, history, .. } = instant;
    let node = &nodes[id.0 as usize - 1];
    let Some(replica) = &node.replica else { return };
    let base = replica.base();
    let news = base.committed.0 as usize > history.chosen.len();
    let differs = |seq: u64| replica.entry(Seq(seq)) != history.chosen.get(seq as usize - 1);
    if news || (1..=base.committed.0).any(differs) {
        Arc::make_mut(history).stepped(id, replica);
    }
    if base.promised < node.told {
        let what = format!("{id} promises {}, and has told others {}", base.promised, node.told);
        Arc::make_mut(history).broke(PROMISE, what);
    }
}

fn carry_out(instant: &mut Instant, id: NodeId, effect: Effect) {
    match effect {
        Effect::Persist { index, record } => instant.node_mut(id).pending.push((index, record)),
        Effect::Send { to, message } => {
            let node = instant.node(id);
            let promised = node.durable.base().promised;
            if let Err(what) = check_answer(&message.body, message.term, promised) {
                broke(instant, PROMISE, format!("{id} {what}"));
            }
            match message.body {
                // They have their reader ask for the newest view, which it gets sooner or later anyway.
                Body::Fenced { .. } | Body::NotMember => return,
                Body::Sealed { .. } | Body::Prepared { .. } => {
                    let node = instant.node_mut(id);
                    node.told = node.told.max(message.term);
                }
                _ => {}
            }
            if let Some(incarnation) = instant.node(id).known_incarnation(to) {
                instant.post(Envelope { from: id, to, incarnation, message });
            }
        }
        Effect::Reply { token, answer } => {
            if let Answer::Written { outcome, .. } = &answer {
                check_durable(instant, id, outcome.version);
            }
            let later = instant.history.served.len() > 1;
            Arc::make_mut(&mut instant.history).answered(token, &answer, later);
        }
        Effect::Serving { term: Some(term) } => {
            let Instant { nodes, history, .. } = instant;
            if let Some(replica) = &nodes[id.0 as usize - 1].replica {
                Arc::make_mut(history).serves(id, term, replica);
            }
        }
        Effect::ReportActivated { term } => {
            let report = (id, instant.node(id).incarnation, term);
            if !instant.reports.contains(&report) {
                instant.reports.push(report);
                instant.reports.sort_unstable();
            }
        }
        // Nobody serves any more; nothing to do for a state that is never written; the view comes without being asked for;
        // nobody scans here, no key expires, and one partition has no other to speak to.
        Effect::Serving { term: None }
        | Effect::DeleteData { .. }
        | Effect::ReportStuck { .. }
        | Effect::ReportDamaged
        | Effect::WantView
        | Effect::ReadState { .. }
        | Effect::Install { .. }
        | Effect::ScanState { .. }
        | Effect::SendToPartition { .. }
        | Effect::Expiring { .. }
        | Effect::ExpiryOver { .. } => {}
    }
}

/// P2, P9: an acknowledged write is on the disks of a majority of the members that its primary knows.
fn check_durable(instant: &mut Instant, id: NodeId, version: Seq) {
    let node = instant.node(id);
    let (Some(replica), Some(view)) = (&node.replica, &node.view) else { return };
    let (Some(entry), Some(configuration)) = (replica.entry(version), view.configuration(PARTITION)) else { return };
    let members = &configuration.replicas;
    let has = |member: &&NodeId| instant.node(**member).durable.log().iter().any(|there| there == entry);
    let holders = members.iter().filter(has).count();
    if holders < Configuration::majority_of(members) {
        let what = format!("{id} acknowledges {:?}, which is on {holders} of {members:?}", entry.id);
        broke(instant, DURABLE, what);
    }
}
