//! The sending side of members' messages.

use super::GroupTypes;
use super::messages::{Envelope, Hello, HelloReply, PreVote, PreVoteReply};
use super::roster::MemberNode;
use crate::Surroundings;
use crate::identity::{DirectoryId, Identity, MemberId};
use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{AnyError, RPCTypes};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tonic::transport::Channel;
use types::limits::MESSAGE_BYTES_MAX;
use wire::v1::RaftBody;
use wire::v1::raft_client::RaftClient;

/// Between two attempts to reach a member that can't be reached.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The code by which a member is told that it was removed; nothing else is answered with it.
pub(super) const REMOVED: tonic::Code = tonic::Code::NotFound;

/// Speaks to all other members in this one's name.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) identity: Identity,
    pub(super) surroundings: Arc<dyn Surroundings>,
    /// Who said that this member was removed from the group, once somebody has.
    pub(super) removed: watch::Sender<Option<String>>,
}

/// Speaks to one member.
pub(super) struct Line {
    network: Network,
    target: MemberId,
    address: String,
    client: Option<RaftClient<Channel>>,
    /// Whether the last call was answered: what changes is logged, not every attempt.
    answers: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("{}", .0.message())]
    Status(Box<tonic::Status>),
    #[error("it took too long")]
    Late,
    #[error("the address can't be used")]
    Address,
    #[error(transparent)]
    Codec(#[from] super::codec::CodecError),
    #[error("{0}")]
    Refused(String),
}

impl From<tonic::Status> for NoAnswer {
    fn from(status: tonic::Status) -> NoAnswer {
        NoAnswer::Status(Box::new(status))
    }
}

/// The services' methods, by name.
#[derive(Clone, Copy, Debug)]
enum Method {
    AppendEntries,
    PreVote,
    Vote,
    InstallSnapshot,
    Hello,
}

impl Network {
    pub(super) fn line(&self, target: MemberId, address: &str) -> Line {
        let client = self.surroundings.channel(address).ok().map(|channel| {
            RaftClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        });
        Line { network: self.clone(), target, address: address.to_owned(), client, answers: true }
    }
}

impl Line {
    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &mut self,
        method: Method,
        content: Q,
        timeout: Duration,
    ) -> Result<Envelope<A>, NoAnswer> {
        let identity = &self.network.identity;
        let cluster = identity.cluster();
        let envelope =
            Envelope { from: identity.member(), directory: identity.directory_id(), to: self.target, content };
        let mut request = tonic::Request::new(envelope.to_wire(cluster)?);
        request.set_timeout(timeout);
        let client = self.client.as_mut().ok_or(NoAnswer::Address)?;
        // Measured here too: resolving a name can take longer than any deadline that travels.
        let answered = tokio::time::timeout(timeout, async {
            match method {
                Method::AppendEntries => client.append_entries(request).await,
                Method::PreVote => client.pre_vote(request).await,
                Method::Vote => client.vote(request).await,
                Method::InstallSnapshot => client.install_snapshot(request).await,
                Method::Hello => client.hello(request).await,
            }
        });
        let reply = answered.await.map_err(|_| NoAnswer::Late)?;
        if let Err(status) = &reply
            && status.code() == REMOVED
        {
            self.network.removed.send_replace(Some(format!("{} says so", self.address)));
        }
        let reply: RaftBody = reply?.into_inner();
        let reply: Envelope<A> = Envelope::from_wire(&reply)?;
        if reply.from != self.target || reply.to != identity.member() {
            return Err(NoAnswer::Refused(format!("member {} answered instead of {}", reply.from, self.target)));
        }
        Ok(reply)
    }

    /// Asks the member who it is, and from which directory it speaks.
    pub(super) async fn hello(&mut self, timeout: Duration) -> Result<(DirectoryId, HelloReply), NoAnswer> {
        let peers = self.network.identity.founders().to_vec();
        let reply: Envelope<HelloReply> = self.ask(Method::Hello, Hello { peers }, timeout).await?;
        Ok((reply.directory, reply.content))
    }

    /// Asks the member whether it would vote for this one.
    pub(super) async fn pre_vote(&mut self, asked: PreVote, timeout: Duration) -> Result<PreVoteReply, NoAnswer> {
        let reply: Envelope<PreVoteReply> = self.ask(Method::PreVote, asked, timeout).await?;
        let met = self.network.identity.meet(reply.from, reply.directory);
        met.map_err(|error| NoAnswer::Refused(error.to_string()))?;
        Ok(reply.content)
    }

    async fn call<Q, A, E>(
        &mut self,
        method: Method,
        content: Q,
        option: RPCOption,
    ) -> Result<A, RPCError<u64, MemberNode, RaftError<u64, E>>>
    where
        Q: Serialize,
        A: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
    {
        let timeout = option.hard_ttl();
        let asked = self.ask::<Q, Result<A, RaftError<u64, E>>>(method, content, timeout).await;
        // A vote of a member that lost its directory must not count.
        let met = |reply: Envelope<_>| match self.network.identity.meet(reply.from, reply.directory) {
            Ok(()) => Ok(reply.content),
            Err(error) => Err(NoAnswer::Refused(error.to_string())),
        };
        match (asked.and_then(met), self.answers) {
            (Ok(content), answered_before) => {
                self.answers = true;
                if !answered_before {
                    tracing::info!(member = self.target, "a viewleader answers again");
                }
                content.map_err(|error| RPCError::RemoteError(RemoteError::new(self.target, error)))
            }
            (Err(error), answered_before) => {
                self.answers = false;
                if answered_before {
                    tracing::warn!(member = self.target, ?method, %error, "a viewleader does not answer");
                }
                Err(match error {
                    NoAnswer::Late => {
                        let action = match method {
                            Method::Vote | Method::PreVote => RPCTypes::Vote,
                            Method::AppendEntries | Method::Hello => RPCTypes::AppendEntries,
                            Method::InstallSnapshot => RPCTypes::InstallSnapshot,
                        };
                        let id = self.network.identity.member();
                        RPCError::Timeout(Timeout { action, id, target: self.target, timeout })
                    }
                    error => RPCError::Unreachable(Unreachable::from(AnyError::new(&error))),
                })
            }
        }
    }
}

impl RaftNetworkFactory<GroupTypes> for Network {
    type Network = Line;

    async fn new_client(&mut self, target: u64, node: &MemberNode) -> Line {
        self.line(target, &node.address)
    }
}

impl RaftNetwork<GroupTypes> for Line {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<GroupTypes>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, MemberNode, RaftError<u64>>> {
        self.call(Method::AppendEntries, rpc, option).await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<GroupTypes>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RPCError<u64, MemberNode, RaftError<u64, InstallSnapshotError>>> {
        self.call(Method::InstallSnapshot, rpc, option).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, MemberNode, RaftError<u64>>> {
        self.call(Method::Vote, rpc, option).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_AFTER))
    }
}
