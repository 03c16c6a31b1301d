//! A viewleader that lost its directory: with it went its votes, so the group takes it back as a new member only.

use super::{Stage, wipe};
use crate::cluster::Role;
use crate::error::Error;
use std::time::{Duration, Instant};

const ADMITTED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A wiped directory.
pub(super) async fn wiped(stage: &mut Stage<'_>) -> Result<String, Error> {
    let target = stage.choose(Some(Role::Viewleader))?;
    let old = known_as(stage, target, None).await?;
    stage.begin(stage.name(target));
    stage.cluster.kill(target).await?;
    let new = replace(stage, target, old).await?;
    stage.end();
    Ok(format!("member {old} came back as {new}"))
}

/// Removes the directory of a member that has ended, and has a new one join at its address, which takes its place.
pub(super) async fn replace(stage: &mut Stage<'_>, target: usize, old: u64) -> Result<u64, Error> {
    wipe::remove_directory(stage, target)?;
    stage.cluster.joins_from_now_on(target);
    stage.cluster.start_at(target).await?;
    known_as(stage, target, Some(old)).await
}

/// The id of the voting member at a place; another one than `old`, which is then no member any more.
pub(super) async fn known_as(stage: &Stage<'_>, target: usize, old: Option<u64>) -> Result<u64, Error> {
    let address = stage.cluster.slot(target).address();
    let began = Instant::now();
    loop {
        if let Ok(status) = stage.cluster.leaders().status().await {
            let votes = |role: &str| role == "leader" || role == "follower";
            let is_forgotten = status.members.iter().all(|member| Some(member.id) != old);
            let here = status.members.iter().find(|member| member.address == address && votes(&member.role));
            if let Some(member) = here.filter(|_| is_forgotten) {
                return Ok(member.id);
            }
        }
        if began.elapsed() > ADMITTED_WITHIN {
            return Err(Error::Cluster(format!("{} does not get to vote", stage.name(target))));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
