//! SIGKILL of one process.

use super::Stage;
use crate::error::Error;

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
