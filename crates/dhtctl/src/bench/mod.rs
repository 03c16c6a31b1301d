//! `bench`: closed-loop clients, and what they saw.
//!
//! Each client sends its next request when the last one was answered, so throughput is what the cluster gives to so many
//! callers at once. A gap is a time without a success: of all clients together it shows what a failure does to the
//! service, of one client what it does to a user.

mod load;
mod processes;
mod report;

use crate::cli::{ClusterFlags, Globals};
use crate::output::{self, Format};
use clap::{Args, ValueEnum};
use daemon::{Exit, Failure};
use load::{Load, Progress};
use processes::Processes;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use types::limits::VALUE_BYTES_MAX;

/// What the clients do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Workload {
    /// Write.
    Put,
    /// Read; the keys are written first.
    Get,
    /// Read and write by halves; the keys are written first.
    Mixed,
    /// Write, as a transaction.
    Txn,
    /// Write two keys of one partition at once.
    Txn1,
    /// Write two keys of different partitions at once.
    Txn2,
    /// Read two keys of different partitions as of one instant; the keys are written first.
    Read2,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Workload::Put => "put",
            Workload::Get => "get",
            Workload::Mixed => "mixed",
            Workload::Txn => "txn",
            Workload::Txn1 => "txn1",
            Workload::Txn2 => "txn2",
            Workload::Read2 => "read2",
        }
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchFlags {
    /// What the clients do.
    #[arg(value_enum, default_value = "put")]
    pub(crate) workload: Workload,
    /// Callers at a time.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) clients: u32,
    /// Bytes of each value.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(..=VALUE_BYTES_MAX as i64))]
    pub(crate) value_bytes: u32,
    /// Keys to choose from.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keys: u64,
    /// How long to measure.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,
    /// A playground's cluster.json: also measure the processor time that its processes take.
    #[arg(long, value_name = "FILE")]
    pub(crate) cluster_file: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterFlags,
}

pub(crate) async fn run(globals: &Globals, flags: BenchFlags) -> Result<Exit, Failure> {
    let client = globals.connect(&flags.cluster).await?;
    let load = Arc::new(Load::new(client, &flags));
    if matches!(flags.workload, Workload::Get | Workload::Mixed | Workload::Read2) {
        load.preload().await.map_err(crate::failure::of)?;
    }
    let processes = flags.cluster_file.as_deref().map(Processes::measure).transpose()?;
    let mut running = load.start(Duration::from_secs(flags.seconds));
    show_progress(&mut running, &flags).await;
    let seen = running.finish().await?;
    let processor_us = processes.map(|before| before.processor_us()).transpose()?;
    let report = report::Report::new(&flags, &seen, processor_us);
    match globals.output {
        Format::Table => output::line(&report.text())?,
        Format::Json | Format::Raw => output::write_json(&report.json())?,
    }
    // A bench in which nothing succeeded measured nothing.
    Ok(if seen.operations == 0 { Exit::Unavailable } else { Exit::Done })
}

/// A line that changes on a terminal, a line per second elsewhere.
async fn show_progress(running: &mut load::Running, flags: &BenchFlags) {
    let bar = std::io::stderr().is_terminal().then(indicatif::ProgressBar::new_spinner);
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.tick().await;
    let mut before = Progress::default();
    for second in 1..=flags.seconds {
        tokio::select! {
            _ = every.tick() => {}
            () = running.ended() => break,
        }
        let now = running.progress();
        let text = format!(
            "{second:>4} of {} s  {:>8} {}/s  {} errors",
            flags.seconds,
            now.operations - before.operations,
            flags.workload.name(),
            now.errors
        );
        before = now;
        match &bar {
            Some(bar) => bar.set_message(text),
            None => output::note(&text),
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}
