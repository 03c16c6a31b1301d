//! What a member finds outside itself: the way to the others, chance, and the thread that writes its log.
//!
//! The server stands on the machine it runs on, [`Host`]. Tests put something between members, or put all of them on a
//! network whose time is simulated.

use crate::Error;
use futures::future::BoxFuture;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
const KEEPALIVE_EVERY: Duration = Duration::from_millis(500);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a member runs; each method does by itself what a process needs.
pub trait Surroundings: Send + Sync + 'static {
    /// A connection to the member at `address` (`host:port`) that is made when it is needed, and again when it breaks.
    ///
    /// # Errors
    /// An address that is none.
    fn channel(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        Ok(endpoint(address)?.connect_lazy())
    }

    /// Whether something listens at `address`: a connection that is closed at once, or why there is none.
    fn knock<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move { TcpStream::connect(address).await.map(drop) })
    }

    /// A number by which members that would do the same at the same time come apart.
    ///
    /// # Errors
    /// [`Error::Random`].
    fn random(&self) -> Result<u64, Error> {
        getrandom::u64().map_err(|error| Error::Random(error.to_string()))
    }

    /// Whether a thread of its own writes the log. Without one, no simulated time passes while the disk works.
    fn log_has_thread(&self) -> bool {
        true
    }
}

/// The machine that this process runs on.
#[derive(Clone, Copy, Debug)]
pub struct Host;

impl Surroundings for Host {}

/// How one member speaks to what listens at `address`, whatever carries it.
///
/// # Errors
/// An address that is no `host:port`.
pub fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    #[cfg(feature = "faults")]
    let endpoint = endpoint.local_address(faults::source());
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}
