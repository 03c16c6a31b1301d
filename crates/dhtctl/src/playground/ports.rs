//! Which ports a playground uses.

use super::PlaygroundFlags;
use super::cluster_file::{ClusterFile, Process, Role};
use daemon::Failure;
use std::net::TcpListener;
use std::path::Path;

/// The first ports of each kind: gRPC and HTTP.
#[derive(Clone, Copy)]
struct Bases {
    viewleader: (u16, u16),
    storaged: (u16, u16),
}

/// Those that the programs use by themselves.
const USUAL: Bases = Bases { viewleader: (39_000, 39_080), storaged: (38_000, 13_800) };

/// With --port-base the kinds follow each other at this distance.
const APART: u16 = 100;

/// Ports that a search steps over before it gives up.
const STEPS_MAX: u16 = 2_000;

/// A new cluster in `directory`: the ports of --port-base exactly, else the usual ones or the next free ones.
pub(super) fn choose(flags: &PlaygroundFlags, directory: &Path) -> Result<ClusterFile, Failure> {
    let bases = match flags.port_base {
        Some(base) => Bases { viewleader: (base, base + APART), storaged: (base + 2 * APART, base + 3 * APART) },
        None => USUAL,
    };
    let mut processes = Vec::new();
    for (role, count, (grpc, http)) in
        [(Role::Viewleader, flags.leaders, bases.viewleader), (Role::Storaged, flags.storage, bases.storaged)]
    {
        let (grpc, http) = match flags.port_base {
            Some(_) => ((grpc..).take(count.into()).collect(), (http..).take(count.into()).collect()),
            None => (next_free(grpc, count)?, next_free(http, count)?),
        };
        processes.extend(named(role, &grpc, &http, directory));
    }
    let cluster = ClusterFile { processes };
    must_be_free(&cluster)?;
    Ok(cluster)
}

fn named(role: Role, grpc: &[u16], http: &[u16], directory: &Path) -> Vec<Process> {
    let letter = match role {
        Role::Viewleader => 'v',
        Role::Storaged => 's',
    };
    let process = |(turn, (grpc, http)): (usize, (&u16, &u16))| {
        let name = format!("{letter}{}", turn + 1);
        let data_dir = directory.join(&name);
        Process { name, role, pid: 0, grpc: format!("127.0.0.1:{grpc}"), http: format!("127.0.0.1:{http}"), data_dir }
    };
    grpc.iter().zip(http).enumerate().map(process).collect()
}

fn next_free(base: u16, count: u16) -> Result<Vec<u16>, Failure> {
    let free: Vec<u16> = (base..base.saturating_add(STEPS_MAX))
        .filter(|port| is_free(&format!("127.0.0.1:{port}")))
        .take(count.into())
        .collect();
    if free.len() < count.into() {
        return Err(Failure::unavailable(format!(
            "no {count} free ports from {base} on; choose others with --port-base"
        )));
    }
    Ok(free)
}

/// Refuses a cluster whose ports somebody else has.
pub(super) fn must_be_free(cluster: &ClusterFile) -> Result<(), Failure> {
    let mut addresses = cluster.processes.iter().flat_map(|process| [&process.grpc, &process.http]);
    match addresses.find(|address| !is_free(address)) {
        Some(taken) => Err(Failure::unavailable(format!(
            "cannot use {taken}: the port is in use; end what has it, or choose another --port-base and --data-dir"
        ))),
        None => Ok(()),
    }
}

fn is_free(address: &str) -> bool {
    TcpListener::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(port_base: Option<u16>) -> PlaygroundFlags {
        PlaygroundFlags { leaders: 3, storage: 2, data_dir: None, port_base, restart: false }
    }

    /// Guards against two processes on one port, and against names that repeat.
    #[test]
    fn every_process_has_ports_and_a_name_of_its_own() {
        let cluster = choose(&flags(None), Path::new("d")).unwrap();
        let ports: std::collections::BTreeSet<_> =
            cluster.processes.iter().flat_map(|p| [p.grpc.clone(), p.http.clone()]).collect();
        assert_eq!(ports.len(), 10);
        let names: Vec<_> = cluster.processes.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["v1", "v2", "v3", "s1", "s2"]);
    }

    /// Guards against a port that was asked for and is silently another one.
    #[test]
    fn taken_ports_are_stepped_over_only_by_default() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = held.local_addr().unwrap().port();
        assert!(next_free(taken, 1).unwrap()[0] > taken);
        if (1024..=64_000).contains(&taken) {
            let failure = choose(&flags(Some(taken)), Path::new("d")).unwrap_err();
            assert!(failure.message.contains(&taken.to_string()), "{failure}");
        }
    }
}
