//! The parts of an accepted node, begun in order and ended in order.

use crate::applier::Applier;
use crate::clock::Clock;
use crate::config::Config;
use crate::control::Control;
use crate::disk::{self, Joined};
use crate::error::Error;
use crate::fatal::Fatal;
use crate::filler::Filler;
use crate::gate::{Gate, Node};
use crate::journal::{Journal, WalJournal};
use crate::keeper::Keeper;
use crate::me::Me;
use crate::peer::Links;
use crate::peer::supervisor::Peers;
use crate::recovery::Found;
use crate::reports::Reports;
use crate::scanner::Scanner;
use crate::session::{Contents, LeaderEvent};
use crate::shard::{Input, Parts, Recovered, ShardHandle, Shards, Worker};
use client::NodeStreams;
use engine::Engine;
use replcore::{Base, Replica, Settings};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use types::{PartitionCount, PartitionId};

/// Requests to write the view again that may wait: the keeper makes one at a time.
const REWRITES_LENGTH: usize = 1;

/// An accepted node at work.
pub(crate) struct Running {
    shards: Shards,
    /// Ends when the shards do.
    workers: JoinSet<()>,
    /// Views, peers, the log's keeper: they end with the node.
    helpers: JoinSet<()>,
    /// Whoever works on the state.
    threads: [std::thread::JoinHandle<()>; 3],
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
        let (filler, filler_thread) = Filler::spawn(engine.clone(), fatal.clone())?;
        let (scanner, scanner_thread) = Scanner::spawn(engine.clone(), fatal.clone())?;
        delete_leftovers(engine.as_ref(), &found, &applier)?;
        let settings = settings(view.partition_count);
        let clock = Clock::start();
        let links = Arc::new(Links::default());
        let (handles, queues): (Vec<_>, Vec<_>) = (0..config.shards).map(|_| ShardHandle::channel()).unzip();
        let shards = Shards::new(handles);
        let durable = watch::Sender::new(view.clone());

        let mut by_shard: Vec<Vec<Recovered>> = Vec::new();
        by_shard.resize_with(shards.count(), Vec::new);
        for found in found {
            by_shard[shards.index_of(found.partition)].push(replica(&me, settings, found)?);
        }
        let mut workers = JoinSet::new();
        for (index, (recovered, inputs)) in by_shard.into_iter().zip(queues).enumerate() {
            let parts = Parts {
                me,
                index,
                count: config.shards,
                settings,
                unapplied_bytes_max: (config.unapplied_bytes_max as usize / config.shards).max(1),
                view: view.clone(),
                engine: engine.clone(),
                applier: applier.clone(),
                filler: filler.clone(),
                scanner: scanner.clone(),
                journal: journal.clone() as Arc<dyn Journal>,
                shards: shards.clone(),
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
            filler: filler.clone(),
            view: durable.subscribe(),
            me: me.node,
        };
        let control = Control::new(me, journal.clone(), shards.clone(), fatal, filler, durable);
        let mut helpers = JoinSet::new();
        helpers.spawn(peers.follow_view());
        helpers.spawn(control.run(heard, rewrite_queue));
        helpers.spawn(keeper.run());
        gate.open(Arc::new(node));
        Ok(Running {
            shards,
            workers,
            helpers,
            threads: [applier_thread, filler_thread, scanner_thread],
            journal,
            engine,
        })
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
        for thread in self.threads {
            let panicked = |_| Error::Bug("a thread that works on the state panicked".to_owned());
            disk::blocking(move || thread.join().map_err(panicked)).await?;
        }
        disk::close(self.journal, self.engine).await
    }
}

/// Memory that the logs of all replicas may take for replicas that are behind.
const LOGS_BYTES_MAX: usize = 256 << 20;
/// And what one replica's may take however many there are.
const LOG_BYTES_MIN: usize = 256 << 10;

/// Memory that entries may take which stay for watchers after the logs were trimmed.
const HISTORY_BYTES_MAX: usize = 64 << 20;

/// Bounds of the replicas, given how many there may be on a node.
fn settings(partition_count: PartitionCount) -> Settings {
    let log_bytes_max = (LOGS_BYTES_MAX / partition_count.get() as usize).max(LOG_BYTES_MIN);
    let history_bytes_max = HISTORY_BYTES_MAX / partition_count.get() as usize;
    Settings { log_bytes_max, history_bytes_max, ..Settings::default() }
}

/// P5: what a crash left of generations that had ended, or of snapshots that were not finished.
fn delete_leftovers(engine: &dyn Engine, found: &[Found], applier: &Applier) -> Result<(), Error> {
    let bases: BTreeMap<PartitionId, Base> =
        found.iter().map(|found| (found.partition, found.recovered.base)).collect();
    for keyspace in engine.keyspaces()? {
        match bases.get(&keyspace.partition) {
            Some(base) if base.generation == keyspace.generation => {}
            Some(base) if keyspace.generation <= base.highest_generation.max(base.generation) => {
                applier.delete(keyspace);
            }
            _ => tracing::warn!(%keyspace, "data that the write-ahead log knows nothing of stays on disk"),
        }
    }
    Ok(())
}

fn replica(me: &Me, settings: Settings, found: Found) -> Result<Recovered, Error> {
    let Found { partition, recovered, retention, damaged } = found;
    let base = recovered.base;
    let begun = Replica::new(me.node, partition, me.accepted_at, settings, recovered);
    match begun {
        Ok(replica) => Ok(Recovered { replica, retention, damaged }),
        Err(error) => {
            tracing::error!(%partition, %error, "the partition's data here is damaged; it goes out of service");
            let bare = crate::recovery::bare(base);
            let replica = Replica::new(me.node, partition, me.accepted_at, settings, bare)
                .map_err(|error| impossible(partition, &error))?;
            Ok(Recovered { replica, retention, damaged: true })
        }
    }
}

fn impossible(partition: PartitionId, error: &replcore::MalformedRecord) -> Error {
    Error::Bug(format!("{partition} cannot begin empty: {error}"))
}
