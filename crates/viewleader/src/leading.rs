//! While this member leads: one task that feeds [`viewcore::Leader`] and carries out what it answers.
//!
//! A leadership begins once everything committed before it is applied here, and ends with the Raft term. Sessions of
//! storage nodes send it their events, and end with it.

use crate::Error;
use crate::expiry::Expiry;
use crate::probe::probe;
use crate::raft::{Group, Leadership};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::NodeId;
use viewcore::{ClusterState, Effect, Event, Leader, LeaderSettings};

/// Events that wait for the leader; more wait in their sessions.
const EVENTS_WAITING_MAX: usize = 4096;
/// How often the leader looks whom it has not heard.
const TICK_EVERY: Duration = Duration::from_millis(50);
/// Between two attempts to take up a leadership that could not be confirmed.
const CONFIRM_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Tells two sessions of one node apart.
pub(crate) type SessionNumber = u64;

/// What reaches the leading task.
pub(crate) enum Input {
    /// Something happened.
    Event(Event),
    /// A node registered on this session, which ends when its token is cancelled: a newer one takes its place.
    SessionBegan { node: NodeId, restarted: bool, session: SessionNumber, superseded: CancellationToken },
    /// A session ended.
    SessionEnded { node: NodeId, session: SessionNumber },
    /// Someone wants to know what the leader knows.
    Ask(oneshot::Sender<Knowledge>),
}

/// What only the leader knows, for people.
pub(crate) struct Knowledge {
    /// The leader's memory, copied.
    pub(crate) leader: Leader,
    /// The leader's clock at that moment, as [`Leader`] counts it.
    pub(crate) now_ms: u64,
}

/// The way to the leading task; ended with the leadership.
#[derive(Clone)]
pub(crate) struct Leading {
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) ended: CancellationToken,
    /// Which leases are over.
    pub(crate) expiry: Expiry,
}

/// Leads whenever this member is the Raft leader. Publishes the way to each leadership while it lasts.
pub(crate) async fn lead(
    group: Group,
    settings: LeaderSettings,
    publish: watch::Sender<Option<Leading>>,
    stopping: CancellationToken,
) -> Result<(), Error> {
    let mut leadership = group.leadership();
    while !stopping.is_cancelled() {
        let now = leadership.borrow_and_update().clone();
        if now.leads {
            tokio::select! {
                () = lead_once(&group, &settings, &publish) => {}
                () = until_over(&mut leadership, now.raft_term) => {}
                () = stopping.cancelled() => {}
            }
            if let Some(leading) = publish.send_replace(None) {
                leading.ended.cancel();
            }
            metrics::gauge!("viewleader_leads").set(0.0);
            metrics::gauge!("viewleader_sessions").set(0.0);
            tracing::info!(raft_term = now.raft_term, "leads the group no more");
        } else {
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() { break },
                () = stopping.cancelled() => {}
            }
        }
    }
    Ok(())
}

async fn until_over(leadership: &mut watch::Receiver<Leadership>, raft_term: u64) {
    // An error is the end of Raft itself.
    let _gone = leadership.wait_for(|now| !now.leads || now.raft_term != raft_term).await;
}

async fn lead_once(group: &Group, settings: &LeaderSettings, publish: &watch::Sender<Option<Leading>>) {
    while let Err(error) = group.read_barrier().await {
        tracing::debug!(%error, "leadership is not confirmed yet");
        tokio::time::sleep(CONFIRM_AGAIN_AFTER).await;
    }
    let (inputs, waiting) = mpsc::channel(EVENTS_WAITING_MAX);
    let ended = CancellationToken::new();
    let expiry = Expiry::begin(group, ended.clone());
    let leading = Leading { inputs: inputs.clone(), ended, expiry };
    let task = Task {
        began: Instant::now(),
        leader: Leader::new(settings.clone(), 0),
        state: group.state(),
        group: group.clone(),
        inputs,
        sessions: HashMap::new(),
    };
    tracing::info!(epoch = %task.state.borrow().epoch(), "leads the group");
    publish.send_replace(Some(leading));
    metrics::gauge!("viewleader_leads").set(1.0);
    task.run(waiting).await;
}

struct Task {
    began: Instant,
    leader: Leader,
    state: watch::Receiver<Arc<ClusterState>>,
    group: Group,
    inputs: mpsc::Sender<Input>,
    sessions: HashMap<NodeId, (SessionNumber, CancellationToken)>,
}

impl Task {
    async fn run(mut self, mut waiting: mpsc::Receiver<Input>) {
        let mut tick = tokio::time::interval(TICK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut changes = self.state.clone();
        loop {
            tokio::select! {
                _ = tick.tick() => self.step(Event::Tick),
                // An error is the end of this member, which ends this too.
                Ok(()) = changes.changed() => self.step(Event::Changed),
                input = waiting.recv() => match input {
                    Some(input) => self.take(input),
                    None => return,
                },
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.step(event),
            Input::SessionBegan { node, restarted, session, superseded } => {
                if let Some((_, older)) = self.sessions.insert(node, (session, superseded)) {
                    older.cancel();
                }
                self.count_sessions();
                self.step(Event::Registered { node, restarted });
            }
            Input::SessionEnded { node, session } => {
                if self.sessions.get(&node).is_some_and(|(current, _)| *current == session) {
                    self.sessions.remove(&node);
                    self.count_sessions();
                    tracing::info!(%node, "its session ended");
                    self.step(Event::SessionEnded(node));
                }
            }
            Input::Ask(answer) => {
                // Whoever asked may have gone.
                let _gone = answer.send(Knowledge { leader: self.leader.clone(), now_ms: self.now_ms() });
            }
        }
    }

    fn count_sessions(&self) {
        metrics::gauge!("viewleader_sessions").set(self.sessions.len() as f64);
    }

    fn step(&mut self, event: Event) {
        let state = self.state.borrow_and_update().clone();
        let now_ms = self.now_ms();
        for effect in self.leader.step(now_ms, event, &state) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&self, effect: Effect) {
        let inputs = self.inputs.clone();
        match effect {
            Effect::Propose(command) => {
                let group = self.group.clone();
                if let viewcore::Command::Change(change) = &command {
                    metrics::counter!("viewleader_changes_proposed_total").increment(1);
                    tracing::info!(
                        cause = ?change.cause, dead = ?change.dead, alive = ?change.alive,
                        partitions = change.placements.len(), steps = change.steps.len(), "proposing a change of the view"
                    );
                }
                tokio::spawn(async move {
                    match group.propose(command).await {
                        Ok(Ok(done)) => tracing::info!(?done, "proposal applied"),
                        // Something else was committed meanwhile: it is planned again at once.
                        Ok(Err(viewcore::Refusal::StalePlan { .. })) => {}
                        Ok(Err(refusal)) => tracing::warn!(%refusal, "proposal refused"),
                        Err(error) => tracing::warn!(%error, "proposal lost"),
                    }
                    // A closed channel is the leadership's end.
                    let _over = inputs.send(Input::Event(Event::Settled)).await;
                });
            }
            Effect::Probe { node, address } => {
                metrics::counter!("viewleader_probes_total").increment(1);
                let surroundings = self.group.surroundings().clone();
                tokio::spawn(async move {
                    let refused = probe(&*surroundings, &address).await;
                    let _over = inputs.send(Input::Event(Event::Probed { node, refused })).await;
                });
            }
        }
    }
}
