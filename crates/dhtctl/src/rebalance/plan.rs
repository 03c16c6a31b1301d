//! What is to move, per node, and how long that takes at best.

use crate::cli::Globals;
use crate::cluster::{ask_status_of, print};
use crate::operator::Operator;
use crate::output::{self, counted};
use client::{ClusterStatus, Move, Moves, Operation};
use daemon::{Exit, Failure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use types::NodeId;

/// What a node is taken to send where nothing limits it.
const ASSUMED_BYTES_PER_SECOND: u64 = 50 << 20;
/// What a round of moves costs beside the copying: commits, activation, deletion.
const ROUND: Duration = Duration::from_millis(100);

/// Partitions, and their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Amount {
    partitions: u64,
    bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Row {
    node: NodeId,
    address: String,
    holds_now: Amount,
    receives: Amount,
    gives: Amount,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Plan {
    rows: Vec<Row>,
    moves: usize,
    copied_bytes: u64,
    estimate: Estimate,
    tolerates_now: u32,
    tolerates_then: u32,
    paused: bool,
}

/// How long the moves take at best.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Estimate {
    time: Duration,
    /// The slowest sender's.
    bytes_per_second: u64,
    /// No limit is set: the rate is assumed.
    is_assumed: bool,
    rounds: u32,
}

/// Prints what is to move, or would if `if_done` had been done.
pub(crate) async fn show(
    globals: &Globals,
    operator: &Operator<'_>,
    if_done: Option<&Operation>,
) -> Result<Exit, Failure> {
    let moves = operator.moves(if_done).await?;
    let status = ask_status_of(globals, &operator.leaders).await?;
    let plan = Plan::new(&moves, &status);
    print(globals.output, || plan.text(), || plan.json(), || vec![plan.moves.to_string()])
}

impl Amount {
    fn add(&mut self, moving: &Move) {
        self.partitions += 1;
        self.bytes += moving.bytes;
    }

    fn text(self) -> String {
        if self == Amount::default() {
            "–".to_owned()
        } else {
            format!("{}, {}", self.partitions, output::bytes(self.bytes))
        }
    }

    fn json(self) -> Value {
        json!({ "partitions": self.partitions, "bytes": self.bytes })
    }
}

impl Row {
    fn holds_then(&self) -> Amount {
        let then = |now: u64, receives: u64, gives: u64| (now + receives).saturating_sub(gives);
        let partitions = then(self.holds_now.partitions, self.receives.partitions, self.gives.partitions);
        let bytes = then(self.holds_now.bytes, self.receives.bytes, self.gives.bytes);
        // Nodes and primaries tell their bytes at different moments, so the sum does not quite come to nothing.
        Amount { partitions, bytes: if partitions == 0 { 0 } else { bytes } }
    }
}

impl Plan {
    fn new(moves: &Moves, status: &ClusterStatus) -> Plan {
        // Where new members wait for their activation only, the nodes hold what they are to hold already.
        let to_move: Vec<&Move> = moves.underway.iter().filter(|m| m.filling).chain(&moves.planned).collect();
        let (mut receives, mut gives) = (BTreeMap::<NodeId, Amount>::new(), BTreeMap::<NodeId, Amount>::new());
        for moving in &to_move {
            moving.joins.iter().for_each(|node| receives.entry(*node).or_default().add(moving));
            moving.leaves.iter().for_each(|node| gives.entry(*node).or_default().add(moving));
        }
        let rows = status.nodes.iter().map(|node| Row {
            node: node.info.id,
            address: node.info.address.clone(),
            holds_now: Amount { partitions: u64::from(node.partitions), bytes: node.bytes },
            receives: receives.remove(&node.info.id).unwrap_or_default(),
            gives: gives.remove(&node.info.id).unwrap_or_default(),
        });
        Plan {
            rows: rows.collect(),
            moves: to_move.len(),
            copied_bytes: to_move.iter().filter(|moving| moving.joins.is_some()).map(|moving| moving.bytes).sum(),
            estimate: estimate(&to_move, moves.fill_bytes_per_second, moves.moves_per_node),
            tolerates_now: moves.tolerates_now,
            tolerates_then: moves.tolerates_then,
            paused: moves.paused,
        }
    }

    fn text(&self) -> String {
        let cells: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                let amounts = [row.holds_now, row.receives, row.gives, row.holds_then()].map(Amount::text);
                [row.node.to_string(), row.address.clone()].into_iter().chain(amounts).collect()
            })
            .collect();
        let table = output::table(&["node", "address", "holds now", "in", "out", "holds then"], &cells);
        let tolerates = |failures: u32| match failures {
            0 => "no node's failure".to_owned(),
            failures => format!("the failure of {}", counted(failures as usize, "node")),
        };
        let (now, then) = (tolerates(self.tolerates_now), tolerates(self.tolerates_then));
        if self.moves == 0 {
            return format!("{table}\n\nnothing is to move\ntolerates {now} now, {then} then");
        }
        let paused =
            if self.paused { "\nmoves are paused, so nothing begins until: dhtctl rebalance resume" } else { "" };
        format!(
            "{table}\n\n{} to move, {} to copy, {}\ntolerates {now} now, {then} then{paused}",
            counted(self.moves, "replica"),
            output::bytes(self.copied_bytes),
            self.estimate.text(),
        )
    }

    fn json(&self) -> Value {
        let row = |row: &Row| {
            json!({
                "node": row.node.0, "address": row.address, "holds_now": row.holds_now.json(),
                "in": row.receives.json(), "out": row.gives.json(), "holds_then": row.holds_then().json(),
            })
        };
        json!({
            "nodes": self.rows.iter().map(row).collect::<Vec<_>>(),
            "moves": self.moves,
            "copied_bytes": self.copied_bytes,
            "estimated_ms": self.estimate.time.as_millis() as u64,
            "estimated_at_bytes_per_second": self.estimate.bytes_per_second,
            "rate_is_assumed": self.estimate.is_assumed,
            "rounds": self.estimate.rounds,
            "tolerates_now": self.tolerates_now,
            "tolerates_then": self.tolerates_then,
            "paused": self.paused,
        })
    }
}

