//! A storage node's session with the leader: registration first, then heartbeats up and views down.
//!
//! A session lives as long as the leadership, the connection, and no newer session of its node. What its node says is
//! checked before it is used; what breaks a rule is refused in one line, and ends the session.

use super::activations::Activations;
use super::node_leases::NodeLeases;
use super::{LeadersService, update};
use crate::leading::{Input, Leading, SessionNumber};
use crate::raft::{NotDone, Roster};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use types::{BootNonce, Epoch, ErrorCode, Incarnation, LeaseId, NodeId, PartitionId, Term, View};
use viewcore::observed::PartitionSize;
use viewcore::{ClusterState, Command, Done, Event, Heartbeat, Outcome, Refusal, Registration, Serving};
use wire::convert::{Malformed, cluster_from_wire, cluster_to_wire, error, required};
use wire::v1;
use wire::v1::leader_message::Message as ToNode;
use wire::v1::node_message::Message as FromNode;

/// Transactions that one node may tell of, and how long a line about one may be.
const DOUBTS_MAX: usize = 8;
const DOUBT_BYTES_MAX: usize = 8 << 10;
/// Messages on their way to one node.
const WAITING_MAX: usize = 64;
/// Proposals of one node on their way at once.
const PROPOSALS_MAX: usize = 64;
/// How long a node may take to say who it is.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);
/// How long a registration may take, the group's own beginning included.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a member that has just been elected is waited for.
const TAKE_UP_TIMEOUT: Duration = Duration::from_secs(2);

type Out = mpsc::Sender<Result<v1::LeaderMessage, Status>>;

/// Why a session ends.
enum End {
    /// The node or its connection went, or reads nothing.
    Gone,
    /// The node should hear this last.
    Said(ToNode),
}

impl From<Malformed> for End {
    fn from(malformed: Malformed) -> End {
        End::refused(ErrorCode::Invalid, malformed.to_string())
    }
}

impl End {
    fn refused(code: ErrorCode, message: impl Into<String>) -> End {
        End::Said(ToNode::Refused(error(code, message)))
    }
}

impl LeadersService {
    pub(super) fn begin_session(
        &self,
        inbound: Streaming<v1::NodeMessage>,
    ) -> ReceiverStream<Result<v1::LeaderMessage, Status>> {
        let (out, messages) = mpsc::channel(WAITING_MAX);
        let service = self.clone();
        tokio::spawn(async move {
            if let Err(End::Said(last)) = service.run_session(inbound, &out).await {
                // A node that is gone hears nothing any more.
                let _gone = timeout(service.patience, out.send(Ok(v1::LeaderMessage { message: Some(last) }))).await;
            }
        });
        ReceiverStream::new(messages)
    }

