//! How long the cluster takes to serve again: a put on one key of each partition, all at once, round after round.
//!
//! A fault's *recovery time* runs from its beginning to the end of the last round that it held up: the first round that
//! begins after the fault, or a later one, before the cluster is whole, that took longer than [`HELD_UP`]. A round ends
//! when every partition has accepted a put. So a fault that nobody notices recovers within one round's usual time, and
//! one that makes a partition wait until it is healed recovers after that.

use client::Client;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use types::{Condition, PartitionId};

/// A round that takes longer was held up.
const HELD_UP: Duration = Duration::from_millis(1_000);
/// Between two rounds.
const REST: Duration = Duration::from_millis(25);

/// All rounds so far. Ends its rounds when dropped.
#[derive(Debug)]
pub(crate) struct Probe {
    rounds: Arc<Mutex<Vec<Round>>>,
    _running: JoinSet<()>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    began: Instant,
    ended: Instant,
}

impl Probe {
    /// Puts keys that begin with `prefix`, through a client of its own.
    pub(crate) fn start(client: Client, prefix: &str) -> Probe {
        let rounds: Arc<Mutex<Vec<Round>>> = Arc::default();
        let mut running = JoinSet::new();
        let (keys, kept) = (keys(&client, prefix), rounds.clone());
        running.spawn(async move {
            loop {
                let round = one_round(&client, &keys).await;
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(round);
                tokio::time::sleep(REST).await;
            }
        });
        Probe { rounds, _running: running }
    }

    /// Waits for the end of a round that began after `since`.
    pub(crate) async fn round_after(&self, since: Instant, at_most: Duration) {
        let ended =
            || self.rounds.lock().unwrap_or_else(PoisonError::into_inner).last().is_some_and(|r| r.began > since);
        let waited = async {
            while !ended() {
                tokio::time::sleep(REST).await;
            }
        };
        // Without one there is no recovery time, and the report says so.
        let _late = tokio::time::timeout(at_most, waited).await;
    }

    /// The recovery time of a fault that began at `began`, after which the cluster was whole at `whole`.
    pub(crate) fn recovery(&self, began: Instant, whole: Instant) -> Option<Duration> {
        recovery(&self.rounds.lock().unwrap_or_else(PoisonError::into_inner), began, whole)
    }
}

fn recovery(rounds: &[Round], began: Instant, whole: Instant) -> Option<Duration> {
    let first = rounds.iter().find(|round| round.began >= began)?;
    let meanwhile = |round: &&Round| round.ended > began && round.began < whole;
    let held_up = rounds.iter().filter(meanwhile).filter(|round| round.ended - round.began > HELD_UP);
    let last = held_up.map(|round| round.ended).max().unwrap_or(first.ended).max(first.ended);
    Some(last - began)
}

/// One key for each partition.
fn keys(client: &Client, prefix: &str) -> Vec<String> {
    let view = client.view();
    let partitions = view.configurations.len();
    let mut keys: Vec<Option<String>> = vec![None; partitions];
    let mut missing = partitions;
    // Hashes spread evenly: the last partition is hit soon enough.
    for number in 0u64.. {
        if missing == 0 {
            break;
        }
        let key = format!("{prefix}probe-{number}");
        let PartitionId(partition) = view.partition_of(key.as_bytes());
        let place = &mut keys[partition as usize];
        if place.is_none() {
            *place = Some(key);
            missing -= 1;
        }
    }
    keys.into_iter().flatten().collect()
}

async fn one_round(client: &Client, keys: &[String]) -> Round {
    let began = Instant::now();
    let puts = keys.iter().map(|key| async move {
        // Until it is done: a probe may be written twice.
        while client.put(key.clone(), "probe", Condition::None).await.is_err() {
            tokio::time::sleep(REST).await;
        }
    });
    futures::future::join_all(puts).await;
    Round { began, ended: Instant::now() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a recovery time that ends before the cluster serves, or counts what another fault did.
    #[test]
    fn recovery_runs_to_the_end_of_the_last_round_that_was_held_up() {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let rounds = |list: &[(u64, u64)]| -> Vec<Round> {
            list.iter().map(|(began, ended)| Round { began: at(*began), ended: at(*ended) }).collect()
        };
        let quick = rounds(&[(0, 20), (990, 1_010), (1_020, 1_050), (1_060, 1_080)]);
        assert_eq!(recovery(&quick, at(1_000), at(2_000)), Some(Duration::from_millis(50)));
        let held_up = rounds(&[(0, 20), (990, 3_000), (3_020, 3_050), (3_060, 3_080)]);
        assert_eq!(recovery(&held_up, at(1_000), at(9_000)), Some(Duration::from_millis(2_050)));
        let later = rounds(&[(1_010, 1_050), (1_100, 4_100), (9_500, 19_000)]);
        assert_eq!(recovery(&later, at(1_000), at(9_000)), Some(Duration::from_millis(3_100)));
        assert_eq!(recovery(&later, at(9_800), at(9_900)), None);
    }
}
