//! The viewleader: a Raft group that agrees on who replicates what, and tells everybody.
//!
//! ```text
//! storage nodes, clients                    other members
//!        | Leaders (services)                    | Raft (raft/service, raft/network)
//!        v                                       v
//!   sessions --events--> leading: viewcore::Leader --proposals--> raft: openraft --apply--> viewcore::ClusterState
//!        ^                                                                                      |
//!        +------------------------- views, as what changed (watch) <----------------------------+
//! ```
//!
//! Invariants: whatever a node or client is told was committed by the group first; heartbeats never enter the log; only
//! `raft` names openraft; queues are bounded. A failed write or sync ends the process (P2).
//!
//! A new data directory begins a group with others (`--peers`, [`raft`]), or asks a running one to be admitted (`--join`,
//! [`joining`]) before it takes part in anything. The group's leader changes its members (`raft::change`).
//!
//! Left out: handing leadership over on purpose, TLS.

pub mod cli;
mod config;
mod error;
mod expiry;
mod identity;
mod joining;
mod leading;
mod mutants;
mod probe;
mod raft;
mod services;
mod surroundings;

pub use config::{ClusterSettings, Config};
pub use error::Error;
pub use surroundings::{Host, Surroundings, endpoint};

use daemon::DataDirectory;
use daemon::admin::{Admin, Check};
use futures::Stream;
use identity::Opened;
use raft::{Group, GroupOptions};
use services::{CoordinationService, LeadersService};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpIncoming};
use types::ClusterId;
use types::limits::MESSAGE_BYTES_MAX;
use viewcore::{Bootstrap, LeaderSettings};
use wire::v1::coordination_server::CoordinationServer;
use wire::v1::leaders_server::LeadersServer;
use wire::v1::raft_server::RaftServer;

/// A peer whose machine is gone is noticed after about this long twice.
const KEEPALIVE_EVERY: Duration = Duration::from_millis(500);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long open requests may take at the end.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// Where one viewleader listens, bound already.
#[derive(Debug)]
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For the admin HTTP server, if there is to be one.
    pub http: Option<TcpListener>,
}

/// Runs one viewleader until `shutdown` resolves.
///
/// # Errors
/// [`Error`], one line for the person who started it: wrong settings, a directory or port in use, damage, a failed disk.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let config = config.validated()?;
    let (grpc, _) = daemon::listen::bind(&config.listen, "--listen", config.insecure).await?;
    let http = match &config.http {
        Some(address) => Some(daemon::listen::bind(address, "--http", config.insecure).await?.0),
        None => None,
    };
    run_on(Listeners { grpc, http }, config, shutdown).await
}

/// As [`run`], on listeners that are bound already: `listen` and `http` of the settings say nothing.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    listeners: Listeners,
    config: Config,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let incoming = TcpIncoming::from(listeners.grpc).with_nodelay(Some(true));
    run_in(Arc::new(Host), incoming, listeners.http, config, shutdown).await
}

/// As [`run_on`], with what comes in on any kind of connection, in any surroundings.
///
/// # Errors
/// As [`run`].
pub async fn run_in<C: Connection>(
    surroundings: Arc<dyn Surroundings>,
    incoming: impl Stream<Item = io::Result<C>> + Send + 'static,
    http: Option<TcpListener>,
    config: Config,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let config = config.validated()?;
    let directory = Arc::new(DataDirectory::open(&config.data_dir)?);
    let mut shutdown = pin!(shutdown);
    let identity = match identity::open(directory.clone(), &config)? {
        Opened::Member(identity) => {
            joining::is_same_group(&identity, &config, &*surroundings).await?;
            identity
        }
        Opened::Candidate(candidate) => tokio::select! {
            () = &mut shutdown => return Ok(()),
            admitted = joining::admitted(candidate, &config, &*surroundings) => admitted?,
        },
    };
    let settings = leader_settings(&config)?;
    let name = config.name.clone();
    let group = {
        let (identity, surroundings) = (identity.clone(), surroundings.clone());
        Group::open(GroupOptions { directory, identity, name, surroundings }).await?
    };
    let stopping = CancellationToken::new();
    let (publish, leading) = watch::channel(None);
    let lead = tokio::spawn(leading::lead(group.clone(), settings, publish, stopping.clone()));
    let service = LeadersService::new(group.clone(), leading, config.node_timeout, stopping.clone());
    let mut server = serve_grpc(incoming, &group, service, stopping.clone());
    let mut admin = http.map(|listener| serve_admin(listener, &group, stopping.clone()));
    tracing::info!(name = %config.name, address = %config.advertise, "viewleader started");

    let ended = tokio::select! {
        () = &mut shutdown => Ok(()),
        error = group.failed() => Err(error),
        // Once it takes part in a group, this has nothing more to say.
        Err(error) = raft::found_or_join(&group) => Err(error),
        Err(error) = joining::check_same_group(&identity, &config, &*surroundings) => Err(error),
        ended = &mut server => Err(ended_early(ended)),
        ended = async {
            match &mut admin {
                Some(admin) => admin.await,
                None => std::future::pending().await,
            }
        } => Err(ended_early(ended)),
    };
    stopping.cancel();
    group.shutdown().await;
    for task in [Some(server), Some(lead), admin].into_iter().flatten().filter(|task| !task.is_finished()) {
        drain(task).await;
    }
    ended
}