impl Estimate {
    fn text(&self) -> String {
        let rate = output::bytes(self.bytes_per_second);
        let rate = if self.is_assumed {
            format!("assuming that a node sends {rate}/s, as no rebalance-rate is set")
        } else {
            format!("at the rebalance-rate of {rate}/s per node")
        };
        let rounds = counted(self.rounds as usize, "round");
        format!("about {} ({rate}, plus 0.1s for each of {rounds})", output::rough(self.time))
    }
}

/// Primaries send side by side, so the one with the most to send counts; and so does the node with the most moves, as each
/// takes part in `moves_per_node` at a time.
fn estimate(moves: &[&Move], limit_bytes_per_second: u64, moves_per_node: u32) -> Estimate {
    let is_assumed = limit_bytes_per_second == 0;
    let bytes_per_second = if is_assumed { ASSUMED_BYTES_PER_SECOND } else { limit_bytes_per_second };
    let (mut sent_bytes, mut parts) = (BTreeMap::<NodeId, u64>::new(), BTreeMap::<NodeId, u32>::new());
    for moving in moves {
        if let (Some(primary), Some(_)) = (moving.primary, moving.joins) {
            *sent_bytes.entry(primary).or_default() += moving.bytes;
        }
        for node in [moving.primary, moving.joins].into_iter().flatten() {
            *parts.entry(node).or_default() += 1;
        }
    }
    let rounds = parts.values().max().copied().unwrap_or(0).div_ceil(moves_per_node.max(1));
    let most_bytes = sent_bytes.values().max().copied().unwrap_or(0);
    let copying = Duration::from_millis(most_bytes.saturating_mul(1000) / bytes_per_second);
    Estimate { time: copying + ROUND * rounds, bytes_per_second, is_assumed, rounds }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use client::NodeStatus;
    use types::{ClusterId, Duty, Epoch, Incarnation, NodeInfo, PartitionId};

    pub(crate) fn moving(partition: u32, joins: u64, leaves: u64, primary: u64, bytes: u64) -> Move {
        let node = |id: u64| (id != 0).then_some(NodeId(id));
        Move {
            partition: PartitionId(partition),
            joins: node(joins),
            leaves: node(leaves),
            primary: node(primary),
            filling: false,
            keys: 10,
            bytes,
            blocked: None,
        }
    }

    fn status(nodes: u64) -> ClusterStatus {
        let node = |id: u64| NodeStatus {
            info: NodeInfo {
                id: NodeId(id),
                address: format!("h:{id}"),
                http_address: String::new(),
                zone: String::new(),
                weight: 100,
                incarnation: Incarnation(1),
                accepted_at: Epoch(1),
                alive: true,
                duty: Duty::Active,
            },
            heartbeat_age_ms: Some(1),
            partitions: if id == 4 { 0 } else { 256 },
            primaries: 85,
            keys: 1000,
            bytes: if id == 4 { 0 } else { 256 << 20 },
            epoch: Epoch(9),
        };
        ClusterStatus {
            cluster: ClusterId(7),
            epoch: Epoch(9),
            members: vec![],
            nodes: (1..=nodes).map(node).collect(),
            partition_count: 256,
            replication: 3,
            expected_nodes: 3,
            has_map: true,
            without_quorum: vec![],
            not_serving: vec![],
            under_replicated: vec![],
            alarms: vec![],
        }
    }

    fn joining() -> Moves {
        Moves {
            underway: vec![
                Move { filling: true, ..moving(0, 4, 1, 1, 100 << 20) },
                // Activation only: it is where it is to be.
                moving(1, 4, 2, 2, 1 << 20),
            ],
            planned: vec![moving(2, 4, 1, 1, 100 << 20), moving(3, 4, 3, 2, 50 << 20)],
            moves_per_node: 2,
            tolerates_now: 0,
            tolerates_then: 1,
            ..Moves::default()
        }
    }

    /// Guards against a dry run whose figures don't add up, or that hides how its time was estimated.
    #[test]
    fn a_plan_for_people() {
        let plan = Plan::new(&joining(), &status(4));
        assert_eq!(
            plan.text(),
            "  node  address       holds now            in           out      holds then
  n1    h:1      256, 256.0 MiB             –  2, 200.0 MiB   254, 56.0 MiB
  n2    h:2      256, 256.0 MiB             –             –  256, 256.0 MiB
  n3    h:3      256, 256.0 MiB             –   1, 50.0 MiB  255, 206.0 MiB
  n4    h:4                   –  3, 250.0 MiB             –    3, 250.0 MiB

3 replicas to move, 250.0 MiB to copy, about 4s (assuming that a node sends 50.0 MiB/s, as no rebalance-rate is set, \
             plus 0.1s for each of 2 rounds)
tolerates no node's failure now, the failure of 1 node then"
        );
        assert_eq!(plan.json()["nodes"][3]["in"], json!({ "partitions": 3, "bytes": 250 << 20 }));
        assert_eq!(plan.json()["copied_bytes"], 250 << 20);
    }

    /// Guards against an estimate that forgets the throttle, counts what is only given up, or divides by nothing.
    #[test]
    fn time_is_estimated_at_the_throttle() {
        let (first, second, gone) =
            (moving(0, 4, 1, 1, 60 << 20), moving(1, 4, 1, 2, 40 << 20), moving(2, 0, 1, 1, 1 << 40));
        let moves = [&first, &second, &gone];
        let limited = estimate(&moves, 10 << 20, 1);
        assert_eq!((limited.time, limited.rounds), (Duration::from_millis(6_000 + 200), 2));
        assert!(limited.text().contains("at the rebalance-rate of 10.0 MiB/s per node"), "{}", limited.text());
        assert_eq!(estimate(&[], 0, 0).time, Duration::ZERO);
    }

    /// Guards against a plan that looks as if something were about to happen when nothing is.
    #[test]
    fn nothing_moves() {
        let text = Plan::new(&Moves { tolerates_now: 1, tolerates_then: 1, ..Moves::default() }, &status(3)).text();
        assert!(text.contains("\n\nnothing is to move\n"), "{text}");
        let paused = Plan::new(&Moves { paused: true, ..joining() }, &status(4)).text();
        assert!(paused.ends_with("nothing begins until: dhtctl rebalance resume"), "{paused}");
    }
}
