//! The command line: keys, what the cluster looks like, a bench, and a playground.
//!
//! One file per group of commands; [`output`] is how they all print. Results go to stdout, everything else to stderr;
//! an error is one line there, and the exit code says what kind it is ([`daemon::Exit`]).
//!
//! The binary is also both servers: the playground starts itself again under their names.

mod bench;
mod cli;
mod cluster;
mod completion;
mod failure;
mod hold;
mod keys;
mod leaders;
mod lease;
mod locks;
mod node;
mod operator;
mod output;
mod playground;
mod rebalance;
mod recover;
mod scan;
mod settings;
mod txn;
mod watch;

use cli::{Cli, Command};
use daemon::{Exit, Failure};
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command that `arguments` name; the program's own name comes first.
pub fn main(mut arguments: Vec<OsString>) -> ExitCode {
    match arguments.get(1).and_then(|word| word.to_str()) {
        Some("viewleader") => viewleader::cli::main(arguments.split_off(1)),
        Some("storaged") => storaged::cli::main(arguments.split_off(1)),
        _ => daemon::main_with("dhtctl", run(arguments)),
    }
}

async fn run(arguments: Vec<OsString>) -> Result<Exit, Failure> {
    let Cli { globals, command } = daemon::settings::parse(arguments)?;
    if std::env::var_os("RUST_LOG").is_some() {
        daemon::logging::init(None, daemon::logging::LogFormat::Text)?;
    }
    match command {
        Command::Setr(setr) => keys::setr(&globals, setr).await,
        Command::Getr(getr) => keys::getr(&globals, getr).await,
        Command::Delr(delr) => keys::delr(&globals, delr).await,
        Command::Txn(txn) => txn::run(&globals, txn).await,
        Command::Scan(flags) => scan::run(&globals, flags).await,
        Command::Watch(flags) => watch::run(&globals, flags).await,
        Command::QueryServers(flags) => cluster::query_servers(&globals, &flags).await,
        Command::Status(flags) => cluster::status(&globals, &flags).await,
        Command::Leaders(flags) => leaders::run(&globals, &flags).await,
        Command::Nodes(flags) => cluster::nodes(&globals, &flags).await,
        Command::Node(action) => node::run(&globals, action).await,
        Command::Cluster(action) => settings::run(&globals, action).await,
        Command::Rebalance(action) => rebalance::run(&globals, action).await,
        Command::Recover(flags) => recover::run(&globals, &flags).await,
        Command::LockGet(flags) => locks::lock_get(&globals, flags).await,
        Command::LockRelease(flags) => locks::lock_release(&globals, flags).await,
        Command::Locks(flags) => locks::locks(&globals, &flags).await,
        Command::Lock(flags) => hold::lock(&globals, flags).await,
        Command::Elect(flags) => hold::elect(&globals, flags).await,
        Command::Observe(flags) => locks::observe(&globals, &flags).await,
        Command::Lease(action) => lease::run(&globals, action).await,
        Command::Partitions(flags) => cluster::partitions(&globals, &flags).await,
        Command::Route(route) => cluster::route(&globals, &route).await,
        Command::Bench(flags) => bench::run(&globals, flags).await,
        Command::Playground(flags) => playground::run(&flags).await,
        Command::Completion(flags) => completion::print(&flags),
    }
}
