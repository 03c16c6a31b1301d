//! When to stop: SIGINT, SIGTERM, or the parent's end.

use std::io::Read;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Why the process should end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Ctrl-C.
    Interrupted,
    /// SIGTERM.
    Terminated,
    /// Standard input has ended: with --exit-with-parent that is the parent's death.
    ParentGone,
}

/// Resolves when the process is asked to end. Signals are caught from the first poll on.
///
/// With `exit_with_parent` the end of standard input counts too: the parent holds the other end of a pipe, which the
/// system closes however the parent dies.
///
/// # Errors
/// An [`std::io::Error`] if signals can't be caught.
pub async fn requested(exit_with_parent: bool) -> std::io::Result<Reason> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (parent_gone, mut gone) = oneshot::channel();
    if exit_with_parent {
        // A thread of its own, not the runtime's: a read that never returns would hold up the runtime's end.
        std::thread::Builder::new().name("parent-watch".to_owned()).spawn(move || {
            let mut stdin = std::io::stdin().lock();
            let mut ignored = [0u8; 64];
            while matches!(stdin.read(&mut ignored), Ok(count) if count > 0) {}
            // Fails only when the process is ending anyway.
            let _ending = parent_gone.send(());
        })?;
        gone_or_signal(&mut interrupt, &mut terminate, &mut gone).await
    } else {
        tokio::select! {
            _ = interrupt.recv() => Ok(Reason::Interrupted),
            _ = terminate.recv() => Ok(Reason::Terminated),
        }
    }
}

async fn gone_or_signal(
    interrupt: &mut tokio::signal::unix::Signal,
    terminate: &mut tokio::signal::unix::Signal,
    gone: &mut oneshot::Receiver<()>,
) -> std::io::Result<Reason> {
    tokio::select! {
        _ = interrupt.recv() => Ok(Reason::Interrupted),
        _ = terminate.recv() => Ok(Reason::Terminated),
        _ = gone => Ok(Reason::ParentGone),
    }
}
