//! The network between the processes, whichever kind it is.

use crate::error::Error;
use crate::netns::Namespaces;
use crate::proxy::{Policy, Proxies, Station};
use crate::random::Random;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use tokio::process::Command;

const PORT: u16 = 7000;
/// By the last byte of their addresses: processes, and their gates.
const FIRST_PROCESS: u8 = 10;
const FIRST_GATE: u8 = 130;
/// Networks of this machine's own that are tried.
const NETWORKS_TRIED: usize = 64;

/// What connects the processes. Dropping it takes it away.
#[derive(Debug)]
pub(crate) enum Wires {
    /// Proxies of this process.
    Proxies {
        network: Proxies,
        stations: Vec<Station>,
        /// Holds the addresses that are used.
        _claim: TcpListener,
    },
    /// Namespaces of the kernel.
    Namespaces(Namespaces),
}

impl Wires {
    /// Proxies between `count` processes.
    ///
    /// # Errors
    /// [`Error::Machine`].
    pub(super) fn proxies(count: u8, random: &mut Random) -> Result<Wires, Error> {
        let (claim, network) = claim_network(random)?;
        let on = |last: u8| SocketAddr::from((Ipv4Addr::new(127, network.0, network.1, last), PORT));
        let station = |place| Station { address: on(FIRST_PROCESS + place), gate: on(FIRST_GATE + place) };
        let stations: Vec<Station> = (0..count).map(station).collect();
        Ok(Wires::Proxies { network: Proxies::new(&stations), stations, _claim: claim })
    }

    /// Namespaces for `count` processes.
    ///
    /// # Errors
    /// [`Error::Machine`].
    pub(super) fn namespaces(count: u8, random: &mut Random) -> Result<Wires, Error> {
        Ok(Wires::Namespaces(Namespaces::new(count, random)?))
    }

    /// The addresses of a place.
    pub(super) fn station(&self, place: usize) -> Station {
        match self {
            Wires::Proxies { stations, .. } => stations[place].clone(),
            Wires::Namespaces(namespaces) => {
                let address = namespaces.address(place);
                Station { address, gate: address }
            }
        }
    }

    /// The command that runs a program where a place is.
    pub(super) fn command(&self, place: usize, program: &Path) -> Command {
        match self {
            Wires::Proxies { stations, .. } => {
                let mut command = Command::new(program);
                command.env(faults::SOURCE_VARIABLE, stations[place].address.ip().to_string());
                command
            }
            Wires::Namespaces(namespaces) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &namespaces.name(place)]).arg(program);
                command
            }
        }
    }

    /// A process has been started.
    ///
    /// # Errors
    /// [`Error::Machine`].
    pub(super) async fn open(&self, place: usize) -> Result<(), Error> {
        match self {
            Wires::Proxies { network, .. } => network.open(place).await,
            Wires::Namespaces(_) => Ok(()),
        }
    }

    /// A process has ended.
    pub(super) fn close(&self, place: usize) {
        if let Wires::Proxies { network, .. } = self {
            network.close(place);
        }
    }

    /// What becomes of everything that travels these ways, from one place to another, from now on.
    ///
    /// # Errors
    /// [`Error::NotLanded`] for a policy that this network does not know; [`Error::Machine`].
    pub(crate) fn set(&self, ways: &[(usize, usize)], policy: Policy) -> Result<(), Error> {
        for (from, to) in ways {
            match (self, policy) {
                (Wires::Proxies { network, .. }, policy) => {
                    if let Some(way) = network.way(*from, *to) {
                        way.set(policy);
                    }
                }
                (Wires::Namespaces(namespaces), Policy::Open) => namespaces.cut(*from, *to, false)?,
                (Wires::Namespaces(namespaces), Policy::Cut) => namespaces.cut(*from, *to, true)?,
                (Wires::Namespaces(_), Policy::Slow(_) | Policy::Lossy(_)) => {
                    return Err(Error::NotLanded("namespaces carry everything at once or not at all".to_owned()));
                }
            }
        }
        Ok(())
    }

    /// What was blocked, delayed or lost on these ways so far; a number that only grows. Namespaces count all ways.
    ///
    /// # Errors
    /// [`Error::Machine`].
    pub(crate) fn harmed(&self, ways: &[(usize, usize)]) -> Result<u64, Error> {
        match self {
            Wires::Proxies { network, .. } => {
                let harmed = |(from, to): &(usize, usize)| network.way(*from, *to).map_or(0, |way| way.harmed());
                Ok(ways.iter().map(harmed).sum())
            }
            Wires::Namespaces(namespaces) => namespaces.lost(),
        }
    }

    /// What [`Wires::harmed`] counts.
    pub(crate) fn unit(&self) -> &'static str {
        match self {
            Wires::Proxies { .. } => "bytes",
            Wires::Namespaces(_) => "packets",
        }
    }
}

/// A network 127.x.y.0 that nobody else on this machine uses, and the socket that says so.
fn claim_network(random: &mut Random) -> Result<(TcpListener, (u8, u8)), Error> {
    let mut refused = std::io::Error::other("none was tried");
    // Two runs of one seed may run at the same time.
    let mut random = Random::new(random.next() ^ u64::from(std::process::id()));
    for _ in 0..NETWORKS_TRIED {
        let network = (64 + random.below(128) as u8, random.below(256) as u8);
        match TcpListener::bind((Ipv4Addr::new(127, network.0, network.1, 1), PORT)) {
            Ok(claim) => return Ok((claim, network)),
            Err(error) => refused = error,
        }
    }
    Err(Error::machine("find a free network within 127.0.0.0/8")(refused))
}
