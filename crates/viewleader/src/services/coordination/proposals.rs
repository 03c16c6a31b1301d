//! Requests that arrive at the same time are carried out with one command, and so with one fsync; renewals of leases,
//! which nobody is in a hurry for, wait a moment for more of them.

use super::super::no_leader;
use crate::raft::{Group, NotDone};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use types::{ErrorCode, LeaseId};
use viewcore::coordination::{self, Outcome, Request};
use viewcore::{Command, Done};
use wire::convert::error;
use wire::v1;

/// Requests that wait; more wait in their streams.
const WAITING_MAX: usize = 4096;
/// How long renewals wait for others.
const RENEW_EVERY: Duration = Duration::from_millis(50);
/// Renewals in one command.
const RENEWED_MAX: usize = 65_536;
/// How long a command may take: without a majority it would take for ever.
const PROPOSE_MAX: Duration = Duration::from_secs(5);

type Answer<T> = oneshot::Sender<Result<T, v1::Error>>;

enum Waiting {
    Request(Request, Answer<Outcome>),
    Renewal(Vec<LeaseId>, Answer<Vec<LeaseId>>),
}

/// The way to the task that proposes. Clones share it; the last one's end ends it.
#[derive(Clone)]
pub(super) struct Proposals {
    waiting: mpsc::Sender<Waiting>,
}

impl Proposals {
    pub(super) fn start(group: Group) -> Proposals {
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        tokio::spawn(run(group, queue));
        Proposals { waiting }
    }

    /// What became of the request.
    ///
    /// # Errors
    /// It was not done, or nobody knows.
    pub(super) async fn submit(&self, request: Request) -> Result<Outcome, v1::Error> {
        self.ask(|answer| Waiting::Request(request, answer)).await
    }

    /// Renews leases; those that are no more are the answer.
    ///
    /// # Errors
    /// Nobody knows whether they were renewed.
    pub(super) async fn keep_alive(&self, leases: Vec<LeaseId>) -> Result<Vec<LeaseId>, v1::Error> {
        self.ask(|answer| Waiting::Renewal(leases, answer)).await
    }

    async fn ask<T>(&self, waiting: impl FnOnce(Answer<T>) -> Waiting) -> Result<T, v1::Error> {
        let (answer, answered) = oneshot::channel();
        let stopping = || error(ErrorCode::ShuttingDown, "this viewleader is stopping; ask another");
        self.waiting.send(waiting(answer)).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }
}

async fn run(group: Group, mut queue: mpsc::Receiver<Waiting>) {
    let mut arrived = Vec::new();
    let mut requests = Vec::new();
    let mut renewals = Vec::new();
    let mut renew_at = Instant::now();
    loop {
        tokio::select! {
            count = queue.recv_many(&mut arrived, WAITING_MAX) => if count == 0 { return },
            () = sleep_until(renew_at), if !renewals.is_empty() => {}
        }
        for waiting in arrived.drain(..) {
            match waiting {
                Waiting::Request(request, answer) => requests.push((request, answer)),
                Waiting::Renewal(leases, answer) => {
                    if renewals.is_empty() {
                        renew_at = Instant::now() + RENEW_EVERY;
                    }
                    renewals.push((leases, answer));
                }
            }
        }
        if !requests.is_empty() || Instant::now() >= renew_at {
            propose(&group, &mut requests, &mut renewals).await;
        }
    }
}

async fn propose(
    group: &Group,
    requests: &mut Vec<(Request, Answer<Outcome>)>,
    renewals: &mut Vec<(Vec<LeaseId>, Answer<Vec<LeaseId>>)>,
) {
    // Nobody waits for these any more.
    renewals.retain(|(_, answer)| !answer.is_closed());
    let mut renewed: BTreeMap<LeaseId, bool> = BTreeMap::new();
    let mut taken = 0;
    for (leases, _) in renewals.iter() {
        if renewed.len() >= RENEWED_MAX {
            break;
        }
        renewed.extend(leases.iter().map(|lease| (*lease, false)));
        taken += 1;
    }
    let (requests, answers): (Vec<_>, Vec<_>) = requests.drain(..).unzip();
    let commands = requests.into_iter().chain([Request::KeepAlive(renewed.keys().copied().collect())]).collect();
    let outcomes = match timeout(PROPOSE_MAX, group.propose(Command::Coordinate(commands))).await {
        Ok(Ok(Ok(Done::Coordinated(outcomes)))) => Ok(outcomes),
        Ok(Ok(Ok(other))) => Err(error(ErrorCode::Internal, format!("leases and locks were answered with {other:?}"))),
        Ok(Ok(Err(refusal))) => Err(error(refusal.code(), refusal.to_string())),
        Ok(Err(NotDone::NotLeader)) => Err(no_leader()),
        Ok(Err(NotDone::Stopped(why))) => Err(error(ErrorCode::ShuttingDown, why)),
        Err(_) => Err(error(
            ErrorCode::Unknown,
            "the viewleaders have no majority at the moment: it may still be done; the same request again is harmless",
        )),
    };
    // Whoever asked may have gone, in all of the following.
    let mut outcomes = match outcomes {
        Ok(outcomes) => outcomes.into_iter(),
        Err(why) => {
            answers.into_iter().for_each(|answer| drop(answer.send(Err(why.clone()))));
            renewals.drain(..taken).for_each(|(_, answer)| drop(answer.send(Err(why.clone()))));
            return;
        }
    };
    for (answer, outcome) in answers.into_iter().zip(outcomes.by_ref()) {
        drop(answer.send(Ok(outcome)));
    }
    if let Some(Ok(coordination::Done::KeptAlive(alive))) = outcomes.next() {
        renewed.values_mut().zip(alive).for_each(|(renewed, alive)| *renewed = alive);
    }
    for (leases, answer) in renewals.drain(..taken) {
        let gone = leases.into_iter().filter(|lease| renewed.get(lease) == Some(&false)).collect();
        drop(answer.send(Ok(gone)));
    }
}
