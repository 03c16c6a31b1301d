//! A crash before and after every persist and every send: each cell reached, and everything holds after it.

use sim::Scenario;
use sim::matrix::{ACTS, CellReport, cells, met, run_cell, table};

/// Guards against a crash between two effects of one step that loses something or can't be recovered from; and against a
/// cell that nothing ever reaches.
#[test]
fn every_cell_holds() {
    let mut reports: Vec<CellReport> = cells().into_iter().map(run_cell).collect();
    reports.sort_by_key(|report| report.cell);
    let table = table(&reports);
    println!("{table}");
    assert!(reports.iter().all(CellReport::holds), "{table}");
}

/// Guards against a kind of record or message that the matrix does not know. Rarer pairs of a kind and a role, which three
/// thousand worlds do not come across three times, are not in it.
#[test]
fn the_matrix_is_whole() {
    let mut missing = met(0..60, Scenario::Storm);
    missing.retain(|(act, _)| !ACTS.iter().any(|(listed, _)| listed == act));
    assert!(missing.is_empty(), "not in the matrix: {missing:?}");
}
