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

/// How far `forgotten_before` may advance (P28): as long behind the calendar as requests are remembered, and behind the
/// clients' stamps as well. A calendar that jumps ahead would otherwise leave a number in the state, for ever, that no
/// honest client reaches for as long as the jump was wide.
pub(crate) fn forget_before(calendar_ms: u64, newest: Stamp) -> Stamp {
    Stamp(calendar_ms.min(newest.0).saturating_sub(REQUEST_MEMORY.as_millis() as u64))
}

/// The same where nothing is being written: then the newest request, too, is as old as that by the calendar.
pub(crate) fn forget_at_rest(calendar_ms: u64, newest: Stamp) -> Stamp {
    Stamp(calendar_ms.saturating_sub(REQUEST_MEMORY.as_millis() as u64).min(newest.0))
}

/// Whether a stamp is so far ahead that its request would be remembered for too long: ahead of the calendar, and of what
/// the partition has been told. A calendar that has fallen behind alone refuses nobody.
pub(crate) fn is_too_far_ahead(stamp: Stamp, calendar_ms: u64, refused_before: Stamp) -> bool {
    let known_ms = calendar_ms.max(remembered_until(refused_before));
    stamp.0 > known_ms.saturating_add(STAMP_AHEAD_MAX.as_millis() as u64)
}

/// A time for a client whose stamp was refused: near the calendar, but one that the partition accepts.
pub(crate) fn acceptable_ms(calendar_ms: u64, refused_before: Stamp) -> u64 {
    match refused_before {
        // It has never forgotten anything: there is nothing that speaks against the calendar.
        Stamp(0) => calendar_ms,
        _ => calendar_ms.clamp(refused_before.0, remembered_until(refused_before)),
    }
}

fn remembered_until(refused_before: Stamp) -> u64 {
    refused_before.0.saturating_add(REQUEST_MEMORY.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;
    const NOW_MS: u64 = 1_000 * HOUR_MS;

    /// Guards against a calendar that jumps ahead on one node, and a partition that refuses every write afterwards until
    /// the other calendars are there, too.
    #[test]
    fn a_calendar_that_is_ahead_forgets_no_faster_than_clients_stamp() {
        let (ahead_ms, newest) = (NOW_MS + 34 * HOUR_MS, Stamp(NOW_MS));
        assert_eq!(forget_before(ahead_ms, newest), Stamp(NOW_MS - 60_000));
        assert_eq!(forget_at_rest(ahead_ms, newest), newest);
        assert_eq!(forget_at_rest(NOW_MS + 90_000, newest), newest);
        assert_eq!(forget_at_rest(NOW_MS + 30_000, newest), Stamp(NOW_MS - 30_000));
        let told_ms = acceptable_ms(ahead_ms, forget_before(ahead_ms, newest));
        assert!(!is_too_far_ahead(Stamp(told_ms), NOW_MS, Stamp(0)), "honest nodes accept it, too");
    }

    /// Guards against a calendar that falls behind on one node, and refuses as too old what it has just suggested.
    #[test]
    fn what_is_suggested_is_accepted() {
        let refused_before = Stamp(NOW_MS - 60_000);
        for calendar_ms in [NOW_MS - 28 * HOUR_MS, NOW_MS, NOW_MS + 28 * HOUR_MS] {
            assert!(!is_too_far_ahead(Stamp(NOW_MS), calendar_ms, refused_before), "{calendar_ms}");
            let told = Stamp(acceptable_ms(calendar_ms, refused_before));
            assert!(told >= refused_before && !is_too_far_ahead(told, calendar_ms, refused_before), "{calendar_ms}");
        }
        assert!(is_too_far_ahead(Stamp(NOW_MS + HOUR_MS), NOW_MS, refused_before));
        assert_eq!(acceptable_ms(NOW_MS, Stamp(0)), NOW_MS);
    }
}
