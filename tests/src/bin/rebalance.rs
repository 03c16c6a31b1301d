//! Measures what a node that joins costs: how fast it is filled, with nothing held back, against what the store and the
//! disk take when they have nothing else to do; how many bytes move against the share that has to; and, with everything as
//! it is by default, what clients with a steady load notice.
//!
//! ```sh
//! cargo run --release -p e2e --bin rebalance        # DHT_PARTITIONS=N to try others
//! ```

#![allow(clippy::print_stdout, reason = "this is a program that prints")]

use anyhow::{Context, Result};
use bytes::Bytes;
use client::{Client, Configure, Leaders, Operation, Options};
use e2e::Playground;
use e2e::storage_node::StorageNode;
use engine::{ApplyBatch, Engine, Keyspace, SledEngine, SledOptions, VersionedChange};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use types::{Condition, EntryId, Generation, PartitionId, RecordKey, Seq, Term};

/// Values of the data that moves.
const VALUE_BYTES: usize = 8 << 10;
const VALUES: usize = 40_000;
/// The state is handed to the store within so long.
const SETTLE: Duration = Duration::from_secs(12);
/// Moves of a node at a time with nothing held back: the most that can be set.
const MOVES_UNBOUNDED: u32 = 256;
/// Changes in one call to the store alone: what a storage node gives it.
const CHANGES_PER_CALL: usize = 16;
/// Clients of the steady load, and how long each pauses between two requests.
const CLIENTS: usize = 8;
const PAUSE: Duration = Duration::from_millis(5);

