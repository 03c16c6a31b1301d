//! A storage node joins and leaves while everything goes on; weights change, moves pause, go on and are aborted, and a
//! process is killed in the middle of it, the new node perhaps.

use super::{Stage, wipe};
use crate::cluster::Role;
use crate::error::Error;
use client::Operation;
use std::time::{Duration, Instant};
use types::{Duty, NodeId};

const MOVES_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<String, Error> {
    let Some(spare) = stage.cluster.spare() else {
        return Err(Error::NotLanded("there is no place for another node".to_owned()));
    };
    let other = stage.choose(Some(Role::Storaged))?;
    let other_id = wipe::known_as(stage, other, None).await?;
    stage.begin(format!("{} joins and leaves", stage.name(spare)));
    stage.cluster.start_at(spare).await?;
    let joined = wipe::known_as(stage, spare, None).await?;
    await_holding(stage, joined, |partitions| partitions > 0).await?;
    let weight = 50 + stage.random.below(150) as u32;
    wipe::operate(stage, &Operation::SetWeight { node: other_id, weight }).await?;
    wipe::operate(stage, &Operation::PauseMoves).await?;
    wipe::operate(stage, &Operation::ResumeMoves).await?;
    let killed = stage.choose(None)?;
    stage.cluster.kill(killed).await?;
    stage.hold().await;
    stage.cluster.start_at(killed).await?;
    wipe::operate(stage, &Operation::PauseMoves).await?;
    wipe::operate(stage, &Operation::AbortMoves).await?;
    wipe::operate(stage, &Operation::ResumeMoves).await?;
    let held = await_holding(stage, joined, |partitions| partitions > 0).await?;
    wipe::operate(stage, &Operation::SetWeight { node: other_id, weight: 100 }).await?;
    wipe::operate(stage, &Operation::SetDuty { node: joined, duty: Duty::Draining }).await?;
    await_holding(stage, joined, |partitions| partitions == 0).await?;
    stage.cluster.await_whole().await?;
    stage.cluster.terminate(spare).await?;
    wipe::operate(stage, &Operation::SetDuty { node: joined, duty: Duty::Removed }).await?;
    wipe::remove_directory(stage, spare)?;
    stage.end();
    let killed = stage.name(killed);
    Ok(format!("{joined} was given {held} partitions, and gave them back; {killed} was killed meanwhile"))
}

/// Waits until a node replicates as many partitions as wanted; says how many.
async fn await_holding(stage: &Stage<'_>, node: NodeId, wanted: impl Fn(usize) -> bool) -> Result<usize, Error> {
    let began = Instant::now();
    loop {
        if let Ok(view) = stage.cluster.leaders().view().await {
            let held = view.configurations.iter().filter(|configuration| configuration.names(node)).count();
            if wanted(held) {
                return Ok(held);
            }
        }
        if began.elapsed() > MOVES_WITHIN {
            return Err(Error::NotLanded(format!("{node} is given nothing, or gives nothing back")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
