//! Viewleaders and storage nodes that do as a test says, on ports of their own.

use futures::Stream;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnboundedReceiverStream, WatchStream};
use tonic::{Request, Response, Status, Streaming};
use types::{ClusterId, Configuration, Epoch, ErrorCode, Incarnation, NodeId, NodeInfo, PartitionCount, Term, View};
use wire::v1;

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A view of one partition with these nodes, each `(id, address)`, the first one primary.
pub(crate) fn view(epoch: u64, nodes: &[(u64, &str)]) -> View {
    let mut view = View::new(ClusterId(7), PartitionCount::new(1).unwrap(), 3);
    view.epoch = Epoch(epoch);
    for (id, address) in nodes {
        let node = NodeInfo {
            id: NodeId(*id),
            address: (*address).to_owned(),
            http_address: String::new(),
            zone: String::new(),
            weight: 100,
            incarnation: Incarnation(1),
            accepted_at: Epoch(1),
            alive: true,
            duty: types::Duty::Active,
        };
        view.nodes.insert(node.id, node);
    }
    if !nodes.is_empty() {
        let replicas = nodes.iter().map(|(id, _)| NodeId(*id)).collect();
        view.configurations = vec![Arc::new(Configuration { term: Term(epoch), replicas, ..Default::default() })];
    }
    view
}

