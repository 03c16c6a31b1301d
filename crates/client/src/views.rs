//! The view that requests are routed by, kept up to date in the background.
//!
//! Two members of the viewleader group are watched at a time, so that one which hangs without closing its stream hides
//! no change. When an answer names a newer epoch than the view's, or a node can't be reached, a member is asked at once
//! instead of waiting for the stream. With all viewleaders gone the last view goes on serving.

use crate::leaders::Leaders;
use crate::node_streams::NodeStreams;
use crate::routes::Routes;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use types::{Epoch, View};
use wire::convert::apply_view_update;

/// Members watched at a time, where there are as many.
const WATCHED: usize = 2;
/// The pause after all members have failed in turn, growing to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// However quiet it is, a member is asked so often: it also tells who has joined the group, and who has gone.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// At most one refresh in this time, however many requests ask for one.
const REFRESH_EVERY: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct Views {
    leaders: Leaders,
    nodes: NodeStreams,
    routes: watch::Sender<Arc<Routes>>,
    refresh: Notify,
    /// One view is installed at a time.
    installing: Mutex<()>,
    draws: AtomicU64,
    /// The members whose views are followed, each by one task.
    followed: Mutex<BTreeSet<usize>>,
}

impl Views {
    pub(crate) fn new(leaders: Leaders, nodes: NodeStreams, view: View) -> Views {
        nodes.set_cluster(view.cluster);
        nodes.heard_of(view.epoch.0);
        let routes = Arc::new(Routes::new(Arc::new(view), &nodes));
        let draws = AtomicU64::new(u64::from(std::process::id()));
        let routes = watch::Sender::new(routes);
        Views {
            leaders,
            nodes,
            routes,
            refresh: Notify::new(),
            installing: Mutex::new(()),
            draws,
            followed: Mutex::default(),
        }
    }

    /// Starts what keeps the view up to date, until the set is dropped.
    pub(crate) fn watch(views: &Arc<Views>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for first in 0..views.leaders.count().min(WATCHED) {
            tasks.spawn(follow(views.clone(), first));
        }
        tasks.spawn(refresh_when_asked(views.clone()));
        tasks
    }

    /// The routes of now. Keep the guard for no longer than it takes to push a request: a new view waits for it.
    pub(crate) fn routes(&self) -> watch::Ref<'_, Arc<Routes>> {
        self.routes.borrow()
    }

    fn followed(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when the epoch is no longer `seen`.
    pub(crate) async fn newer_than(&self, seen: Epoch) {
        let mut changes = self.routes.subscribe();
        // Fails only if the sender is gone, and that is ours.
        let _never = changes.wait_for(|routes| routes.view.epoch > seen).await;
    }

    /// A node named this epoch.
    pub(crate) fn heard_of(&self, epoch: u64) {
        self.nodes.heard_of(epoch);
    }

    /// A number from 0 to 1, another one each time: spreads retries.
    pub(crate) fn jitter(&self) -> f64 {
        // splitmix64's step and finish.
        let mut z = self.draws.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Has a member asked for its view soon: ours may be old.
    pub(crate) fn ask_for_newer(&self) {
        self.refresh.notify_one();
    }

    /// Takes a view if it is newer than the one at hand.
    pub(crate) fn offer(&self, view: Arc<View>) {
        let _one_at_a_time = self.installing.lock().unwrap_or_else(PoisonError::into_inner);
        let older = self.routes.borrow().clone();
        if view.cluster != older.view.cluster && older.view.epoch > Epoch(0) {
            tracing::warn!(ours = %older.view.cluster, theirs = %view.cluster, "a viewleader of another cluster: ignored");
            return;
        }
        if view.epoch <= older.view.epoch {
            return;
        }
        tracing::debug!(epoch = %view.epoch, "new view");
        self.nodes.set_cluster(view.cluster);
        self.nodes.heard_of(view.epoch.0);
        let newer = Arc::new(Routes::new(view, &self.nodes));
        self.routes.send_replace(newer.clone());
        // After the new routes are out: whoever pushes from here on uses them.
        newer.end_waits_since(&older);
        self.nodes.retain(|address| newer.view.nodes.values().any(|node| node.address == address));
    }
}

/// Follows one member's view, and the next one's when that fails.
async fn follow(views: Arc<Views>, first: usize) {
    let mut member = first;
    let mut pause = PAUSE_MIN;
    loop {
        let before = views.routes.borrow().view.epoch;
        // Two eyes on one member see no more than one.
        let place = member % views.leaders.count();
        if views.followed().insert(place) {
            let why = follow_one(&views, member).await;
            views.followed().remove(&place);
            tracing::debug!(address = views.leaders.address(member), %why, "view stream ended");
        }
        member += 1;
        if views.routes.borrow().view.epoch > before {
            pause = PAUSE_MIN;
        }
        if (member - first).is_multiple_of(views.leaders.count()) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

async fn follow_one(views: &Views, member: usize) -> String {
    // Deltas follow from what this member sent before, not from what others did.
    let mut base = views.routes.borrow().view.clone();
    let mut updates = match views.leaders.watch(member, base.epoch).await {
        Ok(updates) => updates,
        Err(why) => return why,
    };
    loop {
        match updates.message().await {
            Ok(Some(update)) => match apply_view_update(Some(&base), update) {
                Ok(view) => {
                    base = Arc::new(view);
                    views.offer(base.clone());
                }
                Err(error) => return error.to_string(),
            },
            Ok(None) => return "it ended the stream".to_owned(),
            Err(status) => return crate::endpoint::status_text(&status),
        }
    }
}

async fn refresh_when_asked(views: Arc<Views>) {
    let mut pause = REFRESH_EVERY;
    loop {
        let behind = views.nodes.newest_epoch() > views.routes.borrow().view.epoch;
        if !behind {
            tokio::select! {
                () = views.nodes.news() => {}
                () = views.refresh.notified() => {}
                () = tokio::time::sleep(ASK_EVERY) => {}
            }
        }
        let have = views.routes.borrow().view.clone();
        match views.leaders.view_newer_than(Some(&have), views.nodes.newest_epoch()).await {
            Ok(newer) => {
                pause = REFRESH_EVERY;
                if let Some(view) = newer {
                    views.offer(Arc::new(view));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "no newer view");
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        tokio::time::sleep(pause).await;
    }
}