fn ended_early(ended: Result<Result<(), Error>, tokio::task::JoinError>) -> Error {
    match ended {
        Ok(Ok(())) => Error::Raft("a server ended by itself".into()),
        Ok(Err(error)) => error,
        Err(error) => Error::Raft(error.to_string()),
    }
}

async fn drain(mut task: JoinHandle<Result<(), Error>>) {
    match tokio::time::timeout(DRAIN_MAX, &mut task).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "a server did not end in order"),
        Ok(Err(error)) => tracing::warn!(%error, "a server did not end in order"),
        Err(_) => {
            tracing::debug!("open requests are cut off");
            task.abort();
        }
    }
}

fn leader_settings(config: &Config) -> Result<LeaderSettings, Error> {
    let random = |error: getrandom::Error| Error::Random(error.to_string());
    let (high, low) = (getrandom::u64().map_err(random)?, getrandom::u64().map_err(random)?);
    // Zero stands for no cluster.
    let cluster = ClusterId((u128::from(high) << 64 | u128::from(low)).max(1));
    Ok(LeaderSettings {
        node_timeout_ms: config.node_timeout.as_millis() as u64,
        replace_after_ms: config.replace_after.as_millis() as u64,
        bootstrap: Bootstrap {
            cluster,
            partition_count: config.cluster.partitions,
            replication: config.cluster.replication,
            expected_nodes: config.cluster.expect_nodes,
        },
    })
}

/// What a member can be spoken to through.
pub trait Connection: AsyncRead + AsyncWrite + Connected<ConnectInfo: Clone> + Unpin + Send + 'static {}

impl<C: AsyncRead + AsyncWrite + Connected<ConnectInfo: Clone> + Unpin + Send + 'static> Connection for C {}

fn serve_grpc<C: Connection>(
    incoming: impl Stream<Item = io::Result<C>> + Send + 'static,
    group: &Group,
    service: LeadersService,
    stopping: CancellationToken,
) -> JoinHandle<Result<(), Error>> {
    let raft = RaftServer::new(group.service())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let coordination = CoordinationServer::new(CoordinationService::new(service.clone()));
    let leaders = LeadersServer::new(service).max_encoding_message_size(MESSAGE_BYTES_MAX);
    tokio::spawn(async move {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<LeadersServer<LeadersService>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
            .build_v1()
            .map_err(|error| Error::Raft(format!("its descriptors can't be used: {error}")))?;
        tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_service(leaders)
            .add_service(coordination)
            .add_service(raft)
            .add_service(health_service)
            .add_service(reflection)
            .serve_with_incoming_shutdown(incoming, stopping.cancelled_owned())
            .await?;
        Ok(())
    })
}

fn serve_admin(listener: TcpListener, group: &Group, stopping: CancellationToken) -> JoinHandle<Result<(), Error>> {
    let (state, leadership) = (group.state(), group.leadership());
    let readiness = Arc::new(move || {
        let no_leader = leadership.borrow().leader_address.is_none();
        let halted = state.borrow().halted().map(str::to_owned);
        let no_cluster = state.borrow().view().is_none();
        vec![
            Check { name: "leader", failing: no_leader.then(|| "the group has no leader".to_owned()) },
            Check { name: "cluster", failing: no_cluster.then(|| "the cluster is not bootstrapped yet".to_owned()) },
            Check { name: "changes", failing: halted },
        ]
    });
    let admin = Admin { program: "viewleader", version: env!("CARGO_PKG_VERSION"), readiness };
    tokio::spawn(async move {
        Ok(daemon::admin::serve(listener, admin, Default::default(), stopping.cancelled_owned()).await?)
    })
}
