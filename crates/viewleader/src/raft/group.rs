//! One member of the group, as the rest of this crate sees it: propose, read, and watch.

use super::board::Board;
use super::elections;
use super::keep;
use super::log::LogStore;
use super::machine::Machine;
use super::messages::HelloReply;
use super::network::Network;
use super::roster::Roster;
use super::service::RaftService;
use super::{Membership, Raft};
use crate::identity::{Identity, MemberId};
use crate::{Error, Surroundings};
use daemon::DataDirectory;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{Config, ServerState, SnapshotPolicy};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use viewcore::{ClusterState, Command, Outcome};

const HEARTBEAT_MS: u64 = 100;
/// How long an answer to a vote may take.
const VOTE_TIMEOUT_MS: u64 = 400;
/// A leader that no majority has answered for this long leads nobody: its nodes should look for another.
const QUORUM_SILENCE_MS_MAX: u64 = 2000;
/// Log entries between two snapshots. A large cluster's change of view has hundreds of kilobytes.
const SNAPSHOT_EVERY: u64 = 1000;
/// Log entries kept behind a snapshot, for members that are a little behind.
const LOGS_KEPT: u64 = 200;
const SNAPSHOT_CHUNK_BYTES: u64 = 1 << 20;
/// How long a member may take to answer a question for people.
const HELLO_TIMEOUT: Duration = Duration::from_millis(500);
/// Linearizable reads that wait for a round; more wait at the door.
const BARRIER_QUEUE: usize = 1024;

/// What a member needs to begin.
pub(crate) struct GroupOptions {
    pub(crate) directory: Arc<DataDirectory>,
    pub(crate) identity: Identity,
    pub(crate) name: String,
    pub(crate) surroundings: Arc<dyn Surroundings>,
}

/// Who leads, as this member knows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Leadership {
    /// The Raft term.
    pub(crate) raft_term: u64,
    /// Whether this member leads, and a majority answers it.
    pub(crate) leads: bool,
    /// The leader's address, if there is one.
    pub(crate) leader_address: Option<String>,
}

/// Why a proposal or a read was not done here.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum NotDone {
    /// Another member leads, or nobody does at the moment.
    #[error("this member does not lead the group")]
    NotLeader,
    /// The Raft core has ended.
    #[error("this member is stopping: {0}")]
    Stopped(String),
}

/// A member, for people.
pub(crate) struct MemberFacts {
    pub(crate) member: MemberId,
    pub(crate) address: String,
    /// `None`: it does not answer.
    pub(crate) hello: Option<HelloReply>,
}

/// This member of the group. Clones share it.
#[derive(Clone)]
pub(crate) struct Group {
    pub(super) raft: Raft,
    pub(super) identity: Identity,
    pub(super) network: Network,
    pub(super) admitted: Arc<AtomicBool>,
    pub(super) roster: watch::Receiver<Arc<Roster>>,
    /// Held by who changes the members.
    pub(super) changing: Arc<Mutex<()>>,
    pub(super) log: LogStore,
    name: Arc<str>,
    state: watch::Receiver<Arc<ClusterState>>,
    board: Board,
    leadership: watch::Receiver<Leadership>,
    barrier: mpsc::Sender<oneshot::Sender<Result<(), NotDone>>>,
    failure: watch::Receiver<Option<String>>,
}

