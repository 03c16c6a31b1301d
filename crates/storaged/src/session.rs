//! The node's session with the viewleader: registration first, then heartbeats and reports up, views and answers down.
//!
//! When it breaks the next address is tried at once; what replicas need from it is kept on the board ([`Reports`]) until
//! somebody hears it. Nothing that is served waits for it: with every viewleader gone, reads and writes go on.

use crate::grpc;
use crate::identity::Identity;
use crate::reports::Reports;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use types::limits::MESSAGE_BYTES_MAX;
use types::{ClusterId, Epoch, ErrorCode, LeaseId, NodeId, PartitionId, Term, View};
use wire::convert::{apply_view_update, cluster_from_wire, cluster_to_wire, required};
use wire::v1;
use wire::v1::leader_message::Message as Down;
use wire::v1::leaders_client::LeadersClient;
use wire::v1::node_message::Message as Up;

/// How often the viewleader hears that this node is alive.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(100);
/// Without a word for so long the session is over: well before a new leader counts this node's own silence against it.
const SILENCE_MAX: Duration = Duration::from_millis(700);
/// For so long an address that was silent is passed over, whoever names it.
const PASSED_OVER: Duration = Duration::from_secs(3);
/// How long a connection may take before the next address is tried.
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// How long a registration may take, which the group commits: at first, and once all addresses were tried in vain.
const REGISTRATION_MAX: Duration = Duration::from_millis(700);
const REGISTRATION_MAX_IN_NEED: Duration = Duration::from_secs(3);
/// After a round through all addresses in vain.
const BACKOFF: Duration = Duration::from_millis(100);
/// Viewleaders kept beside those given at the start.
const LEARNED_MAX: usize = 16;
/// Messages on their way up.
const OUTBOX_LENGTH: usize = 256;

/// What comes from the viewleaders.
#[derive(Debug)]
pub(crate) enum LeaderEvent {
    /// This start of this node is accepted; said at the beginning of each session.
    Accepted {
        /// The cluster.
        cluster: ClusterId,
        /// This node.
        node: NodeId,
        /// P11.
        accepted_at: Epoch,
    },
    /// The view. Not on disk yet.
    View(Arc<View>),
    /// P16.
    ActivationAnswered {
        /// Which partition.
        partition: PartitionId,
        /// Which term.
        term: Term,
        /// Whether it is committed.
        accepted: bool,
    },
    /// P3.
    DamageNoted {
        /// Which partition.
        partition: PartitionId,
        /// At which epoch.
        epoch: Epoch,
    },
    /// Keys that live as long as these are to go.
    LeasesEnded(Vec<LeaseId>),
    /// This node may not be part of the cluster: it ends.
    Refused(String),
}

/// What the node says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    /// The viewleaders' addresses.
    pub(crate) leaders: Vec<String>,
    /// Where others reach this node.
    pub(crate) address: String,
    /// Where others reach its HTTP gateway.
    pub(crate) http_address: String,
    /// Replicas of one partition go to distinct zones.
    pub(crate) zone: String,
    /// Its share of the partitions.
    pub(crate) weight: u32,
    /// The highest promise found on disk (P20).
    pub(crate) highest_promised: Term,
}

/// What heartbeats tell of the stored data.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Users' keys.
    pub(crate) keys: AtomicU64,
    /// Their bytes.
    pub(crate) bytes: AtomicU64,
    /// What was read here to fill other nodes, in bytes.
    pub(crate) filled_bytes: AtomicU64,
    /// Keyspaces that should not be here, by the view of this epoch.
    pub(crate) surplus: Mutex<(Epoch, u32)>,
    /// Sizes of partitions, to be told once.
    pub(crate) sizes: Mutex<Vec<v1::PartitionSize>>,
}

/// The task that keeps a session.
pub(crate) struct Session {
    introduction: Introduction,
    /// The viewleaders that were given at the start: they stay in the list, whoever joins or goes.
    given: Vec<String>,
    identity: Identity,
    view: Option<Arc<View>>,
    reports: Arc<Reports>,
    contents: Arc<Contents>,
    events: mpsc::Sender<LeaderEvent>,
    /// Where the leader was last said to be.
    hint: Option<String>,
    /// Who took a connection and then said nothing, and when.
    silent: BTreeMap<String, Instant>,
    round_trip_us: u32,
}

/// Why a session ended.
enum Ended {
    /// Ask somebody else.
    Broken(String),
    /// The node is not wanted; or it ends itself.
    ForGood,
}

