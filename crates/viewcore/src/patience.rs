//! Backing off (P19): partitions that were just moved, and nodes that restart again and again.

use std::collections::{BTreeMap, BTreeSet};
use types::{NodeId, PartitionId};

/// First wait after a partition was moved on a report; doubles with every further one.
const BACKOFF_MIN_MS: u64 = 500;
/// Longest wait between two moves of one partition.
const BACKOFF_MAX_MS: u64 = 30_000;
/// Without a report for this long a partition's wait begins anew.
const BACKOFF_FORGOTTEN_MS: u64 = 120_000;
/// Restarts further apart than this are not held against a node.
const RESTART_WINDOW_MS: u64 = 60_000;
/// Restarts within the window that cost a node its primacies.
const RESTARTS_MAX: usize = 2;
/// For how long.
const AVOIDED_MS: u64 = 60_000;

/// What one leader remembers of moves and restarts.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    moves: BTreeMap<PartitionId, Move>,
    restarts_ms: BTreeMap<NodeId, Vec<u64>>,
    avoided_until_ms: BTreeMap<NodeId, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Move {
    at_ms: u64,
    wait_ms: u64,
}

impl Patience {
    /// Whether a partition may be moved on a report now.
    pub fn may_move(&self, partition: PartitionId, now_ms: u64) -> bool {
        self.moves.get(&partition).is_none_or(|last| now_ms.saturating_sub(last.at_ms) >= last.wait_ms)
    }

    /// A partition was moved on a report.
    pub fn moved(&mut self, partition: PartitionId, now_ms: u64) {
        let wait_ms = match self.moves.get(&partition) {
            Some(last) if now_ms.saturating_sub(last.at_ms) < BACKOFF_FORGOTTEN_MS => {
                (last.wait_ms * 2).min(BACKOFF_MAX_MS)
            }
            _ => BACKOFF_MIN_MS,
        };
        self.moves.insert(partition, Move { at_ms: now_ms, wait_ms });
    }

    /// A node that was registered before came back with a new incarnation.
    pub fn restarted(&mut self, node: NodeId, now_ms: u64) {
        let restarts = self.restarts_ms.entry(node).or_default();
        restarts.retain(|at| now_ms.saturating_sub(*at) < RESTART_WINDOW_MS);
        restarts.push(now_ms);
        if restarts.len() >= RESTARTS_MAX {
            self.avoided_until_ms.insert(node, now_ms + AVOIDED_MS);
        }
    }

    /// Nodes that should lead nothing for now.
    pub fn avoided(&self, now_ms: u64) -> BTreeSet<NodeId> {
        self.avoided_until_ms.iter().filter(|(_, until)| now_ms < **until).map(|(node, _)| *node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: PartitionId = PartitionId(1);
    const NODE: NodeId = NodeId(1);

    /// Guards against a partition that has moved often once and waits long for ever: who was left alone long enough begins
    /// anew, and not a moment before.
    #[test]
    fn a_wait_doubles_until_it_is_forgotten() {
        let mut patience = Patience::default();
        let mut now_ms = 1_000;
        let mut waits_ms = Vec::new();
        for _ in 0..9 {
            patience.moved(PARTITION, now_ms);
            let wait_ms = patience.moves[&PARTITION].wait_ms;
            assert!(!patience.may_move(PARTITION, now_ms + wait_ms - 1));
            assert!(patience.may_move(PARTITION, now_ms + wait_ms));
            waits_ms.push(wait_ms);
            now_ms += wait_ms;
        }
        assert_eq!(waits_ms, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        let last_ms = patience.moves[&PARTITION].at_ms;
        let mut almost = patience.clone();
        almost.moved(PARTITION, last_ms + BACKOFF_FORGOTTEN_MS - 1);
        assert_eq!(almost.moves[&PARTITION].wait_ms, BACKOFF_MAX_MS);
        patience.moved(PARTITION, last_ms + BACKOFF_FORGOTTEN_MS);
        assert_eq!(patience.moves[&PARTITION].wait_ms, BACKOFF_MIN_MS);
    }

    /// Guards against a node that is held to account for a restart of long ago, and against one that never leads again.
    #[test]
    fn restarts_count_within_a_window_and_cost_a_while() {
        let mut patience = Patience::default();
        patience.restarted(NODE, 0);
        patience.restarted(NODE, RESTART_WINDOW_MS);
        assert!(patience.avoided(RESTART_WINDOW_MS).is_empty(), "the first restart is out of the window by now");
        let second_ms = 2 * RESTART_WINDOW_MS - 1;
        patience.restarted(NODE, second_ms);
        assert_eq!(patience.avoided(second_ms), BTreeSet::from([NODE]));
        assert_eq!(patience.avoided(second_ms + AVOIDED_MS - 1), BTreeSet::from([NODE]));
        assert!(patience.avoided(second_ms + AVOIDED_MS).is_empty());
    }
}
