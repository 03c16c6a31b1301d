//! `sim`: runs seeds, and says of one that fails what broke, how it came about, and how to see it again.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program's output")]

use clap::Parser;
use sim::{Counts, Keep, Report, Scenario};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Lines of a failing seed's trace that are shown without `--trace`.
const TAIL: usize = 60;

/// The deterministic simulator of Ringleader's cores.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Seeds to run: FIRST..END (END is not run), or one seed.
    #[arg(long, default_value = "0..1000", value_parser = seeds)]
    seeds: (u64, u64),
    /// Threads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: u64,
    /// calm, network, crashes, pauses, viewleader, damage or storm; without it each seed draws one.
    #[arg(long, value_parser = scenario)]
    scenario: Option<Scenario>,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// Run each seed twice, and compare everything that happened, line by line.
    #[arg(long, conflicts_with = "trace")]
    twice: bool,
    /// Go on after a seed that fails.
    #[arg(long)]
    keep_going: bool,
    /// Break this rule of the replica core; a name of `replcore::mutants`.
    #[cfg(feature = "mutants")]
    #[arg(long, value_parser = mutant)]
    mutant: Option<replcore::mutants::Mutant>,
}

#[derive(Clone, Copy, clap::Subcommand)]
enum Command {
    /// A crash before and after every kind of record written and of message sent, in every role; printed as a table.
    Matrix,
}

/// Whether everything held.
fn matrix(jobs: u64) -> bool {
    let cells = sim::matrix::cells();
    let next = AtomicU64::new(0);
    let reports = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let report = sim::matrix::run_cell(*cell);
                    reports.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(report);
                }
            });
        }
    });
    let mut reports = reports.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    reports.sort_by_key(|report| report.cell);
    print!("{}", sim::matrix::table(&reports));
    reports.iter().all(sim::matrix::CellReport::holds)
}

#[cfg(feature = "mutants")]
fn mutant(text: &str) -> Result<replcore::mutants::Mutant, String> {
    let all = replcore::mutants::Mutant::ALL;
    let names = || all.iter().map(|mutant| format!("{mutant:?}")).collect::<Vec<_>>().join(", ");
    all.iter().copied().find(|mutant| format!("{mutant:?}") == text).ok_or_else(|| format!("there are {}", names()))
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is no seed"));
    let (first, end) = match text.split_once("..") {
        Some((first, end)) => (number(first)?, number(end)?),
        None => number(text).map(|seed| (seed, seed.saturating_add(1)))?,
    };
    if first >= end { Err("there is no seed in this range".into()) } else { Ok((first, end)) }
}

fn scenario(text: &str) -> Result<Scenario, String> {
    let names: Vec<_> = Scenario::ALL.iter().map(|scenario| scenario.name()).collect();
    Scenario::named(text).ok_or_else(|| format!("there are {}", names.join(", ")))
}

fn replay(seed: u64, scenario: Option<Scenario>) -> String {
    let scenario = scenario.map(|scenario| format!(" --scenario {scenario}")).unwrap_or_default();
    format!("cargo run --release -p sim -- --seeds {seed}{scenario} --trace")
}

thread_local! {
    static RUNNING: std::cell::Cell<Option<(u64, Option<Scenario>)>> = const { std::cell::Cell::new(None) };
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Matrix) = arguments.command {
        return if matrix(arguments.jobs) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default_hook(panic);
        if let Some((seed, scenario)) = RUNNING.get() {
            eprintln!("seed {seed} panicked\n  replay: {}", replay(seed, scenario));
        }
    }));
    let (first, end) = arguments.seeds;
    let next = AtomicU64::new(first);
    let stop = AtomicBool::new(false);
    let total = Mutex::new((Counts::default(), 0u64, Vec::new(), 0u64));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.min(end - first) {
            scope.spawn(|| {
                #[cfg(feature = "mutants")]
                if arguments.mutant.is_some() {
                    replcore::mutants::set(arguments.mutant);
                }
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    RUNNING.set(Some((seed, arguments.scenario)));
                    let report = run(seed, &arguments);
                    let difference = if arguments.twice { difference(seed, arguments.scenario) } else { None };
                    let failed = report.violation.is_some() || difference.is_some();
                    if failed && !arguments.keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                    let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    total.0 = total.0.plus(report.counts);
                    total.1 += 1;
                    total.3 = total.3.wrapping_add(report.hash.rotate_left(seed as u32));
                    if failed {
                        total.2.push(seed);
                        show(&report, &arguments);
                        difference.iter().for_each(|what| println!("seed {seed} run twice: {what}"));
                    } else if arguments.trace {
                        report.trace.iter().for_each(|line| println!("{line}"));
                    }
                }
            });
        }
    });
    let (counts, run, mut failed, traces) = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let seconds = began.elapsed().as_secs_f64();
    println!("{run} seeds in {seconds:.1} s, {:.0} a minute; {counts:?}", run as f64 * 60.0 / seconds.max(1e-9));
    println!("all traces: {traces:016x}; the same seeds of the same program have the same");
    if failed.is_empty() {
        let twice = if arguments.twice { ", and each seed run twice did the same" } else { "" };
        println!("no violation{twice}");
        return ExitCode::SUCCESS;
    }
    failed.sort_unstable();
    println!("{} failed: {failed:?}", failed.len());
    ExitCode::FAILURE
}

/// Lines cost ten times what the run itself does: they are made in a second run, of seeds that failed.
fn run(seed: u64, arguments: &Arguments) -> Report {
    if arguments.trace {
        return sim::run(seed, arguments.scenario, Keep::Everything);
    }
    let report = sim::run(seed, arguments.scenario, Keep::Nothing);
    if report.violation.is_some() { sim::run(seed, arguments.scenario, Keep::Tail(TAIL)) } else { report }
}

/// Where two runs of one seed differ.
fn difference(seed: u64, scenario: Option<Scenario>) -> Option<String> {
    let [first, second] = [(); 2].map(|()| sim::run(seed, scenario, Keep::Everything));
    if let Some((line, other)) = first.trace.iter().zip(&second.trace).find(|(line, other)| line != other) {
        return Some(format!("once {line:?}, once {other:?}"));
    }
    let (lines, others) = (first.trace.len(), second.trace.len());
    let same = lines == others && first.hash == second.hash;
    (!same).then(|| format!("{lines} lines and {others}, traces {:016x} and {:016x}", first.hash, second.hash))
}

fn show(report: &Report, arguments: &Arguments) {
    let Some(violation) = &report.violation else { return };
    println!("seed {} ({}) broke {violation}", report.seed, report.scenario);
    report.trace.iter().for_each(|line| println!("  {line}"));
    println!("  replay: {}\n", replay(report.seed, arguments.scenario));
}