/// A server that ends with its value, like a killed process: connections break, further ones are refused.
pub(crate) struct Running {
    pub(crate) address: String,
    task: JoinHandle<()>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Running {
    /// Kills it.
    pub(crate) fn kill(mut self) -> String {
        self.stop();
        self.address.clone()
    }

    fn stop(&mut self) {
        self.task.abort();
        // Connections are tasks of their own: only the runtime's end takes them along.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(router: tonic::transport::server::Router) -> Running {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let std_listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    std_listener.set_nonblocking(true).unwrap();
    let address = std_listener.local_addr().unwrap().to_string();
    let task = runtime.spawn(async move {
        let listener = TcpListener::from_std(std_listener).unwrap();
        router.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
    });
    Running { address, task, runtime: Some(runtime) }
}

/// How often a watched node says the same in one batch: its client is never idle.
const CHATTER: usize = 500;

/// A viewleader that answers with whatever view the channel holds.
pub(crate) fn leader(views: &watch::Sender<View>) -> Running {
    let fake = FakeLeader { views: views.subscribe() };
    run(tonic::transport::Server::builder().add_service(v1::leaders_server::LeadersServer::new(fake)))
}

struct FakeLeader {
    views: watch::Receiver<View>,
}

fn whole(view: &View) -> v1::ViewUpdate {
    v1::ViewUpdate { update: Some(v1::view_update::Update::Whole(view.into())) }
}

#[tonic::async_trait]
impl v1::leaders_server::Leaders for FakeLeader {
    type SessionStream = Boxed<v1::LeaderMessage>;
    type WatchViewStream = Boxed<v1::ViewUpdate>;

    async fn session(
        &self,
        _: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Boxed<v1::LeaderMessage>>, Status> {
        Err(Status::unavailable("no sessions here"))
    }

    async fn get_view(&self, request: Request<v1::GetViewRequest>) -> Result<Response<v1::GetViewReply>, Status> {
        let view = self.views.borrow();
        let newer = view.epoch.0 > request.get_ref().have_epoch || request.get_ref().have_epoch == 0;
        let update = newer.then(|| whole(&view));
        Ok(Response::new(v1::GetViewReply { update, epoch: view.epoch.0, ..Default::default() }))
    }

    async fn watch_view(&self, _: Request<v1::WatchViewRequest>) -> Result<Response<Boxed<v1::ViewUpdate>>, Status> {
        let updates = WatchStream::new(self.views.clone()).map(|view| Ok(whole(&view)));
        Ok(Response::new(Box::pin(updates)))
    }

    async fn join(&self, _: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        Err(Status::unimplemented("not asked by clients"))
    }

    async fn remove_member(
        &self,
        _: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberReply>, Status> {
        Err(Status::unimplemented("not asked by clients"))
    }

    async fn operate(&self, _: Request<v1::OperateRequest>) -> Result<Response<v1::OperateReply>, Status> {
        let error = wire::convert::error(types::ErrorCode::Refused, "too few nodes");
        Ok(Response::new(v1::OperateReply { error: Some(error), epoch: 0 }))
    }

    async fn moves(&self, request: Request<v1::MovesRequest>) -> Result<Response<v1::MovesReply>, Status> {
        let refused = || wire::convert::error(types::ErrorCode::Refused, "too few nodes");
        let error = request.get_ref().if_done.is_some().then(refused);
        Ok(Response::new(v1::MovesReply { error, epoch: self.views.borrow().epoch.0, ..Default::default() }))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let view = self.views.borrow();
        let node = |node| v1::NodeStatus { node: Some(node), ..Default::default() };
        Ok(Response::new(v1::StatusReply {
            epoch: view.epoch.0,
            nodes: view.nodes.values().map(|n| node(n.into())).collect(),
            expected_nodes: 3,
            has_map: view.has_map(),
            ..Default::default()
        }))
    }
}

/// What a storage node does with a request.
pub(crate) enum Act {
    Answer(v1::Response),
    /// Nothing, ever.
    Silence,
    /// Ends the stream.
    Break,
}

pub(crate) type Script = Arc<dyn Fn(&v1::Request) -> Act + Send + Sync>;

/// A storage node that follows a script and remembers each batch that came.
pub(crate) struct Node {
    pub(crate) running: Running,
    pub(crate) batches: Arc<Mutex<Vec<v1::RequestBatch>>>,
    pub(crate) arrivals: mpsc::UnboundedReceiver<v1::Request>,
    pub(crate) subscriptions: mpsc::UnboundedReceiver<v1::Subscription>,
}

impl Node {
    pub(crate) fn address(&self) -> &str {
        &self.running.address
    }

    pub(crate) fn requests(&self) -> Vec<v1::Request> {
        self.batches.lock().unwrap().iter().flat_map(|batch| batch.requests.clone()).collect()
    }
}

pub(crate) fn node(epoch: u64, script: impl Fn(&v1::Request) -> Act + Send + Sync + 'static) -> Node {
    let batches = Arc::new(Mutex::new(Vec::new()));
    let (arrived, arrivals) = mpsc::unbounded_channel();
    let (subscribed, subscriptions) = mpsc::unbounded_channel();
    let fake = FakeNode { epoch, script: Arc::new(script), batches: batches.clone(), arrived, subscribed };
    let running = run(tonic::transport::Server::builder().add_service(v1::kv_server::KvServer::new(fake)));
    Node { running, batches, arrivals, subscriptions }
}

struct FakeNode {
    epoch: u64,
    script: Script,
    batches: Arc<Mutex<Vec<v1::RequestBatch>>>,
    arrived: mpsc::UnboundedSender<v1::Request>,
    subscribed: mpsc::UnboundedSender<v1::Subscription>,
}

#[tonic::async_trait]
impl v1::kv_server::Kv for FakeNode {
    type StreamStream = Boxed<v1::ResponseBatch>;
    type WatchStream = Boxed<v1::WatchBatch>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::RequestBatch>>,
    ) -> Result<Response<Boxed<v1::ResponseBatch>>, Status> {
        let mut inbound = request.into_inner();
        let (answers, outbound) = mpsc::unbounded_channel();
        let (epoch, script, batches, arrived) =
            (self.epoch, self.script.clone(), self.batches.clone(), self.arrived.clone());
        tokio::spawn(async move {
            while let Ok(Some(batch)) = inbound.message().await {
                batches.lock().unwrap().push(batch.clone());
                let mut responses = Vec::new();
                for request in &batch.requests {
                    let act = script(request);
                    arrived.send(request.clone()).ok();
                    match act {
                        Act::Answer(response) => responses.push(v1::Response { number: request.number, ..response }),
                        Act::Silence => {}
                        Act::Break => return,
                    }
                }
                // In the other order than asked: answers come as they will.
                responses.reverse();
                if answers.send(Ok(v1::ResponseBatch { epoch, responses })).is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(outbound))))
    }

    /// Says without a pause how far it is, and never that it is no primary any more.
    async fn watch(
        &self,
        request: Request<Streaming<v1::WatchRequest>>,
    ) -> Result<Response<Boxed<v1::WatchBatch>>, Status> {
        let mut inbound = request.into_inner();
        let (batches, outbound) = mpsc::channel(4);
        let (epoch, subscribed) = (self.epoch, self.subscribed.clone());
        tokio::spawn(async move {
            let mut parts = Vec::new();
            loop {
                tokio::select! {
                    request = inbound.message() => {
                        let Ok(Some(request)) = request else { return };
                        for asked in request.subscriptions {
                            subscribed.send(asked).ok();
                            let v1::Subscription { number: subscription, partition, after } = asked;
                            let part = v1::WatchPart { subscription, partition, after, through: after, ..Default::default() };
                            parts.extend(vec![part; CHATTER]);
                        }
                    }
                    room = batches.reserve(), if !parts.is_empty() => {
                        let Ok(room) = room else { return };
                        room.send(Ok(v1::WatchBatch { epoch, parts: parts.clone() }));
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outbound))))
    }

    async fn call(&self, _: Request<v1::Request>) -> Result<Response<v1::Response>, Status> {
        Err(Status::unimplemented("only streams here"))
    }
}

/// A gRPC server without the services of a viewleader.
pub(crate) fn stranger() -> Running {
    node(0, |_| Act::Silence).running
}

pub(crate) fn written(version: u64) -> Act {
    let written = v1::Written { version, replaced: false, durable_on: 2, term: 1 };
    Act::Answer(v1::Response { result: Some(v1::response::Result::Written(written)), ..Default::default() })
}

pub(crate) fn found(value: &'static [u8]) -> Act {
    let found = v1::Found { value: value.into(), version: 1 };
    Act::Answer(v1::Response { result: Some(v1::response::Result::Found(found)), ..Default::default() })
}

pub(crate) fn condition_failed() -> Act {
    let failed = v1::ConditionFailed { present: true, version: 9 };
    Act::Answer(v1::Response { result: Some(v1::response::Result::ConditionFailed(failed)), ..Default::default() })
}

pub(crate) fn refusal(code: ErrorCode) -> v1::Response {
    let error = wire::convert::error(code, format!("{code:?}"));
    v1::Response { result: Some(v1::response::Result::Error(error)), ..Default::default() }
}

pub(crate) fn refused(code: ErrorCode) -> Act {
    Act::Answer(refusal(code))
}

/// The id and stamp that a mutation carries.
pub(crate) fn id_of(request: &v1::Request) -> v1::RequestId {
    use v1::request::Operation;
    match request.operation.clone().unwrap() {
        Operation::Put(put) => put.request.unwrap(),
        Operation::Delete(delete) => delete.request.unwrap(),
        Operation::Transact(transact) => transact.request.unwrap(),
        Operation::Get(_) | Operation::Collect(_) | Operation::Scan(_) => panic!("a read carries no id"),
    }
}

/// A port where somebody accepts and never says a word.
pub(crate) async fn mute() -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    (address, task)
}

/// A port where nobody listens.
pub(crate) fn nobody() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
