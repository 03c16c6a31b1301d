//! The network between the processes, as proxies of this one: it can be cut, slowed and made lossy without privileges.
//!
//! Each process listens where nobody else looks and advertises its *gate*: a proxy's address. Processes call from
//! addresses of their own within 127.0.0.0/8 (`faults::source`), so a gate knows who is calling, and each direction of
//! each pair has a [`Way`] with a policy of its own. Whoever has no such address is a client; its ways are always open.
//!
//! Invariants: a gate whose process is down is closed, so that callers are refused as they would be without it. What is
//! blocked is held, not lost: a network's senders repeat. Everything ends when the network is dropped.

mod way;

use crate::error::Error;
use crate::random::Random;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
pub(crate) use way::{Policy, Way};

/// What is carried at a time.
const PIECE_BYTES: usize = 64 << 10;
/// How long a connection to a process of this machine may take.
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// How long a gate's last listener may take to close.
const REOPEN_MAX: Duration = Duration::from_secs(5);
/// What a caller's first packet counts as when it is blocked.
const GREETING_BYTES: u64 = 64;

/// A process as the network knows it.
#[derive(Clone, Debug)]
pub(crate) struct Station {
    /// The address that it calls from and listens on.
    pub(crate) address: SocketAddr,
    /// Where others call it.
    pub(crate) gate: SocketAddr,
}

/// All ways, by the two ends' addresses.
type Ways = BTreeMap<(IpAddr, IpAddr), Arc<Way>>;

/// The network. Ends with this value.
#[derive(Debug)]
pub(crate) struct Proxies {
    ways: Arc<Ways>,
    gates: Vec<Gate>,
}

#[derive(Debug)]
struct Gate {
    station: Station,
    /// The listener, and the connections that it accepted.
    open: Mutex<Option<JoinSet<()>>>,
}

impl Proxies {
    /// A network of `stations`, all gates closed, all ways open.
    pub(crate) fn new(stations: &[Station]) -> Proxies {
        let ends = || stations.iter().map(|station| station.address.ip());
        let pairs = ends().flat_map(|from| ends().map(move |to| (from, to)));
        let ways = pairs.map(|pair| (pair, Arc::new(Way::default()))).collect();
        let gates = stations.iter().map(|station| Gate { station: station.clone(), open: Mutex::new(None) }).collect();
        Proxies { ways: Arc::new(ways), gates }
    }

    /// The way from one station to another, by their places in the list.
    pub(crate) fn way(&self, from: usize, to: usize) -> Option<&Arc<Way>> {
        let address = |place: usize| self.gates.get(place).map(|gate| gate.station.address.ip());
        self.ways.get(&(address(from)?, address(to)?))
    }

    /// Lets callers in.
    ///
    /// # Errors
    /// Where the address can't be listened on.
    pub(crate) async fn open(&self, place: usize) -> Result<(), Error> {
        let Some(gate) = self.gates.get(place) else { return Ok(()) };
        let address = gate.station.gate;
        let began = Instant::now();
        let listener = loop {
            match TcpListener::bind(address).await {
                // The gate's last listener is about to close.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < REOPEN_MAX => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                bound => break bound.map_err(Error::machine(format!("listen on {address}")))?,
            }
        };
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, gate.station.clone(), self.ways.clone()));
        *gate.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(serving);
        Ok(())
    }

    /// Refuses callers, and lets the connections end that there were.
    pub(crate) fn close(&self, place: usize) {
        if let Some(gate) = self.gates.get(place) {
            gate.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

/// Accepts callers until the gate is closed. Connections end with it.
async fn serve(listener: TcpListener, station: Station, ways: Arc<Ways>) {
    let open = Arc::new(Way::default());
    let mut connections = JoinSet::new();
    let mut luck = Random::new(u64::from(station.address.port()));
    loop {
        let (caller, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Too many open files, or the caller has gone already: others may come.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let way = |from: IpAddr, to: IpAddr| ways.get(&(from, to)).unwrap_or(&open).clone();
        let (there, back) = (way(from.ip(), station.address.ip()), way(station.address.ip(), from.ip()));
        let (target, luck) = (station.address, Random::new(luck.next()));
        connections.spawn(async move {
            // However a connection ends, both its ends learn it when the sockets close.
            let _ended = carry(caller, target, &there, &back, luck).await;
        });
    }
}

async fn carry(mut caller: TcpStream, target: SocketAddr, there: &Way, back: &Way, mut luck: Random) -> io::Result<()> {
    // A first packet that is lost, there or back, is repeated like any other.
    for way in [there, back] {
        if way.pass(GREETING_BYTES, || luck.next()).await.is_err() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }
    let mut callee = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(target)).await??;
    caller.set_nodelay(true)?;
    callee.set_nodelay(true)?;
    let ((from_caller, to_caller), (from_callee, to_callee)) = (caller.split(), callee.split());
    let one = pump(from_caller, to_callee, there, luck.clone());
    let other = pump(from_callee, to_caller, back, luck);
    tokio::try_join!(one, other).map(|_| ())
}

async fn pump(
    mut from: tokio::net::tcp::ReadHalf<'_>,
    mut to: tokio::net::tcp::WriteHalf<'_>,
    way: &Way,
    mut luck: Random,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let bytes = from.read(&mut piece).await?;
        // The end of a connection travels like everything else.
        way.pass(bytes as u64, || luck.next()).await.map_err(|_| io::ErrorKind::ConnectionReset)?;
        if bytes == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..bytes]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo behind a gate; the caller's and the echo's stations.
    async fn echo() -> (Proxies, Station) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ended = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        // The echo calls from where the test does: one station is both ends.
        let station = Station { address, gate: free };
        let proxies = Proxies::new(std::slice::from_ref(&station));
        proxies.open(0).await.unwrap();
        (proxies, station)
    }

    /// Guards against a cut that lets bytes through, or loses them for good.
    #[tokio::test]
    async fn a_cut_holds_bytes_and_counts_them() {
        let (proxies, station) = echo().await;
        let mut stream = TcpStream::connect(station.gate).await.unwrap();
        let mut answer = [0; 4];
        stream.write_all(b"ping").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        let way = proxies.way(0, 0).unwrap().clone();
        assert_eq!(way.harmed(), 0);
        way.set(Policy::Cut);
        stream.write_all(b"held").await.unwrap();
        while way.harmed() == 0 {
            tokio::task::yield_now().await;
        }
        way.set(Policy::Open);
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"held");
    }

    /// Guards against a process that is down and seems to listen: nobody would notice its death at once.
    #[tokio::test]
    async fn a_closed_gate_refuses() {
        let (proxies, station) = echo().await;
        proxies.close(0);
        loop {
            match TcpStream::connect(station.gate).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => break,
                _ => tokio::task::yield_now().await,
            }
        }
        proxies.open(0).await.unwrap();
        TcpStream::connect(station.gate).await.unwrap();
    }
}
