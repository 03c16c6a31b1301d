//! A simulated network (turmoil) as a member's surroundings: its time passes as fast as there is something to do.

use futures::future::BoxFuture;
use futures::{Stream, stream};
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Uri};
use turmoil::net::{TcpListener, TcpStream};
use viewleader::{Error, Surroundings};

/// Where each host listens.
pub const PORT: u16 = 7000;

/// A host of the network.
pub struct Simulated {
    random: Random,
}

impl Simulated {
    pub fn new(seed: u64) -> Simulated {
        Simulated { random: Random::new(seed) }
    }
}

impl Surroundings for Simulated {
    fn channel(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        let connect = |uri: Uri| async move {
            let host = uri.host().unwrap_or_default().to_owned();
            TcpStream::connect((host, uri.port_u16().unwrap_or(PORT))).await.map(TokioIo::new)
        };
        Ok(viewleader::endpoint(address)?.connect_with_connector_lazy(tower::service_fn(connect)))
    }

    fn knock<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let host = address.split(':').next().unwrap_or_default().to_owned();
        Box::pin(async move { TcpStream::connect((host, PORT)).await.map(drop) })
    }

    fn random(&self) -> Result<u64, Error> {
        Ok(self.random.next())
    }

    fn log_has_thread(&self) -> bool {
        false
    }
}

/// Numbers that a seed decides (splitmix64).
pub struct Random(AtomicU64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(AtomicU64::new(seed))
    }

    pub fn next(&self) -> u64 {
        let state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn between_ms(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below(most - least + 1))
    }
}

/// What comes in at the port of this host.
pub async fn incoming() -> io::Result<impl Stream<Item = io::Result<Accepted>> + Send> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    Ok(stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| Accepted(stream));
        Some((accepted, listener))
    }))
}

/// A connection that tonic serves.
pub struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