impl From<String> for Ended {
    fn from(why: String) -> Ended {
        Ended::Broken(why)
    }
}

impl Session {
    /// A session for `identity`, whose newest view on disk is `view`; tells `events` what it hears.
    pub(crate) fn new(
        introduction: Introduction,
        identity: Identity,
        view: Option<Arc<View>>,
        reports: Arc<Reports>,
        contents: Arc<Contents>,
        events: mpsc::Sender<LeaderEvent>,
    ) -> Session {
        Session {
            given: introduction.leaders.clone(),
            introduction,
            identity,
            view,
            reports,
            contents,
            events,
            hint: None,
            silent: BTreeMap::new(),
            round_trip_us: 0,
        }
    }

    /// Keeps a session until nobody listens to it any more, or this node is refused.
    pub(crate) async fn run(mut self) {
        let mut next = 0;
        let mut in_vain = 0;
        while !self.events.is_closed() {
            let address = self.next_address(&mut next);
            let accepted_before = in_vain;
            in_vain += 1;
            match self.hold(&address, &mut in_vain).await {
                Ended::ForGood => return,
                Ended::Broken(why) if in_vain == 0 => {
                    tracing::warn!(address, why, "the session with the viewleader ended; serving goes on");
                }
                Ended::Broken(why) => {
                    if accepted_before == self.introduction.leaders.len() {
                        tracing::warn!(address, why, "no viewleader accepts this node; trying on");
                    } else {
                        tracing::debug!(address, why, "no session here");
                    }
                }
            }
            metrics::gauge!("storaged_leader_session").set(0.0);
            // A hint is followed at once, unless two members keep naming each other.
            let rounds_done = in_vain % self.introduction.leaders.len() == 0;
            if in_vain > 0 && (rounds_done || in_vain > 2 * self.introduction.leaders.len()) {
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }

    /// Where to try next: where the leader was said to be, else round the list; who was just silent comes last.
    fn next_address(&mut self, next: &mut usize) -> String {
        self.silent.retain(|_, since| since.elapsed() < PASSED_OVER);
        let hint = self.hint.take();
        if let Some(hint) = hint.filter(|hint| !self.silent.contains_key(hint)) {
            return hint;
        }
        let leaders = &self.introduction.leaders;
        let turn = |turn: usize| &leaders[turn % leaders.len()];
        let skipped = (0..leaders.len()).find(|skip| !self.silent.contains_key(turn(*next + skip))).unwrap_or(0);
        *next += skipped + 1;
        turn(*next - 1).clone()
    }

    /// One session at one address. Sets `in_vain` to 0 once accepted.
    async fn hold(&mut self, address: &str, in_vain: &mut usize) -> Ended {
        match self.try_hold(address, in_vain).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn try_hold(&mut self, address: &str, in_vain: &mut usize) -> Result<std::convert::Infallible, Ended> {
        let endpoint = grpc::endpoint(address)?;
        let channel = tokio::time::timeout(CONNECT_MAX, endpoint.connect())
            .await
            .map_err(|_| "no connection in time".to_owned())?
            .map_err(|error| grpc::root_cause(&error))?;
        let mut client = LeadersClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (up, outbound) = mpsc::channel(OUTBOX_LENGTH);
        send(&up, Up::Register(self.registration()))?;
        let registering = async {
            let answer = client.session(ReceiverStream::new(outbound)).await;
            let mut down = answer.map_err(|status| status.message().to_owned())?.into_inner();
            let first = next_message(&mut down).await?;
            Ok::<_, String>((down, first))
        };
        let in_need = *in_vain > self.introduction.leaders.len();
        let patience = if in_need { REGISTRATION_MAX_IN_NEED } else { REGISTRATION_MAX };
        let Ok(registered) = tokio::time::timeout(patience, registering).await else {
            self.silent.insert(address.to_owned(), Instant::now());
            return Err(Ended::Broken("no answer to the registration in time".to_owned()));
        };
        let (mut down, first) = registered?;
        match first {
            Down::Registered(registered) => self.on_registered(registered).await?,
            Down::Refused(error) => return Err(self.on_refused(error).await),
            Down::NotLeader(not_leader) => return Err(self.on_not_leader(&not_leader)),
            _ => return Err(Ended::Broken("the first answer is not one to a registration".to_owned())),
        }
        *in_vain = 0;
        tracing::info!(address, "a viewleader has accepted this node");
        metrics::gauge!("storaged_leader_session").set(1.0);
        self.reports.begin_session();
        self.talk(address, &up, &mut down).await
    }

    /// Heartbeats and reports up, views and answers down, until something ends.
    async fn talk(
        &mut self,
        address: &str,
        up: &mpsc::Sender<v1::NodeMessage>,
        down: &mut Streaming<v1::LeaderMessage>,
    ) -> Result<std::convert::Infallible, Ended> {
        let mut heartbeats = tokio::time::interval(HEARTBEAT_EVERY);
        heartbeats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let reports = self.reports.clone();
        let mut heard = Instant::now();
        let mut asked: Option<Instant> = None;
        loop {
            tokio::select! {
                message = next_message(down) => {
                    heard = Instant::now();
                    let message = message?;
                    if matches!(message, Down::Heartbeat(_)) && let Some(asked) = asked.take() {
                        self.round_trip_us = u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX);
                    }
                    self.on_message(message).await?;
                    continue;
                }
                _ = heartbeats.tick() => {}
                () = reports.urgent() => {}
            }
            if heard.elapsed() > SILENCE_MAX {
                self.silent.insert(address.to_owned(), Instant::now());
                return Err(Ended::Broken("the viewleader says nothing".to_owned()));
            }
            // What finds no room now is said at the next heartbeat.
            for message in self.reports.take_messages(up.capacity().saturating_sub(1)) {
                send(up, message)?;
            }
            asked.get_or_insert_with(Instant::now);
            let heartbeat = self.heartbeat();
            send(up, Up::Heartbeat(heartbeat))?;
        }
    }

    fn registration(&self) -> v1::Register {
        let Introduction { address, http_address, zone, weight, highest_promised, .. } = self.introduction.clone();
        v1::Register {
            cluster: match self.identity.has_joined() {
                true => cluster_to_wire(self.identity.cluster),
                false => bytes::Bytes::new(),
            },
            node: self.identity.node.0,
            incarnation: self.identity.incarnation.0,
            boot_nonce: self.identity.boot_nonce.0,
            address,
            http_address,
            zone,
            weight,
            highest_epoch: self.epoch().0,
            highest_promised: highest_promised.0,
        }
    }

    fn epoch(&self) -> Epoch {
        self.view.as_ref().map_or(Epoch(0), |view| view.epoch)
    }

    fn heartbeat(&self) -> v1::Heartbeat {
        let (surplus_at, surplus) = *self.contents.surplus.lock().unwrap_or_else(PoisonError::into_inner);
        let sizes = std::mem::take(&mut *self.contents.sizes.lock().unwrap_or_else(PoisonError::into_inner));
        v1::Heartbeat {
            epoch: self.epoch().0,
            serving: self.reports.take_serving(),
            keys: self.contents.keys.load(Ordering::Relaxed),
            bytes: self.contents.bytes.load(Ordering::Relaxed),
            round_trip_us: self.round_trip_us,
            filled_bytes: self.contents.filled_bytes.load(Ordering::Relaxed),
            surplus,
            surplus_at: surplus_at.0,
            sizes,
            doubts: self.reports.some_doubts(),
            leases: self.reports.take_leases(),
        }
    }

    async fn on_registered(&mut self, registered: v1::Registered) -> Result<(), Ended> {
        let malformed = |error: wire::Malformed| format!("a malformed registration: {error}");
        let cluster = cluster_from_wire(&registered.cluster).map_err(malformed)?;
        let node = NodeId(registered.node);
        if cluster == ClusterId::NONE || node == NodeId(0) {
            return Err(Ended::Broken("a registration without cluster or node id".to_owned()));
        }
        if self.identity.has_joined() && (cluster, node) != (self.identity.cluster, self.identity.node) {
            let why = format!("this directory is {} of cluster {}", self.identity.node, self.identity.cluster);
            self.tell(LeaderEvent::Refused(format!("{why}, they answered as for {node} of {cluster}"))).await?;
            return Err(Ended::ForGood);
        }
        self.identity = Identity { cluster, node, ..self.identity };
        let view = View::try_from(required(registered.view, "the view").map_err(malformed)?).map_err(malformed)?;
        if view.cluster != cluster {
            return Err(Ended::Broken("a registration with another cluster's view".to_owned()));
        }
        self.learn_members(&registered.member_addresses);
        let accepted_at = Epoch(registered.accepted_at);
        self.tell(LeaderEvent::Accepted { cluster, node, accepted_at }).await?;
        self.learn(view).await
    }

    /// The viewleaders to try are those given at the start, and those of which the group last said that they are there.
    fn learn_members(&mut self, told: &[String]) {
        if told.is_empty() {
            return;
        }
        let news = told.iter().filter(|address| grpc::is_address(address) && !self.given.contains(address));
        let leaders: Vec<String> = self.given.iter().chain(news.take(LEARNED_MAX)).cloned().collect();
        if leaders != self.introduction.leaders {
            tracing::info!(?leaders, "the viewleaders have changed");
            self.introduction.leaders = leaders;
        }
    }

    /// A newer view is told; an older one changes nothing (P5).
    async fn learn(&mut self, view: View) -> Result<(), Ended> {
        if self.view.as_ref().is_some_and(|known| known.epoch > view.epoch) {
            return Ok(());
        }
        let view = Arc::new(view);
        self.view = Some(view.clone());
        self.tell(LeaderEvent::View(view)).await
    }

    async fn on_message(&mut self, message: Down) -> Result<(), Ended> {
        match message {
            Down::View(update) => {
                // A delta that does not fit: a new session begins with the whole view.
                let view = apply_view_update(self.view.as_deref(), update)
                    .map_err(|error| format!("a malformed view: {error}"))?;
                if Some(view.cluster) != self.view.as_ref().map(|known| known.cluster) {
                    return Err(Ended::Broken("another cluster's view".to_owned()));
                }
                self.learn(view).await
            }
            Down::Activated(reply) => {
                let partition = PartitionId(reply.partition);
                let accepted = reply.accepted;
                self.tell(LeaderEvent::ActivationAnswered { partition, term: Term(reply.term), accepted }).await
            }
            Down::DamageNoted(noted) => {
                let partition = PartitionId(noted.partition);
                self.tell(LeaderEvent::DamageNoted { partition, epoch: Epoch(noted.epoch) }).await
            }
            Down::LeasesEnded(ended) => {
                self.tell(LeaderEvent::LeasesEnded(ended.leases.into_iter().map(LeaseId).collect())).await
            }
            Down::Heartbeat(reply) => {
                self.learn_members(&reply.member_addresses);
                Ok(())
            }
            // Whether it is for good the next registration will tell.
            Down::Refused(error) => Err(Ended::Broken(error.message)),
            Down::NotLeader(not_leader) => Err(self.on_not_leader(&not_leader)),
            Down::Registered(_) => Err(Ended::Broken("a second registration".to_owned())),
        }
    }

    fn on_not_leader(&mut self, not_leader: &v1::NotLeader) -> Ended {
        if grpc::is_address(&not_leader.leader_address) {
            self.hint = Some(not_leader.leader_address.clone());
        }
        Ended::Broken(format!("it does not lead; {} might", not_leader.leader_address))
    }

    /// The answer to a registration: some refusals pass, others are for good.
    async fn on_refused(&mut self, error: v1::Error) -> Ended {
        match ErrorCode::from_number(error.code) {
            ErrorCode::WrongCluster | ErrorCode::Refused | ErrorCode::Invalid => {
                // Whoever listens ends the node; if nobody does, it is ending.
                let _ended = self.tell(LeaderEvent::Refused(error.message)).await;
                Ended::ForGood
            }
            _ => Ended::Broken(error.message),
        }
    }

    async fn tell(&self, event: LeaderEvent) -> Result<(), Ended> {
        self.events.send(event).await.map_err(|_| Ended::ForGood)
    }
}

/// Never waits: a session whose messages do not leave is no session.
fn send(up: &mpsc::Sender<v1::NodeMessage>, message: Up) -> Result<(), Ended> {
    let message = v1::NodeMessage { message: Some(message) };
    up.try_send(message).map_err(|_| Ended::Broken("the stream takes nothing more".to_owned()))
}

/// The next message. An empty one, from a later version, is skipped.
async fn next_message(down: &mut Streaming<v1::LeaderMessage>) -> Result<Down, String> {
    loop {
        match down.message().await {
            Ok(Some(v1::LeaderMessage { message: Some(message) })) => return Ok(message),
            Ok(Some(_)) => {}
            Ok(None) => return Err("the viewleader ended the stream".to_owned()),
            Err(status) => return Err(status.message().to_owned()),
        }
    }
}
