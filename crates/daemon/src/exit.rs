//! Exit codes, and the one line that a failing process leaves on stderr.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

/// How a process ends. The numbers are part of the interface: scripts branch on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: not found, or a condition was false.
    NotFound,
    /// 2: the command line or the settings are wrong.
    Usage,
    /// 3: no quorum, no leader, nobody there, or this machine lacks something.
    Unavailable,
    /// 4: it may or may not have happened.
    Unknown,
    /// 5: refused.
    Denied,
    /// 70: a bug of ours.
    Bug,
    /// The code of a program that was run on somebody's behalf.
    Other(u8),
}

impl Exit {
    /// The number that the process ends with.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::NotFound => 1,
            Exit::Usage => 2,
            Exit::Unavailable => 3,
            Exit::Unknown => 4,
            Exit::Denied => 5,
            Exit::Bug => 70,
            Exit::Other(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Why a process ends before its work is done: a code for scripts, a line for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// One line: what, where, what to do next. Empty: everything has been said already.
    pub message: String,
}

impl Failure {
    /// A failure with this code and line.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into() }
    }

    /// The command line or a setting is wrong.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    /// Something that is needed is not there.
    pub fn unavailable(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Unavailable, message)
    }

    /// What cannot happen has happened.
    pub fn bug(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Bug, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<crate::Error> for Failure {
    fn from(error: crate::Error) -> Failure {
        Failure::new(error.exit(), error.to_string())
    }
}

/// An error nobody classified: something on this machine failed.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        match error.downcast::<Failure>() {
            Ok(failure) => failure,
            Err(error) => Failure::unavailable(format!("{error:#}")),
        }
    }
}

/// How long tasks that are still running may hold up the end of the process.
const RUNTIME_SHUTDOWN_MAX: Duration = Duration::from_secs(2);

/// Runs `future` on a runtime of its own and turns its outcome into the process's exit code.
///
/// A failure becomes one line on stderr, `program: message`. A panic anywhere ends the process with [`Exit::Bug`]: a
/// server that lost one of its tasks must not go on as if nothing had happened.
pub fn main_with<F>(program: &'static str, future: F) -> ExitCode
where
    F: Future<Output = Result<Exit, Failure>>,
{
    main_on(program, None, future)
}

/// [`main_with`] on a runtime with so many threads; without a number there is one for each core.
pub fn main_on<F>(program: &'static str, worker_threads: Option<usize>, future: F) -> ExitCode
where
    F: Future<Output = Result<Exit, Failure>>,
{
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        say(program, &format!("a bug{place}: {}; please report it", panic_text(panic)));
        std::process::exit(i32::from(Exit::Bug.code()));
    }));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(worker_threads) = worker_threads {
        builder.worker_threads(worker_threads.max(1));
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(program, &format!("cannot start its threads: {error}; check the limits of this account"));
            return Exit::Unavailable.into();
        }
    };
    let outcome = runtime.block_on(future);
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_MAX);
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if !failure.message.is_empty() {
                say(program, &failure.message);
            }
            failure.exit.into()
        }
    }
}

fn panic_text<'a>(panic: &'a std::panic::PanicHookInfo<'_>) -> &'a str {
    let payload = panic.payload();
    payload
        .downcast_ref::<&str>()
        .copied()
        .or(payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic")
}

/// One line on stderr. If even that can't be written, nobody is listening.
fn say(program: &str, message: &str) {
    use std::io::Write;
    let line = format!("{program}: {}\n", one_line(message));
    let _nobody_listens = std::io::stderr().write_all(line.as_bytes());
}

/// A message as one line: some errors from below come in several.
pub fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against an error that spreads over several lines and breaks whoever reads stderr by line.
    #[test]
    fn messages_become_one_line() {
        assert_eq!(one_line("a\n  b\n\nc"), "a b c");
    }

    /// Guards against a classified failure that loses its code on its way through anyhow.
    #[test]
    fn a_failure_keeps_its_code_through_anyhow() {
        let failure = Failure::usage("no");
        assert_eq!(Failure::from(anyhow::Error::new(failure.clone())), failure);
        assert_eq!(Failure::from(anyhow::anyhow!("x")).exit, Exit::Unavailable);
    }
}
