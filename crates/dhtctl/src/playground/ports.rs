//! Which ports a playground uses.
//!
//! That a port can be listened on says nothing about the next moment, when the playground next door looks for ports too,
//! or a process is down that shall have its port again. So a playground holds two things for each of its ports as long as
//! it lives: a lock on a file that is named after it, which keeps other playgrounds away (they don't even look), and a
//! socket that is bound to it and never listens, which keeps the kernel from giving it to an outgoing connection (the
//! usual ports are among those that Linux chooses from) and leaves it to a process that listens.

use super::PlaygroundFlags;
use super::cluster_file::{ClusterFile, Process, Role};
use daemon::Failure;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use tokio::net::TcpSocket;

/// What keeps a cluster's ports for it. It ends with this.
#[derive(Debug, Default)]
pub(super) struct Reservation {
    locks: Vec<File>,
    sockets: Vec<TcpSocket>,
}

/// Where the locks are, within the directory for temporary files.
const LOCKS: &str = "ringleader-ports";

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
pub(super) fn choose(flags: &PlaygroundFlags, directory: &Path) -> Result<(ClusterFile, Reservation), Failure> {
    let bases = match flags.port_base {
        Some(base) => Bases { viewleader: (base, base + APART), storaged: (base + 2 * APART, base + 3 * APART) },
        None => USUAL,
    };
    let mut reservation = Reservation::default();
    let mut processes = Vec::new();
    for (role, count, (grpc, http)) in
        [(Role::Viewleader, flags.leaders, bases.viewleader), (Role::Storaged, flags.storage, bases.storaged)]
    {
        let (grpc, http) = match flags.port_base {
            Some(_) => ((grpc..).take(count.into()).collect(), (http..).take(count.into()).collect()),
            None => (reservation.next_free(grpc, count)?, reservation.next_free(http, count)?),
        };
        processes.extend(named(role, &grpc, &http, directory));
    }
    let cluster = ClusterFile { processes };
    if flags.port_base.is_some() {
        reservation = reserve(&cluster)?;
    }
    Ok((cluster, reservation))
}

/// The ports of `cluster` exactly; refused where somebody else has one.
pub(super) fn reserve(cluster: &ClusterFile) -> Result<Reservation, Failure> {
    let mut reservation = Reservation::default();
    for address in cluster.processes.iter().flat_map(|process| [&process.grpc, &process.http]) {
        reservation.take(address).map_err(|error| {
            let why = match error.kind() {
                ErrorKind::AddrInUse | ErrorKind::WouldBlock => "the port is in use; end what has it, or".to_owned(),
                _ => format!("{error};"),
            };
            Failure::unavailable(format!("cannot use {address}: {why} choose another --port-base and --data-dir"))
        })?;
    }
    Ok(reservation)
}

impl Reservation {
    fn next_free(&mut self, base: u16, count: u16) -> Result<Vec<u16>, Failure> {
        let free: Vec<u16> = (base..base.saturating_add(STEPS_MAX))
            .filter(|port| self.take(&format!("127.0.0.1:{port}")).is_ok())
            .take(count.into())
            .collect();
        if free.len() < count.into() {
            return Err(Failure::unavailable(format!(
                "no {count} free ports from {base} on; choose others with --port-base"
            )));
        }
        Ok(free)
    }

    /// Takes an address that nobody has.
    fn take(&mut self, address: &str) -> io::Result<()> {
        // The lock comes first: to look at a port is to have it for a moment, and its owner may listen just then.
        let lock = match lock_file(address) {
            Ok(lock) => {
                lock.try_lock().map_err(io::Error::from)?;
                Some(lock)
            }
            // Somebody else's directory: what the socket says has to do.
            Err(_) => None,
        };
        let socket = bind(address)?;
        self.locks.extend(lock);
        // Elsewhere a bound socket would keep our own process away, too.
        if cfg!(target_os = "linux") {
            self.sockets.push(socket);
        }
        Ok(())
    }
}

/// A socket that has `address` and does not listen; refused where somebody listens there.
fn bind(address: &str) -> io::Result<TcpSocket> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As those who listen do: the last connections of a playground that has just ended don't count.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn lock_file(address: &str) -> io::Result<File> {
    let directory = std::env::temp_dir().join(LOCKS);
    std::fs::create_dir_all(&directory)?;
    OpenOptions::new().create(true).truncate(false).write(true).open(directory.join(address.replace(':', "-")))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn flags(port_base: Option<u16>) -> PlaygroundFlags {
        PlaygroundFlags { leaders: 3, storage: 2, data_dir: None, port_base, restart: false }
    }

    /// Guards against two processes on one port, names that repeat, and two playgrounds that choose the same ports before
    /// either has started anything.
    #[test]
    fn every_process_has_ports_and_a_name_of_its_own() {
        let (cluster, _kept) = choose(&flags(None), Path::new("d")).unwrap();
        let (other, _also_kept) = choose(&flags(None), Path::new("e")).unwrap();
        let ports: std::collections::BTreeSet<_> =
            cluster.processes.iter().chain(&other.processes).flat_map(|p| [p.grpc.clone(), p.http.clone()]).collect();
        assert_eq!(ports.len(), 20);
        let names: Vec<_> = cluster.processes.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["v1", "v2", "v3", "s1", "s2"]);
    }

    /// Guards against a directory's cluster that takes a port from a playground whose process is just being restarted.
    #[test]
    fn a_reserved_port_is_refused_until_it_is_given_up() {
        let (cluster, reservation) = choose(&flags(None), Path::new("d")).unwrap();
        let failure = reserve(&cluster).unwrap_err();
        assert!(failure.message.contains("the port is in use"), "{failure}");
        drop(reservation);
        // A parallel test may have the one or the other by now.
        let free_again =
            |p: &Process| Reservation::default().take(&p.grpc).is_ok() || Reservation::default().take(&p.http).is_ok();
        assert!(cluster.processes.iter().any(free_again));
    }

    /// Guards against a playground that keeps its own processes from listening, one whose process can't come back because
    /// the kernel gave its port to an outgoing connection, and one that takes a port from under a process that listens.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_reserved_port_is_there_for_who_listens_only() {
        let mut reservation = Reservation::default();
        let port = reservation.next_free(USUAL.viewleader.0, 1).unwrap()[0];
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        for _start in 0..3 {
            let listener = TcpListener::bind(address).unwrap();
            let caller = TcpStream::connect(address).unwrap();
            // Closed first by who listens: its end lingers in the kernel.
            drop(listener.accept().unwrap());
            drop((listener, caller));
        }
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        // As an outgoing connection does that is given no port of its own, but this one.
        let outgoing = TcpSocket::new_v4().unwrap();
        assert_eq!(outgoing.bind(address).unwrap_err().kind(), ErrorKind::AddrInUse);
        let _listener = TcpListener::bind(address).unwrap();
        assert!(bind(&address.to_string()).is_err());
    }

    /// Guards against a port that was asked for and is silently another one.
    #[test]
    fn taken_ports_are_stepped_over_only_by_default() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = held.local_addr().unwrap().port();
        assert!(Reservation::default().next_free(taken, 1).unwrap()[0] > taken);
        if (1024..=64_000).contains(&taken) {
            let failure = choose(&flags(Some(taken)), Path::new("d")).unwrap_err();
            assert!(failure.message.contains(&taken.to_string()), "{failure}");
        }
    }
}
