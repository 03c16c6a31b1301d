//! Disks that are slow, full, or fail to make durable what was written.

use super::Stage;
use crate::cluster::Role;
use crate::error::Error;
use client::Coordination;
use faults::Fault;
use std::time::Duration;
use types::limits::LEASE_TTL_MIN;

const DELAY: (Duration, Duration) = (Duration::from_millis(30), Duration::from_millis(300));
/// Something is written all the time: a server that has not tried to write for so long hangs.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// How often viewleaders are given something to write, and how long one may take to answer.
const WRITE_EVERY: Duration = Duration::from_millis(50);
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Every fsync of one process takes long.
pub(super) async fn slow(stage: &mut Stage<'_>, role: Role) -> Result<String, Error> {
    let target = stage.choose(Some(role))?;
    let delay = stage.random.between(DELAY.0, DELAY.1);
    let control = stage.cluster.slot(target).control.clone();
    let before = control.landed(Fault::FsyncDelayMs);
    let mut writing = std::pin::pin!(keep_writing(role, stage.cluster.leader_addresses()));
    stage.begin(stage.name(target));
    stage.cluster.inject(target, &[(Fault::FsyncDelayMs, delay.as_millis() as i64)])?;
    tokio::select! {
        refused = &mut writing => return Err(refused),
        () = stage.hold() => {}
    }
    stage.cluster.heal()?;
    stage.end();
    match control.landed(Fault::FsyncDelayMs) - before {
        0 => Err(Error::NotLanded("no fsync was delayed".to_owned())),
        count => Ok(format!("{count} fsyncs took {} ms longer", delay.as_millis())),
    }
}

/// The next fsync or write fails: whoever goes on after that has lost data (P2).
pub(super) async fn fails(stage: &mut Stage<'_>, role: Role, fault: Fault) -> Result<String, Error> {
    let target = stage.choose(Some(role))?;
    let control = stage.cluster.slot(target).control.clone();
    let before = control.landed(fault);
    let mut writing = std::pin::pin!(keep_writing(role, stage.cluster.leader_addresses()));
    stage.begin(stage.name(target));
    stage.cluster.expect_down(&[target], true);
    stage.cluster.inject(target, &[(fault, 1)])?;
    let how = tokio::select! {
        refused = &mut writing => return Err(refused),
        how = stage.cluster.await_end(target, ENDS_WITHIN) => how?,
    };
    stage.hold().await;
    let count = control.landed(fault) - before;
    stage.cluster.start_at(target).await?;
    stage.end();
    match count {
        0 => Err(Error::NotLanded(format!("the process {how}, and nothing had failed"))),
        count => Ok(format!("{count} failed; the process {how}")),
    }
}

/// Storage nodes write what clients ask; viewleaders that are asked nothing write nothing. Ends only with a failure.
async fn keep_writing(role: Role, leaders: Vec<String>) -> Error {
    if role == Role::Storaged {
        return std::future::pending().await;
    }
    let coordination = match Coordination::new(&leaders, ANSWER_MAX) {
        Ok(coordination) => coordination,
        Err(error) => return error.into(),
    };
    loop {
        // A lease for nobody, which ends by itself. Whether it is granted says nothing here.
        let _granted = coordination.grant_unkept(LEASE_TTL_MIN).await;
        tokio::time::sleep(WRITE_EVERY).await;
    }
}
