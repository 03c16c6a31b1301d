//! `lock_get`, `lock_release`, `locks`, `observe`: locks that outlive the program which took them, and who holds what.

use crate::cli::{ClusterFlags, Globals};
use crate::cluster::print;
use crate::failure;
use crate::lease::{coordination, seconds};
use crate::output::{self, Format, counted};
use clap::Args;
use client::{Claimed, Coordination, Lease, LockGuard, LockStatus};
use daemon::{Exit, Failure};
use serde_json::{Value, json};
use std::time::Duration;

/// What a place in the queue stands on: somebody who vanishes loses it after this.
pub(crate) const WAITING_TTL: Duration = Duration::from_secs(10);

/// How long to wait for a lock that somebody else holds.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WaitFlags {
    /// Wait no longer than this where somebody else holds it; else as long as it takes.
    #[arg(long, value_name = "TIME", value_parser = daemon::settings::duration, conflicts_with = "try_once")]
    wait: Option<Duration>,
    /// Don't wait.
    #[arg(long = "try")]
    try_once: bool,
}

impl WaitFlags {
    pub(crate) fn most(self) -> Option<Duration> {
        if self.try_once { Some(Duration::ZERO) } else { self.wait }
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LockGetFlags {
    /// The lock: up to 255 bytes.
    name: String,
    /// Who holds it then. The same client may ask again, and gets the same answer.
    client: String,
    /// Give it back by itself after this, unless its lease is kept alive; else it is held until lock_release.
    #[arg(long, value_name = "TIME", value_parser = daemon::settings::duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    wait: WaitFlags,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LockReleaseFlags {
    /// The lock.
    name: String,
    /// Who holds it.
    client: String,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ObserveFlags {
    /// The lock or election.
    name: String,
    /// Print the present holder only.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    cluster: ClusterFlags,
}

pub(crate) async fn lock_get(globals: &Globals, flags: LockGetFlags) -> Result<Exit, Failure> {
    let coordination = coordination(globals, &flags.cluster)?;
    let mut lease = coordination.grant(flags.ttl.unwrap_or(WAITING_TTL)).await.map_err(failure::of)?;
    let claimed = Claimed {
        client: flags.client,
        bound: flags.ttl.is_some(),
        value: Default::default(),
        wait: flags.wait.most(),
    };
    let guard = match take(&coordination, &flags.name, &lease, claimed).await {
        Ok(guard) => guard,
        Err(failure) => {
            give_back(lease).await;
            return Err(failure);
        }
    };
    let id = lease.id();
    if flags.ttl.is_some() {
        // Its time begins now.
        coordination.keep_alive(id).await.map_err(failure::of)?;
        lease.leave();
    } else {
        give_back(lease).await;
    }
    let LockGuard { name, client, token } = guard;
    let bound = flags.ttl.map(|ttl| (id, ttl));
    print(
        globals.output,
        || {
            let until = match bound {
                Some((lease, ttl)) => format!("for {} unless lease {lease} is kept alive", seconds(ttl)),
                None => "until lock_release".to_owned(),
            };
            format!("{client} holds {name} {until}; fencing token {}", token.0)
        },
        || {
            json!({
                "name": name, "client": client, "token": token.0,
                "lease": bound.map(|(lease, _)| lease.0), "ttl_ms": bound.map(|(_, ttl)| ttl.as_millis() as u64),
            })
        },
        || vec![token.0.to_string()],
    )
}

/// The lock, or why not: somebody else's hold is no error of anybody, but the caller must be able to tell.
pub(crate) async fn take(
    coordination: &Coordination,
    name: &str,
    lease: &Lease,
    claimed: Claimed,
) -> Result<LockGuard, Failure> {
    let answer = tokio::select! {
        answer = coordination.lock(name, lease, claimed) => answer,
        // Whoever waits may think better of it: then the place in line goes with the lease.
        _ = daemon::shutdown::requested(false) => {
            return Err(Failure::new(Exit::NotFound, format!("interrupted while waiting for {name}; it is not held")));
        }
    };
    answer.map_err(|error| match error {
        client::Error::Held { holder } => {
            Failure::new(Exit::NotFound, format!("not free: {name} is held by {holder}; wait longer, or try again"))
        }
        other => failure::of(other),
    })
}

/// What can't be given back in time ends by itself.
async fn give_back(lease: Lease) {
    if let Err(error) = lease.revoke().await {
        output::note(&format!("the lease ends by itself: {error}"));
    }
}

pub(crate) async fn lock_release(globals: &Globals, flags: LockReleaseFlags) -> Result<Exit, Failure> {
    let coordination = coordination(globals, &flags.cluster)?;
    let (name, client) = (flags.name, flags.client);
    let nobody = || Failure::new(Exit::NotFound, format!("not found: nobody holds {name}"));
    let lock = coordination.lock_status(&name).await.map_err(failure::of)?.ok_or_else(nobody)?;
    // By its token, so that a release that is long on its way can't end what was granted after it.
    let released = coordination.release(&name, &client, lock.token).await.map_err(|error| match error {
        client::Error::Held { holder } => {
            Failure::new(Exit::Denied, format!("denied: {name} is held by {holder}, not by {client}"))
        }
        other => failure::of(other),
    })?;
    if !released {
        return Err(nobody());
    }
    print(
        globals.output,
        || format!("{client} holds {name} no more"),
        || json!({ "name": name, "client": client, "released": true, "token": lock.token.0 }),
        || vec![lock.token.0.to_string()],
    )
}

pub(crate) async fn locks(globals: &Globals, flags: &ClusterFlags) -> Result<Exit, Failure> {
    let locks = coordination(globals, flags)?.locks().await.map_err(failure::of)?;
    print(
        globals.output,
        || text(&locks),
        || locks.iter().map(lock_json).collect(),
        || locks.iter().map(|lock| lock.name.clone()).collect(),
    )
}

pub(crate) async fn observe(globals: &Globals, flags: &ObserveFlags) -> Result<Exit, Failure> {
    let coordination = coordination(globals, &flags.cluster)?;
    let mut observed = coordination.observe(&flags.name).await.map_err(failure::of)?;
    if flags.once {
        let first = tokio::time::timeout(globals.timeout, observed.next()).await;
        let holder = first.map_err(|_| Failure::unavailable("no viewleader that leads answered in time"))?;
        let holder = holder.map_err(failure::of)?;
        tell(globals.output, &flags.name, holder.as_ref())?;
        return Ok(if holder.is_some() { Exit::Done } else { Exit::NotFound });
    }
    loop {
        tokio::select! {
            holder = observed.next() => {
                let holder = holder.map_err(failure::of)?;
                tell(globals.output, &flags.name, holder.as_ref())?;
            }
            _ = daemon::shutdown::requested(false) => return Ok(Exit::Done),
        }
    }
}

/// One line per holder, so that a reader can follow.
fn tell(format: Format, name: &str, holder: Option<&LockStatus>) -> Result<(), Failure> {
    match (format, holder) {
        (Format::Json, Some(lock)) => output::line(&lock_json(lock).to_string()),
        (Format::Json, None) => output::line(&json!({ "name": name, "client": null }).to_string()),
        (Format::Raw, Some(lock)) => {
            output::write(&lock.value)?;
            output::write(b"\n")
        }
        (Format::Raw, None) => output::write(b"\n"),
        (Format::Table, Some(lock)) => output::line(&holder_text(lock)),
        (Format::Table, None) => output::line(&format!("{name}: nobody")),
    }
}

fn holder_text(lock: &LockStatus) -> String {
    let value = if lock.value.is_empty() { String::new() } else { format!(" {}", output::text_bytes(&lock.value)) };
    format!("{}: {}{value}, token {}", lock.name, lock.client, lock.token.0)
}

fn text(locks: &[LockStatus]) -> String {
    let row = |lock: &LockStatus| {
        let lease = lock.lease.map_or("–".to_owned(), |lease| lease.to_string());
        let value = if lock.value.is_empty() { "–".to_owned() } else { output::text_bytes(&lock.value) };
        let waiting = lock.waiting_count.to_string();
        vec![lock.name.clone(), lock.client.clone(), lock.token.0.to_string(), lease, waiting, value]
    };
    let rows: Vec<_> = locks.iter().map(row).collect();
    let count = format!("{} held", counted(locks.len(), "lock"));
    let header = ["lock", "holder", "token", "lease", "waiting", "value"];
    if rows.is_empty() { count } else { format!("{}\n\n{count}", output::table(&header, &rows)) }
}

fn lock_json(lock: &LockStatus) -> Value {
    json!({
        "name": lock.name, "client": lock.client, "token": lock.token.0, "lease": lock.lease.map(|lease| lease.0),
        "value": output::json_bytes(&lock.value), "waiting": lock.waiting, "waiting_count": lock.waiting_count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{FencingToken, LeaseId};

    /// Guards against a list that hides who holds what, on what, and how many wait.
    #[test]
    fn locks_for_people() {
        let lock = |name: &str, lease: Option<u64>, value: &'static [u8]| LockStatus {
            name: name.to_owned(),
            client: "worker-1".to_owned(),
            token: FencingToken(7),
            lease: lease.map(LeaseId),
            value: value.into(),
            waiting: vec!["worker-2".to_owned()],
            waiting_count: 1,
        };
        assert_eq!(
            text(&[lock("jobs", Some(3), b""), lock("leader", None, b"host:1")]),
            "  lock    holder    token  lease  waiting  value\n  jobs    worker-1      7  l3           1  –\n  \
             leader  worker-1      7  –            1  host:1\n\n2 locks held"
        );
        assert_eq!(holder_text(&lock("leader", None, b"host:1")), "leader: worker-1 host:1, token 7");
    }
}
