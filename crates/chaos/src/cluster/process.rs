//! One running server, and what the kernel says of it.

use crate::error::Error;
use daemon::Failure;
use rustix::process::{Pid, Signal};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;

/// How long the kernel may take to do what a signal says.
const SIGNAL_MAX: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A server. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// With --exit-with-parent the server ends when this pipe does.
    _pipe: ChildStdin,
    /// How it ended, once it has.
    ended: watch::Receiver<Option<ExitStatus>>,
    /// Waits for its end; ends it when dropped.
    _watch: tokio::task::JoinSet<()>,
}

/// What the kernel says of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Running,
    Stopped,
    Gone,
}

impl Process {
    pub(super) fn start(mut command: Command) -> Result<Process, Error> {
        let start = || Error::machine("start a server");
        let mut child = command.kill_on_drop(true).spawn().map_err(start())?;
        let (Some(pid), Some(pipe)) = (child.id(), child.stdin.take()) else {
            return Err(start()(std::io::Error::other("it ended at once")));
        };
        let (sender, ended) = watch::channel(None);
        let mut waiting = tokio::task::JoinSet::new();
        waiting.spawn(wait(child, sender));
        Ok(Process { pid, _pipe: pipe, ended, _watch: waiting })
    }

    pub(crate) fn state(&self) -> State {
        if self.ended.borrow().is_some() {
            return State::Gone;
        }
        // "pid (name) state …": the name may have parentheses of its own.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        match stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next()) {
            None | Some('Z' | 'X') => State::Gone,
            Some('T' | 't') => State::Stopped,
            Some(_) => State::Running,
        }
    }

    /// How it ended, once it has.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Sends a signal and waits until the kernel shows the state that follows.
    ///
    /// # Errors
    /// [`Error::NotLanded`] where it does not.
    pub(crate) async fn signal(&mut self, signal: Signal, then: State) -> Result<(), Error> {
        let began = Instant::now();
        if let Some(pid) = self.number().filter(|_| self.ended().is_none()) {
            // Fails only where it has ended meanwhile; then the state says so.
            let _gone = rustix::process::kill_process(pid, signal);
        }
        loop {
            let state = self.state();
            if state == then {
                break;
            }
            if began.elapsed() > SIGNAL_MAX || state == State::Gone {
                return Err(Error::NotLanded(format!("process {} is {state:?} after {signal:?}", self.pid)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        if then == State::Gone {
            self.reaped().await;
        }
        Ok(())
    }

    /// SIGTERM, without waiting.
    pub(super) fn ask_to_end(&self) {
        if let Some(pid) = self.number().filter(|_| self.ended().is_none()) {
            // Fails only where it has ended meanwhile.
            let _gone = rustix::process::kill_process(pid, Signal::TERM);
        }
    }

    fn number(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw)
    }

    /// Resolves when it has ended and is waited for.
    pub(crate) async fn reaped(&mut self) {
        // The other half goes only after it has spoken.
        let _gone = self.ended.wait_for(Option::is_some).await;
    }
}

async fn wait(mut child: Child, ended: watch::Sender<Option<ExitStatus>>) {
    match child.wait().await {
        Ok(status) => ended.send_replace(Some(status)),
        // Somebody else has waited for it: it is gone, nobody knows how.
        Err(_) => ended.send_replace(Some(ExitStatus::from_raw(0))),
    };
}

/// How a process ended, in words.
pub(crate) fn in_words(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(code)) => format!("ended with code {code}"),
        (None, None) => "ended".to_owned(),
    }
}

/// To be called first in a server that the harness has started: it dies with the harness even while it is stopped,
/// when it would not notice that its pipe has ended.
///
/// # Errors
/// Where the kernel refuses.
pub(crate) fn die_with_parent() -> Result<(), Failure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::unavailable(format!("cannot tie this process to its parent: {error}")))
}