    async fn run_session(&self, mut inbound: Streaming<v1::NodeMessage>, out: &Out) -> Result<(), End> {
        let first = match timeout(REGISTER_WITHIN, inbound.message()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Err(status)) => return Err(End::refused(ErrorCode::Invalid, status.message())),
            Ok(Ok(None)) => return Err(End::Gone),
            Err(_) => return Err(End::refused(ErrorCode::DeadlineExceeded, "a session begins with a registration")),
        };
        let Some(FromNode::Register(register)) = first.message else {
            return Err(End::refused(ErrorCode::Invalid, "a session begins with a registration"));
        };
        let registration = registration(register)?;
        let leading = self.take_up().await.ok_or_else(|| self.not_leader())?;
        let mut session = self.register(registration, leading, out.clone()).await?;
        let ended = session.run(&mut inbound, &self.stopping).await;
        let over = Input::SessionEnded { node: session.node, session: session.number };
        // A closed channel is the leadership's end, which knows no sessions.
        let _over = session.leading.inputs.send(over).await;
        match ended {
            End::Said(ToNode::NotLeader(_)) => Err(self.not_leader()),
            ended => Err(ended),
        }
    }

    fn not_leader(&self) -> End {
        End::Said(ToNode::NotLeader(v1::NotLeader { leader_address: self.leader_address().unwrap_or_default() }))
    }

    /// The present leadership of this member, waited for if it has just been elected.
    pub(super) async fn take_up(&self) -> Option<Leading> {
        let mut leading = self.leading.clone();
        let mut leadership = self.group.leadership();
        let taken_up = async { leading.wait_for(Option::is_some).await.ok().and_then(|leading| leading.clone()) };
        let lost = async { leadership.wait_for(|now| !now.leads).await.is_ok() };
        tokio::select! {
            biased;
            leading = timeout(TAKE_UP_TIMEOUT, taken_up) => leading.ok().flatten(),
            _ = lost => None,
        }
    }

    async fn register(&self, registration: Registration, leading: Leading, out: Out) -> Result<Session, End> {
        let mut state = self.group.state();
        // The group's own beginning comes first; a stopped member's channel is closed, and the proposal then says so.
        let begun = async { state.wait_for(|state| state.view().is_some()).await.is_ok() };
        let _in_time = timeout(REGISTRATION_TIMEOUT, begun).await;
        let incarnation = registration.incarnation;
        let known = registration.node.and_then(|node| state.borrow().node(node).map(|info| info.incarnation));
        let restarted = known.is_some_and(|known| known < incarnation);
        let address = registration.address.clone();
        let proposed = timeout(REGISTRATION_TIMEOUT, self.group.propose(Command::Register(registration))).await;
        let (node, accepted_at) = match proposed {
            Ok(Ok(Ok(Done::Registered { node, accepted_at }))) => (node, accepted_at),
            Ok(Ok(Ok(other))) => return Err(End::refused(ErrorCode::Internal, format!("registered as {other:?}"))),
            Ok(Ok(Err(refusal))) => {
                tracing::warn!(%address, %refusal, "refused a storage node");
                return Err(End::refused(refusal.code(), refusal.to_string()));
            }
            Ok(Err(NotDone::NotLeader)) => return Err(self.not_leader()),
            Ok(Err(NotDone::Stopped(why))) => return Err(End::refused(ErrorCode::ShuttingDown, why)),
            Err(_) => {
                let why = "the viewleaders have no majority at the moment; try again";
                return Err(End::refused(ErrorCode::NoLeader, why));
            }
        };
        tracing::info!(%node, %address, %incarnation, restarted, "registered a storage node");
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        let superseded = CancellationToken::new();
        let began = Input::SessionBegan { node, restarted, session: number, superseded: superseded.clone() };
        if leading.inputs.send(began).await.is_err() {
            return Err(self.not_leader());
        }
        let view = state.borrow_and_update().view().cloned();
        let view = view.ok_or_else(|| End::refused(ErrorCode::NotBootstrapped, "there is no view yet"))?;
        let mut roster = self.group.roster();
        let member_addresses = roster.borrow_and_update().addresses().into_values().collect();
        let registered = v1::Registered {
            cluster: cluster_to_wire(view.cluster),
            node: node.0,
            accepted_at: accepted_at.0,
            view: Some(view.as_ref().into()),
            member_addresses,
        };
        let session = Session {
            leases: NodeLeases::default(),
            node,
            number,
            group: self.group.clone(),
            activations: self.activations.clone(),
            leading,
            superseded,
            state,
            roster,
            sent: view,
            out,
            patience: self.patience,
        };
        session.send(ToNode::Registered(registered)).await?;
        Ok(session)
    }
}

struct Session {
    /// Leases that keys of this node live as long as.
    leases: NodeLeases,
    node: NodeId,
    number: SessionNumber,
    group: crate::raft::Group,
    activations: Activations,
    leading: Leading,
    superseded: CancellationToken,
    state: watch::Receiver<Arc<ClusterState>>,
    /// Who the members of the group are, as the node was last told.
    roster: watch::Receiver<Arc<Roster>>,
    /// The view that the node was last sent.
    sent: Arc<View>,
    out: Out,
    patience: Duration,
}

type Reply = BoxFuture<'static, Option<ToNode>>;

