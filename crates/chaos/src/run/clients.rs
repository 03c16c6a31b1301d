//! All clients of a run.

use super::{CLIENT_TIMEOUT, DRAWS_LOAD};
use crate::error::Error;
use crate::random::Random;
use crate::screen::Screen;
use crate::workload::{Load, Seat, Workload};
use client::{Client, Coordination, Options, ScanOptions};
use futures::stream::{self, TryStreamExt};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use types::Condition;

/// Deletes at a time, when an attached cluster is left as it was.
const DELETE_AT_A_TIME: usize = 32;

/// The running load.
pub(super) struct Clients {
    pub(super) load: Arc<Load>,
    asking: JoinSet<()>,
}

impl Clients {
    /// Starts `count` clients of each workload.
    ///
    /// # Errors
    /// [`Error::Client`].
    pub(super) async fn start(
        leaders: &[String],
        workloads: &[(usize, Arc<dyn Workload>)],
        count: u8,
        seed: u64,
        screen: &Screen,
    ) -> Result<Clients, Error> {
        let mut connected = Vec::new();
        for _ in 0..count {
            let client = Client::connect(leaders, Options { timeout: CLIENT_TIMEOUT }).await?;
            connected.push((client, Coordination::new(leaders, CLIENT_TIMEOUT)?));
        }
        let load = Arc::new(Load::new(Instant::now(), workloads.len()));
        let mut asking = JoinSet::new();
        let mut random = Random::part(seed, DRAWS_LOAD);
        for (place, (_, workload)) in workloads.iter().enumerate() {
            for ((client, coordination), number) in connected.iter().zip(0..) {
                asking.spawn(workload.clone().client(Seat {
                    client: client.clone(),
                    coordination: coordination.clone(),
                    workload: place,
                    number,
                    random: Random::new(random.next()),
                    load: load.clone(),
                }));
            }
        }
        screen.say(&format!("{} clients ask", asking.len()));
        Ok(Clients { load, asking })
    }

    /// Waits until every client has its last answer.
    pub(super) async fn stop(mut self) -> Arc<Load> {
        self.load.stop();
        // A client that panics ends the process.
        while self.asking.join_next().await.is_some() {}
        self.load
    }

    /// Sleeps, and tells the screen of every second that passes.
    pub(super) async fn sleep(&self, time: Duration, screen: &Screen) {
        let until = Instant::now() + time;
        watch(&self.load, screen, tokio::time::sleep_until(until.into())).await;
    }
}

/// Waits for something, and tells the screen of every second that passes.
pub(super) async fn watch<T>(load: &Load, screen: &Screen, something: impl Future<Output = T>) -> T {
    let mut something = std::pin::pin!(something);
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            done = &mut something => return done,
            _ = seconds.tick() => screen.second(load.meter.last()),
        }
    }
}

/// Deletes everything that a run wrote into a cluster that was there before it.
///
/// # Errors
/// [`Error::Client`].
pub(super) async fn delete_all(leaders: &[String], prefix: &str) -> Result<(), Error> {
    let client = &Client::connect(leaders, Options { timeout: CLIENT_TIMEOUT }).await?;
    let scan = client.scan(ScanOptions { prefix: prefix.to_owned().into(), keys_only: true, ..ScanOptions::default() });
    let keys = stream::try_unfold(scan, |mut scan| async move {
        let next = scan.next().await?;
        Ok::<_, client::Error>(next.map(|item| (item.key, scan)))
    });
    let delete = |key| async move { client.delete(key, Condition::None).await.map(|_| ()) };
    keys.map_ok(delete).try_buffer_unordered(DELETE_AT_A_TIME).try_collect().await.map_err(Error::from)
}
