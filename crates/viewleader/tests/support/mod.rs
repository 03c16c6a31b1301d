//! Members and fake storage nodes in one process, each member on a runtime of its own, so that it can be killed.

#![allow(clippy::unwrap_used, unreachable_pub, dead_code, reason = "helpers of tests, not all used by each")]

pub mod history;
pub mod links;
pub mod network;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use types::{PartitionCount, View};
use viewleader::{ClusterSettings, Config, Error, Host, Surroundings};
use wire::convert::apply_view_update;
use wire::v1;
use wire::v1::leader_message::Message as ToNode;
use wire::v1::leaders_client::LeadersClient;
use wire::v1::node_message::Message as FromNode;

/// A bound on every wait: reached only by a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for `future`, or fails the test.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// A member's runtime, what stops it, and what it ends with.
type Running = (Runtime, oneshot::Sender<()>, JoinHandle<Result<(), Error>>);

impl Drop for Member {
    fn drop(&mut self) {
        if let Some((runtime, _, _)) = self.running.take() {
            runtime.shutdown_background();
        }
    }
}

/// One member, running or not.
pub struct Member {
    pub config: Config,
    /// Its ways to the others, among other things.
    pub surroundings: Arc<dyn Surroundings>,
    running: Option<Running>,
}

impl Member {
    /// Starts it where it is to listen.
    pub fn start(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind(&self.config.listen).unwrap();
        let (stop, stopped) = oneshot::channel();
        let (config, surroundings) = (self.config.clone(), self.surroundings.clone());
        let task = runtime.spawn(async move {
            listener.set_nonblocking(true).unwrap();
            let incoming = TcpIncoming::from(TcpListener::from_std(listener).unwrap()).with_nodelay(Some(true));
            let stopped = async {
                stopped.await.ok();
            };
            viewleader::run_in(surroundings, incoming, None, config, stopped).await
        });
        self.running = Some((runtime, stop, task));
    }

    /// Ends it between one step and the next, as SIGKILL would.
    pub async fn kill(&mut self) {
        let (runtime, _, _) = self.running.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
    }

    /// Stops it in order.
    pub async fn stop(&mut self) -> Result<(), Error> {
        let (runtime, stop, task) = self.running.take().unwrap();
        stop.send(()).ok();
        let ended = soon("a member to stop", task).await.unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
        ended
    }

    /// What it ends with by itself.
    pub async fn ended(&mut self) -> Error {
        let (runtime, _stop, task) = self.running.take().unwrap();
        let ended = soon("a member to end", task).await.unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
        ended.unwrap_err()
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub fn client(&self) -> LeadersClient<Channel> {
        client(&self.config.advertise)
    }
}

pub fn client(address: &str) -> LeadersClient<Channel> {
    LeadersClient::new(Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy())
}

/// A free address that stays free while a member is down: outgoing connections take their ports from above these, and no
/// two tests of this process get the same.
pub fn free_address() -> String {
    const PORTS: std::ops::Range<u16> = 10_000..20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let turn = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)).wrapping_add(std::process::id().wrapping_mul(97));
        let port = PORTS.start + u16::try_from(turn % u32::from(PORTS.end - PORTS.start)).unwrap();
        if let Ok(listener) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap().to_string();
        }
    }
}

/// A group in a temporary directory.
pub struct Cluster {
    pub members: Vec<Member>,
    pub directory: TempDir,
}

