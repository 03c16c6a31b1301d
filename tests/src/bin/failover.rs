//! Measures the longest time that any client waited for a write or a read when a process was killed: five storage
//! nodes, then five Raft leaders, one at a time, each restarted before the next; and for a transaction over two partitions,
//! with storage nodes that die in the middle of many. Prints each figure and the medians.
//!
//! ```sh
//! cargo run --release -p e2e --bin failover
//! ```

#![allow(clippy::print_stdout, reason = "this is a program that prints")]

use anyhow::{Context, Result, bail};
use client::{Client, Error, Options};
use e2e::{Load, Playground, Process, Role, load::await_health};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const ROUNDS: usize = 5;
const WRITERS: u64 = 16;
/// Enough to be well past the moment of the kill on both sides.
const WRITES_AROUND_A_KILL: u64 = 4_000;
/// Transactions, of which each waits for others: so many keys are all there are.
const TRANSACTIONS_AROUND_A_KILL: u64 = 1_000;
const KEYS: u64 = 100;

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
    let mut transactions = Vec::new();
    for round in 0..ROUNDS {
        let nodes = playground.of(Role::Storaged)?;
        transactions.push(locked(&playground, &client, &nodes[round % nodes.len()]).await?);
    }
    let mut leader = Vec::new();
    for round in 0..ROUNDS {
        let address = leader_address(&client).await?;
        let process = playground.of(Role::Viewleader)?.into_iter().find(|p| p.grpc == address);
        leader.push(one(&playground, &client, process, round).await?);
    }
    println!(
        "longest wait of any of {WRITERS} clients, for writes and reads or for transactions, median of {ROUNDS} (all):"
    );
    for (what, gaps) in [
        ("nothing killed", &mut undisturbed),
        ("storage node, kill -9", &mut storage),
        ("the same, transactions", &mut transactions),
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

/// The same with transactions that write two of a few keys: whoever needs a key that a dead coordinator has locked waits
/// until somebody says what has become of it.
async fn locked(playground: &Playground, client: &Client, victim: &Process) -> Result<Duration> {
    await_health(client).await?;
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for number in 0..WRITERS {
        clients.spawn(transact(client.clone(), number, done.clone(), stop.clone()));
    }
    progress(&done).await?;
    playground.kill(victim)?;
    progress(&done).await?;
    playground.await_restart(victim)?;
    stop.store(true, Ordering::Relaxed);
    let mut longest = Duration::ZERO;
    while let Some(waited) = clients.join_next().await {
        longest = longest.max(waited??);
    }
    Ok(longest)
}

async fn progress(done: &AtomicU64) -> Result<()> {
    let goal = done.load(Ordering::Relaxed) + TRANSACTIONS_AROUND_A_KILL;
    for _ in 0..6_000 {
        if done.load(Ordering::Relaxed) >= goal {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bail!("transactions have stopped")
}

/// One client; its longest wait for a transaction that was done.
async fn transact(client: Client, number: u64, done: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    let mut last = Instant::now();
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (from, to) = ((number * 31 + turn * 7) % KEYS, (number * 17 + turn * 13 + 1) % KEYS);
        let transaction = client.transaction().put(format!("from-{from}"), "x").put(format!("to-{to}"), "x");
        match transaction.commit().await {
            Ok(_) => {
                longest = longest.max(last.elapsed());
                last = Instant::now();
                done.fetch_add(1, Ordering::Relaxed);
            }
            Err(Error::NotDone { .. } | Error::Unknown { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(longest)
}