impl Session {
    async fn run(&mut self, inbound: &mut Streaming<v1::NodeMessage>, stopping: &CancellationToken) -> End {
        let mut proposals: FuturesUnordered<Reply> = FuturesUnordered::new();
        // What a node has to report at once is bounded by its partitions. Heartbeats don't wait behind it.
        let mut waiting: VecDeque<Reply> = VecDeque::new();
        let waiting_max = 2 * self.sent.partition_count.get() as usize + PROPOSALS_MAX;
        loop {
            while proposals.len() < PROPOSALS_MAX
                && let Some(proposal) = waiting.pop_front()
            {
                proposals.push(proposal);
            }
            let done = tokio::select! {
                () = self.leading.ended.cancelled() => Err(End::Said(ToNode::NotLeader(v1::NotLeader::default()))),
                () = stopping.cancelled() => Err(End::refused(ErrorCode::ShuttingDown, "this viewleader is stopping")),
                () = self.superseded.cancelled() => {
                    Err(End::refused(ErrorCode::Refused, "a newer session of this node has taken its place"))
                }
                changed = self.state.changed() => match changed {
                    Ok(()) => self.push_view().await,
                    Err(_) => Err(End::Gone),
                },
                Some(reply) = proposals.next(), if !proposals.is_empty() => match reply {
                    Some(reply) => self.send(reply).await,
                    None => Ok(()),
                },
                message = inbound.message() => match message {
                    Ok(Some(_)) if waiting.len() > waiting_max => {
                        Err(End::refused(ErrorCode::Overloaded, "more reports than there are partitions"))
                    }
                    Ok(Some(message)) => self.take(message).await.map(|proposal| waiting.extend(proposal)),
                    Ok(None) => Err(End::Gone),
                    Err(status) => Err(End::refused(ErrorCode::Invalid, status.message())),
                },
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    /// Sends what changed since the last view: everything that waited becomes one update.
    async fn push_view(&mut self) -> Result<(), End> {
        let view = self.state.borrow_and_update().view().cloned();
        if let Some(view) = view.filter(|view| view.epoch > self.sent.epoch) {
            self.send(ToNode::View(update(Some(&self.sent), &view))).await?;
            self.sent = view;
        }
        Ok(())
    }

    async fn send(&self, message: ToNode) -> Result<(), End> {
        let message = v1::LeaderMessage { message: Some(message) };
        match timeout(self.patience, self.out.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }

    async fn tell(&self, event: Event) -> Result<(), End> {
        let sent = self.leading.inputs.send(Input::Event(event)).await;
        sent.map_err(|_| End::Said(ToNode::NotLeader(v1::NotLeader::default())))
    }

    /// Acts on what the node says; answers the proposal that comes of it.
    async fn take(&mut self, message: v1::NodeMessage) -> Result<Option<Reply>, End> {
        match required(message.message, "the message's content")? {
            FromNode::Register(_) => {
                return Err(End::refused(ErrorCode::Invalid, "this session is registered already"));
            }
            FromNode::Heartbeat(mut heartbeat) => {
                let leases = std::mem::take(&mut heartbeat.leases).into_iter().map(LeaseId);
                if let Some(ended) = self.leases.look(&self.group, leases).await {
                    self.send(ToNode::LeasesEnded(ended)).await?;
                }
                let heartbeat = self.heartbeat(heartbeat)?;
                self.tell(Event::Heartbeat(self.node, heartbeat)).await?;
                // News for the next session, which may have to be with a member that the node has not heard of.
                let members_changed = self.roster.has_changed().unwrap_or(false);
                let member_addresses = if members_changed { self.member_addresses() } else { Vec::new() };
                self.send(ToNode::Heartbeat(v1::HeartbeatReply { member_addresses })).await?;
            }
            FromNode::Activated(v1::Activated { partition, term }) => {
                let place = self.partition(partition)?;
                let activations = self.activations.clone();
                return Ok(Some(Box::pin(async move {
                    let accepted = activations.activate(place, Term(term)).await?;
                    Some(ToNode::Activated(v1::ActivatedReply { partition, term, accepted }))
                })));
            }
            FromNode::Stuck(stuck) => {
                let partition = self.partition(stuck.partition)?;
                let unreachable: BTreeSet<NodeId> = stuck.unreachable.into_iter().map(NodeId).collect();
                tracing::info!(node = %self.node, %partition, term = stuck.term, ?unreachable, "a primary is stuck");
                let holder = (stuck.holder != 0).then_some(NodeId(stuck.holder));
                let term = Term(stuck.term);
                self.tell(Event::Stuck { node: self.node, partition, term, unreachable, holder }).await?;
            }
            FromNode::Damaged(v1::Damaged { partition, term }) => {
                let (node, term) = (self.node, Term(term));
                let command = Command::NoteDamage { node, partition: self.partition(partition)?, term };
                tracing::error!(%node, partition, "a replica is damaged and out of service");
                return Ok(Some(self.propose(command, move |outcome| match outcome {
                    Ok(Done::DamageNoted(epoch)) => {
                        Some(ToNode::DamageNoted(v1::DamageNoted { partition, epoch: epoch.0 }))
                    }
                    Ok(_) => Some(ToNode::Refused(error(ErrorCode::Internal, "damage was not noted as such"))),
                    // Whoever is damaged says so again, once it has the view that came between.
                    Err(Refusal::StaleTerm { .. }) => None,
                    Err(refusal) => Some(refused(&refusal)),
                })));
            }
            FromNode::Suspect(v1::Suspect { node }) => self.tell(Event::Suspect(NodeId(node))).await?,
        }
        Ok(None)
    }

    fn member_addresses(&mut self) -> Vec<String> {
        self.roster.borrow_and_update().addresses().into_values().collect()
    }

    /// A proposal and what its outcome is answered with. If leadership is lost there is no answer: the session ends.
    /// Not every outcome has an answer.
    fn propose(&self, command: Command, answer: impl FnOnce(Outcome) -> Option<ToNode> + Send + 'static) -> Reply {
        let group = self.group.clone();
        Box::pin(async move { group.propose(command).await.ok().and_then(answer) })
    }

    fn partition(&self, partition: u32) -> Result<PartitionId, Malformed> {
        let count = self.sent.partition_count.get();
        if partition >= count {
            return Err(Malformed(format!("there is no partition {partition}, there are {count}")));
        }
        Ok(PartitionId(partition))
    }

    fn heartbeat(&self, heartbeat: v1::Heartbeat) -> Result<Heartbeat, Malformed> {
        let serving = heartbeat.serving.into_iter().map(|serving| {
            let behind = serving.behind.into_iter().map(NodeId).collect();
            let filled = (serving.filled != 0).then_some(NodeId(serving.filled));
            Ok(Serving { partition: self.partition(serving.partition)?, term: Term(serving.term), behind, filled })
        });
        let sizes = heartbeat
            .sizes
            .into_iter()
            .map(|size| Ok((self.partition(size.partition)?, PartitionSize { keys: size.keys, bytes: size.bytes })));
        Ok(Heartbeat {
            epoch: Epoch(heartbeat.epoch),
            serving: serving.collect::<Result<_, Malformed>>()?,
            keys: heartbeat.keys,
            bytes: heartbeat.bytes,
            filled_bytes: heartbeat.filled_bytes,
            surplus: heartbeat.surplus,
            surplus_at: Epoch(heartbeat.surplus_at),
            sizes: sizes.collect::<Result<_, Malformed>>()?,
            doubts: heartbeat
                .doubts
                .into_iter()
                .take(DOUBTS_MAX)
                .filter(|line| line.len() <= DOUBT_BYTES_MAX)
                .collect(),
        })
    }
}

fn refused(refusal: &Refusal) -> ToNode {
    ToNode::Refused(error(refusal.code(), refusal.to_string()))
}

/// What else there is to check needs the state, and is checked when the registration is applied.
fn registration(register: v1::Register) -> Result<Registration, Malformed> {
    Ok(Registration {
        cluster: cluster_from_wire(&register.cluster)?,
        node: (register.node != 0).then_some(NodeId(register.node)),
        incarnation: Incarnation(register.incarnation),
        nonce: BootNonce(register.boot_nonce),
        address: register.address,
        http_address: register.http_address,
        zone: register.zone,
        weight: register.weight,
        highest_epoch: Epoch(register.highest_epoch),
        highest_promised: Term(register.highest_promised),
    })
}
