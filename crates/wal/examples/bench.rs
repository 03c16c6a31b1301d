//! How many syncs and records per second a log takes on this disk: `cargo run --release -p wal --example bench`.
//!
//! Arguments, all optional: directory, records on the way at once, bytes per record, seconds.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::error::Error;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use wal::{Options, RealFiles, Records, Wal, Writer};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let parent = tempfile::tempdir()?;
    let directory = arguments.next().map_or_else(|| parent.path().join("log"), PathBuf::from);
    let mut number = |default: u64| arguments.next().map_or(Ok(default), |argument| argument.parse());
    let (in_flight, record_bytes, seconds) = (number(64)?, number(256)?, number(5)?);

    let opened = Instant::now();
    let mut replayed = 0u64;
    let wal = Wal::open(RealFiles, &directory, Options::default(), &mut |_, _| {
        replayed += 1;
        Ok(())
    })?;
    println!("opened in {:.1?}, {replayed} records replayed", opened.elapsed());

    let writer = Writer::spawn(wal, |error| println!("{error}"))?;
    let record = vec![7; record_bytes as usize];
    let (done, acknowledged) = channel();
    let submit = || {
        let mut records = Records::new();
        records.push(&record);
        let (done, begun) = (done.clone(), Instant::now());
        writer.submit(records, move |segment| {
            // Nobody listens any more once the time is up.
            let _not_heard = done.send((begun.elapsed(), segment));
        });
    };
    let begun = Instant::now();
    let mut latencies = Vec::new();
    (0..in_flight).for_each(|_| submit());
    let mut released = writer.counters().current_segment;
    while begun.elapsed() < Duration::from_secs(seconds) {
        let (latency, segment) = acknowledged.recv()?;
        latencies.push(latency);
        if segment > released {
            writer.release_before(segment);
            released = segment;
        }
        submit();
    }
    let elapsed = begun.elapsed().as_secs_f64();
    writer.shutdown()?;

    latencies.sort_unstable();
    let percentile = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    let counters = writer.counters();
    println!("{in_flight} on the way, {record_bytes} bytes each, {elapsed:.1} s, segment {}", counters.current_segment);
    println!("{:>10.0} records/s", counters.records as f64 / elapsed);
    println!("{:>10.0} syncs/s", counters.groups as f64 / elapsed);
    println!("{:>10.1} records/sync", counters.records as f64 / counters.groups as f64);
    println!("{:>10.1} MB/s", counters.bytes as f64 / elapsed / 1e6);
    println!("p50 {:.2?}, p99 {:.2?}, p99.9 {:.2?}", percentile(0.5), percentile(0.99), percentile(0.999));
    println!("longest {:.2?}", percentile(1.0));
    Ok(())
}
