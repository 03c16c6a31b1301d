//! Sled's `flush()`, which may never come back.
//!
//! A write that fails in one of sled's own threads sets a global error but wakes nobody, so who waits in `flush()` for
//! that write waits for ever. The wait is therefore done by a thread of its own, and the error looked for meanwhile.

use ::sled::{Db, Error, Result};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Hands everything written so far to the system; not durable yet. After an error the thread that waits may remain.
pub(super) fn flush(db: &Db) -> Result<()> {
    let (done, wait) = channel();
    let flushed = db.clone();
    std::thread::Builder::new().name("sled-flush".to_owned()).spawn(move || {
        // Nobody listens any more if the error was seen first.
        let _ = done.send(flushed.flush());
    })?;
    loop {
        match wait.recv_timeout(LOOK_EVERY) {
            Ok(result) => return result.map(|_| ()),
            Err(RecvTimeoutError::Timeout) => db.context.global_error()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::ReportableBug("flushing panicked".to_owned()));
            }
        }
    }
}
