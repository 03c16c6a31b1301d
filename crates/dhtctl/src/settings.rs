//! `cluster show` and `cluster set`: the settings of the whole cluster.

use crate::cli::{ClusterFlags, Globals};
use crate::cluster::print;
use crate::operator::Operator;
use crate::output::{self, counted};
use clap::{Args, Subcommand};
use client::{Configure, Moves, Operation};
use daemon::{Exit, Failure};
use serde_json::{Value, json};
use std::time::Duration;
use types::limits::REPLICATION_MAX;

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ClusterAction {
    /// Print the settings.
    Show(ClusterFlags),
    /// Change a setting.
    #[command(subcommand)]
    Set(Setting),
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Setting {
    /// Replicas of each partition.
    Replication(Replication),
    /// How long a node is dead before its replicas are rebuilt elsewhere.
    ReplaceAfter(ReplaceAfter),
    /// What a node sends at most to fill others, per second; 0: as fast as it can.
    RebalanceRate(RebalanceRate),
    /// How many replicas a node receives or sends at a time.
    MovesPerNode(MovesPerNode),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Replication {
    #[arg(value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(REPLICATION_MAX)))]
    replicas: u8,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ReplaceAfter {
    #[arg(value_name = "TIME", value_parser = daemon::settings::duration)]
    time: Duration,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RebalanceRate {
    #[arg(value_name = "SIZE", value_parser = daemon::settings::size_bytes)]
    bytes_per_second: u64,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct MovesPerNode {
    #[arg(value_name = "N")]
    moves: u32,
    #[command(flatten)]
    cluster: ClusterFlags,
}

pub(crate) async fn run(globals: &Globals, action: ClusterAction) -> Result<Exit, Failure> {
    let (operator, change) = match action {
        ClusterAction::Show(cluster) => (Operator::new(globals, &cluster)?, None),
        ClusterAction::Set(setting) => {
            let (cluster, change) = asked(setting)?;
            (Operator::new(globals, &cluster)?, Some(change))
        }
    };
    if let Some(change) = change {
        operator.operate(&Operation::Configure(change)).await?;
    }
    // After a change too: all settings, as the group has them now.
    let moves = operator.moves(None).await?;
    print(globals.output, || text(&moves), || json(&moves), || raw(&moves))
}

fn asked(setting: Setting) -> Result<(ClusterFlags, Configure), Failure> {
    let nothing = Configure::default();
    Ok(match setting {
        Setting::Replication(Replication { replicas, cluster }) => {
            (cluster, Configure { replication: Some(replicas), ..nothing })
        }
        Setting::ReplaceAfter(ReplaceAfter { time, cluster }) => {
            let after_ms = u64::try_from(time.as_millis())
                .map_err(|_| Failure::usage("replace-after is longer than any node lives; write it as 10m"))?;
            (cluster, Configure { replace_after_ms: Some(after_ms), ..nothing })
        }
        Setting::RebalanceRate(RebalanceRate { bytes_per_second, cluster }) => {
            (cluster, Configure { fill_bytes_per_second: Some(bytes_per_second), ..nothing })
        }
        Setting::MovesPerNode(MovesPerNode { moves, cluster }) => {
            (cluster, Configure { moves_per_node: Some(moves), ..nothing })
        }
    })
}

/// Names are those of `cluster set`, and values are as they are typed there.
fn rows(moves: &Moves) -> [(&'static str, String, String); 4] {
    let rate = moves.fill_bytes_per_second;
    let rate_meaning = match rate {
        0 => "a node sends as fast as it can to fill others".to_owned(),
        rate => format!("a node sends at most {}/s to fill others", output::bytes(rate)),
    };
    let replace_after = humantime::format_duration(Duration::from_millis(moves.replace_after_ms)).to_string();
    let replace_meaning = format!("a node dead for {replace_after} is replaced");
    [
        ("replication", moves.replication.to_string(), {
            format!("{} of each partition", counted(moves.replication as usize, "replica"))
        }),
        ("replace-after", replace_after.replace(' ', ""), replace_meaning),
        ("rebalance-rate", rate.to_string(), rate_meaning),
        ("moves-per-node", moves.moves_per_node.to_string(), {
            format!("a node receives or sends {} at a time", counted(moves.moves_per_node as usize, "replica"))
        }),
    ]
}

fn text(moves: &Moves) -> String {
    let cells: Vec<_> = rows(moves).map(|(name, value, meaning)| vec![name.to_owned(), value, meaning]).into();
    let paused = if moves.paused { "\n\nmoves are paused: dhtctl rebalance resume" } else { "" };
    format!("{}{paused}", output::table(&["setting", "value", "meaning"], &cells))
}

fn json(moves: &Moves) -> Value {
    json!({
        "epoch": moves.epoch.0,
        "replication": moves.replication,
        "replace_after_ms": moves.replace_after_ms,
        "rebalance_bytes_per_second": moves.fill_bytes_per_second,
        "moves_per_node": moves.moves_per_node,
        "paused": moves.paused,
    })
}

fn raw(moves: &Moves) -> Vec<String> {
    rows(moves).map(|(name, value, _)| format!("{name} {value}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moves() -> Moves {
        Moves {
            replication: 3,
            replace_after_ms: 90_000,
            fill_bytes_per_second: 64 << 20,
            moves_per_node: 1,
            ..Moves::default()
        }
    }

    /// Guards against values that can't be typed back as they are shown, and a unit that is left to guess.
    #[test]
    fn settings_for_people_and_pipes() {
        assert_eq!(
            text(&moves()),
            "  setting            value  meaning
  replication            3  3 replicas of each partition
  replace-after      1m30s  a node dead for 1m 30s is replaced
  rebalance-rate  67108864  a node sends at most 64.0 MiB/s to fill others
  moves-per-node         1  a node receives or sends 1 replica at a time"
        );
        let unlimited = Moves { fill_bytes_per_second: 0, paused: true, ..moves() };
        let shown = text(&unlimited);
        assert!(shown.contains("as fast as it can") && shown.ends_with("dhtctl rebalance resume"), "{shown}");
        let typed = raw(&moves());
        assert_eq!(typed[1], "replace-after 1m30s");
        assert_eq!(daemon::settings::duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(daemon::settings::size_bytes("67108864"), Ok(64 << 20));
    }

    /// Guards against a setting that changes another.
    #[test]
    fn one_setting_at_a_time() {
        let rate = RebalanceRate { bytes_per_second: 0, cluster: ClusterFlags::default() };
        let (_, change) = asked(Setting::RebalanceRate(rate)).unwrap();
        assert_eq!(change, Configure { fill_bytes_per_second: Some(0), ..Configure::default() });
    }
}
