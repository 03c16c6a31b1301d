//! How gRPC connections are made and served: the same way everywhere.

use std::error::Error as _;
use std::io;
use std::time::Duration;
use tonic::transport::{Endpoint, Server};

/// A process on a machine that is up refuses at once; this is for machines that are not.
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// A connection whose other end vanished without a word is given up after these two.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(1);
const KEEP_ALIVE_ANSWER_MAX: Duration = Duration::from_secs(2);
/// Windows wide enough that a stream never waits for leave to send within a few batches.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Large frames: a batch is one or a few.
const FRAME_BYTES_MAX: u32 = 256 << 10;

/// How to reach `host:port`.
///
/// # Errors
/// One line, for an address that is none.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| format!("`{address}` is not an address; give host:port"))?;
    #[cfg(feature = "faults")]
    let endpoint = endpoint.local_address(faults::source());
    Ok(endpoint
        .connect_timeout(CONNECT_MAX)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_ANSWER_MAX)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX))
}

/// A server with the same habits.
pub(crate) fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_ANSWER_MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
}

/// Whether `address` looks like `host:port`.
pub(crate) fn is_address(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        && endpoint(address).is_ok()
}

/// What is at the bottom of a transport error: "connection refused" rather than "transport error".
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

/// Whether the other machine said that nobody listens there.
pub(crate) fn is_refused(error: &tonic::transport::Error) -> bool {
    let mut cause = error.source();
    while let Some(below) = cause {
        if let Some(error) = below.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::ConnectionRefused;
        }
        cause = below.source();
    }
    false
}
