//! SIGTERM and a new start: what an operator does.

use super::Stage;
use crate::cluster::Role;
use crate::error::Error;

/// One process.
pub(super) async fn one(stage: &mut Stage<'_>) -> Result<String, Error> {
    let target = stage.choose(None)?;
    stage.begin(stage.name(target));
    let pid = restart(stage, target).await?;
    stage.end();
    Ok(format!("process {pid} ended in order"))
}

/// Every process, the viewleaders last; each only when the cluster is whole again.
pub(super) async fn rolling(stage: &mut Stage<'_>) -> Result<String, Error> {
    let mut targets = stage.cluster.running(Some(Role::Storaged));
    targets.extend(stage.cluster.running(Some(Role::Viewleader)));
    stage.begin("all, in turn");
    for target in &targets {
        restart(stage, *target).await?;
        stage.cluster.await_whole().await?;
    }
    stage.end();
    Ok(format!("{} processes ended in order", targets.len()))
}

async fn restart(stage: &mut Stage<'_>, target: usize) -> Result<u32, Error> {
    let pid = stage.cluster.process(target)?.pid;
    stage.cluster.terminate(target).await?;
    stage.cluster.start_at(target).await?;
    Ok(pid)
}
