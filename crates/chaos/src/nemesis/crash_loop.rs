//! A process that is killed again while it starts: recovery itself is what crashes.

use super::Stage;
use crate::error::Error;
use std::time::Duration;

/// From before the log is opened to just after the node has registered.
const LIFE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(600));
const ROUNDS: usize = 6;

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<String, Error> {
    let target = stage.choose(None)?;
    stage.begin(stage.name(target));
    for round in 0..ROUNDS {
        stage.cluster.kill(target).await?;
        stage.cluster.start_at(target).await?;
        if round + 1 < ROUNDS {
            let life = stage.random.between(LIFE.0, LIFE.1);
            tokio::time::sleep(life).await;
        }
    }
    stage.end();
    Ok(format!("killed {ROUNDS} times"))
}
