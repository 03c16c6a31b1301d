//! The way from one process to another: what becomes of the bytes that travel it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// What a way does to bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Policy {
    /// Carries them.
    #[default]
    Open,
    /// Holds them until it is open again, as a network does whose senders repeat.
    Cut,
    /// Carries each piece this much later, up to twice as much at random.
    Slow(Duration),
    /// Of a hundred pieces so many come only after a repetition; now and then one breaks its connection.
    Lossy(u64),
}

/// How long a sender takes to notice a loss and repeat.
const REPEAT_AFTER: Duration = Duration::from_millis(200);
/// One of so many losses breaks the connection.
const BREAKS_ONE_IN: u64 = 20;

/// One direction between two processes.
#[derive(Debug, Default)]
pub(crate) struct Way {
    policy: watch::Sender<Policy>,
    /// Bytes that were held, delayed or lost. Never falls.
    harmed: AtomicU64,
}

/// The connection does not survive this piece.
pub(super) struct Broken;

impl Way {
    pub(crate) fn set(&self, policy: Policy) {
        self.policy.send_replace(policy);
    }

    /// Bytes that were held, delayed or lost so far.
    pub(crate) fn harmed(&self) -> u64 {
        self.harmed.load(Ordering::Relaxed)
    }

    /// Resolves when `bytes` bytes may go on; `luck` decides what chance would.
    ///
    /// # Errors
    /// [`Broken`] where the connection is to end.
    pub(super) async fn pass(&self, bytes: u64, mut luck: impl FnMut() -> u64) -> Result<(), Broken> {
        let mut policy = self.policy.subscribe();
        let harm = || self.harmed.fetch_add(bytes, Ordering::Relaxed);
        let now = *policy.borrow_and_update();
        match now {
            Policy::Open => Ok(()),
            Policy::Cut => {
                harm();
                // Ends with the way itself: then nobody waits any more.
                let _gone = policy.wait_for(|policy| *policy != Policy::Cut).await;
                Ok(())
            }
            Policy::Slow(delay) => {
                harm();
                tokio::time::sleep(delay + delay * (luck() % 100) as u32 / 100).await;
                Ok(())
            }
            Policy::Lossy(percent) if luck() % 100 < percent => {
                harm();
                if luck().is_multiple_of(BREAKS_ONE_IN) {
                    return Err(Broken);
                }
                tokio::time::sleep(REPEAT_AFTER).await;
                Ok(())
            }
            Policy::Lossy(_) => Ok(()),
        }
    }
}
