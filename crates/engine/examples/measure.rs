//! What the engine on sled costs: time and processor time per put, get and scanned record, and memory.
//!
//! `cargo run --release -p engine --example measure -- [KEYS [VALUE_BYTES [CHANGES_PER_CALL]]]`

#![allow(clippy::print_stdout)]

use bytes::Bytes;
use engine::{ApplyBatch, Engine, Keyspace, SledEngine, SledOptions, VersionedChange};
use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};
use types::{EntryId, Generation, PartitionId, RecordKey, RecordKind, Seq, Term};

const PARTITIONS: u64 = 256;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let mut argument = |default| arguments.next().unwrap_or(Ok(default));
    let (keys, value_bytes, per_call) = (argument(200_000)?, argument(256)?, argument(500)?);
    let directory = std::env::temp_dir().join(format!("engine-measure-{}", std::process::id()));
    let options = SledOptions::default();
    let engine = SledEngine::open(&directory, &options)?;
    println!("{keys} keys, {value_bytes} bytes, {per_call} changes a call; empty: {} MiB resident", resident_mib()?);

    let mut seq = 0;
    let mut longest = Duration::ZERO;
    for (what, count) in [("put a new key", keys), ("put a key again", 2 * keys)] {
        measure(what, count, || {
            for call in 0..count / per_call {
                let first = seq;
                let drawn = (0..per_call).map(|number| match what {
                    "put a new key" => call * per_call + number,
                    _ => mixed(first + number) % keys,
                });
                let batches = batches(drawn, &mut seq, value_bytes as usize);
                let begun = Instant::now();
                engine.apply(&batches)?;
                longest = longest.max(begun.elapsed());
            }
            Ok(())
        })?;
        println!("  longest call {:.1} ms, {}", longest.as_secs_f64() * 1e3, state(&engine)?);
        let begun = Instant::now();
        engine.checkpoint()?;
        println!("  checkpoint {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    }
    let mut found = 0;
    measure("get", keys, || {
        for number in 0..keys {
            let number = mixed(number) % keys;
            found += u64::from(engine.get(keyspace(number), &key(number))?.is_some());
        }
        Ok(())
    })?;
    println!("  found {found}");
    measure("scan a record", keys, || {
        for partition in 0..PARTITIONS {
            let mut after: Option<Bytes> = None;
            loop {
                let page = engine.scan(keyspace(partition), RecordKind::User, after.as_deref(), 1000, 1 << 20)?;
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
            }
        }
        Ok(())
    })?;
    measure("delete a record", keys / PARTITIONS, || Ok(engine.delete(keyspace(7))?))?;
    drop(engine);
    let mut engine = None;
    measure("open again", 1, || {
        engine = Some(SledEngine::open(&directory, &options)?);
        Ok(())
    })?;
    if let Some(engine) = engine {
        println!("  {}", state(&engine)?);
    }
    fs::remove_dir_all(directory)?;
    Ok(())
}

fn keyspace(number: u64) -> Keyspace {
    Keyspace { partition: PartitionId((number % PARTITIONS) as u32), generation: Generation(1) }
}

fn key(number: u64) -> RecordKey {
    RecordKey::user(Bytes::from(format!("user:{:016x}", mixed(number))))
}

fn mixed(seed: u64) -> u64 {
    let number = (seed ^ (seed >> 30)).wrapping_add(1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number ^ (number >> 31)
}

/// A call as a server makes it: one batch for each partition that has a change.
fn batches(numbers: impl Iterator<Item = u64>, seq: &mut u64, value_bytes: usize) -> Vec<ApplyBatch> {
    let mut batches: Vec<ApplyBatch> = Vec::new();
    for number in numbers {
        *seq += 1;
        let through = EntryId { term: Term(1), seq: Seq(*seq) };
        let value = Bytes::from(vec![*seq as u8; value_bytes]);
        let change = VersionedChange { key: key(number), value: Some(value), seq: Seq(*seq) };
        match batches.iter_mut().find(|batch| batch.keyspace == keyspace(number)) {
            Some(batch) => {
                batch.changes.push(change);
                batch.through = through;
            }
            None => batches.push(ApplyBatch { keyspace: keyspace(number), through, changes: vec![change] }),
        }
    }
    batches
}

fn measure(what: &str, count: u64, work: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    let (begun, processor_begun) = (Instant::now(), processor_seconds()?);
    work()?;
    let (seconds, processor) = (begun.elapsed().as_secs_f64(), processor_seconds()? - processor_begun);
    let each_us = 1e6 / count as f64;
    println!("{what}: {:.0}/s, {:.1} µs of processor time", count as f64 / seconds, processor * each_us);
    Ok(())
}

/// User and system time of this process; the system counts in hundredths.
fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / 100.0)
}

fn resident_mib() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}

fn state(engine: &SledEngine) -> Result<String, Box<dyn Error>> {
    let disk_mib = engine.statistics().disk_bytes >> 20;
    Ok(format!("{} MiB resident, {disk_mib} MiB on disk", resident_mib()?))
}
