//! What moves, how far it is, and what is stuck: once, or until it is over.

use super::meter::{Meter, Reading};
use crate::cli::Globals;
use crate::cluster::{named, print};
use crate::operator::Operator;
use crate::output::{self, Format, counted};
use client::{Move, Moves};
use daemon::{Exit, Failure};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use types::{NodeId, PartitionId};

/// How often the bar is drawn anew.
const REDRAW: Duration = Duration::from_millis(500);
/// Moves that a snapshot lists.
const ROWS_MAX: usize = 16;
/// What is stuck, as far as it fits under a bar.
const BLOCKED_UNDER_BAR_MAX: usize = 5;

pub(super) async fn run(globals: &Globals, operator: &Operator<'_>, watch: bool) -> Result<Exit, Failure> {
    let live = watch && globals.output == Format::Table && std::io::stderr().is_terminal();
    let moves = if live { watch_to_the_end(operator).await? } else { operator.moves(None).await? };
    print(globals.output, || text(&moves), || json(&moves), || vec![word(&moves).to_owned()])
}

async fn watch_to_the_end(operator: &Operator<'_>) -> Result<Moves, Failure> {
    let style = ProgressStyle::with_template("{wide_bar} {msg}")
        .map_err(|error| Failure::bug(format!("the progress bar's template: {error}")))?;
    let bar = ProgressBar::new(1).with_style(style);
    let (mut meter, began) = (Meter::default(), Instant::now());
    let mut every = tokio::time::interval(REDRAW);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let moves = operator.moves_patiently().await?;
        if moves.complete {
            bar.finish_and_clear();
            return Ok(moves);
        }
        let reading = meter.read(began.elapsed(), &moves);
        // Empty partitions move as well: then their number is the measure.
        let (done, whole) = match reading.bytes {
            0 => (reading.partitions_done as u64, reading.partitions as u64),
            bytes => (reading.bytes_done, bytes),
        };
        bar.set_length(whole.max(1));
        bar.set_position(done);
        bar.set_message(beside_bar(&reading, &moves));
    }
}

fn beside_bar(reading: &Reading, moves: &Moves) -> String {
    let mut message = match word(moves) {
        "balancing" | "clearing" => headline(moves),
        _ => reading.text(),
    };
    if moves.paused {
        message.push_str("  PAUSED: dhtctl rebalance resume");
    }
    let stuck: Vec<&String> = moves.underway.iter().filter_map(|moving| moving.blocked.as_ref()).collect();
    stuck.iter().take(BLOCKED_UNDER_BAR_MAX).for_each(|line| message.push_str(&format!("\n  stuck: {line}")));
    let more = stuck.len().saturating_sub(BLOCKED_UNDER_BAR_MAX);
    if more > 0 {
        message.push_str(&format!("\n  and {more} more are stuck"));
    }
    message
}

/// Replicas that are still to move.
pub(super) fn remaining(moves: &Moves) -> usize {
    moves.underway.len() + moves.planned.len()
}

/// Bytes that are still to be copied.
pub(super) fn copied_bytes(moves: &Moves) -> u64 {
    let copied = moves.underway.iter().filter(|moving| moving.filling).chain(&moves.planned);
    copied.filter(|moving| moving.joins.is_some()).map(|moving| moving.bytes).sum()
}

/// One word for the whole.
fn word(moves: &Moves) -> &'static str {
    let blocked = moves.underway.iter().filter(|moving| moving.blocked.is_some()).count();
    if moves.complete && moves.stranded.is_empty() {
        "complete"
    } else if moves.complete {
        "stranded"
    } else if blocked > 0 && blocked == moves.underway.len() {
        "blocked"
    } else if moves.paused && moves.underway.is_empty() && !moves.planned.is_empty() {
        "paused"
    } else if remaining(moves) > 0 {
        "moving"
    } else if moves.handovers > 0 {
        "balancing"
    } else {
        "clearing"
    }
}

fn headline(moves: &Moves) -> String {
    let amounts = format!(
        "{} under way, {} to begin, {} to copy",
        moves.underway.len(),
        moves.planned.len(),
        output::bytes(copied_bytes(moves))
    );
    match word(moves) {
        "complete" => "Complete: every partition is where it should be, and nothing is left over".to_owned(),
        "stranded" => "nothing moves, and partitions are without a majority".to_owned(),
        "balancing" => {
            let partitions = counted(moves.handovers as usize, "partition");
            format!("everything is stored where it should be; {partitions} still to get another primary")
        }
        "clearing" => "everything is where it should be; what is left over is being deleted".to_owned(),
        word => format!("{word}: {amounts}"),
    }
}

