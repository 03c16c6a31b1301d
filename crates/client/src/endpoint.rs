//! How connections are made: the same way to every process.

use std::error::Error as _;
use std::time::Duration;
use tonic::transport::Endpoint;

/// A process on a machine that is up refuses at once; this is for machines that are not.
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// A connection whose other end vanished without a word is given up after these two.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEP_ALIVE_ANSWER_MAX: Duration = Duration::from_secs(2);
/// Windows wide enough that a stream never waits for leave to send within one batch or two.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// The endpoint of `host:port`.
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
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

/// A list of `host:port`, each checked.
///
/// # Errors
/// One line naming the entry that is wrong.
pub(crate) fn check_address(address: &str) -> Result<(), String> {
    let wrong = || format!("`{address}` is not an address; give host:port");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(wrong());
    }
    endpoint(address).map(|_| ())
}

/// What is at the bottom of a transport error: "connection refused" rather than "transport error".
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    let text = cause.to_string();
    // The system's number adds nothing for people.
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut text = text.trim().to_owned();
    if let Some(first) = text.get_mut(0..1) {
        first.make_ascii_lowercase();
    }
    text
}

/// A status in one line: its message, or what is below it where it has none of use.
pub(crate) fn status_text(status: &tonic::Status) -> String {
    match status.source() {
        Some(source) => root_cause(source),
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => status.message().lines().next().unwrap_or_default().to_owned(),
    }
}
