//! Whether the cluster is whole: every node there, every partition served by all its replicas, nothing on the move.

use super::{Cluster, Role};
use crate::error::Error;
use std::time::{Duration, Instant};

/// A cluster that takes longer to become whole never does.
const WHOLE_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A viewleader that is silent for longer says nothing.
const ANSWER_MAX: Duration = Duration::from_secs(5);

impl Cluster {
    /// Waits until everything that a fault did is repaired, so that the next fault is a single one.
    ///
    /// # Errors
    /// [`Error::Cluster`] where that takes two minutes, with what is missing; or where a process has ended.
    pub(crate) async fn await_whole(&self) -> Result<(), Error> {
        let mut waited = Duration::ZERO;
        loop {
            let looked = Instant::now();
            self.all_go_on()?;
            let missing = match tokio::time::timeout(ANSWER_MAX, self.missing()).await {
                Ok(Ok(None)) => return Ok(()),
                Ok(Ok(Some(missing))) => missing,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no viewleader answers".to_owned(),
            };
            if waited > WHOLE_MAX {
                let waited_s = WHOLE_MAX.as_secs();
                return Err(Error::Cluster(format!(
                    "the cluster is not whole {waited_s} s after it was healed: {missing}"
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
            // What took longer than it can was no waiting: the harness itself, and its proxies, stood still.
            waited += looked.elapsed().min(ANSWER_MAX + LOOK_EVERY);
        }
    }

    /// What the cluster lacks, if anything.
    async fn missing(&self) -> Result<Option<String>, Error> {
        let status = self.leaders.status().await?;
        if !status.has_map {
            return Ok(Some("it has no partition map".to_owned()));
        }
        for place in self.running(Some(Role::Storaged)) {
            let slot = self.slot(place);
            let here = |node: &&client::NodeStatus| node.info.address == slot.address() && node.info.alive;
            if !status.nodes.iter().any(|node| here(&node)) {
                return Ok(Some(format!("{} is not there", slot.name)));
            }
        }
        if let Some(dead) = status.nodes.iter().find(|node| !node.info.alive) {
            return Ok(Some(format!("{} is dead", dead.info.id)));
        }
        if let Some(silent) = status.members.iter().find(|member| member.role == "unreachable") {
            return Ok(Some(format!("viewleader {} is not reached", silent.name)));
        }
        let voting = status.members.iter().filter(|member| member.role != "learner").count();
        if (voting, status.members.len()) != (self.shape.viewleaders.into(), self.shape.viewleaders.into()) {
            return Ok(Some(format!("{voting} of {} viewleaders vote", status.members.len())));
        }
        let lists = [
            (&status.without_quorum, "have no majority"),
            (&status.not_serving, "do not serve"),
            (&status.under_replicated, "lack a replica"),
        ];
        if let Some((list, what)) = lists.iter().find(|(list, _)| !list.is_empty()) {
            return Ok(Some(format!("{} partitions {what}, {:?} first", list.len(), list[0])));
        }
        let moves = self.leaders.moves(None).await?;
        if !moves.complete || !moves.stranded.is_empty() {
            let (underway, planned) = (moves.underway.len(), moves.planned.len());
            let blocked = moves.underway.iter().find_map(|moving| moving.blocked.clone()).unwrap_or_default();
            return Ok(Some(format!("{underway} replicas move, {planned} are to move; {blocked}")));
        }
        Ok(None)
    }
}
