//! Listening: loopback unless told otherwise twice, and errors that name the port and the flag.

use crate::Error;
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Listens on `address` (`host:port`; port 0 lets the system choose), which `flag` gave.
///
/// # Errors
/// [`Error::NotLoopback`] if other machines could reach it and `insecure` was not said; [`Error::PortInUse`],
/// [`Error::BadAddress`], [`Error::Listen`].
pub async fn bind(address: &str, flag: &'static str, insecure: bool) -> Result<(TcpListener, SocketAddr), Error> {
    let bad = |reason: String| Error::BadAddress { address: address.to_owned(), flag, reason };
    let resolved: Vec<SocketAddr> =
        tokio::net::lookup_host(address).await.map_err(|error| bad(error.to_string()))?.collect();
    let first = *resolved.first().ok_or_else(|| bad("it has no address".to_owned()))?;
    if !insecure && resolved.iter().any(|address| !address.ip().is_loopback()) {
        return Err(Error::NotLoopback { address: address.to_owned(), flag });
    }
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => Error::PortInUse { address: address.to_owned(), port: first.port(), flag },
        _ => Error::Listen { address: address.to_owned(), flag, source },
    };
    let listener = TcpListener::bind(resolved.as_slice()).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a message that leaves a person guessing which port and which flag.
    #[tokio::test]
    async fn a_taken_port_is_named() {
        let (_held, address) = bind("127.0.0.1:0", "--listen", false).await.unwrap();
        let error = bind(&address.to_string(), "--listen", false).await.unwrap_err().to_string();
        assert!(error.contains(&format!("port {} is in use", address.port())), "{error}");
        assert!(error.ends_with("--listen"), "{error}");
    }

    /// Guards against a store that is open to the network by accident.
    #[tokio::test]
    async fn beyond_loopback_is_refused_unless_insecure() {
        assert!(matches!(bind("0.0.0.0:0", "--listen", false).await, Err(Error::NotLoopback { .. })));
        assert!(bind("0.0.0.0:0", "--listen", true).await.is_ok());
    }

    /// Guards against a panic or a puzzling message for a word that is no address.
    #[tokio::test]
    async fn nonsense_is_named() {
        let error = bind("nonsense", "--http", false).await.unwrap_err().to_string();
        assert!(error.contains("--http"), "{error}");
    }
}
