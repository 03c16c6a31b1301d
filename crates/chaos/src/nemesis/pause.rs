//! SIGSTOP: a process that is there, holds its connections, and does nothing, as under a garbage collector, a debugger
//! or a host that swaps. It does not know afterwards that time has passed.

use super::Stage;
use crate::cluster::State;
use crate::error::Error;
use rustix::process::Signal;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub(super) enum Length {
    Short,
    Long,
}

/// Below the time after which any server counts as silent.
const SHORT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(1_000));
/// Beyond the longest time-out between processes: a keep-alive's second and two more, a call's three.
const LONG: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(7));

pub(super) async fn run(stage: &mut Stage<'_>, length: Length) -> Result<String, Error> {
    let (least, most) = match length {
        Length::Short => SHORT,
        Length::Long => LONG,
    };
    let time = stage.random.between(least, most);
    let target = stage.choose(None)?;
    stage.begin(stage.name(target));
    stage.cluster.process(target)?.signal(Signal::STOP, State::Stopped).await?;
    tokio::time::sleep(time).await;
    let process = stage.cluster.process(target)?;
    if process.state() != State::Stopped {
        return Err(Error::NotLanded(format!("process {} did not stay stopped", process.pid)));
    }
    process.signal(Signal::CONT, State::Running).await?;
    stage.end();
    Ok(format!("stopped for {} ms", time.as_millis()))
}