impl Cluster {
    /// `count` members that are not started yet, at free ports.
    pub fn new(count: usize) -> Cluster {
        if std::env::var_os("RUST_LOG").is_some() {
            daemon::logging::init(None, daemon::logging::LogFormat::Text).unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        let peers: Vec<String> = (0..count).map(|_| free_address()).collect();
        let mut cluster = Cluster { members: Vec::new(), directory };
        for address in &peers {
            cluster.push(address, peers.clone());
        }
        cluster
    }

    /// One more member, not started yet, at a free port.
    pub fn add(&mut self) {
        self.push(&free_address(), Vec::new());
    }

    fn push(&mut self, address: &str, peers: Vec<String>) {
        let number = self.members.len();
        let config = Config {
            name: format!("leader-{number}"),
            data_dir: self.directory.path().join(number.to_string()),
            listen: address.to_owned(),
            advertise: address.to_owned(),
            peers,
            join: Vec::new(),
            http: None,
            insecure: false,
            cluster: ClusterSettings { partitions: PartitionCount::new(16).unwrap(), replication: 3, expect_nodes: 3 },
            // Fake nodes send no heartbeats unless a test says so: deaths here are proven, not guessed.
            node_timeout: 2 * PATIENCE,
            replace_after: Duration::from_secs(600),
        };
        self.members.push(Member { config, surroundings: Arc::new(Host), running: None });
    }

    /// Has the member at `place` ask those at `asked` to be admitted.
    pub fn joins(&mut self, place: usize, asked: &[usize]) {
        let list = asked.iter().map(|asked| self.members[*asked].config.advertise.clone()).collect();
        self.members[place].config.peers = Vec::new();
        self.members[place].config.join = list;
    }

    /// The id of the member at `place`.
    pub async fn id_of(&self, place: usize) -> u64 {
        let leader = self.leader().await;
        let status = self.members[leader].client().status(v1::StatusRequest {}).await.unwrap().into_inner();
        let address = &self.members[place].config.advertise;
        status.members.iter().find(|member| member.address == *address).unwrap().id
    }

    /// `count` members, started.
    pub fn started(count: usize) -> Cluster {
        let mut cluster = Cluster::new(count);
        cluster.members.iter_mut().for_each(Member::start);
        cluster
    }

    pub fn data_dir(&self, member: usize) -> PathBuf {
        self.members[member].config.data_dir.clone()
    }

    /// The place of the member that leads, once one does and says so.
    pub async fn leader(&self) -> usize {
        soon("a leader", async {
            loop {
                for member in self.members.iter().filter(|member| member.is_running()) {
                    if let Ok(status) = member.client().status(v1::StatusRequest {}).await {
                        let status = status.into_inner();
                        let leader = status.members.iter().find(|member| member.role == "leader");
                        let place = leader.and_then(|leader| {
                            self.members.iter().position(|member| member.config.advertise == leader.address)
                        });
                        if let (Some(place), None) = (place, status.error)
                            && self.members[place].is_running()
                        {
                            return place;
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    /// Opens a session with whoever leads.
    pub async fn join(&self, register: v1::Register) -> Joined {
        soon("a registration", async {
            loop {
                let leader = self.leader().await;
                match Session::open(&self.members[leader].config.advertise, register.clone()).await {
                    Some(Opened::Joined(session)) => return *session,
                    Some(Opened::Refused(error)) if error.code != types::ErrorCode::NoLeader.number() => {
                        panic!("refused: {}", error.message)
                    }
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        })
        .await
    }

    /// Why whoever leads refuses a registration.
    pub async fn refused(&self, register: v1::Register) -> v1::Error {
        let leader = self.leader().await;
        match Session::open(&self.members[leader].config.advertise, register).await {
            Some(Opened::Refused(error)) => error,
            Some(Opened::Joined(joined)) => panic!("registered as node {}", joined.registered.node),
            None => panic!("no answer"),
        }
    }
}

pub enum Opened {
    Joined(Box<Joined>),
    Refused(v1::Error),
}

/// A session after its registration.
pub struct Joined {
    pub registered: v1::Registered,
    pub session: Session,
}

/// Both directions of a session.
pub struct Session {
    pub to: mpsc::Sender<v1::NodeMessage>,
    pub from: Streaming<v1::LeaderMessage>,
    pub view: Option<Arc<View>>,
}

impl Session {
    /// Registers with the member at `address`; `None` where it does not lead, or is gone.
    pub async fn open(address: &str, register: v1::Register) -> Option<Opened> {
        let mut session = Session::begin(address, FromNode::Register(register)).await?;
        match session.from.message().await.ok()??.message? {
            ToNode::Registered(registered) => {
                let view = View::try_from(registered.view.clone().unwrap()).unwrap();
                session.view = Some(Arc::new(view));
                Some(Opened::Joined(Box::new(Joined { registered, session })))
            }
            ToNode::Refused(error) => Some(Opened::Refused(error)),
            _ => None,
        }
    }

    /// A session with any first message.
    pub async fn begin(address: &str, first: FromNode) -> Option<Session> {
        let (to, messages) = mpsc::channel(64);
        to.send(v1::NodeMessage { message: Some(first) }).await.ok()?;
        let from = client(address).session(ReceiverStream::new(messages)).await.ok()?.into_inner();
        Some(Session { to, from, view: None })
    }

    pub async fn send(&self, message: FromNode) {
        self.to.send(v1::NodeMessage { message: Some(message) }).await.unwrap();
    }

    /// The next message that is no heartbeat's answer; views are taken in on the way.
    pub async fn next(&mut self) -> Option<ToNode> {
        let message = soon("a message", self.from.message()).await.ok()??.message?;
        if let ToNode::View(update) = &message {
            self.view = Some(Arc::new(apply_view_update(self.view.as_deref(), update.clone()).unwrap()));
        }
        Some(message)
    }

    /// The view once it satisfies `wanted`.
    pub async fn view_where(&mut self, wanted: impl Fn(&View) -> bool) -> Arc<View> {
        self.view_if(wanted).await.expect("the session goes on")
    }

    /// The view once it satisfies `wanted`; `None` where the session ends before.
    pub async fn view_if(&mut self, wanted: impl Fn(&View) -> bool) -> Option<Arc<View>> {
        loop {
            if let Some(view) = self.view.clone().filter(|view| wanted(view)) {
                return Some(view);
            }
            self.next().await?;
        }
    }
}

/// What a new data directory says of itself, at an address where something may listen.
pub fn register(nonce: u64, address: &str) -> v1::Register {
    v1::Register {
        incarnation: 1,
        boot_nonce: nonce,
        address: address.to_owned(),
        weight: 100,
        ..v1::Register::default()
    }
}

/// A fake storage node: a listener, and what its directory would say at the next registration.
pub struct Node {
    pub listener: TcpListener,
    pub register: v1::Register,
}

impl Node {
    pub async fn new(nonce: u64) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let register = register(nonce, &listener.local_addr().unwrap().to_string());
        Node { listener, register }
    }

    /// Joins, and remembers what it was told.
    pub async fn join(&mut self, cluster: &Cluster) -> Session {
        let joined = cluster.join(self.register.clone()).await;
        self.register.node = joined.registered.node;
        self.register.cluster = joined.registered.cluster;
        joined.session
    }
}

/// Follows the view at one member.
pub struct Watcher {
    updates: Streaming<v1::ViewUpdate>,
    pub view: Option<View>,
}

impl Watcher {
    pub async fn new(member: &Member) -> Watcher {
        let request = v1::WatchViewRequest { have_epoch: 0 };
        let updates = soon("a watch", async {
            loop {
                match member.client().watch_view(request).await {
                    Ok(updates) => return updates.into_inner(),
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        Watcher { updates: updates.await, view: None }
    }

    /// The view once it satisfies `wanted`.
    pub async fn view_where(&mut self, wanted: impl Fn(&View) -> bool) -> &View {
        while !self.view.as_ref().is_some_and(&wanted) {
            let update = soon("an update", self.updates.message()).await.unwrap().unwrap();
            self.view = Some(apply_view_update(self.view.as_ref(), update).unwrap());
        }
        self.view.as_ref().unwrap()
    }
}
