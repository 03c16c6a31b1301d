//! The receiving side of members' messages.

use super::Raft;
use super::codec::CodecError;
use super::elections::Standing;
use super::log::LogStore;
use super::messages::{Envelope, Hello, HelloReply, PreVote, PreVoteReply};
use super::network::REMOVED;
use super::roster::{MemberNode, Roster};
use crate::Error;
use crate::identity::{DirectoryId, Identity, MemberId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use types::ClusterId;
use wire::convert::cluster_from_wire;
use wire::v1::RaftBody;
use wire::v1::raft_server::Raft as RaftMethods;

/// Answers the other members.
#[derive(Clone)]
pub(crate) struct RaftService {
    pub(super) identity: Identity,
    pub(super) name: Arc<str>,
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) roster: watch::Receiver<Arc<Roster>>,
    /// Whether this member may vote: not before enough others have said that they don't remember another directory.
    pub(super) admitted: Arc<AtomicBool>,
}

impl RaftService {
    /// Who this member is.
    pub(super) fn hello_reply(&self, met_you_as: Option<DirectoryId>, initialized: bool) -> HelloReply {
        let metrics = self.raft.metrics().borrow().clone();
        HelloReply {
            peers: self.identity.founders().to_vec(),
            name: self.name.to_string(),
            initialized,
            met_you_as,
            role: format!("{:?}", metrics.state).to_lowercase(),
            raft_term: metrics.current_term,
            last_applied: metrics.last_applied.map_or(0, |id| id.index),
        }
    }

    /// Checks that a message is for this member, from another one of its group.
    fn check<T>(&self, body: &RaftBody, envelope: &Envelope<T>) -> Result<(), Status> {
        let theirs = cluster_from_wire(&body.cluster).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let ours = self.identity.cluster();
        if theirs != ours && theirs != ClusterId::NONE && ours != ClusterId::NONE {
            return Err(Status::failed_precondition(format!("this member is of cluster {ours}, not of {theirs}")));
        }
        if envelope.to != self.identity.member() {
            return Err(Status::failed_precondition(format!(
                "this is member {}, not {}; check that every member has the same --peers",
                self.identity.member(),
                envelope.to
            )));
        }
        // Only what is applied counts: a removal that is not committed may be taken back.
        if self.roster.borrow().was_removed(envelope.from) {
            return Err(Status::new(REMOVED, format!("member {} was removed from this group", envelope.from)));
        }
        let founder = self.identity.other_founders().any(|(member, _)| member == envelope.from);
        // One that this member has not heard of yet may have been admitted since: without its vote, or ours for it, the
        // group could stand still.
        let same_group = theirs == ours && ours != ClusterId::NONE;
        if envelope.from == self.identity.member() || !(founder || same_group) {
            return Err(Status::failed_precondition(format!("there is no other member {}", envelope.from)));
        }
        match self.member_node(envelope.from).and_then(|node| node.directory) {
            Some(admitted) if admitted != envelope.directory => {
                Err(Status::failed_precondition(Error::Stranger { member: envelope.from }.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn member_node(&self, member: MemberId) -> Option<MemberNode> {
        self.raft.metrics().borrow().membership_config.membership().get_node(&member).cloned()
    }

    /// Opens a message that counts in elections and commits.
    fn admit<T: DeserializeOwned>(&self, body: &RaftBody) -> Result<(Envelope<()>, T), Status> {
        if !self.admitted.load(Ordering::Acquire) {
            return Err(Status::unavailable("this member is still asking the others whether they know it"));
        }
        let (envelope, content) = Envelope::from_wire(body).map_err(|error| unusable(&error))?.split();
        self.check(body, &envelope)?;
        let met = self.identity.meet(envelope.from, envelope.directory);
        met.map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok((envelope, content))
    }

    /// Before the first answer that others count on leaves, it is on disk that there is something to lose.
    fn note_begun(&self) -> Result<(), Status> {
        if self.identity.has_begun() || self.log.is_new() {
            return Ok(());
        }
        self.identity.set_begun().map_err(|error| Status::internal(error.to_string()))
    }

    fn reply<A: Serialize>(&self, to: &Envelope<()>, content: A) -> Result<Response<RaftBody>, Status> {
        self.reply_as(self.identity.member(), to, content)
    }

    fn reply_as<A: Serialize>(
        &self,
        member: MemberId,
        to: &Envelope<()>,
        content: A,
    ) -> Result<Response<RaftBody>, Status> {
        let envelope = Envelope { from: member, directory: self.identity.directory_id(), to: to.from, content };
        let body = envelope.to_wire(self.identity.cluster());
        body.map(Response::new).map_err(|error| Status::internal(error.to_string()))
    }
}

fn unusable(error: &CodecError) -> Status {
    Status::invalid_argument(format!("a member's message can't be used: {error}"))
}

#[tonic::async_trait]
impl RaftMethods for RaftService {
    async fn append_entries(&self, request: Request<RaftBody>) -> Result<Response<RaftBody>, Status> {
        let (envelope, content) = self.admit(request.get_ref())?;
        let answer = self.raft.append_entries(content).await;
        self.note_begun()?;
        self.reply(&envelope, answer)
    }

    async fn pre_vote(&self, request: Request<RaftBody>) -> Result<Response<RaftBody>, Status> {
        let (envelope, PreVote { last_log }) = self.admit(request.get_ref())?;
        let standing = Standing::of(&self.raft, &self.log).await.map_err(Status::unavailable)?;
        self.reply(&envelope, PreVoteReply { granted: standing.would_vote_for(last_log) })
    }

    async fn vote(&self, request: Request<RaftBody>) -> Result<Response<RaftBody>, Status> {
        let (envelope, content) = self.admit(request.get_ref())?;
        let answer = self.raft.vote(content).await;
        self.note_begun()?;
        self.reply(&envelope, answer)
    }

    async fn install_snapshot(&self, request: Request<RaftBody>) -> Result<Response<RaftBody>, Status> {
        let (envelope, content) = self.admit(request.get_ref())?;
        let answer = self.raft.install_snapshot(content).await;
        self.note_begun()?;
        self.reply(&envelope, answer)
    }

    async fn hello(&self, request: Request<RaftBody>) -> Result<Response<RaftBody>, Status> {
        let body = request.get_ref();
        let (envelope, hello) = Envelope::<Hello>::from_wire(body).map_err(|error| unusable(&error))?.split();
        let initialized = self.raft.is_initialized().await;
        let initialized = initialized.map_err(|error| Status::unavailable(error.to_string()))?;
        let theirs = cluster_from_wire(&body.cluster).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let same_group = theirs == self.identity.cluster() && theirs != ClusterId::NONE;
        if !same_group && self.identity.founders().is_empty() {
            return Err(Status::failed_precondition(format!(
                "this is member {} of cluster {}, which has begun; start with --join to be admitted to it",
                self.identity.member(),
                self.identity.cluster()
            )));
        }
        if !same_group && hello.peers != self.identity.founders() {
            // Ids differ too then. The asking member compares the lists, and says so.
            return self.reply_as(envelope.to, &envelope, self.hello_reply(None, initialized));
        }
        self.check(body, &envelope)?;
        let met_you_as = self.identity.met(envelope.from);
        if met_you_as.is_none() {
            let met = self.identity.meet(envelope.from, envelope.directory);
            met.map_err(|error| Status::internal(error.to_string()))?;
        }
        self.reply(&envelope, self.hello_reply(met_you_as, initialized))
    }
}
