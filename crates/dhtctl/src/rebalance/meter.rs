//! How far moves have got since somebody began to watch, and how fast.

use super::status::{copied_bytes, remaining};
use crate::output;
use client::Moves;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use types::NodeId;

/// Readings that the rate is taken over.
const WINDOW: usize = 10;

/// Readings so far. The most that there was to do counts as the whole: what comes up meanwhile makes it grow.
#[derive(Debug, Default)]
pub(super) struct Meter {
    partitions_max: usize,
    bytes_max: u64,
    /// What each node has sent to fill others, as read last.
    filled: BTreeMap<NodeId, u64>,
    sent_bytes: u64,
    /// When, and how much had been sent by then.
    readings: VecDeque<(Duration, u64)>,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reading {
    pub(super) partitions_done: usize,
    pub(super) partitions: usize,
    pub(super) bytes_done: u64,
    pub(super) bytes: u64,
    pub(super) bytes_per_second: u64,
    /// Not known before anything has been sent.
    pub(super) left: Option<Duration>,
}

impl Meter {
    /// Takes in what moves at a time since the watch began.
    pub(super) fn read(&mut self, at: Duration, moves: &Moves) -> Reading {
        for node in &moves.nodes {
            // The first reading tells nothing about when it was sent; a node that started again began at 0.
            let before = self.filled.insert(node.node, node.filled_bytes).unwrap_or(node.filled_bytes);
            self.sent_bytes += node.filled_bytes.checked_sub(before).unwrap_or(node.filled_bytes);
        }
        self.readings.push_back((at, self.sent_bytes));
        if self.readings.len() > WINDOW {
            self.readings.pop_front();
        }
        let (partitions_left, bytes_left) = (remaining(moves), copied_bytes(moves));
        self.partitions_max = self.partitions_max.max(partitions_left);
        self.bytes_max = self.bytes_max.max(bytes_left);
        let bytes_per_second = self.bytes_per_second();
        let left_ms = bytes_left.saturating_mul(1000).checked_div(bytes_per_second);
        Reading {
            partitions_done: self.partitions_max - partitions_left,
            partitions: self.partitions_max,
            bytes_done: self.bytes_max - bytes_left,
            bytes: self.bytes_max,
            bytes_per_second,
            left: left_ms.map(Duration::from_millis),
        }
    }

    fn bytes_per_second(&self) -> u64 {
        let (Some((from, before)), Some((to, now))) = (self.readings.front(), self.readings.back()) else { return 0 };
        let elapsed_ms = to.saturating_sub(*from).as_millis() as u64;
        (now - before).saturating_mul(1000).checked_div(elapsed_ms).unwrap_or(0)
    }
}

impl Reading {
    /// Beside the bar.
    pub(super) fn text(&self) -> String {
        let left = self.left.map_or_else(String::new, |left| format!("  {} left", output::rough(left)));
        format!(
            "{} of {}  {} of {} partitions  {}/s{left}",
            output::bytes(self.bytes_done),
            output::bytes(self.bytes),
            self.partitions_done,
            self.partitions,
            output::bytes(self.bytes_per_second),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::moving;
    use super::*;
    use client::NodeMoves;

    fn moves(planned: u32, filled: u64) -> Moves {
        Moves {
            planned: (0..planned).map(|p| moving(p, 4, 1, 1, 10 << 20)).collect(),
            nodes: vec![NodeMoves { node: NodeId(1), filled_bytes: filled, surplus: Some(0) }],
            ..Moves::default()
        }
    }

    /// Guards against a bar that runs backwards when more comes up, and a rate that counts what was sent before.
    #[test]
    fn progress_is_counted_from_the_first_look() {
        let mut meter = Meter::default();
        let first = meter.read(Duration::ZERO, &moves(4, 1 << 40));
        assert_eq!((first.partitions_done, first.partitions, first.bytes_per_second, first.left), (0, 4, 0, None));
        let second = meter.read(Duration::from_secs(2), &moves(3, (1 << 40) + (10 << 20)));
        assert_eq!(second.text(), "10.0 MiB of 40.0 MiB  1 of 4 partitions  5.0 MiB/s  6s left");
        let more = meter.read(Duration::from_secs(3), &moves(7, (1 << 40) + (10 << 20)));
        assert_eq!((more.partitions_done, more.partitions), (0, 7));
    }

    /// Guards against a rate that underflows when a node starts again.
    #[test]
    fn a_node_starts_again() {
        let mut meter = Meter::default();
        meter.read(Duration::ZERO, &moves(4, 50 << 20));
        let reading = meter.read(Duration::from_secs(1), &moves(4, 2 << 20));
        assert_eq!(reading.bytes_per_second, 2 << 20);
    }
}
