//! Whether the cluster is whole: every node there, every partition served by all its replicas, nothing on the move.

use super::{Cluster, Role};
use crate::error::Error;
use client::{ClusterStatus, Moves};
use std::time::{Duration, Instant};

/// A cluster in which nothing gets nearer to its place for so long never becomes whole.
const STILL_MAX: Duration = Duration::from_secs(120);
/// Nor does one that takes longer than this, whatever it does.
const WHOLE_MAX: Duration = Duration::from_secs(15 * 60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A viewleader that is silent for longer says nothing.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What is on its way to where it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ToMove {
    replicas: usize,
    /// What nodes have sent to fill others.
    filled_bytes: u64,
}

/// How long was waited, and how long of that nothing got nearer to its place. A machine with much else to do is slow; that
/// is no fault of the cluster.
#[derive(Debug, Default)]
struct Patience {
    waited: Duration,
    still: Duration,
    fewest: Option<usize>,
    filled_bytes: u64,
}

impl Patience {
    fn waited(&mut self, time: Duration) {
        self.waited += time;
        self.still += time;
    }

    /// Looks again, at what is to move where that is known; says why there is no use in waiting any longer.
    fn has_ended(&mut self, to_move: Option<ToMove>) -> Option<String> {
        if let Some(ToMove { replicas, filled_bytes }) = to_move {
            let fewer = self.fewest.is_some_and(|fewest| replicas < fewest);
            if fewer || self.filled_bytes != filled_bytes {
                self.still = Duration::ZERO;
            }
            self.fewest = Some(self.fewest.map_or(replicas, |fewest| fewest.min(replicas)));
            self.filled_bytes = filled_bytes;
        }
        match (self.still > STILL_MAX, self.waited > WHOLE_MAX) {
            (true, _) => Some(format!("nothing has moved for {} s", STILL_MAX.as_secs())),
            (false, true) => Some(format!("it was healed {} s ago", WHOLE_MAX.as_secs())),
            (false, false) => None,
        }
    }
}

impl Cluster {
    /// Waits until everything that a fault did is repaired, so that the next fault is a single one.
    ///
    /// # Errors
    /// [`Error::Cluster`] where nothing moves for two minutes, or that takes longer than fifteen, with what is missing; or
    /// where a process has ended.
    pub(crate) async fn await_whole(&self) -> Result<(), Error> {
        let mut patience = Patience::default();
        loop {
            let looked = Instant::now();
            self.all_go_on()?;
            let (missing, to_move) = match tokio::time::timeout(ANSWER_MAX, self.look()).await {
                Ok(Ok((None, _))) => return Ok(()),
                Ok(Ok((Some(missing), to_move))) => (missing, Some(to_move)),
                Ok(Err(error)) => (error.to_string(), None),
                Err(_) => ("no viewleader answers".to_owned(), None),
            };
            if let Some(why) = patience.has_ended(to_move) {
                return Err(Error::Cluster(format!("the cluster is not whole, and {why}: {missing}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
            // What took longer than it can was no waiting: the harness itself, and its proxies, stood still.
            patience.waited(looked.elapsed().min(ANSWER_MAX + LOOK_EVERY));
        }
    }

    /// The running storage nodes that lead a partition.
    ///
    /// # Errors
    /// Where no viewleader answers.
    pub(crate) async fn leading(&self) -> Result<Vec<usize>, Error> {
        let status = self.leaders.status().await?;
        let leads = |address: &str| {
            status.nodes.iter().any(|node| node.info.address == address && node.info.alive && node.primaries > 0)
        };
        let running = self.running(Some(Role::Storaged));
        Ok(running.into_iter().filter(|place| leads(&self.slot(*place).address())).collect())
    }

    /// What the cluster lacks, if anything, and what is on its way.
    async fn look(&self) -> Result<(Option<String>, ToMove), Error> {
        let status = self.leaders.status().await?;
        let moves = self.leaders.moves(None).await?;
        let filled_bytes = moves.nodes.iter().map(|node| node.filled_bytes).sum();
        let to_move = ToMove { replicas: moves.underway.len() + moves.planned.len(), filled_bytes };
        Ok((self.missing(&status, &moves), to_move))
    }

    fn missing(&self, status: &ClusterStatus, moves: &Moves) -> Option<String> {
        if !status.has_map {
            return Some("it has no partition map".to_owned());
        }
        for place in self.running(Some(Role::Storaged)) {
            let slot = self.slot(place);
            let here = |node: &&client::NodeStatus| node.info.address == slot.address() && node.info.alive;
            if !status.nodes.iter().any(|node| here(&node)) {
                return Some(format!("{} is not there", slot.name));
            }
        }
        if let Some(dead) = status.nodes.iter().find(|node| !node.info.alive) {
            return Some(format!("{} is dead", dead.info.id));
        }
        if let Some(silent) = status.members.iter().find(|member| member.role == "unreachable") {
            return Some(format!("viewleader {} is not reached", silent.name));
        }
        let voting = status.members.iter().filter(|member| member.role != "learner").count();
        if (voting, status.members.len()) != (self.shape.viewleaders.into(), self.shape.viewleaders.into()) {
            return Some(format!("{voting} of {} viewleaders vote", status.members.len()));
        }
        let lists = [
            (&status.without_quorum, "have no majority"),
            (&status.not_serving, "do not serve"),
            (&status.under_replicated, "lack a replica"),
        ];
        if let Some((list, what)) = lists.iter().find(|(list, _)| !list.is_empty()) {
            return Some(format!("{} partitions {what}, {:?} first", list.len(), list[0]));
        }
        if !moves.complete || !moves.stranded.is_empty() {
            let (underway, planned) = (moves.underway.len(), moves.planned.len());
            let blocked = moves.underway.iter().find_map(|moving| moving.blocked.clone()).unwrap_or_default();
            return Some(format!("{underway} replicas move, {planned} are to move; {blocked}"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: u64, look: impl Fn(u64) -> Option<ToMove>) -> Option<(u64, String)> {
        let mut patience = Patience::default();
        (0..seconds).find_map(|second| {
            let ended = patience.has_ended(look(second));
            patience.waited(Duration::from_secs(1));
            ended.map(|why| (second, why))
        })
    }

    /// Guards against a slow machine that is called a cluster that never becomes whole, and against a wait without end.
    #[test]
    fn who_moves_is_waited_for_and_who_does_not_is_given_up() {
        let still = |_| Some(ToMove { replicas: 3, filled_bytes: 7 });
        assert_eq!(after(1_000, still).map(|(second, _)| second), Some(121));
        assert_eq!(after(1_000, |_| None).map(|(second, _)| second), Some(121), "nobody answers");
        let sends = |second| Some(ToMove { replicas: 3, filled_bytes: second / 60 });
        assert_eq!(after(800, sends), None);
        let fewer = |second| Some(ToMove { replicas: 20 - second as usize / 100, filled_bytes: 7 });
        assert_eq!(after(800, fewer), None);
        assert_eq!(after(1_000, sends).map(|(second, _)| second), Some(901));
        let to_and_fro = |second| Some(ToMove { replicas: 3 + second as usize % 2, filled_bytes: 7 });
        assert_eq!(after(1_000, to_and_fro).map(|(second, _)| second), Some(121), "no nearer");
    }
}
