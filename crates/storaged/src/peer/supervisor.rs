//! Keeps a stream to every peer up, and says when one is not.
//!
//! The node with the lower id dials; the other waits. Whoever loses a stream finds out why: a machine that refuses a
//! connection is evidence for the viewleader that the process there is gone, a slow one is not.

use crate::grpc;
use crate::me::Me;
use crate::peer::Links;
use crate::peer::link::{Link, Sender};
use crate::peer::stream::{self, Outbound};
use crate::reports::Reports;
use crate::shard::{Input, Shards};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use types::limits::MESSAGE_BYTES_MAX;
use types::{Incarnation, NodeId, View};
use wire::v1::peer_client::PeerClient;

/// Between two attempts to dial: doubles from the first to the second.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(200);
/// Longest attempt to find out whether anybody listens at a peer's address.
const PROBE_MAX: Duration = Duration::from_millis(300);
/// A killed process's sockets close one after the other: how often, and how far apart, its address is tried.
const PROBES: u32 = 3;
const PROBE_EVERY: Duration = Duration::from_millis(15);

/// What the streams need of the node.
pub(crate) struct Peers {
    /// This node.
    pub(crate) me: Me,
    /// The outboxes.
    pub(crate) links: Arc<Links>,
    /// Who gets what arrives.
    pub(crate) shards: Shards,
    /// What the viewleader should hear.
    pub(crate) reports: Arc<Reports>,
    /// Where the peers are.
    pub(crate) view: watch::Receiver<Arc<View>>,
}

impl Peers {
    /// Follows the view: a link, and a task where this node dials, for every other node. Ends when the view does.
    pub(crate) async fn follow_view(self: Arc<Self>) {
        let mut dialling: BTreeMap<NodeId, JoinHandle<()>> = BTreeMap::new();
        let mut changes = self.view.clone();
        loop {
            let view = changes.borrow_and_update().clone();
            for node in view.nodes.keys().filter(|node| **node != self.me.node) {
                if self.links.get(*node).is_some() {
                    continue;
                }
                let link = Arc::new(Link::new(*node, self.sender()));
                self.links.insert(link.clone());
                if self.me.node < *node {
                    let peers = self.clone();
                    dialling.insert(*node, tokio::spawn(async move { peers.keep_dialling(&link).await }));
                }
                self.tell_shards(*node).await;
            }
            for link in self.links.all() {
                if !view.nodes.contains_key(&link.peer()) {
                    self.links.remove(link.peer());
                    if let Some(task) = dialling.remove(&link.peer()) {
                        task.abort();
                    }
                    link.close();
                    self.tell_shards(link.peer()).await;
                }
            }
            if changes.changed().await.is_err() {
                break;
            }
        }
        for task in dialling.into_values() {
            task.abort();
        }
        for link in self.links.all() {
            link.close();
        }
    }

    fn sender(&self) -> Sender {
        Sender { cluster: self.me.cluster_bytes(), node: self.me.node, incarnation: self.me.incarnation }
    }

    async fn tell_shards(&self, peer: NodeId) {
        self.shards.broadcast(|| Input::Peer(peer)).await;
    }

    fn address(&self, peer: NodeId) -> Option<String> {
        self.view.borrow().nodes.get(&peer).map(|node| node.address.clone())
    }

    /// P20: the newest start of the peer that this node has heard of.
    pub(crate) fn newest_incarnation(&self, peer: NodeId) -> Incarnation {
        self.view.borrow().nodes.get(&peer).map_or(Incarnation(0), |node| node.incarnation)
    }

    async fn keep_dialling(&self, link: &Arc<Link>) {
        let peer = link.peer();
        let mut backoff = BACKOFF_MIN;
        let mut said = false;
        loop {
            let Some(address) = self.address(peer) else { return };
            match self.dial(link, &address).await {
                Ok(ended) => {
                    tracing::info!(%peer, address, why = ended, "the stream to a peer ended");
                    self.tell_shards(peer).await;
                    (backoff, said) = (BACKOFF_MIN, false);
                }
                Err(NotDialled { refused, why }) => {
                    if refused {
                        self.reports.suspect(peer);
                    }
                    if !said {
                        tracing::info!(%peer, address, why, "cannot reach a peer; trying on");
                        said = true;
                    }
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Connects, greets and runs the stream; `Ok` with the reason why it ended, once it was up.
    async fn dial(&self, link: &Arc<Link>, address: &str) -> Result<String, NotDialled> {
        let channel = grpc::endpoint(address)
            .map_err(NotDialled::other)?
            .connect()
            .await
            .map_err(|error| NotDialled { refused: grpc::is_refused(&error), why: grpc::root_cause(&error) })?;
        let mut client = PeerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let outbound = Outbound::attach(link.clone());
        let number = outbound.number();
        let begun = async {
            let answer = client.exchange(outbound).await.map_err(|status| status.message().to_owned())?;
            let mut inbound = answer.into_inner();
            let greeting = stream::greeting(&mut inbound).await?;
            link.check(&greeting, None)?;
            self.check_start(link.peer(), Incarnation(greeting.from_incarnation))?;
            Ok::<_, String>((Incarnation(greeting.from_incarnation), inbound))
        };
        let ended = match begun.await {
            Ok((from, inbound)) => {
                self.reports.trust(link.peer());
                tracing::info!(peer = %link.peer(), address, "the stream to a peer is up");
                Ok(stream::run(link, number, from, inbound, &self.shards).await)
            }
            Err(why) => Err(NotDialled::other(why)),
        };
        link.detach(number);
        ended
    }

    /// P6, P20: an older start than the view names is a process that should be gone.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check_start(&self, peer: NodeId, start: Incarnation) -> Result<(), String> {
        let newest = self.newest_incarnation(peer);
        if start < newest {
            return Err(format!("it is start {} of {peer}, the view has {}", start.0, newest.0));
        }
        Ok(())
    }

    /// The side that does not dial has lost its stream: does the peer's machine refuse connections?
    pub(crate) async fn probe(&self, link: &Link) {
        let peer = link.peer();
        for _ in 0..PROBES {
            tokio::time::sleep(PROBE_EVERY).await;
            let Some(address) = self.address(peer) else { return };
            if link.era().is_some() {
                return;
            }
            let outcome = tokio::time::timeout(PROBE_MAX, TcpStream::connect(&address)).await;
            if let Ok(Err(error)) = outcome
                && error.kind() == io::ErrorKind::ConnectionRefused
            {
                self.reports.suspect(peer);
                return;
            }
        }
    }
}

struct NotDialled {
    refused: bool,
    why: String,
}

impl NotDialled {
    fn other(why: String) -> NotDialled {
        NotDialled { refused: false, why }
    }
}
