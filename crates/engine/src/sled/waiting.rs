//! Calls of sled that may never come back.
//!
//! - A write that fails in one of sled's own threads sets a global error but wakes nobody: who waits in `flush()` for that
//!   write waits for ever.
//! - Sled's threads can wait for each other. A writer that needs a new segment at the file's end waits, with the lock on
//!   the segments, until the file has been shortened; and all threads that could shorten it wait for that lock. Seen
//!   under load in one of some hundred runs of the conformance tests.
//!
//! Such a call is made by another thread. Who asked looks for the error meanwhile, and gives up in the end: then the store
//! has failed, and a process that starts again finds everything in its log.

use ::sled::{Db, Error, Result};
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Looks before a call is given up: two minutes. A process that is stopped meanwhile does not look.
pub(super) const LOOKS_MAX: u32 = 6_000;

type Call = Box<dyn FnOnce() + Send>;

/// A thread that makes calls, one after the other. It ends with this, or with the call that it is in.
#[derive(Clone, Debug)]
pub(super) struct Caller(Sender<Call>);

impl Caller {
    pub(super) fn start(name: &str) -> io::Result<Caller> {
        let (sender, calls) = channel::<Call>();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || calls.iter().for_each(|call| call()))?;
        Ok(Caller(sender))
    }

    /// Makes a call, and waits for it until sled has failed elsewhere, or was looked at so often.
    pub(super) fn wait_for(
        &self,
        db: &Db,
        looks_max: u32,
        call: impl FnOnce(&Db) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let (done, wait) = channel();
        let called = db.clone();
        let made = self.0.send(Box::new(move || {
            let result = call(&called);
            // Who has the result may close the store, and open it again.
            drop(called);
            // Nobody listens any more if the error was seen first.
            let _ = done.send(result);
        }));
        let panicked = || Error::ReportableBug("a call panicked".to_owned());
        made.map_err(|_| panicked())?;
        for _look in 0..looks_max {
            match wait.recv_timeout(LOOK_EVERY) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) => db.context.global_error()?,
                Err(RecvTimeoutError::Disconnected) => return Err(panicked()),
            }
        }
        let silent = LOOK_EVERY * looks_max;
        Err(io::Error::other(format!("sled has not answered for {} s", silent.as_secs())).into())
    }
}

/// Hands everything written so far to the system; not durable yet. After an error the thread that waits may remain.
pub(super) fn flush(db: &Db) -> Result<()> {
    Caller::start("sled-flush")?.wait_for(db, LOOKS_MAX, |db| db.flush().map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a store that stands still for ever because sled's threads wait for each other.
    #[test]
    fn who_never_answers_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let db = ::sled::Config::new().path(directory.path()).flush_every_ms(None).open().unwrap();
        let (_held, never) = channel::<()>();
        let caller = Caller::start("sled-call").unwrap();
        let given_up = caller.wait_for(&db, 2, move |_| {
            let _ended = never.recv();
            Ok(())
        });
        assert!(given_up.is_err_and(|why| why.to_string().contains("has not answered")));
        let caller = Caller::start("sled-call").unwrap();
        caller.wait_for(&db, LOOKS_MAX, |db| db.insert("key", "value").map(drop)).unwrap();
        flush(&db).unwrap();
        for _again in 0..2 {
            let panicked = caller.wait_for(&db, LOOKS_MAX, |_| panic!("on purpose"));
            assert!(panicked.is_err_and(|why| why.to_string().contains("panicked")));
        }
    }
}
