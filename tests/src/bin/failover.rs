//! Measures the longest time that any client waited for a write or a read when a process was killed: five storage
//! nodes, then five Raft leaders, one at a time, each restarted before the next. Prints each figure and the medians.
//!
//! ```sh
//! cargo run --release -p e2e --bin failover
//! ```

#![allow(clippy::print_stdout, reason = "this is a program that prints")]

use anyhow::{Context, Result};
use client::{Client, Options};
use e2e::{Load, Playground, Process, Role, load::await_health};
use std::time::Duration;

const ROUNDS: usize = 5;
const WRITERS: u64 = 16;
/// Enough to be well past the moment of the kill on both sides.
const WRITES_AROUND_A_KILL: u64 = 4_000;

#[tokio::main]
async fn main() -> Result<()> {
    let playground = Playground::start(&["--restart"], &[])?;
    let client = Client::connect(&playground.leaders()?, Options::default()).await?;
    let mut undisturbed = measure(&playground, &client, |_| Ok(None)).await?;
    let mut storage = measure(&playground, &client, |round| {
        let nodes = playground.of(Role::Storaged)?;
        Ok(Some(nodes[round % nodes.len()].clone()))
    })
    .await?;
    let mut leader = Vec::new();
    for round in 0..ROUNDS {
        let address = leader_address(&client).await?;
        let process = playground.of(Role::Viewleader)?.into_iter().find(|p| p.grpc == address);
        leader.push(one(&playground, &client, process, round).await?);
    }
    println!("longest wait of any of {WRITERS} clients, writes and reads, median of {ROUNDS} (all):");
    for (what, gaps) in [
        ("nothing killed", &mut undisturbed),
        ("storage node, kill -9", &mut storage),
        ("Raft leader, kill -9", &mut leader),
    ] {
        gaps.sort_unstable();
        let all: Vec<_> = gaps.iter().map(|gap| gap.as_millis().to_string()).collect();
        println!("  {what:<24}{:>5} ms   ({})", gaps[ROUNDS / 2].as_millis(), all.join(", "));
    }
    Ok(())
}

async fn leader_address(client: &Client) -> Result<String> {
    let members = client.status().await?.members;
    let leader = members.into_iter().find(|member| member.role == "leader").context("the group has no leader")?;
    Ok(leader.address)
}

async fn measure(
    playground: &Playground,
    client: &Client,
    victim: impl Fn(usize) -> Result<Option<Process>>,
) -> Result<Vec<Duration>> {
    let mut gaps = Vec::new();
    for round in 0..ROUNDS {
        gaps.push(one(playground, client, victim(round)?, round).await?);
    }
    Ok(gaps)
}

async fn one(playground: &Playground, client: &Client, victim: Option<Process>, round: usize) -> Result<Duration> {
    await_health(client).await?;
    let mut load = Load::start(client, WRITERS);
    load.progress(WRITES_AROUND_A_KILL).await?;
    if let Some(victim) = &victim {
        playground.kill(victim)?;
    }
    load.progress(WRITES_AROUND_A_KILL).await.with_context(|| format!("round {round}"))?;
    let report = load.stop_and_check(client).await?;
    if let Some(victim) = &victim {
        playground.await_restart(victim)?;
    }
    Ok(report.longest_gap)
}
