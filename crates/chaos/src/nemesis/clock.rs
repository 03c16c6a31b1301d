//! A calendar that jumps: no clock decides anything about safety.

use super::Stage;
use crate::error::Error;
use faults::Fault;

const HOUR_MS: i64 = 3_600_000;

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<String, Error> {
    // Only who leads a partition looks at the clock: one that has just started twice leads none for a while.
    let leads = stage.cluster.leading().await?;
    let target = stage.random.choose(&leads).copied();
    let target = target.ok_or_else(|| Error::NotLanded("no storage node leads anything".to_owned()))?;
    let hours = 1 + stage.random.below(48) as i64;
    let hours = if stage.random.percent(50) { hours } else { -hours };
    let control = stage.cluster.slot(target).control.clone();
    let before = control.landed(Fault::ClockMs);
    stage.begin(format!("{} {hours:+} h", stage.name(target)));
    stage.cluster.inject(target, &[(Fault::ClockMs, hours * HOUR_MS)])?;
    stage.hold().await;
    stage.cluster.heal()?;
    stage.end();
    match control.landed(Fault::ClockMs) - before {
        0 => Err(Error::NotLanded("nobody looked at the clock".to_owned())),
        count => Ok(format!("looked at {count} times")),
    }
}
