//! Disks that are slow, full, or fail to make durable what was written.

use super::Stage;
use crate::cluster::Role;
use crate::error::Error;
use faults::Fault;
use std::time::Duration;

const DELAY: (Duration, Duration) = (Duration::from_millis(30), Duration::from_millis(300));
/// There is load: a server that has not tried to write for so long hangs.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// Every fsync of one process takes long.
pub(super) async fn slow(stage: &mut Stage<'_>) -> Result<String, Error> {
    // A viewleader that changes nothing syncs nothing.
    let target = stage.choose(Some(Role::Storaged))?;
    let delay = stage.random.between(DELAY.0, DELAY.1);
    let control = stage.cluster.slot(target).control.clone();
    let before = control.landed(Fault::FsyncDelayMs);
    stage.begin(stage.name(target));
    stage.cluster.inject(target, &[(Fault::FsyncDelayMs, delay.as_millis() as i64)])?;
    stage.hold().await;
    stage.cluster.heal()?;
    stage.end();
    match control.landed(Fault::FsyncDelayMs) - before {
        0 => Err(Error::NotLanded("no fsync was delayed".to_owned())),
        count => Ok(format!("{count} fsyncs took {} ms longer", delay.as_millis())),
    }
}

/// The next fsync or write fails: whoever goes on after that has lost data (P2).
pub(super) async fn fails(stage: &mut Stage<'_>, fault: Fault) -> Result<String, Error> {
    let target = stage.choose(Some(Role::Storaged))?;
    let control = stage.cluster.slot(target).control.clone();
    let before = control.landed(fault);
    stage.begin(stage.name(target));
    stage.cluster.expect_down(&[target], true);
    stage.cluster.inject(target, &[(fault, 1)])?;
    let how = stage.cluster.await_end(target, ENDS_WITHIN).await?;
    stage.hold().await;
    let count = control.landed(fault) - before;
    stage.cluster.start_at(target).await?;
    stage.end();
    match count {
        0 => Err(Error::NotLanded(format!("the process {how}, and nothing had failed"))),
        count => Ok(format!("{count} failed; the process {how}")),
    }
}
