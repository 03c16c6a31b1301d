//! The table for readers.

use crate::{BUGS, REFERENCES};
use std::fmt::Write;

/// What stands before the table.
const HEAD: &str = "\
# The catalogue of bugs

Bugs that systems of this kind are known to have had, and rules of the replication protocol (P1–P29) that one can break
with a line of code. Each is a switch in the code, compiled into test builds only (the feature `mutants`), and each is
caught:

    cargo run -p catalogue                          # switches each on, and says what caught it and after how long
    cargo run -p catalogue -- --only wal::          # those whose names contain this
    cargo run -p catalogue -- --table               # prints this page; a test holds that it is up to date

By hand: `RINGLEADER_MUTANT=wal::SyncRetried cargo test -p wal`. *Seeds* are worlds of the simulator (`cargo run -p sim`),
a *world* is one of the model, explored to its end (`cargo run -p model`), and what else is named are tests of a crate.
A number refers to the list below: a system that had this bug, or one of the same making. Where there is none, it is the
rule itself that is broken.
";

/// The page `tests/catalogue/README.md`.
pub fn page() -> String {
    let mut page = format!(
        "{HEAD}\n{} bugs:\n\n| bug | what it does | rule | known from | caught by |\n| --- | --- | --- | --- | --- |\n",
        BUGS.len()
    );
    for bug in BUGS {
        let what = bug.what().unwrap_or_default();
        let known_from: Vec<String> = bug.known_from.iter().map(|number| format!("[{number}]")).collect();
        let caught_by: Vec<String> = bug.caught_by.iter().map(ToString::to_string).collect();
        let row = [bug.name, &what, bug.rule, &known_from.join(" "), &caught_by.join("; ")].join(" | ");
        page.push_str(&format!("| {row} |\n"));
    }
    page.push_str("\nKnown from:\n\n");
    for (number, (what, address)) in (1..).zip(REFERENCES) {
        // Writing to a string does not fail.
        let _infallible = writeln!(page, "{number}. {what}: <{address}>");
    }
    page
}
