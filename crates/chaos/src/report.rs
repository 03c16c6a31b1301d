//! The report of a run: written where it was asked for, and read again to replay it.

use crate::error::Error;
use crate::meter;
use check::report::{NotAReport, Report, Second, html};
use std::path::Path;

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

/// Writes report.json and report.html into a directory, which is made where it is missing.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn write(report: &Report, directory: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(directory).map_err(Error::file(directory))?;
    for (name, text) in [("report.json", report.to_json()), ("report.html", html(report))] {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(Error::file(&path))?;
    }
    Ok(())
}

/// The command of the run that a report describes.
///
/// # Errors
/// Where the text is no report.
pub(crate) fn command_of(text: &str) -> Result<String, NotAReport> {
    Report::from_json(text).map(|report| report.command)
}