fn text(moves: &Moves) -> String {
    let mut text = headline(moves);
    if moves.paused {
        text.push_str("\nmoves are paused: dhtctl rebalance resume");
    }
    if !moves.underway.is_empty() {
        text.push_str(&format!("\n\nunder way\n{}", moves_table(&moves.underway)));
    }
    if !moves.planned.is_empty() {
        text.push_str(&format!("\n\nto begin\n{}", moves_table(&moves.planned)));
    }
    let stuck: Vec<&String> = moves.underway.iter().filter_map(|moving| moving.blocked.as_ref()).collect();
    if !stuck.is_empty() {
        text.push_str("\n\nstuck");
        stuck.iter().for_each(|line| text.push_str(&format!("\n  {line}")));
    }
    if !moves.stranded.is_empty() {
        let partitions: Vec<PartitionId> = moves.stranded.iter().map(|stranded| stranded.partition).collect();
        let (count, names) = (counted(partitions.len(), "partition"), named(&partitions));
        text.push_str(&format!(
            "\n\nWITHOUT A MAJORITY: {count} ({names}); start their nodes again, or see what can be saved: dhtctl recover"
        ));
    }
    text.push_str(&left_over(moves));
    let sent: Vec<String> = moves
        .nodes
        .iter()
        .filter(|node| node.filled_bytes > 0)
        .map(|node| format!("{} {}", node.node, output::bytes(node.filled_bytes)))
        .collect();
    if !sent.is_empty() {
        text.push_str(&format!("\n\nsent to fill others, since each was started: {}", sent.join(", ")));
    }
    text
}

/// What has still to be deleted, where that is all there is to wait for.
fn left_over(moves: &Moves) -> String {
    if moves.complete {
        return String::new();
    }
    let surplus = moves.nodes.iter().filter_map(|node| Some((node.node, node.surplus?)));
    let surplus: Vec<String> =
        surplus.filter(|(_, surplus)| *surplus > 0).map(|(node, surplus)| format!("{surplus} on {node}")).collect();
    let unknown: Vec<NodeId> = moves.nodes.iter().filter(|node| node.surplus.is_none()).map(|node| node.node).collect();
    let mut text = String::new();
    if !surplus.is_empty() {
        text.push_str(&format!("\n\npartitions to delete: {}", surplus.join(", ")));
    }
    if !unknown.is_empty() && remaining(moves) == 0 {
        let who = output::node_list(&unknown);
        text.push_str(&format!("\n\nhas not looked for left-overs since the last change: {who}"));
    }
    text
}

fn moves_table(moves: &[Move]) -> String {
    let name = |node: Option<NodeId>| node.map_or("–".to_owned(), |node| node.to_string());
    let row = |moving: &Move| {
        let state = match moving {
            Move { blocked: Some(_), .. } => "stuck",
            Move { filling: true, .. } => "copying",
            _ => "–",
        };
        let bytes = output::bytes(moving.bytes);
        let nodes = [moving.joins, moving.leaves, moving.primary].map(name);
        let [joins, leaves, primary] = nodes;
        vec![moving.partition.to_string(), joins, leaves, primary, moving.keys.to_string(), bytes, state.to_owned()]
    };
    let rows: Vec<_> = moves.iter().take(ROWS_MAX).map(row).collect();
    let table = output::table(&["partition", "joins", "leaves", "primary", "keys", "bytes", "state"], &rows);
    match moves.len().saturating_sub(ROWS_MAX) {
        0 => table,
        more => format!("{table}\n  and {more} more"),
    }
}