impl Group {
    /// Opens log and snapshot, and starts this member. It takes part once it is admitted.
    pub(crate) async fn open(options: GroupOptions) -> Result<Group, Error> {
        let GroupOptions { directory, identity, name, surroundings } = options;
        let (failed, failure) = watch::channel(None);
        let log_directory = directory.path().join("log");
        let log = LogStore::open(wal::RealFiles, &log_directory, surroundings.log_has_thread(), move |error| {
            failed.send_replace(Some(error.to_string()));
        })?;
        // It would vote again where it has voted before.
        if identity.has_begun() && log.is_new() {
            return Err(Error::LogLost { path: log_directory, member: identity.member() });
        }
        let machine = Machine::open(directory.clone())?;
        machine.check_continues(log.purged_index())?;
        let state = machine.watch();
        let board = machine.board();
        let roster = machine.watch_roster();
        let network = Network { identity: identity.clone(), surroundings, removed: watch::Sender::new(None) };
        let config = Config {
            cluster_name: "viewleaders".into(),
            heartbeat_interval: HEARTBEAT_MS,
            // Elections begin in `elections` alone. What these two are left for: the one bounds the wait for a vote, the
            // other is how long a vote is refused after a leader was heard.
            enable_elect: false,
            election_timeout_min: VOTE_TIMEOUT_MS,
            election_timeout_max: elections::LEASE.as_millis() as u64,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
            max_in_snapshot_log_to_keep: LOGS_KEPT,
            replication_lag_threshold: 2 * SNAPSHOT_EVERY,
            snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES,
            install_snapshot_timeout: 5000,
            ..Config::default()
        };
        let config = config.validate().map_err(|error| Error::Raft(error.to_string()))?;
        let raft = Raft::new(identity.member(), Arc::new(config), network.clone(), log.clone(), machine)
            .await
            .map_err(|error| Error::Raft(error.to_string()))?;
        let (barrier, waiting) = mpsc::channel(BARRIER_QUEUE);
        tokio::spawn(run_barriers(raft.clone(), waiting));
        let (publish, leadership) = watch::channel(Leadership::default());
        tokio::spawn(follow_leadership(raft.clone(), identity.clone(), publish));
        // One that joined was admitted by the group itself, under an id that nobody knows with another directory.
        let admitted = Arc::new(AtomicBool::new(identity.founders().is_empty()));
        let group = Group {
            raft,
            identity,
            network,
            admitted,
            roster,
            changing: Arc::default(),
            name: name.into(),
            log,
            state,
            board,
            leadership,
            barrier,
            failure,
        };
        tokio::spawn(keep::keep_members(group.clone()));
        tokio::spawn(elections::stand_for_election(group.clone()));
        Ok(group)
    }

    /// This member's address.
    pub(crate) fn address(&self) -> &str {
        self.identity.address()
    }

    /// What this member finds outside itself.
    pub(crate) fn surroundings(&self) -> &Arc<dyn Surroundings> {
        &self.network.surroundings
    }

