//! The report of a run: written where it was asked for, and read again to replay it.

use crate::error::Error;
use crate::meter;
use check::report::{NotAReport, Report, Second, html};
use std::path::{Path, PathBuf};

/// A report is written once for programs and once for people.
const KINDS: [&str; 2] = ["json", "html"];

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

/// The directory of a report. Dropping it removes it if it was made for that, and nothing is in it.
#[derive(Debug)]
pub(crate) struct Place {
    directory: PathBuf,
    is_new: bool,
}

impl Place {
    /// Makes the directory where it is missing, and sees whether it can be written to: after a run it would be too late.
    /// A report that is there already becomes `previous.json` and `previous.html`.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn prepare(directory: &Path) -> Result<Place, Error> {
        let is_new = !directory.exists();
        std::fs::create_dir_all(directory).map_err(Error::file(directory))?;
        let place = Place { directory: directory.to_owned(), is_new };
        tempfile::tempfile_in(directory).map_err(Error::file(directory))?;
        for kind in KINDS {
            let path = directory.join(format!("report.{kind}"));
            match std::fs::rename(&path, directory.join(format!("previous.{kind}"))) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::file(path)(error)),
                _ => {}
            }
        }
        Ok(place)
    }

    /// Writes report.json and report.html; says where the second is.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn write(&self, report: &Report) -> Result<PathBuf, Error> {
        let mut path = PathBuf::new();
        for (kind, text) in KINDS.into_iter().zip([report.to_json(), html(report)]) {
            path = self.directory.join(format!("report.{kind}"));
            std::fs::write(&path, text).map_err(Error::file(&path))?;
        }
        Ok(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_new {
            // Refused where something is in it.
            let _kept = std::fs::remove_dir(&self.directory);
        }
    }
}

/// The command of the run that a report describes.
///
/// # Errors
/// Where the text is no report.
pub(crate) fn command_of(text: &str) -> Result<String, NotAReport> {
    Report::from_json(text).map(|report| report.command)
}
