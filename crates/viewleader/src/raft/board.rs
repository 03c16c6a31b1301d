//! Leases and locks as applied here, and who waits for a lock to change.
//!
//! They are not published like the view: they change hundreds of times a second, and a copy each time would be dear. Who
//! reads locks them for a moment; who waits is woken by the name it waits for.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::watch;
use viewcore::{ClusterState, Coordination, Outcome, coordination};

/// How many watched names more or less before those without watchers are looked for.
const PRUNE_EVERY: usize = 256;

/// What one member has applied. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Board {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    applied: RwLock<Coordination>,
    watched: Mutex<HashMap<String, watch::Sender<()>>>,
}

impl Board {
    pub(super) fn new(coordination: Coordination) -> Board {
        Board { inner: Arc::new(Inner { applied: RwLock::new(coordination), ..Inner::default() }) }
    }

    /// Leases and locks as of now. Not to be held across anything that waits.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Coordination> {
        self.inner.applied.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whenever the lock's holder or queue changes from now on.
    pub(crate) fn watch(&self, name: &str) -> watch::Receiver<()> {
        let mut watched = self.inner.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // Names that nobody watches any more and that nothing happens to would pile up.
        if watched.len().is_multiple_of(PRUNE_EVERY) {
            watched.retain(|_, watchers| watchers.receiver_count() > 0);
        }
        watched.entry(name.to_owned()).or_default().subscribe()
    }

    pub(super) fn apply(&self, state: &ClusterState, requests: &[coordination::Request]) -> Outcome {
        let mut touched = BTreeSet::new();
        let mut applied = self.inner.applied.write().unwrap_or_else(PoisonError::into_inner);
        let outcome = state.coordinate(&mut applied, requests, &mut touched);
        drop(applied);
        let mut watched = self.inner.watched.lock().unwrap_or_else(PoisonError::into_inner);
        for name in touched {
            // Nobody watches any more: then there is nobody to tell either.
            if watched.get(&name).is_some_and(|watchers| watchers.send(()).is_err()) {
                watched.remove(&name);
            }
        }
        outcome
    }

    /// Everything may be different now.
    pub(super) fn replace(&self, coordination: Coordination) {
        *self.inner.applied.write().unwrap_or_else(PoisonError::into_inner) = coordination;
        let mut watched = self.inner.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|_, watchers| watchers.send(()).is_ok());
    }
}
