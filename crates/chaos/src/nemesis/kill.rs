//! SIGKILL of one process.

use super::Stage;
use crate::cluster::State;
use crate::error::Error;
use rustix::process::Signal;

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<String, Error> {
    let target = stage.choose(None)?;
    let pid = stage.cluster.process(target)?.pid;
    stage.begin(stage.name(target));
    stage.cluster.kill(target).await?;
    stage.hold().await;
    stage.cluster.start_at(target).await?;
    stage.end();
    Ok(format!("process {pid} was gone"))
}

/// For the harness's own tests: a process that ends by itself, just before it would have been killed.
pub(super) async fn after_its_own_end(stage: &mut Stage<'_>) -> Result<String, Error> {
    let target = stage.choose(None)?;
    stage.begin(stage.name(target));
    stage.cluster.process(target)?.signal(Signal::ABORT, State::Gone).await?;
    stage.cluster.kill(target).await?;
    Ok("nobody noticed".to_owned())
}
