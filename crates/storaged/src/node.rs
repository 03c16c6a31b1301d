//! From settings to a running node, and to its end.
//!
//! The order matters: nothing is changed on disk before every port is ours; log and state are read before the node
//! registers; it registers before it answers anybody (P20); the view it got is on disk before a replica sees it (P5).

use crate::config::Config;
use crate::disk::Disk;
use crate::error::Error;
use crate::fatal::Fatal;
use crate::gate::Gate;
use crate::identity::Identity;
use crate::me::Me;
use crate::meters;
use crate::reports::Reports;
use crate::running::Running;
use crate::servers::Servers;
use crate::session::{Contents, Introduction, LeaderEvent, Session};
use daemon::DataDirectory;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use types::View;

/// What may wait between the session and whoever brings views to the disk.
const EVENTS_LENGTH: usize = 64;

/// Runs a storage node until `shutdown` resolves, or it can't go on.
///
/// # Errors
/// [`Error`], one line for the person who started it.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let fatal = Arc::new(Fatal::default());
    let stop = CancellationToken::new();
    let life = live(&config, fatal.clone(), stop.clone());
    tokio::pin!(life, shutdown);
    loop {
        tokio::select! {
            // What ended the node comes before what ended in consequence.
            biased;
            // P2: at once. Whatever else the node is doing ends with the future dropped here.
            error = fatal.failed() => return Err(error),
            outcome = &mut life => return outcome,
            () = &mut shutdown, if !stop.is_cancelled() => stop.cancel(),
        }
    }
}

/// The node's life, until `stop`.
async fn live(config: &Config, fatal: Arc<Fatal>, stop: CancellationToken) -> Result<(), Error> {
    config.validate()?;
    let directory = DataDirectory::open(&config.data_dir)?;
    let (grpc, grpc_address) = daemon::listen::bind(&config.listen, "--listen", config.insecure).await?;
    let (http, http_address) = daemon::listen::bind(&config.http, "--http", config.insecure).await?;
    let (disk, directory) = Disk::open(config, directory, fatal.clone()).await?;

    let gate = Arc::new(Gate::default());
    let reports = Arc::new(Reports::default());
    let contents = Arc::new(Contents::default());
    let mut servers = Servers::start(&gate, &disk.engine, grpc, http, stop.clone())?;

    let address = config.advertise.clone().unwrap_or_else(|| grpc_address.to_string());
    let introduction = Introduction {
        leaders: config.leaders.clone(),
        address,
        http_address: http_address.to_string(),
        zone: config.zone.clone(),
        weight: config.weight,
        highest_promised: disk.replayed.highest_promised(),
    };
    tracing::info!(
        address = introduction.address,
        http = introduction.http_address,
        data_dir = %config.data_dir.display(),
        incarnation = disk.identity.incarnation.0,
        "waiting for a viewleader to accept this node"
    );
    let (events, mut heard) = mpsc::channel(EVENTS_LENGTH);
    let known = disk.replayed.view.clone().filter(|_| disk.identity.has_joined());
    let session = Session::new(introduction, disk.identity, known, reports.clone(), contents.clone(), events);
    let session = AbortOnDropHandle::new(tokio::spawn(session.run()));

    let accepted = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        accepted = accepted(disk.identity, &mut heard) => Some(accepted),
        error = servers.failed() => Some(Err(error)),
    };
    let (me, view) = match accepted {
        Some(Ok(accepted)) => accepted,
        not_accepted => {
            drop(session);
            disk.close().await?;
            return not_accepted.map_or(Ok(()), |outcome| outcome.map(|_| ()));
        }
    };
    // The HTTP server has installed the recorder by now.
    meters::describe();
    let joined = disk.join(&directory, &me, view).await?;
    let mut running = Running::begin(config, joined, &gate, reports, contents, fatal, heard).await?;
    servers.accepted().await;
    tracing::info!(node = %me.node, cluster = %me.cluster, accepted_at = %me.accepted_at, "serving");

    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        error = servers.failed() => return Err(error),
        error = running.failed() => return Err(error),
    }
    gate.begin_to_stop();
    running.finish_requests().await;
    drop(session);
    servers.finish().await;
    running.close().await
}

/// Waits until this start is accepted and the view is known.
///
/// # Errors
/// [`Error::Refused`].
async fn accepted(identity: Identity, heard: &mut mpsc::Receiver<LeaderEvent>) -> Result<(Me, Arc<View>), Error> {
    let mut me = None;
    loop {
        match (heard.recv().await, me) {
            (Some(LeaderEvent::Accepted { cluster, node, accepted_at }), _) => {
                me = Some(Me { cluster, node, incarnation: identity.incarnation, accepted_at });
            }
            (Some(LeaderEvent::View(view)), Some(me)) => return Ok((me, view)),
            (Some(LeaderEvent::Refused(why)), _) => return Err(Error::Refused(why)),
            (Some(_), _) => {}
            (None, _) => return Err(Error::Bug("the session with the viewleaders ended by itself".to_owned())),
        }
    }
}
