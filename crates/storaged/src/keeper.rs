//! Keeps the write-ahead log short: what the state has on disk, and every replica has, need not be replayed.
//!
//! Whenever the log has begun a new segment: shards hand everything committed to the engine, the engine makes a
//! checkpoint, replicas trim their logs and write their bases again, the view is written again, and when all of that is
//! on disk the segments that nobody needs any more are released (P23).

use crate::applier::Applier;
use crate::control::Rewrite;
use crate::filler::Filler;
use crate::journal::WalJournal;
use crate::reports::Reports;
use crate::session::Contents;
use crate::shard::{Input, Shards};
use engine::Engine;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use types::{NodeId, PartitionId, View};
use wal::SegmentNumber;
use wire::v1;

/// How often to look although no segment began: followers may have caught up since.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often counters are brought up to date: people look at them.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// How often to look for data that should not be here, while there may be some.
const CENSUS_EVERY: Duration = Duration::from_millis(200);
/// Segments that may be there without a reason to look again.
const SEGMENTS_QUIET: u64 = 2;
/// The log may be so long before nothing is kept any more for nodes that lack its oldest part. One entry that nobody else
/// needs would keep all that was written after it.
const LOG_BYTES_MAX: u64 = 1 << 30;

/// The log's keeper.
pub(crate) struct Keeper {
    /// The log.
    pub(crate) journal: Arc<WalJournal>,
    /// The replicas.
    pub(crate) shards: Shards,
    /// The engine, for checkpoints.
    pub(crate) applier: Applier,
    /// The engine, for its counters.
    pub(crate) engine: Arc<dyn Engine>,
    /// Where the view is asked to be written again.
    pub(crate) rewrites: mpsc::Sender<Rewrite>,
    /// What heartbeats tell.
    pub(crate) contents: Arc<Contents>,
    /// What serves here.
    pub(crate) reports: Arc<Reports>,
    /// What is read for snapshots.
    pub(crate) filler: Filler,
    /// The newest view on disk.
    pub(crate) view: watch::Receiver<Arc<View>>,
    /// This node.
    pub(crate) me: NodeId,
}

