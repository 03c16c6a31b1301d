//! What members say to each other. Every message says who speaks, from which data directory, and to whom.

use super::LogId;
use super::codec::{self, CodecError};
use crate::identity::{DirectoryId, MemberId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use types::ClusterId;
use wire::convert::cluster_to_wire;
use wire::v1::RaftBody;

/// A message with its sender and receiver.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Envelope<T> {
    pub(super) from: MemberId,
    pub(super) directory: DirectoryId,
    pub(super) to: MemberId,
    pub(super) content: T,
}

impl<T> Envelope<T> {
    /// The envelope for the answer, and what was in it.
    pub(super) fn split(self) -> (Envelope<()>, T) {
        let Envelope { from, directory, to, content } = self;
        (Envelope { from, directory, to, content: () }, content)
    }
}

impl<T: Serialize> Envelope<T> {
    pub(super) fn to_wire(&self, cluster: ClusterId) -> Result<RaftBody, CodecError> {
        let cluster = if cluster == ClusterId::NONE { bytes::Bytes::new() } else { cluster_to_wire(cluster) };
        Ok(RaftBody { cluster, body: codec::encode(self)?.into() })
    }
}

impl<T: DeserializeOwned> Envelope<T> {
    pub(super) fn from_wire(body: &RaftBody) -> Result<Envelope<T>, CodecError> {
        codec::decode(&body.body)
    }
}

/// Who are you? Asked before there is a log, and by people's status.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The list that the asking member was started with.
    pub(super) peers: Vec<String>,
}

/// Would you vote for me, if I stood for election now?
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct PreVote {
    /// Where the asking member's log ends.
    pub(super) last_log: Option<LogId>,
}

/// The answer to [`PreVote`]; it promises nothing.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct PreVoteReply {
    pub(super) granted: bool,
}

/// The answer to [`Hello`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HelloReply {
    /// The list that the answering member was started with.
    pub(crate) peers: Vec<String>,
    /// Its name, for people.
    pub(crate) name: String,
    /// Whether its log has begun.
    pub(crate) initialized: bool,
    /// The asking member's data directory, as the answering one first met it; `None`: this is the first meeting.
    pub(crate) met_you_as: Option<DirectoryId>,
    /// follower, leader, …
    pub(crate) role: String,
    /// Its Raft term.
    pub(crate) raft_term: u64,
    /// The last log index that it has applied.
    pub(crate) last_applied: u64,
}
