//! The processor time that a playground's processes take, from /proc.

use crate::playground::cluster_file::ClusterFile;
use daemon::Failure;
use std::path::Path;

/// What the kernel counts processor time in; fixed at a hundred a second in its interface to programs.
const TICK_US: u64 = 10_000;

/// Processes and what they had used when the measurement began.
pub(super) struct Processes {
    before: Vec<(u32, u64)>,
}

impl Processes {
    /// Begins to measure the processes that a `cluster.json` lists.
    pub(super) fn measure(path: &Path) -> Result<Processes, Failure> {
        let file = ClusterFile::read(path)?;
        let before = file.processes.iter().map(|process| Ok((process.pid, used_us(process.pid)?)));
        Ok(Processes { before: before.collect::<Result<_, Failure>>()? })
    }

    /// Microseconds of processor time that they have used together since.
    pub(super) fn processor_us(&self) -> Result<u64, Failure> {
        self.before.iter().map(|(pid, before)| Ok(used_us(*pid)?.saturating_sub(*before))).sum()
    }
}

fn used_us(pid: u32) -> Result<u64, Failure> {
    let path = format!("/proc/{pid}/stat");
    let gone = |why: String| {
        Failure::unavailable(format!(
            "cannot measure process {pid}: {why}; leave --cluster-file out when processes end"
        ))
    };
    let stat = std::fs::read_to_string(&path).map_err(|error| gone(error.to_string()))?;
    ticks(&stat).map(|ticks| ticks * TICK_US).ok_or_else(|| gone(format!("{path} is not as expected")))
}

/// utime and stime, the 14th and 15th fields. The second may contain anything, up to the last parenthesis.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against the wrong field, and against a program's name that shifts them.
    #[test]
    fn the_right_fields_are_read() {
        let stat = "42 (odd) name) S 1 42 42 0 -1 4194560 1 0 0 0 123 45 0 0 20 0 1 0 100 1 1";
        assert_eq!(ticks(stat), Some(168));
        assert_eq!(ticks("nonsense"), None);
        assert!(used_us(std::process::id()).is_ok());
    }
}
