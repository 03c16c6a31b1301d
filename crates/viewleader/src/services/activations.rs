//! Activations (P16) that arrive while one is being committed are committed together: one change of the view, one fsync
//! and one message to every node, where a rebalancing would make one for each partition.

use crate::raft::{Group, NotDone};
use tokio::sync::{mpsc, oneshot};
use types::{PartitionId, Term};
use viewcore::{Command, Done};

/// Activations that wait; more wait in their sessions.
const WAITING_MAX: usize = 4096;

type Waiting = (PartitionId, Term, oneshot::Sender<bool>);

/// The way to the task that proposes. Clones share it; the last one's end ends it.
#[derive(Clone)]
pub(super) struct Activations {
    waiting: mpsc::Sender<Waiting>,
}

impl Activations {
    pub(super) fn start(group: Group) -> Activations {
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        tokio::spawn(propose(group, queue));
        Activations { waiting }
    }

    /// Whether the term is current and activated from now on; `None` if leadership was lost: ask again.
    pub(super) async fn activate(&self, partition: PartitionId, term: Term) -> Option<bool> {
        let (answer, answered) = oneshot::channel();
        self.waiting.send((partition, term, answer)).await.ok()?;
        answered.await.ok()
    }
}

async fn propose(group: Group, mut queue: mpsc::Receiver<Waiting>) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, WAITING_MAX).await > 0 {
        let activations = waiting.iter().map(|(partition, term, _)| (*partition, *term)).collect();
        let accepted = match group.propose(Command::ActivatedAll(activations)).await {
            Ok(Ok(Done::ActivatedAll(accepted))) => accepted,
            // A group that has stopped changing anything accepts nothing, and refuses nothing for good either.
            Ok(_) | Err(NotDone::NotLeader | NotDone::Stopped(_)) => {
                waiting.clear();
                continue;
            }
        };
        for ((_, _, answer), accepted) in waiting.drain(..).zip(accepted) {
            // Whoever asked may have gone.
            let _gone = answer.send(accepted);
        }
    }
}
