//! The parts of an accepted node, begun in order and ended in order.

use crate::applier::Applier;
use crate::clock::Clock;
use crate::config::Config;
use crate::control::Control;
use crate::disk::{self, Joined};
use crate::error::Error;
use crate::fatal::Fatal;
use crate::gate::{Gate, Node};
use crate::journal::{Journal, WalJournal};
use crate::keeper::Keeper;
use crate::me::Me;
use crate::peer::Links;
use crate::peer::supervisor::Peers;
use crate::recovery::Found;
use crate::reports::Reports;
use crate::session::{Contents, LeaderEvent};
use crate::shard::{Input, Parts, Recovered, ShardHandle, Shards, Worker};
use client::NodeStreams;
use engine::Engine;
use replcore::{Replica, Settings};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use types::PartitionId;

/// Requests to write the view again that may wait: the keeper makes one at a time.
const REWRITES_LENGTH: usize = 1;

/// An accepted node at work.
pub(crate) struct Running {
    shards: Shards,
    /// Ends when the shards do.
    workers: JoinSet<()>,
    /// Views, peers, the log's keeper: they end with the node.
    helpers: JoinSet<()>,
    applier: std::thread::JoinHandle<()>,
    journal: Arc<WalJournal>,
    engine: Arc<dyn Engine>,
}

impl Running {
    /// Starts everything, and opens the gate.
    ///
    /// # Errors
    /// [`Error::System`] where a thread can't be started.
    pub(crate) async fn begin(
        config: &Config,
        joined: Joined,
        gate: &Gate,
        reports: Arc<Reports>,
        contents: Arc<Contents>,
        fatal: Arc<Fatal>,
        heard: mpsc::Receiver<LeaderEvent>,
    ) -> Result<Running, Error> {
        let Joined { me, view, found, journal, engine } = joined;
        let (applier, applier_thread) = Applier::spawn(engine.clone(), fatal.clone())?;
        let clock = Clock::start();
        let links = Arc::new(Links::default());
        let (handles, queues): (Vec<_>, Vec<_>) = (0..config.shards).map(|_| ShardHandle::channel()).unzip();
        let shards = Shards::new(handles);
        let durable = watch::Sender::new(view.clone());

        let mut by_shard: Vec<Vec<Recovered>> = Vec::new();
        by_shard.resize_with(shards.count(), Vec::new);
        for found in found {
            by_shard[shards.index_of(found.partition)].push(replica(&me, found)?);
        }
        let mut workers = JoinSet::new();
        for (index, (recovered, inputs)) in by_shard.into_iter().zip(queues).enumerate() {
            let parts = Parts {
                me,
                index,
                count: config.shards,
                settings: Settings::default(),
                unapplied_bytes_max: (config.unapplied_bytes_max as usize / config.shards).max(1),
                view: view.clone(),
                engine: engine.clone(),
                applier: applier.clone(),
                journal: journal.clone() as Arc<dyn Journal>,
                links: links.clone(),
                reports: reports.clone(),
                fatal: fatal.clone(),
                clock,
            };
            workers.spawn(Worker::new(parts, recovered).run(inputs));
        }

        let peers =
            Arc::new(Peers { me, links, shards: shards.clone(), reports: reports.clone(), view: durable.subscribe() });
        let streams = NodeStreams::new();
        streams.set_cluster(me.cluster);
        let node = Node { me, shards: shards.clone(), view: durable.subscribe(), peers: peers.clone(), streams, clock };
        let (rewrites, rewrite_queue) = mpsc::channel(REWRITES_LENGTH);
        let keeper = Keeper {
            journal: journal.clone(),
            shards: shards.clone(),
            applier,
            engine: engine.clone(),
            rewrites,
            contents,
            reports: reports.clone(),
        };
        let control = Control::new(me, journal.clone(), shards.clone(), fatal, durable);
        let mut helpers = JoinSet::new();
        helpers.spawn(peers.follow_view());
        helpers.spawn(control.run(heard, rewrite_queue));
        helpers.spawn(keeper.run());
        gate.open(Arc::new(node));
        Ok(Running { shards, workers, helpers, applier: applier_thread, journal, engine })
    }

    /// Resolves when a part has ended that should not have.
    pub(crate) async fn failed(&mut self) -> Error {
        let ended = tokio::select! {
            ended = self.workers.join_next() => ended,
            ended = self.helpers.join_next() => ended,
        };
        match ended {
            Some(Err(error)) => Error::Bug(format!("a part of the node failed: {error}")),
            _ => Error::Bug("a part of the node ended by itself".to_owned()),
        }
    }

    /// No more requests come: answers those that are open, for a moment.
    pub(crate) async fn finish_requests(&mut self) {
        self.shards.broadcast(|| Input::Stop).await;
        while let Some(ended) = self.workers.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a shard failed while stopping");
            }
        }
    }

    /// Ends the rest and closes the log.
    ///
    /// # Errors
    /// [`Error::Wal`] if the log failed.
    pub(crate) async fn close(mut self) -> Result<(), Error> {
        self.helpers.shutdown().await;
        let applier = self.applier;
        disk::blocking(move || applier.join().map_err(|_| Error::Bug("the applier's thread panicked".to_owned())))
            .await?;
        disk::close(self.journal, self.engine).await
    }
}

fn replica(me: &Me, found: Found) -> Result<Recovered, Error> {
    let Found { partition, recovered, retention, damaged } = found;
    let base = recovered.base;
    let begun = Replica::new(me.node, partition, me.accepted_at, Settings::default(), recovered);
    match begun {
        Ok(replica) => Ok(Recovered { replica, retention, damaged }),
        Err(error) => {
            tracing::error!(%partition, %error, "the partition's data here is damaged; it goes out of service");
            let bare = crate::recovery::bare(base);
            let replica = Replica::new(me.node, partition, me.accepted_at, Settings::default(), bare)
                .map_err(|error| impossible(partition, &error))?;
            Ok(Recovered { replica, retention, damaged: true })
        }
    }
}

fn impossible(partition: PartitionId, error: &replcore::MalformedRecord) -> Error {
    Error::Bug(format!("{partition} cannot begin empty: {error}"))
}
