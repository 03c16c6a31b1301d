//! Writers that remember what was acknowledged, and a reader that holds the cluster to it.

use anyhow::{Context, Result, ensure};
use client::{Client, Error, PutOutcome};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use types::Condition;

/// One writer's key space: keys `writer-slot`, each holding the number of the write that set it last.
const SLOTS: u64 = 50;

/// A running load.
#[derive(Debug)]
pub struct Load {
    writers: Vec<JoinHandle<Result<Written>>>,
    stop: Arc<AtomicBool>,
    acknowledged: watch::Receiver<u64>,
}

/// What one writer knows when it ends.
#[derive(Debug, Default)]
struct Written {
    /// By slot: the last acknowledged write, and the last that may have happened.
    slots: Vec<(u64, u64)>,
    reads: u64,
    longest_gap: Duration,
}

/// What a load saw.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Acknowledged writes.
    pub writes: u64,
    /// Reads answered.
    pub reads: u64,
    /// The longest time that any one writer waited for an answer, to a write or a read.
    pub longest_gap: Duration,
}

impl Load {
    /// Starts `writers` writers; each writes and reads its own keys in turn, as fast as it is answered.
    pub fn start(client: &Client, writers: u64) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, acknowledged) = watch::channel(0);
        let (sender, total) = (Arc::new(sender), Arc::new(AtomicU64::new(0)));
        let writers = (0..writers).map(|writer| {
            let (client, stop, sender, total) = (client.clone(), stop.clone(), sender.clone(), total.clone());
            tokio::spawn(async move {
                write(&client, writer, &stop, || {
                    sender.send_replace(total.fetch_add(1, Ordering::Relaxed) + 1);
                })
                .await
            })
        });
        Load { writers: writers.collect(), stop, acknowledged }
    }

    /// Waits until `more` further writes are acknowledged.
    ///
    /// # Errors
    /// Where that takes a minute, or a writer has failed.
    pub async fn progress(&mut self, more: u64) -> Result<()> {
        let goal = *self.acknowledged.borrow() + more;
        let reached = self.acknowledged.wait_for(|count| *count >= goal);
        tokio::time::timeout(Duration::from_secs(60), reached).await.context("the load has stopped")??;
        Ok(())
    }

    /// Ends the load and reads every key: each holds its last acknowledged write, or a later one that was *unknown*.
    ///
    /// # Errors
    /// Where one does not, or a writer saw a wrong value.
    pub async fn stop_and_check(self, client: &Client) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let mut report = Report { writes: 0, reads: 0, longest_gap: Duration::ZERO };
        for (writer, handle) in self.writers.into_iter().enumerate() {
            let written = handle.await??;
            report.reads += written.reads;
            report.longest_gap = report.longest_gap.max(written.longest_gap);
            report.writes += written.slots.iter().map(|(done, _)| done).sum::<u64>();
            for (slot, (done, tried)) in written.slots.iter().enumerate() {
                check(client, &key(writer as u64, slot as u64), *done, *tried).await?;
            }
        }
        Ok(report)
    }
}

/// Asks the viewleaders until one of them answers: on a busy machine they may be without a leader for a moment, at any
/// moment. What is asked twice must be as good as asked once.
///
/// # Errors
/// What else goes wrong; and that, where it goes wrong for half a minute.
pub async fn insist<T>(mut ask: impl AsyncFnMut() -> Result<T, Error>) -> Result<T> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match ask().await {
            Err(Error::NoViewleader { .. } | Error::ViewleaderUnavailable { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answered => return Ok(answered?),
        }
    }
}

/// Waits until every partition serves and has all its replicas up to date, so that the next kill is a single fault.
///
/// # Errors
/// Where that takes a minute; with the last status.
pub async fn await_health(client: &Client) -> Result<()> {
    let mut last = String::new();
    for _ in 0..3000 {
        match client.status().await {
            Ok(status) => {
                let behind = status.without_quorum.len() + status.not_serving.len() + status.under_replicated.len();
                let dead = status.nodes.iter().filter(|node| !node.info.alive).count();
                if status.has_map && behind + dead == 0 {
                    return Ok(());
                }
                last = format!("{status:?}");
            }
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("the cluster does not become healthy: {last}")
}

fn key(writer: u64, slot: u64) -> String {
    format!("load-{writer}-{slot}")
}

async fn write(client: &Client, writer: u64, stop: &AtomicBool, acknowledged: impl Fn()) -> Result<Written> {
    let mut written = Written { slots: vec![(0, 0); SLOTS as usize], ..Written::default() };
    let mut last_answer = Instant::now();
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let slot = turn % SLOTS;
        let (done, tried) = &mut written.slots[slot as usize];
        let number = *tried + 1;
        *tried = number;
        match client.put(key(writer, slot), number.to_string(), Condition::None).await {
            Ok(PutOutcome::Done(_)) => {
                *done = number;
                acknowledged();
            }
            Ok(PutOutcome::ConditionFailed(_)) => anyhow::bail!("there was no condition"),
            // Both may be tried again: the next write of this slot has a greater number.
            Err(Error::NotDone { .. } | Error::Unknown { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        written.longest_gap = written.longest_gap.max(last_answer.elapsed());
        last_answer = Instant::now();
        if turn % 7 == 0 {
            let (done, tried) = written.slots[slot as usize];
            match check(client, &key(writer, slot), done, tried).await {
                // A read that was not answered says nothing.
                Err(error) if matches!(error.downcast_ref(), Some(Error::NotDone { .. })) => {}
                checked => checked?,
            }
            written.reads += 1;
            written.longest_gap = written.longest_gap.max(last_answer.elapsed());
            last_answer = Instant::now();
        }
    }
    Ok(written)
}

/// The key holds a write between the last acknowledged and the last tried one.
async fn check(client: &Client, key: &str, done: u64, tried: u64) -> Result<()> {
    let found = client.get(key.to_owned()).await?;
    let value = match &found {
        None => 0,
        Some(found) => std::str::from_utf8(&found.value)?.parse()?,
    };
    ensure!((done..=tried).contains(&value), "{key} holds write {value}; {done} was acknowledged, {tried} was tried");
    Ok(())
}
