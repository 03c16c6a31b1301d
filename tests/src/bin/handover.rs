//! How long a lock takes from one holder to the next: from the release to the answer that the one who waits gets.
//!
//! `cargo run --release -p e2e --bin handover [ROUNDS] [WAITING]`: rounds, and clients that wait at a time.

use anyhow::{Context, Result};
use client::{Claimed, Coordination, Lease};
use e2e::Playground;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let rounds = arguments.next().transpose()?.unwrap_or(1000);
    let clients = arguments.next().transpose()?.unwrap_or(8) + 1;
    let playground = Playground::start(&[], &[])?;
    let released: Arc<Mutex<Option<Instant>>> = Arc::default();
    let took: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let leaders = playground.leaders()?;
    let workers: Vec<_> = (0..clients)
        .map(|number| {
            let (leaders, released, took) = (leaders.clone(), released.clone(), took.clone());
            tokio::spawn(async move {
                let coordination = Coordination::new(&leaders, Duration::from_secs(10))?;
                let lease = coordination.grant(Duration::from_secs(10)).await?;
                while took.lock().await.len() < rounds {
                    hold(&coordination, &lease, number, &released, &took).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    let mut took = took.lock().await.clone();
    took.sort_unstable();
    let at = |part: f64| took.get((took.len() as f64 * part) as usize).or(took.last()).context("nothing was measured");
    let text = format!(
        "{} hand-overs among {clients} clients: p50 {:?}, p99 {:?}, longest {:?}",
        took.len(),
        at(0.5)?,
        at(0.99)?,
        at(1.0)?
    );
    std::io::Write::write_all(&mut std::io::stdout(), format!("{text}\n").as_bytes())?;
    Ok(())
}

async fn hold(
    coordination: &Coordination,
    lease: &Lease,
    number: usize,
    released: &Mutex<Option<Instant>>,
    took: &Mutex<Vec<Duration>>,
) -> Result<()> {
    let client = format!("client-{number}");
    let claimed = Claimed { client, bound: true, value: Default::default(), wait: None };
    let guard = coordination.lock("hot", lease, claimed).await?;
    // Held by nobody else: the last release is the one that made room.
    if let Some(since) = released.lock().await.take() {
        took.lock().await.push(since.elapsed());
    }
    *released.lock().await = Some(Instant::now());
    coordination.release(&guard.name, &guard.client, guard.token).await?;
    Ok(())
}
