//! What storage nodes and clients ask of the group. Any member answers any request.
//!
//! - [`session`]: a storage node's session with the leader: registration, heartbeats up, views down.
//! - [`views`]: the view, and its changes, from any member.
//! - [`status`]: what people ask.
//! - [`operations`]: what operators want, and what they are shown.
//! - [`members`]: who wants to be a member of the group, or no more.
//! - [`coordination`]: leases, locks and elections, a service of their own.
//! - [`forward`]: asking the leader in somebody's name.
//!
//! Memory is bounded whoever is slow: a watcher is sent the difference between what it has and the newest view, a
//! session that does not read ends.

mod activations;
mod coordination;
mod forward;
mod members;
mod node_leases;
mod operations;
mod session;
mod status;
mod views;

pub(crate) use coordination::CoordinationService;

use crate::leading::Leading;
use crate::raft::Group;
use activations::Activations;
use forward::Forwarder;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use types::{ErrorCode, View};
use wire::v1;
use wire::v1::leaders_server::Leaders;

/// The service of one member. Clones share it.
#[derive(Clone)]
pub(crate) struct LeadersService {
    group: Group,
    leading: watch::Receiver<Option<Leading>>,
    forwarder: Forwarder,
    activations: Activations,
    sessions: Arc<AtomicU64>,
    /// How long a session that does not read is waited for.
    patience: Duration,
    stopping: CancellationToken,
}

impl LeadersService {
    pub(crate) fn new(
        group: Group,
        leading: watch::Receiver<Option<Leading>>,
        node_timeout: Duration,
        stopping: CancellationToken,
    ) -> LeadersService {
        LeadersService {
            activations: Activations::start(group.clone()),
            forwarder: Forwarder::new(group.surroundings().clone()),
            group,
            leading,
            sessions: Arc::default(),
            patience: node_timeout,
            stopping,
        }
    }

    fn leader_address(&self) -> Option<String> {
        self.group.leadership().borrow().leader_address.clone()
    }
}

/// How a view travels to who has `have`: as what changed, or whole.
fn update(have: Option<&View>, view: &View) -> v1::ViewUpdate {
    let update = match have {
        Some(have) => v1::view_update::Update::Delta((&view.delta_from(have)).into()),
        None => v1::view_update::Update::Whole(view.into()),
    };
    v1::ViewUpdate { update: Some(update) }
}

fn no_leader() -> v1::Error {
    wire::convert::error(
        ErrorCode::NoLeader,
        "the viewleaders have no leader at the moment; try again, and check that a majority of them runs",
    )
}

#[tonic::async_trait]
impl Leaders for LeadersService {
    type SessionStream = ReceiverStream<Result<v1::LeaderMessage, Status>>;
    type WatchViewStream = ReceiverStream<Result<v1::ViewUpdate, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Ok(Response::new(self.begin_session(request.into_inner())))
    }

    async fn get_view(&self, request: Request<v1::GetViewRequest>) -> Result<Response<v1::GetViewReply>, Status> {
        Ok(Response::new(self.view(request).await))
    }

    async fn watch_view(
        &self,
        request: Request<v1::WatchViewRequest>,
    ) -> Result<Response<Self::WatchViewStream>, Status> {
        Ok(Response::new(self.watch(request.get_ref().have_epoch)))
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        Ok(Response::new(self.admit(request).await))
    }

    async fn remove_member(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberReply>, Status> {
        Ok(Response::new(self.remove(request).await))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        Ok(Response::new(self.answer_status(request).await))
    }

    async fn operate(&self, request: Request<v1::OperateRequest>) -> Result<Response<v1::OperateReply>, Status> {
        Ok(Response::new(self.operate_or_forward(request).await))
    }

    async fn moves(&self, request: Request<v1::MovesRequest>) -> Result<Response<v1::MovesReply>, Status> {
        Ok(Response::new(self.moves_or_forward(request).await))
    }
}