fn json(moves: &Moves) -> Value {
    let id = |node: Option<NodeId>| node.map(|node| node.0);
    let moving = |moving: &Move| {
        json!({
            "partition": moving.partition.0, "joins": id(moving.joins), "leaves": id(moving.leaves),
            "primary": id(moving.primary), "filling": moving.filling, "keys": moving.keys, "bytes": moving.bytes,
            "blocked": moving.blocked,
        })
    };
    let all = |list: &[Move]| list.iter().map(moving).collect::<Vec<_>>();
    let node = |node: &client::NodeMoves| json!({ "node": node.node.0, "sent_bytes": node.filled_bytes, "surplus": node.surplus });
    json!({
        "epoch": moves.epoch.0,
        "state": word(moves),
        "complete": moves.complete,
        "paused": moves.paused,
        "bytes_to_copy": copied_bytes(moves),
        "underway": all(&moves.underway),
        "planned": all(&moves.planned),
        "handovers": moves.handovers,
        "nodes": moves.nodes.iter().map(node).collect::<Vec<_>>(),
        "without_majority": moves.stranded.iter().map(|stranded| stranded.partition.0).collect::<Vec<_>>(),
        "tolerates_now": moves.tolerates_now,
        "tolerates_then": moves.tolerates_then,
    })
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::moving;
    use super::*;
    use client::{NodeMoves, Stranded};

    fn moves() -> Moves {
        let stuck = "p7 has no majority without n3: start them again, or give up what only they have (dhtctl recover)";
        Moves {
            underway: vec![
                Move { filling: true, ..moving(0, 4, 1, 2, 3 << 20) },
                Move { blocked: Some(stuck.into()), ..moving(7, 4, 0, 3, 1 << 20) },
            ],
            planned: vec![moving(9, 4, 1, 1, 2 << 20)],
            nodes: vec![
                NodeMoves { node: NodeId(1), filled_bytes: 5 << 20, surplus: Some(2) },
                NodeMoves { node: NodeId(2), filled_bytes: 0, surplus: None },
            ],
            ..Moves::default()
        }
    }

    /// Guards against a snapshot that hides what is stuck or what to type next.
    #[test]
    fn a_snapshot_for_people() {
        assert_eq!(
            text(&moves()),
            "\
moving: 2 under way, 1 to begin, 5.0 MiB to copy

under way
  partition  joins  leaves  primary  keys    bytes  state
  p0         n4     n1      n2         10  3.0 MiB  copying
  p7         n4     –       n3         10  1.0 MiB  stuck

to begin
  partition  joins  leaves  primary  keys    bytes  state
  p9         n4     n1      n1         10  2.0 MiB      –

stuck
  p7 has no majority without n3: start them again, or give up what only they have (dhtctl recover)

partitions to delete: 2 on n1

sent to fill others, since each was started: n1 5.0 MiB"
        );
        let json = json(&moves());
        assert_eq!((&json["state"], &json["bytes_to_copy"]), (&json!("moving"), &json!(5 << 20)));
        assert_eq!(json["underway"][1]["leaves"], Value::Null);
    }

    /// Guards against "Complete" before the server says so: the fault that all that came before had.
    #[test]
    fn complete_only_if_the_server_says_so() {
        let mut over = Moves { underway: vec![], planned: vec![], ..moves() };
        assert_eq!(word(&over), "clearing");
        assert!(!text(&over).to_lowercase().contains("complete"), "{}", text(&over));
        assert!(text(&over).contains("has not looked for left-overs since the last change: n2"), "{}", text(&over));
        over.handovers = 3;
        assert!(text(&over).contains("3 partitions still to get another primary"), "{}", text(&over));
        over.complete = true;
        assert!(text(&over).starts_with("Complete: "), "{}", text(&over));
    }

    /// Guards against a cluster at rest that keeps to itself that partitions are lost, or that nothing can move.
    #[test]
    fn what_an_operator_must_know() {
        let stranded =
            Stranded { partition: PartitionId(3), members: vec![], survivors: vec![], primary_survives: false };
        let lost = text(&Moves { complete: true, stranded: vec![stranded], ..Moves::default() });
        assert!(!lost.contains("Complete"), "{lost}");
        assert!(lost.contains("WITHOUT A MAJORITY: 1 partition (p3)") && lost.contains("dhtctl recover"), "{lost}");
        let paused = Moves { paused: true, underway: vec![], ..moves() };
        assert_eq!(word(&paused), "paused");
        let all_stuck = Moves { underway: moves().underway.split_off(1), ..moves() };
        assert_eq!(word(&all_stuck), "blocked");
        let mut meter = Meter::default();
        let beside = beside_bar(&meter.read(Duration::ZERO, &all_stuck), &all_stuck);
        assert!(beside.contains("\n  stuck: p7 has no majority"), "{beside}");
    }
}
