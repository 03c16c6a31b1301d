//! The service that a peer with a lower id dials.

use crate::gate::Gate;
use crate::peer::stream::{self, Outbound, OutboundAnswer};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};
use types::{Incarnation, NodeId};
use wire::v1;
use wire::v1::peer_server::Peer;

/// Answers peers, once the viewleaders have accepted this node (P20).
pub(crate) struct PeerService {
    gate: Arc<Gate>,
}

impl PeerService {
    /// A service behind this gate.
    pub(crate) fn new(gate: Arc<Gate>) -> PeerService {
        PeerService { gate }
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type ExchangeStream = OutboundAnswer;

    async fn exchange(&self, request: Request<Streaming<v1::PeerBatch>>) -> Result<Response<OutboundAnswer>, Status> {
        // P20: before acceptance nothing is answered.
        let node = self.gate.node().ok_or_else(|| Status::unavailable("this node has not been accepted yet"))?;
        let peers = node.peers.clone();
        let mut inbound = request.into_inner();
        let greeting = stream::greeting(&mut inbound).await.map_err(Status::invalid_argument)?;
        let peer = NodeId(greeting.from_node);
        // Its view may be newer than this node's: it dials again.
        let link = peers
            .links
            .get(peer)
            .ok_or_else(|| Status::unavailable(format!("{peer} is not in this node's view yet")))?;
        link.check(&greeting, None).map_err(Status::failed_precondition)?;
        let from = Incarnation(greeting.from_incarnation);
        peers.check_start(peer, from).map_err(Status::failed_precondition)?;
        let outbound = Outbound::attach(link.clone());
        let number = outbound.number();
        tokio::spawn(async move {
            peers.reports.trust(peer);
            tracing::info!(%peer, "the stream from a peer is up");
            let why = stream::run(&link, number, from, inbound, &peers.shards).await;
            if link.detach(number) {
                tracing::info!(%peer, why, "the stream from a peer ended");
                peers.shards.broadcast(|| crate::shard::Input::Peer(peer)).await;
                peers.probe(&link).await;
            }
        });
        Ok(Response::new(OutboundAnswer(outbound)))
    }
}
