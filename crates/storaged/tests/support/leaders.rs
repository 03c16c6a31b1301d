//! One viewleader that keeps everything in memory: registrations, views, activations.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use types::{ClusterId, Configuration, Epoch, ErrorCode, Incarnation, NodeId, NodeInfo, PartitionCount, Term, View};
use wire::convert::{cluster_from_wire, cluster_to_wire, error};
use wire::v1;
use wire::v1::leader_message::Message as Down;
use wire::v1::leaders_server::{Leaders, LeadersServer};
use wire::v1::node_message::Message as Up;

pub(crate) const CLUSTER: ClusterId = ClusterId(0x5eed);

/// The stand-in. Clones are handles to the same.
#[derive(Clone)]
pub(crate) struct FakeLeaders {
    shared: Arc<Shared>,
}

/// Node id as it was sent, incarnation, boot nonce.
type Start = (u64, u64, u64);

struct Shared {
    expected: usize,
    partitions: u32,
    view: watch::Sender<Arc<View>>,
    starts: Mutex<BTreeMap<Start, (NodeId, Epoch)>>,
    heard: Mutex<Vec<Up>>,
    heard_news: watch::Sender<usize>,
    redirect: Mutex<Option<String>>,
}

impl FakeLeaders {
    /// A group that makes its first map when `expected` nodes have registered.
    pub(crate) fn new(expected: usize, partitions: u32) -> FakeLeaders {
        let view = View::new(CLUSTER, PartitionCount::new(partitions).unwrap(), 3);
        let shared = Shared {
            expected,
            partitions,
            view: watch::Sender::new(Arc::new(view)),
            starts: Mutex::default(),
            heard: Mutex::default(),
            heard_news: watch::Sender::new(0),
            redirect: Mutex::default(),
        };
        FakeLeaders { shared: Arc::new(shared) }
    }

    /// Answers on a port of its own until the token is cancelled; then everything it had open breaks.
    pub(crate) async fn serve(&self) -> (String, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (address, self.serve_on(listener))
    }

