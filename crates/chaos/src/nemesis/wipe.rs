//! A storage node loses its data directory: it comes back as a node that nobody knows, and the old one is given up.

use super::Stage;
use crate::cluster::Role;
use crate::error::Error;
use client::Operation;
use std::time::{Duration, Instant};
use types::{Duty, NodeId};

const REGISTERS_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<String, Error> {
    let target = stage.choose(Some(Role::Storaged))?;
    let old = known_as(stage, target, None).await?;
    stage.begin(stage.name(target));
    stage.cluster.kill(target).await?;
    let new = replace(stage, target, old).await?;
    stage.end();
    Ok(format!("{old} came back as {new}"))
}

/// Removes the directory of a process that has ended, starts it as a new node, and gives the old one up.
pub(super) async fn replace(stage: &mut Stage<'_>, target: usize, old: NodeId) -> Result<NodeId, Error> {
    remove_directory(stage, target)?;
    stage.cluster.start_at(target).await?;
    let new = known_as(stage, target, Some(old)).await?;
    operate(stage, &Operation::SetDuty { node: old, duty: Duty::Removed }).await?;
    Ok(new)
}

/// Removes everything that a process has kept.
pub(super) fn remove_directory(stage: &Stage<'_>, target: usize) -> Result<(), Error> {
    let directory = &stage.cluster.slot(target).data_dir;
    std::fs::remove_dir_all(directory).map_err(Error::file(directory))
}

/// The living node at a place; another one than `old`.
pub(super) async fn known_as(stage: &Stage<'_>, target: usize, old: Option<NodeId>) -> Result<NodeId, Error> {
    let address = stage.cluster.slot(target).address();
    let began = Instant::now();
    loop {
        if let Ok(status) = stage.cluster.leaders().status().await {
            let mut nodes = status.nodes.iter().map(|node| &node.info);
            let here = nodes.find(|node| node.address == address && node.alive && Some(node.id) != old);
            if let Some(node) = here {
                return Ok(node.id);
            }
        }
        if began.elapsed() > REGISTERS_WITHIN {
            return Err(Error::Cluster(format!("{} does not register", stage.name(target))));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Has the viewleaders do something that is harmless to do twice; waits for a leader if there is none.
pub(super) async fn operate(stage: &Stage<'_>, operation: &Operation) -> Result<(), Error> {
    let began = Instant::now();
    loop {
        match stage.cluster.leaders().operate(operation).await {
            Ok(_epoch) => return Ok(()),
            // Done by an attempt that was not answered.
            Err(_) if is_forgotten(stage, operation).await => return Ok(()),
            Err(error) if began.elapsed() > REGISTERS_WITHIN => return Err(error.into()),
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Whether the operation was to remove a node, and there is none any more.
async fn is_forgotten(stage: &Stage<'_>, operation: &Operation) -> bool {
    let Operation::SetDuty { node, duty: Duty::Removed } = operation else { return false };
    stage.cluster.leaders().view().await.is_ok_and(|view| !view.nodes.contains_key(node))
}