#[tokio::main]
async fn main() -> Result<()> {
    let playground = Playground::start(&[], &[])?;
    let addresses = playground.leaders()?;
    let client = Client::connect(&addresses, Options::default()).await?;
    let leaders = Leaders::new(&addresses)?;
    fill(&client).await?;
    tokio::time::sleep(SETTLE).await;

    let directory = playground.directory();
    let disk = disk_bytes_per_second(directory)?;
    let store = store_bytes_per_second(&directory.join("store-alone"))?;
    let by_default = leaders.moves(None).await?;
    bound(&leaders, 0, MOVES_UNBOUNDED).await?;
    let (quiet, _fourth) = join(&playground, &leaders, "s4").await?;
    let share = (VALUES * VALUE_BYTES * 3) as f64 / 4.0;
    let rate = quiet.bytes as f64 / quiet.elapsed.as_secs_f64();
    println!(
        "a fourth node joins three, {VALUES} values of {} KiB, three replicas, nothing held back:",
        VALUE_BYTES >> 10
    );
    println!("  filled with     {:>8.1} MiB in {:.1} s", mib(quiet.bytes as f64), quiet.elapsed.as_secs_f64());
    println!("  of the share    {:>8.1} MiB: {:.3} times", mib(share), quiet.bytes as f64 / share);
    println!("  rate            {:>8.1} MiB/s", mib(rate));
    println!("  the store alone {:>8.1} MiB/s, the same values, made durable: ratio {:.2}", mib(store), rate / store);
    println!(
        "  the disk alone  {:>8.1} MiB/s, written in 256 KiB, synced every 4 MiB: ratio {:.2}",
        mib(disk),
        rate / disk
    );

    bound(&leaders, by_default.fill_bytes_per_second, by_default.moves_per_node).await?;
    let load = Steady::start(&client);
    tokio::time::sleep(Duration::from_secs(8)).await;
    let before = load.cut();
    let (filled, _fifth) = join(&playground, &leaders, "s5").await?;
    let during = load.stop().await?;
    println!(
        "a fifth node joins as by default ({} MiB/s and {} moves a node), {CLIENTS} clients, a request every {} ms each:",
        by_default.fill_bytes_per_second >> 20,
        by_default.moves_per_node,
        PAUSE.as_millis()
    );
    println!("  filled with     {:>8.1} MiB in {:.1} s", mib(filled.bytes as f64), filled.elapsed.as_secs_f64());
    for (what, mut latencies) in [("before", before), ("during", during)] {
        latencies.sort_unstable();
        let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "  {what:<8} {:>7} requests   p50 {:>6.2} ms   p99 {:>6.2} ms   longest {:>6.2} ms",
            latencies.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
    Ok(())
}

fn mib(bytes: f64) -> f64 {
    bytes / 1048576.0
}

/// How much a node may send per second to fill others (0: no limit), and how many moves it may take part in at a time.
async fn bound(leaders: &Leaders, bytes_per_second: u64, moves_per_node: u32) -> Result<()> {
    let configure = Configure {
        fill_bytes_per_second: Some(bytes_per_second),
        moves_per_node: Some(moves_per_node),
        ..Configure::default()
    };
    leaders.operate(&Operation::Configure(configure)).await?;
    Ok(())
}

/// Nothing that compresses, and nothing twice.
fn value(number: usize) -> Vec<u8> {
    (0..VALUE_BYTES).map(|at| (number.wrapping_mul(2654435761) >> (at % 24)) as u8).collect()
}

async fn fill(client: &Client) -> Result<()> {
    let put =
        |number: usize| async move { client.put(format!("moving-{number}"), value(number), Condition::None).await };
    stream::iter((0..VALUES).map(put)).buffer_unordered(64).try_for_each(|_| async { Ok(()) }).await?;
    Ok(())
}

struct Filled {
    bytes: u64,
    elapsed: Duration,
}

/// Starts a node and waits until everything has moved.
async fn join(playground: &Playground, leaders: &Leaders, name: &str) -> Result<(Filled, StorageNode)> {
    let filled = |moves: &client::Moves| moves.nodes.iter().map(|node| node.filled_bytes).sum::<u64>();
    let before = filled(&leaders.moves(None).await?);
    let node = StorageNode::start(&playground.leaders()?, playground.directory().join(name), &[])?;
    node.registered(leaders).await?;
    while leaders.moves(None).await?.underway.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let began = Instant::now();
    loop {
        let moves = leaders.moves(None).await?;
        if moves.underway.is_empty() && moves.planned.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let elapsed = began.elapsed();
    // Complete: what went elsewhere is deleted, every node leads its share, and the last counts have come.
    loop {
        let moves = leaders.moves(None).await?;
        if moves.handovers == 0 && moves.nodes.iter().all(|node| node.surplus == Some(0)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let after = filled(&leaders.moves(None).await?);
    Ok((Filled { bytes: after - before, elapsed }, node))
}

/// What the disk takes when somebody only writes.
fn disk_bytes_per_second(directory: &Path) -> Result<f64> {
    let block = vec![0x5au8; 256 << 10];
    let mut file = std::fs::File::create(directory.join("disk-alone"))?;
    let began = Instant::now();
    for _ in 0..60 {
        for _ in 0..16 {
            file.write_all(&block)?;
        }
        file.sync_data()?;
    }
    let bytes = 60 * 16 * block.len();
    std::fs::remove_file(directory.join("disk-alone"))?;
    Ok(bytes as f64 / began.elapsed().as_secs_f64())
}

/// What the store takes on that disk when it has the machine for itself: a quarter of the values, in the order of keys
/// within a partition, as a snapshot brings them.
fn store_bytes_per_second(directory: &Path) -> Result<f64> {
    let store = SledEngine::open(directory, &SledOptions::default())?;
    let records: Vec<_> =
        (0..VALUES / 4).map(|number| (format!("moving-{number:06}"), Bytes::from(value(number)))).collect();
    let began = Instant::now();
    for (call, records) in (1..).zip(records.chunks(CHANGES_PER_CALL)) {
        let through = EntryId { term: Term(1), seq: Seq(call) };
        let change = |(key, value): &(String, Bytes)| VersionedChange {
            key: RecordKey::user(Bytes::from(key.clone())),
            value: Some(value.clone()),
            seq: Seq(call),
        };
        let keyspace = Keyspace { partition: PartitionId((call % 256) as u32), generation: Generation(1) };
        store.apply(&[ApplyBatch { keyspace, through, changes: records.iter().map(change).collect() }])?;
    }
    store.checkpoint()?;
    let rate = (records.len() * VALUE_BYTES) as f64 / began.elapsed().as_secs_f64();
    drop(store);
    std::fs::remove_dir_all(directory)?;
    Ok(rate)
}

/// Clients that ask at a steady pace, and remember how long each answer took.
struct Steady {
    stop: Arc<AtomicBool>,
    latencies: Arc<std::sync::Mutex<Vec<Duration>>>,
    clients: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl Steady {
    fn start(client: &Client) -> Steady {
        let stop = Arc::new(AtomicBool::new(false));
        let latencies = Arc::new(std::sync::Mutex::new(Vec::new()));
        let clients = (0..CLIENTS).map(|number| {
            let (client, stop, latencies) = (client.clone(), stop.clone(), latencies.clone());
            tokio::spawn(async move {
                for turn in 0u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("steady-{number}-{}", turn % 100);
                    let began = Instant::now();
                    if turn.is_multiple_of(2) {
                        client.put(key, turn.to_string(), Condition::None).await.context("a write")?;
                    } else {
                        client.get(key).await.context("a read")?;
                    }
                    let elapsed = began.elapsed();
                    latencies.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(elapsed);
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(())
            })
        });
        let clients = clients.collect();
        Steady { stop, latencies, clients }
    }

    /// What was seen so far; it begins anew.
    fn cut(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.latencies.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    async fn stop(self) -> Result<Vec<Duration>> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await??;
        }
        Ok(std::mem::take(&mut *self.latencies.lock().unwrap_or_else(std::sync::PoisonError::into_inner)))
    }
}
