//! Whether anything listens at an address: the evidence that a node is dead (P21).

use crate::Surroundings;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// A process that is being killed closes its listener a moment after its other connections.
const ATTEMPTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(10);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// Whether a connection to `address` is refused: nothing listens there. Anything else, also no answer, says nothing.
pub(crate) async fn probe(surroundings: &dyn Surroundings, address: &str) -> bool {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            sleep(PAUSE).await;
        }
        match timeout(CONNECT_TIMEOUT, surroundings.knock(address)).await {
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => return true,
            // It listens, or is about to close, or can't be reached: ask again.
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Host;
    use tokio::net::TcpListener;

    /// Guards against a closed port that is not noticed, and an open one taken for closed.
    #[tokio::test]
    async fn a_closed_port_is_evidence_and_an_open_one_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(!probe(&Host, &address).await);
        drop(listener);
        assert!(probe(&Host, &address).await);
        assert!(!probe(&Host, "no address at all").await);
    }
}
