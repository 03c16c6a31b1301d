//! What a run found: as data, as JSON, and as a page for people.
//!
//! ```
//! use check::report::{Report, Verdict, html};
//!
//! let report = Report {
//!     verdict: Verdict::Held,
//!     sentence: "everything held".to_owned(),
//!     seed: 7,
//!     command: "dht-chaos run --seed 7".to_owned(),
//!     began: "2026-03-01T12:00:00Z".to_owned(),
//!     seconds: 300,
//!     nodes: 5,
//!     viewleaders: 3,
//!     faults: Vec::new(),
//!     timeline: Vec::new(),
//!     workloads: Vec::new(),
//! };
//! assert_eq!(Report::from_json(&report.to_json())?, report);
//! assert!(html(&report).starts_with("<!doctype html>"));
//! # Ok::<(), check::report::NotAReport>(())
//! ```

mod charts;
mod matrix;
mod page;
mod picture;
mod text;

pub use matrix::table;
pub use page::html;

use crate::Anomaly;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole of a run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What it comes to.
    pub verdict: Verdict,
    /// The verdict in one line for people.
    pub sentence: String,
    /// What the schedule of faults and the workloads were drawn from.
    pub seed: u64,
    /// The command that runs the same again.
    pub command: String,
    /// When it began: RFC 3339.
    pub began: String,
    /// How long it took.
    pub seconds: u64,
    /// Storage nodes.
    pub nodes: u32,
    /// Viewleaders.
    pub viewleaders: u32,
    /// What was broken, by ascending begin.
    pub faults: Vec<FaultSpan>,
    /// What was achieved, second by second.
    pub timeline: Vec<Second>,
    /// What each workload came to.
    pub workloads: Vec<WorkloadResult>,
}

/// What a run, or one of its workloads, comes to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything was as it must be.
    Held,
    /// Something was seen that must not be.
    Violated,
    /// A history was not decided within its bounds: a failure.
    Undecided,
    /// A fault was ordered and nothing was broken, so nothing is shown: a failure.
    FaultsDidNotLand,
    /// Too little was asked of the store, so nothing is shown: a failure.
    LoadTooLow,
}

/// One fault. Instants are milliseconds since the run began.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FaultSpan {
    /// Which kind: `kill`, `pause`, `cut`, …
    pub kind: String,
    /// Of what: `node 3`, `node 1 -> node 4`, …
    pub target: String,
    /// When it was made.
    pub began_ms: u64,
    /// When it was taken back.
    pub ended_ms: u64,
    /// The proof that it really broke something; `None` if there is none.
    pub landed: Option<String>,
    /// From its begin until every partition served again; `None` if that was not seen.
    pub recovery_ms: Option<u64>,
    /// By workload: its operations that were under way at some time between begin and end.
    #[serde(default)]
    pub operations: BTreeMap<String, Operations>,
}

/// Operations by how they ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Operations {
    /// Done.
    pub done: u64,
    /// Not done.
    pub not_done: u64,
    /// Nobody knows.
    pub unknown: u64,
}

impl Operations {
    /// However they ended.
    pub fn total(self) -> u64 {
        self.done + self.not_done + self.unknown
    }
}

/// One second of load.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Second {
    /// Seconds since the run began.
    pub at_s: u32,
    /// Operations answered as done.
    pub done: u64,
    /// Operations answered as not done.
    pub not_done: u64,
    /// Operations of which nobody knows.
    pub unknown: u64,
    /// Median time to an answer, in microseconds.
    pub p50_us: u64,
    /// Time within which 99 of 100 were answered, in microseconds.
    pub p99_us: u64,
    /// The longest time to an answer, in microseconds.
    pub max_us: u64,
}

/// What a workload came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkloadResult {
    /// `registers`, `sets`, …
    pub name: String,
    /// How many operations its history has.
    pub operations: u64,
    /// What it comes to.
    pub verdict: Verdict,
    /// The verdict in one line for people.
    pub sentence: String,
    /// The smallest part of the history that shows the violation.
    pub violation: Option<Piece>,
}

/// A part of a history, to be drawn.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Piece {
    /// What it shows.
    pub title: String,
    /// Its operations.
    pub operations: Vec<PieceOperation>,
}

/// One operation of a piece.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PieceOperation {
    /// Whose lane it is drawn in.
    pub client: u64,
    /// When it was called, in microseconds.
    pub began_us: u64,
    /// When it was answered, in microseconds; `None`: never.
    pub ended_us: Option<u64>,
    /// What was asked, and what was heard.
    pub text: String,
}

/// JSON that is no report.
#[derive(Debug, thiserror::Error)]
#[error("this is no report of a run: {0}; give the report.json that a run wrote")]
pub struct NotAReport(#[from] serde_json::Error);

impl Report {
    /// The report as indented JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and numbers can always be written as JSON")
    }

    /// The report that [`Report::to_json`] wrote.
    ///
    /// # Errors
    /// If the text is no report.
    pub fn from_json(text: &str) -> Result<Report, NotAReport> {
        Ok(serde_json::from_str(text)?)
    }
}

impl WorkloadResult {
    /// What a checker's anomalies come to: the first one is told.
    pub fn judged<K>(name: &str, operations: u64, anomalies: &[Anomaly<K>]) -> WorkloadResult {
        let (verdict, sentence, violation) = match anomalies {
            [] => (Verdict::Held, format!("{} operations are all explained", text::grouped(operations)), None),
            [only] => (Verdict::Violated, only.sentence.clone(), Some(only.piece.clone())),
            [first, rest @ ..] => {
                let sentence = format!("{} (and {} more)", first.sentence, rest.len());
                (Verdict::Violated, sentence, Some(first.piece.clone()))
            }
        };
        WorkloadResult { name: name.to_owned(), operations, verdict, sentence, violation }
    }
}
