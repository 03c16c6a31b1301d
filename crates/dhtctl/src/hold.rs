//! `lock NAME -- COMMAND…` and `elect NAME VALUE [-- COMMAND…]`: a program that runs only while something is held.
//!
//! The program ends with the lease: by this machine's clock, which is earlier than the group's (see `client`). It is asked
//! with SIGTERM, and killed a little later. What it has started itself ends with it where there is no terminal, because
//! it then has a process group of its own. If this program itself is stopped or killed, nobody is left to do so: that is
//! what the fencing token in `DHT_LOCK_TOKEN` is for.

use crate::cli::{ClusterFlags, Globals};
use crate::failure;
use crate::lease::{coordination, seconds};
use crate::locks::{WaitFlags, take};
use crate::output::{self, Format};
use bytes::Bytes;
use clap::Args;
use client::{Claimed, Lease, LockGuard};
use daemon::{Exit, Failure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::json;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::{Child, Command};

/// What all that holds something while a program runs has in common.
#[derive(Clone, Debug, Args)]
pub(crate) struct HoldFlags {
    /// How long it stays held after this program can't renew it any more.
    #[arg(long, value_name = "TIME", value_parser = daemon::settings::duration, default_value = "10s")]
    ttl: Duration,
    /// How long the command has to end, once it must, before it is killed.
    #[arg(long, value_name = "TIME", value_parser = daemon::settings::duration, default_value = "2s")]
    grace: Duration,
    /// Who is shown as the holder; else this machine and process.
    #[arg(long, value_name = "CLIENT")]
    client: Option<String>,
    #[command(flatten)]
    wait: WaitFlags,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LockFlags {
    /// The lock: up to 255 bytes.
    name: String,
    #[command(flatten)]
    hold: HoldFlags,
    /// What to run while it is held. It finds DHT_LOCK_NAME and DHT_LOCK_TOKEN in its environment; its exit code becomes
    /// that of this program.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ElectFlags {
    /// The election: up to 255 bytes. A lock of the same name is the same.
    name: String,
    /// What observers are told of this candidate: up to 1 KiB.
    value: OsString,
    #[command(flatten)]
    hold: HoldFlags,
    /// What to run once elected, as with `lock`; without it, this program stays until it is stopped.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) async fn lock(globals: &Globals, flags: LockFlags) -> Result<Exit, Failure> {
    hold(globals, &flags.name, Bytes::new(), flags.hold, flags.command).await
}

pub(crate) async fn elect(globals: &Globals, flags: ElectFlags) -> Result<Exit, Failure> {
    hold(globals, &flags.name, Bytes::from(flags.value.into_vec()), flags.hold, flags.command).await
}

async fn hold(
    globals: &Globals,
    name: &str,
    value: Bytes,
    flags: HoldFlags,
    command: Vec<OsString>,
) -> Result<Exit, Failure> {
    let coordination = coordination(globals, &flags.cluster)?;
    let lease = coordination.grant(flags.ttl).await.map_err(failure::of)?;
    // Two runs of one command are two clients.
    let client = flags.client.clone().unwrap_or_else(|| format!("{}/{}/{}", host(), std::process::id(), lease.id()));
    let claimed = Claimed { client, bound: true, value, wait: flags.wait.most() };
    let held = match take(&coordination, name, &lease, claimed).await {
        Ok(guard) => match command.split_first() {
            Some((program, arguments)) => run(program, arguments, &guard, &lease, flags.grace).await,
            None => stay(globals.output, &guard, &lease).await,
        },
        Err(failure) => Err(failure),
    };
    if lease.is_held() {
        // The next one need not wait for the lease's end.
        if let Err(error) = lease.revoke().await {
            output::note(&format!("{name} is given back by itself within {}: {error}", seconds(flags.ttl)));
        }
    }
    held
}

/// Holds it until somebody stops this program.
async fn stay(format: Format, guard: &LockGuard, lease: &Lease) -> Result<Exit, Failure> {
    let LockGuard { name, client, token } = guard;
    match format {
        Format::Table => output::line(&format!("{client} is elected in {name}; fencing token {}", token.0))?,
        Format::Json => output::line(&json!({ "name": name, "client": client, "token": token.0 }).to_string())?,
        Format::Raw => output::line(&token.0.to_string())?,
    }
    tokio::select! {
        () = lease.lost() => Err(lost(name)),
        _ = daemon::shutdown::requested(false) => Ok(Exit::Done),
    }
}

async fn run(
    program: &OsString,
    arguments: &[OsString],
    guard: &LockGuard,
    lease: &Lease,
    grace: Duration,
) -> Result<Exit, Failure> {
    // At a terminal it must stay in the foreground's group, to read what is typed.
    let own_group = !std::io::stdin().is_terminal();
    let mut command = Command::new(program);
    command.args(arguments).env("DHT_LOCK_NAME", &guard.name).env("DHT_LOCK_TOKEN", guard.token.0.to_string());
    if own_group {
        command.process_group(0);
    }
    let cannot = |error: std::io::Error| {
        Failure::usage(format!("cannot run {}: {error}; the lock was given back", program.display()))
    };
    let mut child = command.kill_on_drop(true).spawn().map_err(cannot)?;
    let ended = tokio::select! {
        ended = child.wait() => return Ok(exit_of(ended.map_err(cannot)?)),
        () = lease.lost() => Err(lost(&guard.name)),
        stopped = daemon::shutdown::requested(false) => Ok(stopped),
    };
    let status = end(&mut child, own_group, grace).await.map_err(cannot)?;
    match ended {
        Err(lost) => Err(lost),
        Ok(_) => Ok(exit_of(status)),
    }
}

/// SIGTERM, and SIGKILL if that is not enough.
async fn end(child: &mut Child, own_group: bool, grace: Duration) -> std::io::Result<ExitStatus> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    // One that has ended meanwhile can't be told any more.
    let tell = |signal| match pid {
        Some(pid) if own_group => drop(kill_process_group(pid, signal)),
        Some(pid) => drop(kill_process(pid, signal)),
        None => {}
    };
    tell(Signal::TERM);
    let ended = tokio::time::timeout(grace, child.wait()).await;
    // What it leaves behind in its group goes as well.
    tell(Signal::KILL);
    match ended {
        Ok(status) => status,
        Err(_) => child.wait().await,
    }
}

/// The command's own code; as shells have it, 128 and the signal's number if one has ended it.
fn exit_of(status: ExitStatus) -> Exit {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Exit::Other(u8::try_from(code).unwrap_or(u8::MAX))
}

fn lost(name: &str) -> Failure {
    Failure::unavailable(format!("{name} is lost: its lease could not be renewed in time; see dhtctl status"))
}

fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "client".to_owned() } else { name }
}
