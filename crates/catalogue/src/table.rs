//! The table for readers.

use crate::{BUGS, Catcher, REFERENCES};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// What stands before the table.
const HEAD: &str = "\
# The catalogue of bugs

Bugs that systems of this kind are known to have had, and rules of the replication protocol (P1–P29) that one can break
with a line of code. Each is a switch in the code, compiled into test builds only (the feature `mutants`), and each is
caught:

    cargo run -p catalogue                          # switches each on, and says what caught it and after how long
    cargo run -p catalogue -- --only wal::          # those whose names contain this
    cargo run -p catalogue -- --markdown            # the same, and prints this page with the figures of that run
    cargo run -p catalogue -- --table               # prints this page without figures; a test holds that it is up to date

By hand: `RINGLEADER_MUTANT=wal::SyncRetried cargo test -p wal`. *Seeds* are worlds of the simulator (`cargo run -p sim`),
a *world* is one of the model, explored to its end (`cargo run -p model`), and what else is named are tests of a crate.
A number refers to the list below: a system that had this bug, or one of the same making. Where there is none, it is the
rule itself that is broken.
";

/// How the paragraph begins that only a page with figures has.
const FIGURES: &str = "*After* is ";

/// What one run of everything showed.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// After how much each catcher noticed each bug.
    pub after: BTreeMap<(&'static str, Catcher), String>,
    /// How long it all took, builds left out.
    pub took: Duration,
}

/// The page `tests/catalogue/README.md`.
pub fn page(figures: Option<&Figures>) -> String {
    let mut page = format!("{HEAD}\n");
    // Writing to a string does not fail.
    if let Some(figures) = figures {
        let (bugs, seconds) = (BUGS.len(), figures.took.as_secs());
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let _infallible = writeln!(
            page,
            "{FIGURES}from one run of all {bugs}, in the dev profile on a machine with {cores} cores: {} min {} s, every one caught.\n",
            seconds / 60,
            seconds % 60
        );
    }
    let _infallible = writeln!(page, "{} bugs:\n", BUGS.len());
    let mut columns = vec!["bug", "what it does", "rule", "known from", "caught by"];
    columns.extend(figures.map(|_| "after"));
    page.push_str(&format!("| {} |\n", columns.join(" | ")));
    page.push_str(&format!("| {} |\n", vec!["---"; columns.len()].join(" | ")));
    for bug in BUGS {
        let what = bug.what().unwrap_or_default();
        let known_from: Vec<String> = bug.known_from.iter().map(|number| format!("[{number}]")).collect();
        let caught_by: Vec<String> = bug.caught_by.iter().map(ToString::to_string).collect();
        let mut row = vec![bug.name.to_owned(), what, bug.rule.to_owned(), known_from.join(" "), caught_by.join("; ")];
        row.extend(figures.map(|figures| {
            let after = bug.caught_by.iter().filter_map(|catcher| figures.after.get(&(bug.name, *catcher)).cloned());
            after.collect::<Vec<_>>().join("; ")
        }));
        page.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    page.push_str("\nKnown from:\n\n");
    for (number, (what, address)) in (1..).zip(REFERENCES) {
        let _infallible = writeln!(page, "{number}. {what}: <{address}>");
    }
    page
}

/// A page with figures as it is without them: what can be compared with another one.
pub fn without_figures(page: &str) -> String {
    if !page.contains(FIGURES) {
        return page.to_owned();
    }
    let mut lines = page.lines();
    let mut kept = String::new();
    while let Some(line) = lines.next() {
        if line.starts_with(FIGURES) {
            // Its empty line goes with it.
            lines.next();
            continue;
        }
        match line.strip_suffix(" |").and_then(|row| row.rsplit_once(" | ")) {
            Some((row, _)) => kept.push_str(&format!("{row} |\n")),
            None => kept.push_str(&format!("{line}\n")),
        }
    }
    kept
}

/// One line of what is printed while it runs.
pub fn row(bug: &str, rule: &str, known_from: &str, caught_by: &str, after: &str) -> String {
    format!("{bug:<40}  {rule:<10}  {known_from:<24}  {caught_by:<72}  {after}")
}