    /// What this member has applied, always the newest.
    pub(crate) fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.state.clone()
    }

    /// Leases and locks as this member has applied them.
    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    /// Who leads.
    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// The service that answers other members.
    pub(crate) fn service(&self) -> RaftService {
        RaftService {
            identity: self.identity.clone(),
            name: self.name.clone(),
            raft: self.raft.clone(),
            log: self.log.clone(),
            roster: self.roster.clone(),
            admitted: self.admitted.clone(),
        }
    }

    /// Writes a command to the group's log, and answers what applying it did. The published state then contains it.
    ///
    /// # Errors
    /// [`NotDone::NotLeader`]: it may still happen if leadership was lost while it was on its way.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, NotDone> {
        match self.raft.client_write(command).await {
            Ok(written) => written.data.ok_or_else(|| NotDone::Stopped("a command without an outcome".into())),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(NotDone::NotLeader),
            Err(error) => Err(NotDone::Stopped(error.to_string())),
        }
    }

    /// Returns once everything that was committed before the call is applied here, and this member led after the call.
    /// Calls that wait at the same time share a round.
    ///
    /// # Errors
    /// [`NotDone`].
    pub(crate) async fn read_barrier(&self) -> Result<(), NotDone> {
        let (answer, answered) = oneshot::channel();
        let stopped = || NotDone::Stopped("no more reads".into());
        self.barrier.send(answer).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    /// Where all members are, as this one knows.
    pub(crate) fn addresses(&self) -> BTreeMap<MemberId, String> {
        let known = addresses(&self.raft.metrics().borrow().membership_config);
        if known.is_empty() { self.identity.members() } else { known }
    }

    /// The members as of the last applied change.
    pub(crate) fn roster(&self) -> watch::Receiver<Arc<Roster>> {
        self.roster.clone()
    }

    /// All members, each asked who it is. One that votes, or votes no more, once the change of the members that is on
    /// its way is done, is a learner until then, whatever it believes.
    pub(crate) async fn members(&self) -> Vec<MemberFacts> {
        let mut asking = JoinSet::new();
        let own = self.identity.member();
        let roster = self.roster.borrow().clone();
        let known = if roster.members.is_empty() { self.addresses() } else { roster.addresses() };
        let (itself, others): (Vec<_>, Vec<_>) = known.into_iter().partition(|(member, _)| *member == own);
        for (member, address) in others {
            let mut line = self.network.line(member, &address);
            asking.spawn(async move {
                MemberFacts { member, address, hello: line.hello(HELLO_TIMEOUT).await.ok().map(|(_, hello)| hello) }
            });
        }
        let mut members = asking.join_all().await;
        members.extend(itself.into_iter().map(|(member, address)| {
            let hello = Some(self.service().hello_reply(None, true));
            MemberFacts { member, address, hello }
        }));
        members.sort_by_key(|facts| facts.member);
        let learning = |member: &MemberId| roster.members.contains_key(member) && !roster.steady.contains(member);
        for facts in members.iter_mut().filter(|facts| learning(&facts.member)) {
            if let Some(hello) = facts.hello.as_mut().filter(|hello| hello.role != "leader") {
                hello.role = "learner".into();
            }
        }
        members
    }

    /// Resolves when this member can't go on: its disk failed (P2), Raft ended, or the group has removed it.
    pub(crate) async fn failed(&self) -> Error {
        let mut failure = self.failure.clone();
        let mut metrics = self.raft.metrics();
        let raft_ended = async {
            loop {
                if let Err(error) = &metrics.borrow_and_update().running_state {
                    return error.to_string();
                }
                if metrics.changed().await.is_err() {
                    return "its core is gone".into();
                }
            }
        };
        tokio::select! {
            biased;
            Ok(line) = async { failure.wait_for(Option::is_some).await.map(|line| line.clone()) } => {
                Error::LogFailed(line.unwrap_or_default())
            }
            error = self.until_removed() => error,
            line = raft_ended => match self.failure.borrow().clone() {
                Some(line) => Error::LogFailed(line),
                None => Error::Raft(line),
            },
        }
    }

    /// Stops taking part and closes the log.
    pub(crate) async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the Raft core did not end in order");
        }
        if let Err(error) = self.log.close() {
            tracing::warn!(%error, "the log could not be closed in order");
        }
    }
}

/// One round at a time, for everybody who waited when it began.
async fn run_barriers(raft: Raft, mut waiting: mpsc::Receiver<oneshot::Sender<Result<(), NotDone>>>) {
    let mut round = Vec::new();
    while waiting.recv_many(&mut round, BARRIER_QUEUE).await > 0 {
        let outcome = match raft.ensure_linearizable().await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(_)) => Err(NotDone::NotLeader),
            Err(error) => Err(NotDone::Stopped(error.to_string())),
        };
        for answer in round.drain(..) {
            // Whoever gave up waiting needs no answer.
            let _abandoned = answer.send(outcome.clone());
        }
    }
}

async fn follow_leadership(raft: Raft, identity: Identity, publish: watch::Sender<Leadership>) {
    let mut metrics = raft.metrics();
    loop {
        let now = {
            let metrics = metrics.borrow_and_update();
            let quorum_answers = metrics.millis_since_quorum_ack.is_none_or(|silence| silence < QUORUM_SILENCE_MS_MAX);
            let known = addresses(&metrics.membership_config);
            let address = |leader: MemberId| known.get(&leader).cloned().or_else(|| identity.members().remove(&leader));
            Leadership {
                raft_term: metrics.current_term,
                leads: metrics.state == ServerState::Leader && quorum_answers,
                leader_address: metrics.current_leader.and_then(address),
            }
        };
        publish.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Where the members are that a membership names.
pub(super) fn addresses(membership: &Membership) -> BTreeMap<MemberId, String> {
    membership.nodes().map(|(id, node)| (*id, node.address.clone())).collect()
}
