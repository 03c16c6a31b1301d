//! Every view as it comes.

use crate::client::Client;
use crate::leaders::Leaders;
use std::sync::Arc;
use std::time::Duration;
use types::View;
use wire::convert::apply_view_update;
use wire::v1;

/// The pause after a member that was of no use.
const PAUSE: Duration = Duration::from_millis(100);

/// The views that viewleaders publish, from the present one on. A member that falls silent is followed by the next.
#[derive(Debug)]
pub struct WatchViews {
    leaders: Leaders,
    have: Arc<View>,
    given: bool,
    member: usize,
    updates: Option<tonic::Streaming<v1::ViewUpdate>>,
}

impl Client {
    /// Begins to watch views.
    pub fn watch_views(&self) -> WatchViews {
        WatchViews { leaders: self.leaders().clone(), have: self.view(), given: false, member: 0, updates: None }
    }
}

impl WatchViews {
    /// The next view; the first one is that of now. Waits for it as long as it takes. An epoch is left out only where
    /// a member publishes two as one.
    pub async fn next(&mut self) -> Arc<View> {
        if !std::mem::replace(&mut self.given, true) {
            return self.have.clone();
        }
        loop {
            match self.newer().await {
                Ok(view) if view.epoch > self.have.epoch => {
                    self.have = Arc::new(view);
                    return self.have.clone();
                }
                Ok(_) => {}
                Err(why) => {
                    tracing::debug!(address = self.leaders.address(self.member), why, "a view stream ended");
                    self.updates = None;
                    self.member += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn newer(&mut self) -> Result<View, String> {
        let updates = match &mut self.updates {
            Some(updates) => updates,
            None => {
                let updates = self.leaders.watch(self.member, self.have.epoch).await?;
                self.updates.insert(updates)
            }
        };
        match updates.message().await {
            Ok(Some(update)) => apply_view_update(Some(&self.have), update).map_err(|error| error.to_string()),
            Ok(None) => Err("it ended the stream".to_owned()),
            Err(status) => Err(crate::endpoint::status_text(&status)),
        }
    }
}
