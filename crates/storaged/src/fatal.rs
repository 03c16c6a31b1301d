//! How a part of the node ends the whole: a failed write or fsync is never tried again (P2).

use crate::error::Error;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// The first failure that the node can't outlive.
#[derive(Debug, Default)]
pub(crate) struct Fatal {
    error: Mutex<Option<Error>>,
    told: Notify,
}

impl Fatal {
    /// The node ends with this, unless something else came first. May be called from any thread.
    pub(crate) fn end(&self, error: Error) {
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(error);
            drop(first);
            self.told.notify_one();
        } else {
            drop(first);
            tracing::error!(%error, "after the failure that ends the node");
        }
    }

    /// Resolves when the node has to end, and says why.
    pub(crate) async fn failed(&self) -> Error {
        loop {
            self.told.notified().await;
            let error = self.error.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(error) = error {
                return error;
            }
        }
    }
}
