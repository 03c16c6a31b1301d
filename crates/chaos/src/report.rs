//! The report of a run, put together from what its parts wrote down.

use crate::error::Error;
use crate::meter;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Everything about a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) verdict: Verdict,
    pub(crate) sentence: String,
    pub(crate) seed: u64,
    pub(crate) command: String,
    pub(crate) began: String,
    pub(crate) seconds: u64,
    pub(crate) nodes: u32,
    pub(crate) viewleaders: u32,
    pub(crate) faults: Vec<FaultSpan>,
    pub(crate) timeline: Vec<Second>,
    pub(crate) workloads: Vec<WorkloadResult>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Held,
    Violated,
    Undecided,
    FaultsDidNotLand,
    LoadTooLow,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FaultSpan {
    pub(crate) kind: String,
    pub(crate) target: String,
    pub(crate) began_ms: u64,
    pub(crate) ended_ms: u64,
    pub(crate) landed: Option<String>,
    pub(crate) recovery_ms: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Second {
    pub(crate) at_s: u32,
    pub(crate) done: u64,
    pub(crate) not_done: u64,
    pub(crate) unknown: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) max_us: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WorkloadResult {
    pub(crate) name: String,
    pub(crate) operations: u64,
    pub(crate) verdict: Verdict,
    pub(crate) sentence: String,
}

/// The timeline as reports have it.
pub(crate) fn timeline(seconds: &[meter::Second]) -> Vec<Second> {
    let second = |(second, at_s): (&meter::Second, u32)| Second {
        at_s,
        done: second.done,
        not_done: second.not_done,
        unknown: second.unknown,
        p50_us: second.p50_us,
        p99_us: second.p99_us,
        max_us: second.max_us,
    };
    seconds.iter().zip(0..).map(second).collect()
}

/// Writes report.json into a directory, which is made where it is missing.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn write(report: &Report, directory: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(directory).map_err(Error::file(directory))?;
    let path = directory.join("report.json");
    let text = serde_json::to_string_pretty(report).map_err(std::io::Error::from).map_err(Error::file(&path))?;
    std::fs::write(&path, text).map_err(Error::file(&path))
}

/// The command of the run that a report describes.
///
/// # Errors
/// Where the text is no report.
pub(crate) fn command_of(text: &str) -> Result<String, serde_json::Error> {
    serde_json::from_str::<Report>(text).map(|report| report.command)
}