    pub(crate) fn serve_on(&self, listener: TcpListener) -> CancellationToken {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let server = tonic::transport::Server::builder()
            .add_service(LeadersServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(async move {
            tokio::select! {
                outcome = server => outcome.unwrap(),
                () = stopped.cancelled() => {}
            }
        });
        stop
    }

    /// From now on it says that somebody else leads.
    pub(crate) fn redirect(&self, address: &str) {
        *self.shared.redirect.lock().unwrap() = Some(address.to_owned());
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.shared.view.borrow().clone()
    }

    /// Waits for a view of which this holds.
    pub(crate) async fn view_with(&self, holds: impl Fn(&View) -> bool) -> Arc<View> {
        self.shared.view.subscribe().wait_for(|view| holds(view)).await.unwrap().clone()
    }

    /// Waits until a node has said something of which this holds.
    pub(crate) async fn heard(&self, holds: impl Fn(&Up) -> bool) {
        let mut news = self.shared.heard_news.subscribe();
        loop {
            if self.shared.heard.lock().unwrap().iter().any(&holds) {
                return;
            }
            news.changed().await.unwrap();
        }
    }

    /// Every primary of `node` moves to the next replica, in one change.
    pub(crate) fn depose(&self, node: NodeId) {
        self.change(|view| {
            let term = Term(view.epoch.0);
            for configuration in &mut view.configurations {
                if configuration.primary() == Some(node) {
                    let mut changed = configuration.as_ref().clone();
                    changed.replicas.rotate_left(1);
                    changed.term = term;
                    *configuration = Arc::new(changed);
                }
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut View)) -> Epoch {
        let mut epoch = Epoch(0);
        self.shared.view.send_modify(|view| {
            let mut next = view.as_ref().clone();
            next.epoch = next.epoch.next();
            epoch = next.epoch;
            change(&mut next);
            *view = Arc::new(next);
        });
        epoch
    }

    fn register(&self, register: &v1::Register) -> Result<v1::Registered, v1::Error> {
        let cluster = cluster_from_wire(&register.cluster).unwrap();
        if cluster != ClusterId::NONE && cluster != CLUSTER {
            return Err(error(ErrorCode::WrongCluster, format!("it is of cluster {cluster}, this is {CLUSTER}")));
        }
        let mut starts = self.shared.starts.lock().unwrap();
        let start = (register.node, register.incarnation, register.boot_nonce);
        if let Some((node, accepted_at)) = starts.get(&start).copied() {
            return Ok(self.registered(node, accepted_at));
        }
        let known = starts.keys().filter(|(node, ..)| register.node != 0 && *node == register.node);
        if known.clone().any(|(_, incarnation, _)| *incarnation >= register.incarnation) {
            return Err(error(ErrorCode::Refused, "this directory is an older copy; start with an empty one"));
        }
        let node = NodeId(if register.node == 0 { self.view().nodes.len() as u64 + 1 } else { register.node });
        let accepted_at = self.change(|view| {
            let info = NodeInfo {
                id: node,
                address: register.address.clone(),
                http_address: register.http_address.clone(),
                zone: register.zone.clone(),
                weight: register.weight,
                incarnation: Incarnation(register.incarnation),
                accepted_at: view.epoch,
                alive: true,
                duty: types::Duty::Active,
            };
            view.nodes.insert(node, info);
        });
        starts.insert(start, (node, accepted_at));
        starts.insert((node.0, register.incarnation, register.boot_nonce), (node, accepted_at));
        drop(starts);
        let registered = self.registered(node, accepted_at);
        if self.view().has_map() {
            // P11: a new start gets new terms where it is primary.
            self.change(|view| {
                let term = Term(view.epoch.0);
                for configuration in &mut view.configurations {
                    if configuration.primary() == Some(node) {
                        *configuration = Arc::new(Configuration { term, ..configuration.as_ref().clone() });
                    }
                }
            });
        } else if self.view().nodes.len() == self.shared.expected {
            self.change(|view| {
                let nodes: Vec<NodeId> = view.nodes.keys().copied().collect();
                let term = Term(view.epoch.0);
                for partition in 0..self.shared.partitions as usize {
                    let mut replicas = nodes.clone();
                    replicas.rotate_left(partition % nodes.len());
                    view.configurations.push(Arc::new(Configuration { term, replicas, ..Default::default() }));
                }
            });
        }
        Ok(registered)
    }

    fn registered(&self, node: NodeId, accepted_at: Epoch) -> v1::Registered {
        v1::Registered {
            cluster: cluster_to_wire(CLUSTER),
            node: node.0,
            accepted_at: accepted_at.0,
            view: Some(self.view().as_ref().into()),
            member_addresses: Vec::new(),
        }
    }

    async fn talk(self, mut up: Streaming<v1::NodeMessage>, down: mpsc::Sender<Result<v1::LeaderMessage, Status>>) {
        let say = |message| down.send(Ok(v1::LeaderMessage { message: Some(message) }));
        let mut views = self.shared.view.subscribe();
        let mut sent: Option<Arc<View>> = None;
        loop {
            let answer = tokio::select! {
                message = up.message() => match message {
                    Ok(Some(message)) => self.answer(message.message.unwrap(), &mut sent),
                    _ => return,
                },
                _ = views.changed(), if sent.is_some() => {
                    let view = views.borrow_and_update().clone();
                    let Some(known) = sent.replace(view.clone()) else { continue };
                    let delta = v1::view_update::Update::Delta((&view.delta_from(&known)).into());
                    Some(Down::View(v1::ViewUpdate { update: Some(delta) }))
                }
            };
            if let Some(answer) = answer
                && say(answer).await.is_err()
            {
                return;
            }
        }
    }

    fn answer(&self, message: Up, sent: &mut Option<Arc<View>>) -> Option<Down> {
        let answer = match &message {
            Up::Register(register) => {
                if let Some(leader_address) = self.shared.redirect.lock().unwrap().clone() {
                    return Some(Down::NotLeader(v1::NotLeader { leader_address }));
                }
                match self.register(register) {
                    Ok(registered) => {
                        let view = View::try_from(registered.view.clone().unwrap()).unwrap();
                        *sent = Some(Arc::new(view));
                        self.shared.view.send_modify(|_| {});
                        Some(Down::Registered(registered))
                    }
                    Err(error) => Some(Down::Refused(error)),
                }
            }
            Up::Heartbeat(_) => Some(Down::Heartbeat(v1::HeartbeatReply::default())),
            Up::Activated(activated) => Some(Down::Activated(v1::ActivatedReply {
                partition: activated.partition,
                term: activated.term,
                accepted: true,
            })),
            _ => None,
        };
        self.shared.heard.lock().unwrap().push(message);
        self.shared.heard_news.send_modify(|count| *count += 1);
        answer
    }
}

type Answers<T> = Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Leaders for FakeLeaders {
    type SessionStream = ReceiverStream<Result<v1::LeaderMessage, Status>>;
    type WatchViewStream = Answers<v1::ViewUpdate>;

    async fn session(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (down, messages) = mpsc::channel(64);
        tokio::spawn(self.clone().talk(request.into_inner(), down));
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn get_view(&self, _: Request<v1::GetViewRequest>) -> Result<Response<v1::GetViewReply>, Status> {
        Err(Status::unimplemented("not asked by nodes"))
    }

    async fn watch_view(&self, _: Request<v1::WatchViewRequest>) -> Result<Response<Self::WatchViewStream>, Status> {
        Err(Status::unimplemented("not asked by nodes"))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        Err(Status::unimplemented("not asked by nodes"))
    }

    async fn join(&self, _: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        Err(Status::unimplemented("not asked by nodes"))
    }

    async fn remove_member(
        &self,
        _: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberReply>, Status> {
        Err(Status::unimplemented("not asked by nodes"))
    }

    async fn operate(&self, _: Request<v1::OperateRequest>) -> Result<Response<v1::OperateReply>, Status> {
        Err(Status::unimplemented("not asked by nodes"))
    }

    async fn moves(&self, _: Request<v1::MovesRequest>) -> Result<Response<v1::MovesReply>, Status> {
        Err(Status::unimplemented("not asked by nodes"))
    }
}
