//! A lock for many readers and one busy writer, which the readers are sure to get between two of its calls.
//!
//! The standard library's lock lets a writer that comes back at once in again before the readers that it kept waiting
//! have woken up. This one knows how many wait; the writer waits for those, and not at all when there are none.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LockResult, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::{Duration, Instant};

/// The writer waits for readers no longer than this: one that was descheduled must not stop it.
const TURN_MAX: Duration = Duration::from_millis(2);
/// Between two looks: about what it takes a thread to wake up.
const LOOK_EVERY: Duration = Duration::from_micros(50);

/// See the module.
pub(super) struct Turns<T> {
    lock: RwLock<T>,
    waiting: AtomicUsize,
}

impl<T> Turns<T> {
    pub(super) fn new(value: T) -> Turns<T> {
        Turns { lock: RwLock::new(value), waiting: AtomicUsize::new(0) }
    }

    pub(super) fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        match self.lock.try_read() {
            Ok(guard) => Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => Err(poisoned),
            Err(TryLockError::WouldBlock) => {
                self.waiting.fetch_add(1, Ordering::Relaxed);
                let guard = self.lock.read();
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                guard
            }
        }
    }

    pub(super) fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        self.lock.write()
    }

    /// Waits until the readers that are waiting now have the lock. Not to be called while holding it.
    pub(super) fn let_readers_in(&self) {
        let began = Instant::now();
        while self.waiting.load(Ordering::Relaxed) > 0 && began.elapsed() < TURN_MAX {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;

    /// Guards against a writer without pauses that keeps a reader out for as long as it has work.
    #[test]
    fn a_reader_that_waits_has_its_turn_before_the_writer_goes_on() {
        let (turns, ready, read) = (Turns::new(0), Barrier::new(2), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let mut value = turns.write().expect("nobody panics");
            scope.spawn(|| {
                ready.wait();
                let seen = *turns.read().expect("nobody panics");
                read.store(true, Ordering::SeqCst);
                assert_eq!(seen, 1, "the writer's next value came first");
            });
            ready.wait();
            while turns.waiting.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            *value = 1;
            drop(value);
            // As often as a writer would ask: each time it waits no longer than a turn.
            while turns.waiting.load(Ordering::SeqCst) > 0 {
                turns.let_readers_in();
            }
            *turns.write().expect("nobody panics") = 2;
        });
        assert!(read.load(Ordering::SeqCst));
    }
}
