//! The persist-and-send matrix: a crash right before and right after every kind of record that a replica writes and every
//! kind of message that it sends, to other replicas or, for transactions, to other partitions, in everything that a replica
//! can be when it does.
//!
//! Each cell is run in worlds with faults of their own, until the trap has sprung in several of them; then the world goes
//! on, is healed, and must hold all invariants, be linearizable and come to rest, as every world. A cell that no world
//! reaches fails: it would prove nothing.

use crate::trap::{Act, Cell, Role, Trap, When};
use crate::world::{Report, run_trapped};
use crate::{Keep, Scenario, Violation};
use std::collections::BTreeSet;

use Act::{Sends, Tells, Writes};
use Role::{Follower, None as Nothing, OutOfService, Serving, Starting, TakingOver};

/// What replicas do, and what they are when they do it. Everything that sixty storms meet is here; a test holds that.
pub const ACTS: &[(Act, &[Role])] = &[
    (Writes("append"), &[Follower, TakingOver, Starting, Serving]),
    (Writes("base"), &[Nothing, OutOfService, Follower, TakingOver, Starting, Serving]),
    (Writes("promise"), &[Nothing, Follower, TakingOver]),
    (Writes("reset"), &[Nothing, Follower]),
    (Sends("chunk"), &[Starting, Serving]),
    (Sends("chunk-taken"), &[Follower]),
    (Sends("confirm"), &[Serving]),
    (Sends("confirmed"), &[Follower]),
    (Sends("fenced"), &[Follower, TakingOver, Starting, Serving]),
    (Sends("fetch"), &[TakingOver]),
    (Sends("fetched"), &[Follower]),
    (Sends("mismatch"), &[Follower, TakingOver]),
    (Sends("not-member"), &[Nothing]),
    (Sends("prepare"), &[Starting, Serving]),
    (Sends("prepared"), &[OutOfService, Follower, TakingOver, Starting]),
    (Sends("seal"), &[TakingOver]),
    (Sends("sealed"), &[Follower, TakingOver, Starting]),
    (Tells("abort"), &[Serving]),
    (Tells("ask"), &[Serving]),
    (Tells("commit"), &[Serving]),
    (Tells("done"), &[Serving]),
    (Tells("fenced"), &[Serving]),
    (Tells("no"), &[Serving]),
    (Tells("prepare"), &[Serving]),
    (Tells("yes"), &[Serving]),
];

/// Worlds in which each cell is run.
pub const RUNS: u64 = 3;
/// Seeds that are tried until a cell has its worlds.
const SEEDS_MAX: u64 = 3_000;

/// How a cell fared.
#[derive(Clone, Debug)]
pub struct CellReport {
    /// Which.
    pub cell: Cell,
    /// Worlds in which the process died there.
    pub runs: u64,
    /// Worlds that were tried for that.
    pub tried: u64,
    /// The first world that broke something.
    pub broken: Option<(u64, Violation)>,
}

impl CellReport {
    /// Whether it was reached, and everything held.
    pub fn holds(&self) -> bool {
        self.runs == RUNS && self.broken.is_none()
    }
}

/// All cells.
pub fn cells() -> Vec<Cell> {
    let roles = ACTS.iter().flat_map(|(act, roles)| roles.iter().map(|role| (*act, *role)));
    roles.flat_map(|(act, role)| [When::Before, When::After].map(|when| Cell { act, role, when })).collect()
}

/// Which scenario leads to the act soonest.
fn scenario(cell: Cell) -> Scenario {
    match (cell.act, cell.role) {
        (_, OutOfService) => Scenario::Damage,
        _ => Scenario::Storm,
    }
}

/// How often it is let pass: not always the first time, for what comes later is busier.
fn passes(seed: u64) -> u64 {
    if seed % 4 == 3 { 4 } else { 0 }
}

/// Runs one cell.
pub fn run_cell(cell: Cell) -> CellReport {
    let mut report = CellReport { cell, runs: 0, tried: 0, broken: None };
    while report.runs < RUNS && report.tried < SEEDS_MAX && report.broken.is_none() {
        let seed = report.tried;
        report.tried += 1;
        let (Report { violation, .. }, trap) =
            run_trapped(seed, Some(scenario(cell)), Keep::Nothing, Trap::new(cell, passes(seed)));
        if trap.has_sprung() {
            report.runs += 1;
            report.broken = violation.map(|violation| (seed, violation));
        }
    }
    report
}

/// Runs one seed with the process dying at the cell, and keeps its trace.
pub fn replay(cell: Cell, seed: u64, keep: Keep) -> Report {
    run_trapped(seed, Some(scenario(cell)), keep, Trap::new(cell, passes(seed))).0
}

/// Everything that replicas do in these worlds.
pub fn met(seeds: std::ops::Range<u64>, scenario: Scenario) -> BTreeSet<(Act, Role)> {
    seeds.flat_map(|seed| run_trapped(seed, Some(scenario), Keep::Nothing, Trap::default()).1.met).collect()
}

/// One line per act and role: worlds in which the process died before it and after it, and how many were tried.
pub fn table(reports: &[CellReport]) -> String {
    let mut table = format!("{:<20} {:<14} {:>8} {:>8} {:>8}\n", "act", "role", "before", "after", "tried");
    for pair in reports.chunks(2) {
        let Cell { act, role, .. } = pair[0].cell;
        let column = |report: &CellReport| match &report.broken {
            Some(_) => "BROKEN".to_owned(),
            None if report.runs < RUNS => format!("{} only", report.runs),
            None => format!("{} held", report.runs),
        };
        let columns: Vec<String> = pair.iter().map(|report| format!("{:>8}", column(report))).collect();
        let tried: u64 = pair.iter().map(|report| report.tried).sum();
        let (act, role) = (act.to_string(), format!("{role:?}"));
        table.push_str(&format!("{act:<20} {role:<14} {} {tried:>8}\n", columns.join(" ")));
    }
    for report in reports {
        if let Some((seed, violation)) = &report.broken {
            table.push_str(&format!("{:?}, seed {seed}: broke {violation}\n", report.cell));
        }
    }
    let held = reports.iter().filter(|report| report.holds()).count();
    table.push_str(&format!("{held} of {} cells hold, in {RUNS} worlds each\n", reports.len()));
    table
}
