//! What the viewleaders say, on its way to the replicas: a view is on disk before anybody acts on it (P5).
//!
//! Views that come while one is being written are skipped but for the newest.

use crate::error::Error;
use crate::fatal::Fatal;
use crate::filler::Filler;
use crate::journal::{self, Journal};
use crate::me::Me;
use crate::session::LeaderEvent;
use crate::shard::{Input, Shards};
use futures::future::{BoxFuture, Fuse, FusedFuture, FutureExt};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use types::{Epoch, LeaseId, View};
use wal::SegmentNumber;

/// Brings views to the disk, then to the shards and whoever watches.
pub(crate) struct Control {
    me: Me,
    journal: Arc<dyn Journal>,
    shards: Shards,
    fatal: Arc<Fatal>,
    filler: Filler,
    /// The newest view on disk.
    durable: watch::Sender<Arc<View>>,
    /// The newest one heard of, if it is not being written yet.
    pending: Option<Arc<View>>,
    /// The newest one being written, or written.
    newest: Epoch,
}

/// Asks for the view to be written once more; answered with its segment.
pub(crate) type Rewrite = oneshot::Sender<SegmentNumber>;

type Writing = BoxFuture<'static, Option<(Arc<View>, SegmentNumber, Option<Rewrite>)>>;

impl Control {
    /// Starts from the view in `durable`, which is on disk.
    pub(crate) fn new(
        me: Me,
        journal: Arc<dyn Journal>,
        shards: Shards,
        fatal: Arc<Fatal>,
        filler: Filler,
        durable: watch::Sender<Arc<View>>,
    ) -> Control {
        let newest = durable.borrow().epoch;
        filler.set_rate(durable.borrow().fill_bytes_per_second);
        Control { me, journal, shards, fatal, filler, durable, pending: None, newest }
    }

    /// Works until nobody has anything to say any more.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<LeaderEvent>, mut rewrites: mpsc::Receiver<Rewrite>) {
        let mut writing: Fuse<Writing> = Fuse::terminated();
        loop {
            if writing.is_terminated()
                && let Some(view) = self.pending.take()
            {
                self.newest = view.epoch;
                writing = self.write(view, None).fuse();
            }
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.on_event(event).await,
                    None => return,
                },
                Some(rewrite) = rewrites.recv(), if writing.is_terminated() => {
                    let view = self.durable.borrow().clone();
                    writing = self.write(view, Some(rewrite)).fuse();
                }
                written = &mut writing, if !writing.is_terminated() => match written {
                    Some((view, segment, rewrite)) => self.on_written(view, segment, rewrite).await,
                    // The log failed, which ends the node: it says so itself.
                    None => return std::future::pending().await,
                },
            }
        }
    }

    fn write(&self, view: Arc<View>, rewrite: Option<Rewrite>) -> Writing {
        let journal = self.journal.clone();
        async move {
            let segment = journal::write_view(journal.as_ref(), &view).await?;
            Some((view, segment, rewrite))
        }
        .boxed()
    }

    async fn on_written(&mut self, view: Arc<View>, segment: SegmentNumber, rewrite: Option<Rewrite>) {
        if let Some(rewrite) = rewrite {
            // The log's keeper goes only when the node ends.
            let _ended = rewrite.send(segment);
            return;
        }
        tracing::info!(epoch = %view.epoch, nodes = view.nodes.len(), has_map = view.has_map(), "a new view");
        metrics::gauge!("storaged_epoch").set(view.epoch.0 as f64);
        self.filler.set_rate(view.fill_bytes_per_second);
        self.durable.send_replace(view.clone());
        self.shards.broadcast(|| Input::View(view.clone())).await;
    }

    async fn on_event(&mut self, event: LeaderEvent) {
        match event {
            LeaderEvent::View(view) => {
                if !view.nodes.contains_key(&self.me.node) {
                    self.fatal.end(Error::Removed(self.me.node));
                    return;
                }
                let newest = self.pending.as_ref().map_or(self.newest, |pending| pending.epoch);
                if view.epoch > newest {
                    self.pending = Some(view);
                }
            }
            LeaderEvent::Accepted { cluster, node, accepted_at } => {
                let same = (cluster, node, accepted_at) == (self.me.cluster, self.me.node, self.me.accepted_at);
                if !same {
                    // P20: a retried registration gets the same answer.
                    let was = self.me.accepted_at;
                    self.fatal
                        .end(Error::Refused(format!("they accepted this start at {was} and now at {accepted_at}")));
                }
            }
            LeaderEvent::ActivationAnswered { partition, term, accepted } => {
                self.shards.of(partition).send(Input::ActivationAnswered { partition, term, accepted }).await;
            }
            LeaderEvent::DamageNoted { partition, epoch } => {
                self.shards.of(partition).send(Input::DamageNoted { partition, epoch }).await;
            }
            LeaderEvent::LeasesEnded(leases) => {
                let leases: Arc<[LeaseId]> = leases.into();
                self.shards.broadcast(|| Input::LeasesEnded(leases.clone())).await;
            }
            LeaderEvent::Refused(why) => self.fatal.end(Error::Refused(why)),
        }
    }
}
