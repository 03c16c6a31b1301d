//! SIGKILL, under load: no acknowledged write is lost, whatever dies.

use anyhow::{Context, Result};
use client::{Client, Options};
use e2e::{Load, Playground, Process, Role};

/// Waits until every partition serves and has all its replicas up to date, so that the next kill is a single fault.
async fn await_health(client: &Client) -> Result<()> {
    let mut last = String::new();
    for _ in 0..3000 {
        match client.status().await {
            Ok(status) => {
                let behind = status.without_quorum.len() + status.not_serving.len() + status.under_replicated.len();
                let dead = status.nodes.iter().filter(|node| !node.info.alive).count();
                if status.has_map && behind + dead == 0 {
                    return Ok(());
                }
                last = format!("{status:?}");
            }
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    anyhow::bail!("the cluster does not become healthy: {last}")
}

async fn client(playground: &Playground) -> Result<Client> {
    Ok(Client::connect(&playground.leaders()?, Options::default()).await?)
}

/// Guards against any loss at a crash: of the log, the promise, the view, a vote or a request id; on either role.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_lose_nothing() -> Result<()> {
    let playground = Playground::start(&["--restart"])?;
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
    let report = load.stop_and_check(&client).await?;
    println!("{report:?}");
    Ok(())
}

/// Guards against data that depends on the viewleaders' being there: all of them die, and nobody notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_viewleader_reads_and_writes_go_on() -> Result<()> {
    let playground = Playground::start(&[])?;
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
    let report = load.stop_and_check(&client).await?;
    println!("{report:?}");
    Ok(())
}
