//! Networks that carry everything, but late or not at the first try.

use super::Stage;
use crate::error::Error;
use crate::proxy::Policy;
use std::time::Duration;

/// From a far data centre to a satellite.
const DELAY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(150));
const LOST_PERCENT: u64 = 3;

/// Everything to and from one process comes late.
pub(super) async fn slow(stage: &mut Stage<'_>) -> Result<String, Error> {
    let target = stage.choose(None)?;
    let delay = stage.random.between(DELAY.0, DELAY.1);
    let others = stage.cluster.running(None).into_iter().filter(|place| *place != target);
    let ways: Vec<_> = others.flat_map(|other| [(target, other), (other, target)]).collect();
    let bytes = harm(stage, stage.name(target), &ways, Policy::Slow(delay)).await?;
    Ok(format!("{bytes} bytes came {} ms late or more", delay.as_millis()))
}

/// Losses between all processes.
pub(super) async fn lossy(stage: &mut Stage<'_>) -> Result<String, Error> {
    let all = stage.cluster.running(None);
    let pairs = all.iter().flat_map(|from| all.iter().map(move |to| (*from, *to)));
    let ways: Vec<_> = pairs.filter(|(from, to)| from != to).collect();
    let bytes = harm(stage, "all links".to_owned(), &ways, Policy::Lossy(LOST_PERCENT)).await?;
    Ok(format!("{bytes} bytes were lost and repeated"))
}

async fn harm(stage: &mut Stage<'_>, target: String, ways: &[(usize, usize)], policy: Policy) -> Result<u64, Error> {
    let before = stage.cluster.wires().harmed(ways)?;
    stage.begin(target);
    stage.cluster.wires().set(ways, policy)?;
    stage.hold().await;
    let bytes = stage.cluster.wires().harmed(ways)? - before;
    stage.cluster.heal()?;
    stage.end();
    match bytes {
        0 => Err(Error::NotLanded("the links carried nothing that could be delayed or lost".to_owned())),
        bytes => Ok(bytes),
    }
}
