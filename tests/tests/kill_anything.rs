//! SIGKILL, under load: no acknowledged write is lost, whatever dies.

use anyhow::{Context, Result};
use client::{Client, Options};
use e2e::{Load, Playground, Process, Role, load::await_health, playground};

async fn client(playground: &Playground) -> Result<Client> {
    Ok(Client::connect(&playground.leaders()?, Options::default()).await?)
}

/// The write-ahead logs turn over many times while a test runs.
const SMALL_SEGMENTS: &[(&str, &str)] = &[("DHT_SEGMENT_SIZE", "512KiB")];

/// Guards against any loss at a crash: of the log, the promise, the view, a vote or a request id; on either role.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_lose_nothing() -> Result<()> {
    let playground = Playground::start(&["--restart"], SMALL_SEGMENTS)?;
    let result = kill_twenty_times(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn kill_twenty_times(playground: &Playground) -> Result<()> {
    let client = client(playground).await?;
    let mut load = Load::start(&client, 16);
    for round in 0..20 {
        load.progress(300).await?;
        let role = if round % 2 == 0 { Role::Storaged } else { Role::Viewleader };
        let candidates = playground.of(role)?;
        let victim: &Process = &candidates[round / 2 % candidates.len()];
        playground.kill(victim)?;
        load.progress(100).await.with_context(|| format!("after the death of {}", victim.name))?;
        playground.await_restart(victim)?;
        await_health(&client).await.with_context(|| format!("after the return of {}", victim.name))?;
    }
    load.stop_and_check(&client).await?;
    Ok(())
}

/// Guards against answers that were only in some process's memory: everything dies at the same time, twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_everything_at_once_loses_nothing() -> Result<()> {
    let playground = Playground::start(&["--restart"], SMALL_SEGMENTS)?;
    let result = kill_everything(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn kill_everything(playground: &Playground) -> Result<()> {
    let client = client(playground).await?;
    let mut load = Load::start(&client, 16);
    for _ in 0..2 {
        load.progress(2_000).await?;
        let everything = playground.processes()?;
        for process in &everything {
            playground::signal(process.pid, "KILL")?;
        }
        for process in &everything {
            playground.await_restart(process)?;
        }
        load.progress(100).await.context("after the death of everything")?;
        await_health(&client).await?;
    }
    load.stop_and_check(&client).await?;
    Ok(())
}

/// Guards against data that depends on the viewleaders' being there: all of them die, and nobody notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_viewleader_reads_and_writes_go_on() -> Result<()> {
    let playground = Playground::start(&[], &[])?;
    let result = kill_all_viewleaders(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn kill_all_viewleaders(playground: &Playground) -> Result<()> {
    let client = client(playground).await?;
    let mut load = Load::start(&client, 8);
    load.progress(500).await?;
    for viewleader in playground.of(Role::Viewleader)? {
        playground.kill(&viewleader)?;
    }
    load.progress(5_000).await.context("after the death of all viewleaders")?;
    load.stop_and_check(&client).await?;
    Ok(())
}
