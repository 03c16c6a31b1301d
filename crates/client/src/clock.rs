//! The clock that stamps requests: this machine's, corrected by what servers say (P28).

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use types::Stamp;

/// Milliseconds since 1970. A server corrects it, forwards or back, when it refuses a stamp; no other time.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// How far this machine's clock is behind; negative where it is ahead.
    behind_ms: AtomicI64,
}

impl Clock {
    /// The stamp of a request that is made now.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp(system_ms().saturating_add_signed(self.behind_ms.load(Ordering::Relaxed)))
    }

    /// A server's clock shows this now.
    pub(crate) fn learn(&self, server_ms: u64) {
        let behind_ms = i128::from(server_ms) - i128::from(system_ms());
        self.behind_ms.store(i64::try_from(behind_ms).unwrap_or(0), Ordering::Relaxed);
    }
}

/// A clock that stands before 1970 counts as 1970: servers then name theirs.
fn system_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a correction that is added once per caller who learns of it.
    #[test]
    fn learning_twice_is_learning_once() {
        let clock = Clock::default();
        let ahead_ms = system_ms() + 3_600_000;
        (0..64).for_each(|_| clock.learn(ahead_ms));
        let stamp = clock.stamp().0;
        assert!((ahead_ms..ahead_ms + 3_600_000).contains(&stamp), "{stamp} for {ahead_ms}");
    }

    /// Guards against a client whose clock is ahead and whose every request is refused for ever.
    #[test]
    fn a_clock_that_is_ahead_goes_back() {
        let clock = Clock::default();
        let server_ms = system_ms() - 3_600_000;
        clock.learn(server_ms);
        assert!(clock.stamp().0 < server_ms + 3_600_000);
    }
}
