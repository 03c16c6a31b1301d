//! Faults that a harness injects into a running server: a disk that is slow, full or fails, a calendar that jumps.
//!
//! A server knows this crate only when it is built with its feature `faults`, which nothing but the chaos harness
//! switches on (and with it a build of the whole workspace at once). Even then nothing happens unless the environment
//! names a control file:
//!
//! ```text
//! DHT_FAULT_CONTROL  a file of lines `name value` ([`Fault`]); the harness replaces it as a whole at any time
//! DHT_FAULT_SOURCE   the address that connections to other processes come from, so that a proxy tells who calls
//! ```
//!
//! Invariants: every fault that took effect is counted in a file beside the control file, one byte for each, so that
//! the harness can prove that its faults landed. What can't be read or counted injects nothing: then the proof fails.
//!
//! Left out: faults of the network, which proxies and namespaces make outside of the servers.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// Names the control file.
pub const CONTROL_VARIABLE: &str = "DHT_FAULT_CONTROL";
/// Names the address that connections come from.
pub const SOURCE_VARIABLE: &str = "DHT_FAULT_SOURCE";

/// What can be injected. The value's meaning stands beside each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Every fsync of the write-ahead log takes this many milliseconds longer.
    FsyncDelayMs,
    /// Every fsync of the write-ahead log fails, if not 0.
    FsyncFails,
    /// Every write to the write-ahead log finds no space, if not 0.
    DiskFull,
    /// The calendar is this many milliseconds ahead; behind, where negative.
    ClockMs,
}

impl Fault {
    /// As it stands in the control file.
    pub fn name(self) -> &'static str {
        match self {
            Fault::FsyncDelayMs => "fsync_delay_ms",
            Fault::FsyncFails => "fsync_fails",
            Fault::DiskFull => "disk_full",
            Fault::ClockMs => "clock_ms",
        }
    }
}

/// The harness's end of one server's faults.
#[derive(Clone, Debug)]
pub struct Control {
    path: PathBuf,
}

impl Control {
    /// The faults of the server whose environment names `path`.
    pub fn new(path: PathBuf) -> Control {
        Control { path }
    }

    /// What [`CONTROL_VARIABLE`] is to say.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Exactly these faults from now on.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub fn set(&self, faults: &[(Fault, i64)]) -> io::Result<()> {
        let text: String = faults.iter().map(|(fault, value)| format!("{} {value}\n", fault.name())).collect();
        let beside = self.path.with_extension("new");
        fs::write(&beside, text)?;
        fs::rename(&beside, &self.path)
    }

    /// How often `fault` has taken effect so far.
    pub fn landed(&self, fault: Fault) -> u64 {
        fs::metadata(count_file(&self.path, fault)).map_or(0, |file| file.len())
    }

    /// Applies what is injected before an fsync: a delay, or a failure.
    fn before_sync(&self) -> io::Result<()> {
        if let Some(delay_ms) = self.value(Fault::FsyncDelayMs) {
            self.count(Fault::FsyncDelayMs)?;
            std::thread::sleep(Duration::from_millis(delay_ms.unsigned_abs()));
        }
        if self.value(Fault::FsyncFails).is_some() {
            self.count(Fault::FsyncFails)?;
            return Err(io::Error::other("the harness lets this fsync fail"));
        }
        Ok(())
    }

    fn before_write(&self) -> io::Result<()> {
        if self.value(Fault::DiskFull).is_some() {
            self.count(Fault::DiskFull)?;
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the harness lets this disk be full"));
        }
        Ok(())
    }

    fn shifted_ms(&self, calendar_ms: u64) -> u64 {
        match self.value(Fault::ClockMs) {
            Some(ahead_ms) if self.count(Fault::ClockMs).is_ok() => calendar_ms.saturating_add_signed(ahead_ms),
            _ => calendar_ms,
        }
    }

    /// The value of a fault that is switched on.
    fn value(&self, fault: Fault) -> Option<i64> {
        // Without the file nothing is injected; the harness counts what was.
        let text = fs::read_to_string(&self.path).ok()?;
        let value = text.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == fault.name())?.1;
        value.parse().ok().filter(|value| *value != 0)
    }

    fn count(&self, fault: Fault) -> io::Result<()> {
        OpenOptions::new().create(true).append(true).open(count_file(&self.path, fault))?.write_all(b".")
    }
}

fn count_file(control: &Path, fault: Fault) -> PathBuf {
    control.with_extension(fault.name())
}

/// This process's control file, if it has one.
fn control() -> Option<&'static Control> {
    static CONTROL: OnceLock<Option<Control>> = OnceLock::new();
    CONTROL.get_or_init(|| std::env::var_os(CONTROL_VARIABLE).map(|path| Control::new(path.into()))).as_ref()
}

/// To be called before every fsync: may take long, may fail.
///
/// # Errors
/// The fault, in place of the fsync's own failure.
pub fn before_sync() -> io::Result<()> {
    control().map_or(Ok(()), Control::before_sync)
}

/// To be called before every write: may find no space.
///
/// # Errors
/// The fault, in place of the write's own failure.
pub fn before_write() -> io::Result<()> {
    control().map_or(Ok(()), Control::before_write)
}

/// Milliseconds since 1970, as the server is to believe them.
pub fn calendar_ms(calendar_ms: u64) -> u64 {
    control().map_or(calendar_ms, |control| control.shifted_ms(calendar_ms))
}

/// The address that connections to other processes come from, where the harness has given one.
pub fn source() -> Option<IpAddr> {
    static SOURCE: OnceLock<Option<IpAddr>> = OnceLock::new();
    *SOURCE.get_or_init(|| std::env::var(SOURCE_VARIABLE).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against faults that are claimed and never happen, or happen and are not counted.
    #[test]
    fn what_is_set_happens_and_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let control = Control::new(directory.path().join("s1.faults"));
        assert!(control.before_sync().is_ok() && control.before_write().is_ok(), "there is no file");
        control.set(&[(Fault::FsyncFails, 1), (Fault::ClockMs, -500)]).unwrap();
        assert!(control.before_sync().is_err() && control.before_sync().is_err());
        assert!(control.before_write().is_ok());
        assert_eq!(control.shifted_ms(2_000), 1_500);
        let landed = [Fault::FsyncFails, Fault::ClockMs, Fault::DiskFull].map(|fault| control.landed(fault));
        assert_eq!(landed, [2, 1, 0]);
        control.set(&[(Fault::DiskFull, 1)]).unwrap();
        assert!(control.before_sync().is_ok());
        assert_eq!(control.before_write().unwrap_err().kind(), io::ErrorKind::StorageFull);
        control.set(&[]).unwrap();
        assert!(control.before_write().is_ok());
        assert_eq!(control.landed(Fault::DiskFull), 1, "counts outlive the fault");
    }
}
