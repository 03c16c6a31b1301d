//! The chaos harness: a real cluster on this machine, loaded, broken, healed, and held to what its clients saw.
//!
//! ```text
//! run ──► cluster (processes of this binary, their files)     ◄── nemesis (one fault at a time)
//!    ├──► proxy (the network between them)                    ◄──┘
//!    ├──► workload (clients that write down every answer) ──► verdicts ─┐
//!    ├──► probe (how long until every partition serves again) ──────────┼─► report
//!    └──► meter (what clients heard, second by second) ─────────────────┘
//! ```
//!
//! Invariants:
//! - A fault counts only if something shows that it took effect; one that did not fails the run.
//! - The next fault begins when the cluster is whole again: each is survivable, and what is not survived is a finding.
//! - What was not answered is unknown for ever. A history that can't be decided is a failure.
//! - Nothing is left behind: no process, no directory; but for a run that found something, whose files are kept.
//!
//! Left out: determinism of anything but the schedule. Real processes interleave as they like; the simulator is for
//! what must happen the same way twice.

mod cli;
mod cluster;
mod error;
mod meter;
mod nemesis;
mod netns;
mod probe;
mod proxy;
mod random;
mod report;
mod run;
mod schedule;
mod screen;
mod workload;

use clap::Parser as _;
use cli::{Cli, Command, RunFlags};
use daemon::{Exit, Failure};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// Set in the environment of the servers that the harness starts.
const CHILD_VARIABLE: &str = "DHT_CHAOS_CHILD";

/// Runs the command that `arguments` name; the program's own name comes first. With a server's name in the second place
/// it is that server: the harness starts itself again.
pub fn main(mut arguments: Vec<OsString>) -> ExitCode {
    let server: fn(Vec<OsString>) -> ExitCode = match arguments.get(1).and_then(|word| word.to_str()) {
        Some("viewleader") => |arguments| viewleader::cli::main(arguments),
        Some("storaged") => |arguments| storaged::cli::main(arguments),
        _ => return daemon::main_with("dht-chaos", run(arguments)),
    };
    if std::env::var_os(CHILD_VARIABLE).is_some()
        && let Err(failure) = cluster::die_with_parent()
    {
        return daemon::main_with("dht-chaos", async { Err(failure) });
    }
    server(arguments.split_off(1))
}

async fn run(arguments: Vec<OsString>) -> Result<Exit, Failure> {
    cluster::clean_up_on_panic();
    let Cli { command } = daemon::settings::parse(arguments)?;
    match command {
        Command::Run(flags) => run::run(&flags).await,
        Command::Matrix(flags) => run::run(&flags.by_rounds()).await,
        Command::Replay(replay) => run::run(&replayed(&replay)?).await,
        Command::Faults => list(nemesis::KINDS.iter().map(|(_, name, about)| (*name, *about))),
        Command::Workloads => list(workload::WORKLOADS.iter().map(|(name, about, _)| (*name, *about))),
    }
}

/// The flags of the run that a report describes.
fn replayed(replay: &cli::ReplayFlags) -> Result<RunFlags, Failure> {
    let path = replay.path.display();
    let unusable = |why: String| Failure::usage(format!("cannot replay {path}: {why}"));
    let text = std::fs::read_to_string(&replay.path).map_err(|error| unusable(error.to_string()))?;
    let command = report::command_of(&text).map_err(|error| unusable(error.to_string()))?;
    match Cli::try_parse_from(command.split_whitespace()).map(|cli| cli.command) {
        Ok(Command::Run(mut flags)) => {
            flags.report.clone_from(&replay.report);
            Ok(flags)
        }
        _ => Err(unusable(format!("its command is no run: {command}"))),
    }
}

fn list(lines: impl Iterator<Item = (&'static str, &'static str)>) -> Result<Exit, Failure> {
    let text: String = lines.map(|(name, about)| format!("  {name:<20}{about}\n")).collect();
    print(&text)?;
    Ok(Exit::Done)
}

/// Writes to stdout. A reader that has gone is no error.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::unavailable(format!("cannot write the result: {error}; check where stdout goes")))
        }
        _ => Ok(()),
    }
}
