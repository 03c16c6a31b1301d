//! Asking the leader in somebody's name: once. A request that was forwarded is not forwarded again, so that members who
//! disagree on who leads don't send it round and round.

use crate::raft::channel;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use types::limits::MESSAGE_BYTES_MAX;
use wire::v1::leaders_client::LeadersClient;

const FORWARDED: &str = "ringleader-forwarded";
const TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to members that led. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Forwarder {
    clients: Arc<Mutex<HashMap<String, LeadersClient<Channel>>>>,
}

impl Forwarder {
    /// A client of the member at `address`, which is one of the group's.
    pub(super) fn client(&self, address: &str) -> Result<LeadersClient<Channel>, tonic::transport::Error> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(address) {
            return Ok(client.clone());
        }
        let client = LeadersClient::new(channel(address)?).max_decoding_message_size(MESSAGE_BYTES_MAX);
        clients.insert(address.to_owned(), client.clone());
        Ok(client)
    }
}

/// Whether another member sent this in somebody's name.
pub(super) fn was_forwarded<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key(FORWARDED)
}

/// A request in somebody's name.
pub(super) fn forwarded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
    request.set_timeout(TIMEOUT);
    request
}
