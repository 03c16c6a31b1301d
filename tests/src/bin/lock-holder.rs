//! Takes a lock, and writes as long as it believes to hold it, never looking whether it still may: what a process does
//! that is stopped between the look and the write.
//!
//! Arguments: the viewleaders, the lock, its own name, the lease's time in milliseconds, and the keys to write. It tells
//! what happens, a line each: `holds TOKEN`, `wrote KEY VERSION TOKEN`, `fenced TOKEN`.

use anyhow::{Context, Result};
use client::{Claimed, Client, Coordination, Error, Options, PutOutcome};
use std::io::Write;
use std::time::Duration;
use types::{Condition, Fence, FencingToken};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().with_context(|| what.to_owned());
    let leaders: Vec<String> = next("viewleaders")?.split(',').map(str::to_owned).collect();
    let (lock, name, ttl_ms) = (next("lock")?, next("name")?, next("ttl_ms")?.parse()?);
    let keys: Vec<String> = next("keys")?.split(',').map(str::to_owned).collect();
    let client = Client::connect(&leaders, Options::default()).await?;
    let coordination = Coordination::new(&leaders, Duration::from_secs(30))?;
    loop {
        let lease = coordination.grant(Duration::from_millis(ttl_ms)).await?;
        let claimed = Claimed { client: name.clone(), bound: true, value: Default::default(), wait: None };
        let token = match coordination.lock(&lock, &lease, claimed).await {
            Ok(guard) => guard.token,
            // Stopped while it waited.
            Err(Error::LeaseGone { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        tell(&format!("holds {}", token.0))?;
        write(&client, &lock, token, &keys).await?;
    }
}

/// Until somebody else has written with a newer token.
async fn write(client: &Client, lock: &str, token: FencingToken, keys: &[String]) -> Result<()> {
    for key in keys.iter().cycle() {
        let fence = Fence { name: lock.to_owned().into(), token };
        match client.put_fenced(key.clone(), token.0.to_string(), Condition::None, Some(fence)).await {
            Ok(PutOutcome::Done(written)) => tell(&format!("wrote {key} {} {}", written.version.0, token.0))?,
            Ok(PutOutcome::ConditionFailed(_)) => anyhow::bail!("there was no condition"),
            Err(Error::Fenced { .. }) => return tell(&format!("fenced {}", token.0)),
            // Both say nothing of this lock.
            Err(Error::NotDone { .. } | Error::Unknown { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

fn tell(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}
