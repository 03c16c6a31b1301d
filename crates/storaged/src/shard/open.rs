//! Requests that wait for their replica's answer.
//!
//! A token is a place in a vector and how often that place was used, so that an answer to a request that has been
//! answered already finds nobody.

use crate::clock::Moment;
use crate::kv::connection::Connection;
use replcore::Token;
use std::collections::BTreeMap;
use std::sync::Arc;
use types::PartitionId;

/// One open request.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    /// Who is answered.
    pub(crate) connection: Arc<Connection>,
    /// The client's number for it.
    pub(crate) number: u64,
    /// The partition it was given to.
    pub(crate) partition: PartitionId,
    /// When nobody waits for it any more.
    pub(crate) deadline: Moment,
}

#[derive(Debug, Default)]
struct Place {
    uses: u32,
    request: Option<OpenRequest>,
}

/// All open requests of a shard.
#[derive(Debug, Default)]
pub(crate) struct Open {
    places: Vec<Place>,
    free: Vec<u32>,
}

impl Open {
    /// Gives the request a token that no other one has.
    pub(crate) fn insert(&mut self, request: OpenRequest) -> Token {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            // More than four thousand million open requests do not fit into memory.
            (self.places.len() - 1) as u32
        });
        let entry = &mut self.places[place as usize];
        entry.uses = entry.uses.wrapping_add(1);
        entry.request = Some(request);
        Token(u64::from(entry.uses) << 32 | u64::from(place))
    }

    /// The request of this token, if it is still open; it is open no more.
    pub(crate) fn take(&mut self, token: Token) -> Option<OpenRequest> {
        let place = token.0 as u32;
        let entry = self.places.get_mut(place as usize)?;
        if u64::from(entry.uses) != token.0 >> 32 {
            return None;
        }
        let request = entry.request.take()?;
        self.free.push(place);
        Some(request)
    }

    /// Whether nothing is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Nothing waits longer than until `latest`.
    pub(crate) fn hurry(&mut self, latest: Moment) {
        for request in self.places.iter_mut().filter_map(|entry| entry.request.as_mut()) {
            request.deadline = request.deadline.min(latest);
        }
    }

    /// The requests whose time is over. They stay open until they are answered, and are named once: from now on they
    /// have all the time in the world.
    pub(crate) fn expired(&mut self, now: Moment) -> BTreeMap<PartitionId, Vec<Token>> {
        let mut expired: BTreeMap<PartitionId, Vec<Token>> = BTreeMap::new();
        for (place, entry) in self.places.iter_mut().enumerate() {
            if let Some(request) = &mut entry.request
                && request.deadline <= now
            {
                request.deadline = Moment(u64::MAX);
                let token = Token(u64::from(entry.uses) << 32 | place as u64);
                expired.entry(request.partition).or_default().push(token);
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: u64, deadline: u64) -> OpenRequest {
        OpenRequest { connection: Arc::default(), number, partition: PartitionId(1), deadline: Moment(deadline) }
    }

    /// Guards against a late answer that reaches whoever uses the place next, and against an expiry that repeats.
    #[test]
    fn a_token_names_one_request_once() {
        let mut open = Open::default();
        let first = open.insert(request(1, 5));
        assert_eq!(open.take(first).map(|r| r.number), Some(1));
        let second = open.insert(request(2, 5));
        assert_ne!(first, second);
        assert!(open.take(first).is_none() && open.take(Token(u64::MAX)).is_none());
        assert!(open.expired(Moment(4)).is_empty());
        assert_eq!(open.expired(Moment(5)), BTreeMap::from([(PartitionId(1), vec![second])]));
        assert!(open.expired(Moment(9)).is_empty());
        assert_eq!((open.len(), open.is_empty()), (1, false));
        assert_eq!(open.take(second).map(|r| r.number), Some(2));
        assert!(open.is_empty());
    }
}
