//! Ways between members that can be cut, each in one direction of calling: what is cut is silent, not refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::transport::Channel;
use viewleader::{Host, Surroundings};

/// The way from one member to another.
struct Link {
    address: String,
    cut: watch::Sender<bool>,
}

/// All ways among the members.
pub struct Links {
    links: BTreeMap<(usize, usize), Link>,
    /// Connections that fell silent, or were made in vain, because their way was cut.
    held: Arc<AtomicU64>,
}

impl Links {
    /// Ways among what listens at these addresses.
    pub async fn new(addresses: &[String]) -> Links {
        let mut links = BTreeMap::new();
        let held = Arc::new(AtomicU64::new(0));
        for from in 0..addresses.len() {
            for to in (0..addresses.len()).filter(|to| *to != from) {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap().to_string();
                let (cut, is_cut) = watch::channel(false);
                tokio::spawn(accept(listener, addresses[to].clone(), is_cut, held.clone()));
                links.insert((from, to), Link { address, cut });
            }
        }
        Links { links, held }
    }

    /// Where a member runs that finds the others through these.
    pub fn around(&self, from: usize, addresses: &[String]) -> Linked {
        let ways = self.links.iter().filter(|((of, _), _)| *of == from);
        let ways: BTreeMap<String, String> =
            ways.map(|((_, to), link)| (addresses[*to].clone(), link.address.clone())).collect();
        Linked { ways }
    }

    /// Cuts these ways, and mends all others.
    pub fn cut_only(&self, is_cut: impl Fn(usize, usize) -> bool) {
        for ((from, to), link) in &self.links {
            link.cut.send_replace(is_cut(*from, *to));
        }
    }

    /// How many connections a cut has met.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

/// The machine, with links in place of the members.
pub struct Linked {
    ways: BTreeMap<String, String>,
}

impl Surroundings for Linked {
    fn channel(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        Host.channel(self.ways.get(address).map_or(address, String::as_str))
    }
}

async fn accept(listener: TcpListener, target: String, cut: watch::Receiver<bool>, held: Arc<AtomicU64>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(carry(stream, target.clone(), cut.clone(), held.clone()));
    }
}

/// Carries bytes until the way is cut; then holds both ends until it is mended, and ends.
async fn carry(mut from: TcpStream, target: String, mut cut: watch::Receiver<bool>, held: Arc<AtomicU64>) {
    let mut to = None;
    if !*cut.borrow_and_update() {
        let Ok(mut stream) = TcpStream::connect(target).await else { return };
        tokio::select! {
            _ended = tokio::io::copy_bidirectional(&mut from, &mut stream) => return,
            _cut = cut.wait_for(|cut| *cut) => {}
        }
        to = Some(stream);
    }
    held.fetch_add(1, Ordering::Relaxed);
    let _mended = cut.wait_for(|cut| !cut).await;
    drop((from, to));
}
