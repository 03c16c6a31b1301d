//! `lease …`: promises that end unless they are renewed.

use crate::cli::{ClusterFlags, Globals};
use crate::cluster::print;
use crate::failure;
use crate::output::{self, counted};
use clap::{Args, Subcommand};
use client::{Coordination, LeaseStatus};
use daemon::{Exit, Failure};
use serde_json::{Value, json};
use std::time::Duration;
use types::LeaseId;

#[derive(Clone, Debug, Subcommand)]
#[command(rename_all = "kebab-case")]
pub(crate) enum LeaseAction {
    /// Grant a lease, and print its id. It ends unless it is kept alive.
    Grant(GrantFlags),
    /// Keep a lease alive until this program is stopped.
    KeepAlive(KeepAliveFlags),
    /// End a lease, and with it the locks that are held on it.
    Revoke(LeaseFlags),
    /// Print all leases.
    List(ClusterFlags),
    /// Print how long a lease lives if nobody renews it.
    Ttl(LeaseFlags),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct GrantFlags {
    /// How long it lives without a renewal: 1s to 1day.
    #[arg(value_name = "TIME", value_parser = daemon::settings::duration)]
    ttl: Duration,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LeaseFlags {
    /// As `lease grant` and `lease list` show it: l7 or 7.
    #[arg(value_name = "LEASE", value_parser = lease_id)]
    lease: LeaseId,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct KeepAliveFlags {
    #[command(flatten)]
    lease: LeaseFlags,
    /// Renew it once, and return.
    #[arg(long)]
    once: bool,
}

/// A value parser for leases.
pub(crate) fn lease_id(text: &str) -> Result<LeaseId, String> {
    match text.strip_prefix('l').unwrap_or(text).parse() {
        Ok(id) if id != 0 => Ok(LeaseId(id)),
        _ => Err("a lease is named l7 or 7, as dhtctl lease list shows it".to_owned()),
    }
}

/// The way to leases and locks.
pub(crate) fn coordination(globals: &Globals, flags: &ClusterFlags) -> Result<Coordination, Failure> {
    Coordination::new(globals.leaders(flags), globals.timeout).map_err(failure::of)
}

pub(crate) async fn run(globals: &Globals, action: LeaseAction) -> Result<Exit, Failure> {
    match action {
        LeaseAction::Grant(flags) => {
            let coordination = coordination(globals, &flags.cluster)?;
            let lease = coordination.grant_unkept(flags.ttl).await.map_err(failure::of)?;
            let ttl = humantime::format_duration(flags.ttl);
            print(
                globals.output,
                || format!("lease {lease} lives for {ttl}; `dhtctl lease keep-alive {lease}` renews it"),
                || json!({ "lease": lease.0, "ttl_ms": flags.ttl.as_millis() as u64 }),
                || vec![lease.0.to_string()],
            )
        }
        LeaseAction::KeepAlive(flags) => keep_alive(globals, &flags).await,
        LeaseAction::Revoke(LeaseFlags { lease, cluster }) => {
            let coordination = coordination(globals, &cluster)?;
            if !coordination.revoke(lease).await.map_err(failure::of)? {
                return Err(gone(lease));
            }
            print(
                globals.output,
                || format!("lease {lease} has ended"),
                || json!({ "revoked": lease.0 }),
                || vec![lease.0.to_string()],
            )
        }
        LeaseAction::List(cluster) => {
            let leases = coordination(globals, &cluster)?.leases().await.map_err(failure::of)?;
            print(
                globals.output,
                || text(&leases),
                || leases.iter().map(lease_json).collect(),
                || leases.iter().map(|status| status.lease.0.to_string()).collect(),
            )
        }
        LeaseAction::Ttl(LeaseFlags { lease, cluster }) => {
            let status = coordination(globals, &cluster)?.lease(lease).await.map_err(failure::of)?;
            let status = status.ok_or_else(|| gone(lease))?;
            print(
                globals.output,
                || format!("lease {lease}: {} of {} left", seconds(status.remaining), seconds(status.ttl)),
                || lease_json(&status),
                || vec![status.remaining.as_millis().to_string()],
            )
        }
    }
}

async fn keep_alive(globals: &Globals, flags: &KeepAliveFlags) -> Result<Exit, Failure> {
    let LeaseFlags { lease, cluster } = &flags.lease;
    let coordination = coordination(globals, cluster)?;
    if flags.once {
        coordination.keep_alive(*lease).await.map_err(failure::of)?;
        return print(
            globals.output,
            || format!("lease {lease} is renewed"),
            || json!({ "renewed": lease.0 }),
            || vec![lease.0.to_string()],
        );
    }
    let kept = coordination.adopt(*lease).await.map_err(failure::of)?;
    output::note(&format!(
        "lease {lease} is kept alive; Ctrl-C ends that, and the lease {} later",
        seconds(kept.ttl())
    ));
    tokio::select! {
        () = kept.lost() => Err(gone(*lease)),
        stopped = daemon::shutdown::requested(false) => match stopped {
            Ok(_) => Ok(Exit::Done),
            Err(error) => Err(Failure::unavailable(format!("can't catch signals: {error}"))),
        },
    }
}

pub(crate) fn gone(lease: LeaseId) -> Failure {
    Failure::new(Exit::NotFound, format!("not found: lease {lease} has expired, or was revoked"))
}

pub(crate) fn seconds(time: Duration) -> String {
    humantime::format_duration(Duration::from_millis(time.as_millis() as u64)).to_string()
}

fn text(leases: &[LeaseStatus]) -> String {
    let row = |status: &LeaseStatus| {
        let locks = if status.locks.is_empty() { "–".to_owned() } else { status.locks.join(", ") };
        vec![status.lease.to_string(), seconds(status.ttl), seconds(status.remaining), locks]
    };
    let rows: Vec<_> = leases.iter().map(row).collect();
    let count = counted(leases.len(), "lease");
    if rows.is_empty() {
        count
    } else {
        format!("{}\n\n{count}", output::table(&["lease", "time", "left", "locks"], &rows))
    }
}

fn lease_json(status: &LeaseStatus) -> Value {
    json!({
        "lease": status.lease.0, "ttl_ms": status.ttl.as_millis() as u64,
        "remaining_ms": status.remaining.as_millis() as u64, "locks": status.locks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against leases that can't be named as they are shown, and a list that hides what ends with one.
    #[test]
    fn leases_for_people() {
        assert_eq!((lease_id("l7"), lease_id("7")), (Ok(LeaseId(7)), Ok(LeaseId(7))));
        assert!(lease_id("l0").is_err() && lease_id("n7").is_err());
        let lease = |id, locks: &[&str]| LeaseStatus {
            lease: LeaseId(id),
            ttl: Duration::from_secs(10),
            remaining: Duration::from_millis(7_250),
            locks: locks.iter().map(|lock| (*lock).to_owned()).collect(),
        };
        assert_eq!(
            text(&[lease(7, &[]), lease(12, &["a", "b"])]),
            "  lease  time      left  locks\n  l7      10s  7s 250ms  –\n  l12     10s  7s 250ms  a, b\n\n2 leases"
        );
    }
}
