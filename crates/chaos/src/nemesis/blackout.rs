//! SIGKILL of everything at once: what was acknowledged is on disks, or it is nowhere.

use super::Stage;
use crate::error::Error;

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<String, Error> {
    let targets = stage.cluster.running(None);
    stage.begin("all");
    stage.cluster.expect_down(&targets, true);
    for target in &targets {
        stage.cluster.kill(*target).await?;
    }
    stage.hold().await;
    for target in &targets {
        stage.cluster.start_at(*target).await?;
    }
    stage.end();
    Ok(format!("{} processes were gone at once", targets.len()))
}
