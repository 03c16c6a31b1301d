//! The two clocks of a node: one that only moves forward, for deadlines, and the calendar, for stamps (P28).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use types::Stamp;
use types::limits::REQUEST_MEMORY;

/// How far a client's clock may be ahead of this node's before its stamps are refused.
const STAMP_AHEAD_MAX: Duration = Duration::from_secs(5 * 60);

/// Milliseconds since the node started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    /// This much later.
    pub(crate) fn after_ms(self, milliseconds: u64) -> Moment {
        Moment(self.0.saturating_add(milliseconds))
    }
}

/// When the node started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    /// Starts at [`Moment`] 0.
    pub(crate) fn start() -> Clock {
        Clock { started: Instant::now() }
    }

    /// Never moves backwards.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.started.elapsed().as_millis() as u64)
    }
}

/// Milliseconds since 1970 by this machine's clock. Before 1970 counts as 1970.
pub(crate) fn calendar_ms() -> u64 {
    let calendar_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    #[cfg(feature = "faults")]
    let calendar_ms = faults::calendar_ms(calendar_ms);
    calendar_ms
}

/// How far `forgotten_before` may advance (P28).
pub(crate) fn forget_before() -> Stamp {
    Stamp(calendar_ms().saturating_sub(REQUEST_MEMORY.as_millis() as u64))
}

/// Whether a stamp is so far ahead that its request would be remembered for too long.
pub(crate) fn is_too_far_ahead(stamp: Stamp, calendar_ms: u64) -> bool {
    stamp.0 > calendar_ms.saturating_add(STAMP_AHEAD_MAX.as_millis() as u64)
}