impl Keeper {
    /// Works until the node ends. A failure of log or store ends the node, and whoever failed says so: this waits then.
    pub(crate) async fn run(self) {
        let mut reached = self.journal.reached();
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut census = tokio::time::interval(CENSUS_EVERY);
        census.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut counts = tokio::time::interval(COUNT_EVERY);
        counts.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut counted = wal::Counters::default();
        loop {
            let began = tokio::select! {
                changed = reached.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return std::future::pending().await,
                },
                _ = looks.tick() => false,
                _ = counts.tick() => {
                    counted = self.count(counted);
                    continue;
                }
                _ = census.tick() => {
                    self.take_census();
                    continue;
                }
            };
            counted = self.count(counted);
            let segments = counted.current_segment.0 - counted.first_segment.0 + 1;
            if (began && segments > 1) || segments > SEGMENTS_QUIET {
                let before = *reached.borrow_and_update();
                match self.trim(before).await {
                    Some(first) => tracing::debug!(%first, current = %before, "trimmed the log"),
                    None => return std::future::pending().await,
                }
            }
        }
    }

    /// One round; returns the first segment that is still needed, or nothing if the node is ending.
    async fn trim(&self, reached: SegmentNumber) -> Option<SegmentNumber> {
        self.ask_all(Input::Drain).await?;
        if !self.applier.checkpoint().await {
            return None;
        }
        // Bases written from here on lie in `reached` or later; so does the view.
        let room_before = room_before(&self.journal.writer().counters());
        let needed = self.ask_all(|done| Input::Checkpointed { room_before, done }).await?;
        let (ask, written) = oneshot::channel();
        self.rewrites.send(ask).await.ok()?;
        let view_segment = written.await.ok()?;
        let first = needed.into_iter().flatten().chain([reached, view_segment]).min()?;
        self.journal.writer().release_before(first);
        Some(first)
    }

    async fn ask_all<T>(&self, question: impl Fn(oneshot::Sender<T>) -> Input) -> Option<Vec<T>> {
        let mut answers = Vec::new();
        for index in 0..self.shards.count() {
            let (ask, answer) = oneshot::channel();
            self.shards.at(index).send(question(ask)).await;
            answers.push(answer);
        }
        futures::future::try_join_all(answers).await.ok()
    }

    /// Brings the counters up to date.
    fn count(&self, before: wal::Counters) -> wal::Counters {
        let now = self.journal.writer().counters();
        metrics::counter!("storaged_log_syncs_total").increment(now.groups - before.groups);
        metrics::counter!("storaged_log_bytes_total").increment(now.bytes - before.bytes);
        metrics::gauge!("storaged_log_retained_bytes").set(now.retained_bytes as f64);
        metrics::gauge!("storaged_serving_partitions").set(self.reports.serving_count() as f64);
        let statistics = self.engine.statistics();
        let keys = statistics.keyspaces.values().map(|keyspace| keyspace.user_records).sum();
        let bytes = statistics.keyspaces.values().map(|keyspace| keyspace.user_bytes).sum();
        self.contents.keys.store(keys, Ordering::Relaxed);
        self.contents.bytes.store(bytes, Ordering::Relaxed);
        let view = self.view.borrow().clone();
        let led = statistics.keyspaces.iter().filter(|(keyspace, _)| {
            view.configuration(keyspace.partition).is_some_and(|now| now.primary() == Some(self.me))
        });
        let sizes = led.map(|(keyspace, statistics)| v1::PartitionSize {
            partition: keyspace.partition.0,
            keys: statistics.user_records,
            bytes: statistics.user_bytes,
        });
        *self.contents.sizes.lock().unwrap_or_else(PoisonError::into_inner) = sizes.collect();
        now
    }

    /// What lies here that should not: nothing, most of the time, and then it costs nothing to know.
    fn take_census(&self) {
        self.contents.filled_bytes.store(self.filler.filled_bytes(), Ordering::Relaxed);
        let view = self.view.borrow().clone();
        let (at, surplus) = *self.contents.surplus.lock().unwrap_or_else(PoisonError::into_inner);
        if at == view.epoch && surplus == 0 {
            return;
        }
        let named = |partition: PartitionId| view.configuration(partition).is_some_and(|now| now.names(self.me));
        match self.engine.keyspaces() {
            Ok(keyspaces) => {
                let wanted: BTreeSet<_> = keyspaces.iter().map(|keyspace| keyspace.partition).collect();
                let wanted = wanted.into_iter().filter(|partition| named(*partition)).count();
                let surplus = u32::try_from(keyspaces.len() - wanted).unwrap_or(u32::MAX);
                *self.contents.surplus.lock().unwrap_or_else(PoisonError::into_inner) = (view.epoch, surplus);
            }
            Err(error) => tracing::warn!(%error, "cannot list what is stored here"),
        }
    }
}

/// Where the log would have to begin to be no longer than it may.
fn room_before(log: &wal::Counters) -> SegmentNumber {
    let segments = log.current_segment.0 - log.first_segment.0 + 1;
    let fitting = segments.saturating_mul(LOG_BYTES_MAX) / log.retained_bytes.max(1);
    SegmentNumber((log.current_segment.0 + 1).saturating_sub(fitting))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a log that a single cold entry makes grow until the disk is full, and one that is cut for no reason.
    #[test]
    fn only_what_is_too_much_is_to_make_room() {
        let log = |first, current, mib: u64| wal::Counters {
            first_segment: SegmentNumber(first),
            current_segment: SegmentNumber(current),
            retained_bytes: mib << 20,
            ..wal::Counters::default()
        };
        assert!(room_before(&log(5, 5, 0)) <= SegmentNumber(5));
        assert!(room_before(&log(5, 20, 1_024)) <= SegmentNumber(5));
        assert_eq!(room_before(&log(1, 32, 2_048)), SegmentNumber(17), "16 of 32 segments fit");
        assert_eq!(room_before(&log(1, 2, 4_096)), SegmentNumber(3), "each is too long by itself");
    }
}
