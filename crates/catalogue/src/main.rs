//! `catalogue`: switches each bug on, and shows what catches it.
#![allow(clippy::print_stdout, reason = "a command-line program's output")]

use anyhow::Result;
use catalogue::run::Programs;
use catalogue::{BUGS, Catcher, table};
use clap::Parser;
use std::collections::BTreeSet;
use std::process::ExitCode;

/// Bugs, each switched on, and what catches it.
#[derive(Parser)]
struct Arguments {
    /// Only bugs whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// Print the page for readers and run nothing.
    #[arg(long)]
    table: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.table {
        print!("{}", table::page());
        return Ok(ExitCode::SUCCESS);
    }
    let bugs: Vec<_> = BUGS.iter().filter(|bug| bug.name.contains(&arguments.only)).collect();
    let programs = Programs::build(&bugs)?;
    let tests: BTreeSet<Catcher> = bugs.iter().flat_map(|bug| bug.caught_by).copied().collect();
    // What fails anyway catches nothing. Seeds and worlds are held by tests of their own.
    for test in tests.into_iter().filter(|catcher| matches!(catcher, Catcher::Test { .. })) {
        if let Some(failed) = programs.run(None, test)?.by {
            println!("{test} fails with no rule broken: {failed}");
            return Ok(ExitCode::FAILURE);
        }
    }
    let mut missed = Vec::new();
    for bug in &bugs {
        for catcher in bug.caught_by {
            let caught = programs.run(Some(bug), *catcher)?;
            let by = caught.by.unwrap_or_else(|| {
                missed.push(bug.name);
                "NOT CAUGHT".to_owned()
            });
            println!("{:<28} {:<10} {:>6.1} s  {catcher}: {by}", bug.name, bug.rule, caught.took.as_secs_f64());
        }
    }
    println!("{} of {} bugs caught", bugs.len() - missed.iter().collect::<BTreeSet<_>>().len(), bugs.len());
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
