//! Asking the leader in somebody's name: once. A request that was forwarded is not forwarded again, so that members who
//! disagree on who leads don't send it round and round.

use super::LeadersService;
use crate::Surroundings;
use crate::mutants::{Mutant, on};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use types::limits::MESSAGE_BYTES_MAX;
use wire::v1::leaders_client::LeadersClient;

const FORWARDED: &str = "ringleader-forwarded";
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request waits for a leader to be elected.
const ELECTION_PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts of a member that believes to lead, and is not confirmed.
const CONFIRM_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Who can answer what only the leader knows.
pub(super) enum Leader {
    /// This member; what is applied here is up to date.
    Here,
    /// The member at this address.
    At(String),
    /// Nobody that could be found in time.
    Nowhere,
}

impl LeadersService {
    /// Finds the leader, and waits a moment for one that is just being elected. A member that led before it was started
    /// anew believes so until it hears from the others: only a confirmed leader counts.
    pub(super) async fn find_leader<T>(&self, request: &Request<T>) -> Leader {
        let mut leadership = self.group.leadership();
        let search = async {
            loop {
                let known = leadership.borrow_and_update().leader_address.clone();
                match known.filter(|leader| leader != self.group.address()) {
                    Some(_) if was_forwarded(request) => return Leader::Nowhere,
                    Some(leader) => return Leader::At(leader),
                    None if on(Mutant::ReadUnconfirmed) => return Leader::Here,
                    None if self.group.read_barrier().await.is_ok() => return Leader::Here,
                    None => {}
                }
                // An error is the end of this member: nobody will lead here.
                if let Ok(Err(_)) = timeout(CONFIRM_AGAIN_AFTER, leadership.changed()).await {
                    return Leader::Nowhere;
                }
            }
        };
        timeout(ELECTION_PATIENCE, search).await.unwrap_or(Leader::Nowhere)
    }
}

/// Connections to members that led. Clones share them.
#[derive(Clone)]
pub(super) struct Forwarder {
    surroundings: Arc<dyn Surroundings>,
    clients: Arc<Mutex<HashMap<String, LeadersClient<Channel>>>>,
}

impl Forwarder {
    pub(super) fn new(surroundings: Arc<dyn Surroundings>) -> Forwarder {
        Forwarder { surroundings, clients: Arc::default() }
    }

    /// A client of the member at `address`, which is one of the group's.
    pub(super) fn client(&self, address: &str) -> Result<LeadersClient<Channel>, tonic::transport::Error> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(address) {
            return Ok(client.clone());
        }
        let client =
            LeadersClient::new(self.surroundings.channel(address)?).max_decoding_message_size(MESSAGE_BYTES_MAX);
        clients.insert(address.to_owned(), client.clone());
        Ok(client)
    }
}

/// Whether another member sent this in somebody's name.
fn was_forwarded<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key(FORWARDED)
}

/// A request in somebody's name.
pub(super) fn forwarded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
    request.set_timeout(TIMEOUT);
    request
}
