//! `catalogue`: switches each bug on, and shows what catches it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program's output")]

use anyhow::Result;
use catalogue::run::Programs;
use catalogue::table::{self, Figures};
use catalogue::{BUGS, Catcher};
use clap::Parser;
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Instant;

/// Bugs, each switched on, and what catches it. Exit code 0: every one is caught by everything that is to catch it.
#[derive(Parser)]
struct Arguments {
    /// Only bugs whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// Say what was broken when it was noticed, too.
    #[arg(long)]
    details: bool,
    /// At the end print the page for readers with the figures of this run; progress goes to the standard error.
    #[arg(long, conflicts_with_all = ["only", "table"])]
    markdown: bool,
    /// Print the page for readers without figures, and run nothing.
    #[arg(long)]
    table: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.table {
        print!("{}", table::page(None));
        return Ok(ExitCode::SUCCESS);
    }
    let say = |line: String| if arguments.markdown { eprintln!("{line}") } else { println!("{line}") };
    let bugs: Vec<_> = BUGS.iter().filter(|bug| bug.name.contains(&arguments.only)).collect();
    let programs = Programs::build(&bugs)?;
    let began = Instant::now();
    // What fails anyway catches nothing. Seeds and worlds are held by tests of their own.
    let tests: BTreeSet<Catcher> = bugs.iter().flat_map(|bug| bug.caught_by).copied().collect();
    for test in tests.into_iter().filter(|catcher| matches!(catcher, Catcher::Test { .. })) {
        if let Some(failed) = programs.run(None, test)?.noticed {
            say(format!("{test} fails with no rule broken: {}", failed.what));
            return Ok(ExitCode::FAILURE);
        }
    }
    let mut figures = Figures::default();
    let mut missed: BTreeSet<&str> = BTreeSet::new();
    say(table::row("bug", "rule", "known from", "caught by", "after"));
    for bug in &bugs {
        for (line, catcher) in bug.caught_by.iter().enumerate() {
            let (after, what) = match programs.run(Some(bug), *catcher) {
                Ok(caught) => {
                    if caught.noticed.is_none() {
                        missed.insert(bug.name);
                    }
                    (caught.to_string(), caught.noticed.map(|noticed| noticed.what))
                }
                Err(error) => {
                    missed.insert(bug.name);
                    (format!("NOT CAUGHT: {error:#}"), None)
                }
            };
            let catcher_name = catcher.to_string();
            say(match line {
                0 => table::row(bug.name, bug.rule, &bug.origin(), &catcher_name, &after),
                _ => table::row("", "", "", &catcher_name, &after),
            });
            if let Some(what) = what.filter(|_| arguments.details) {
                say(format!("    {what}"));
            }
            figures.after.insert((bug.name, *catcher), after);
        }
    }
    figures.took = began.elapsed();
    let (caught, all, seconds) = (bugs.len() - missed.len(), bugs.len(), figures.took.as_secs());
    say(format!("{caught} of {all} bugs caught, in {} min {} s", seconds / 60, seconds % 60));
    if !missed.is_empty() {
        say(format!("not caught: {}", missed.iter().copied().collect::<Vec<_>>().join(", ")));
        return Ok(ExitCode::FAILURE);
    }
    if arguments.markdown {
        print!("{}", table::page(Some(&figures)));
    }
    Ok(ExitCode::SUCCESS)
}
