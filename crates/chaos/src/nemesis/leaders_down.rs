//! The whole viewleader group dies: while no storage node fails, nobody needs it.

use super::Stage;
use crate::cluster::Role;
use crate::error::Error;

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<String, Error> {
    let targets = stage.cluster.running(Some(Role::Viewleader));
    stage.begin("all viewleaders");
    for target in &targets {
        stage.cluster.kill(*target).await?;
    }
    stage.hold().await;
    for target in &targets {
        stage.cluster.start_at(*target).await?;
    }
    stage.end();
    Ok(format!("{} viewleaders were gone at once", targets.len()))
}
