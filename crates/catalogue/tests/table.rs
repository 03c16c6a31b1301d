//! The catalogue and the code name the same bugs, and the page says what the catalogue says.

use catalogue::bug::switches;
use catalogue::table::{self, Figures};
use catalogue::{BUGS, REFERENCES};
use std::collections::BTreeSet;

/// Guards against a switch that nobody looks for, and a line for a switch that is gone.
#[test]
fn every_switch_has_its_line_and_every_line_its_switch() {
    let in_code: BTreeSet<String> = switches().into_iter().map(|(name, _)| name).collect();
    let listed: BTreeSet<String> = BUGS.iter().map(|bug| bug.name.to_owned()).collect();
    assert_eq!(in_code, listed);
    assert_eq!(listed.len(), BUGS.len(), "a bug is listed twice");
    assert!(BUGS.len() >= 40);
}

/// Guards against a bug that nothing is to catch, one that nobody explains, and a reference to nothing.
#[test]
fn every_line_is_whole() {
    for bug in BUGS {
        assert!(!bug.caught_by.is_empty(), "{}: nothing catches it", bug.name);
        assert!(bug.what().is_some_and(|what| !what.is_empty()), "{}: nothing says what it does", bug.name);
        let known = |number: &usize| (1..=REFERENCES.len()).contains(number);
        assert!(bug.known_from.iter().all(known), "{}: a reference to nothing", bug.name);
    }
    let used: BTreeSet<usize> = BUGS.iter().flat_map(|bug| bug.known_from).copied().collect();
    assert_eq!(used, (1..=REFERENCES.len()).collect(), "a reference that nobody makes");
}

/// Guards against a page that readers can't trust. Its figures are those of one run, and another run's would differ.
#[test]
fn the_page_is_up_to_date() {
    let page = include_str!("../../../tests/catalogue/README.md");
    let is_up_to_date = table::without_figures(page) == table::page(None);
    assert!(is_up_to_date, "cargo run -p catalogue -- --markdown > page; mv page tests/catalogue/README.md");
}

/// Guards against figures that the comparison above would take for the table, or the table for figures.
#[test]
fn figures_can_be_left_out() {
    let mut figures = Figures::default();
    for bug in BUGS {
        figures.after.extend(bug.caught_by.iter().map(|catcher| ((bug.name, *catcher), "seed 1, 0.1 s".to_owned())));
    }
    let page = table::page(Some(&figures));
    assert_eq!(page.matches("seed 1").count(), BUGS.iter().map(|bug| bug.caught_by.len()).sum::<usize>());
    assert_eq!(table::without_figures(&page), table::page(None));
}
