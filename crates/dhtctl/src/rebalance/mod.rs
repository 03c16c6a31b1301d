//! `rebalance plan|status|pause|resume|abort`: what moves between storage nodes, before and meanwhile.

mod meter;
pub(crate) mod plan;
mod status;

use crate::cli::{ClusterFlags, Globals};
use crate::cluster::print;
use crate::operator::{NodeName, Operator};
use crate::output::counted;
use clap::{Args, Subcommand};
use client::{Configure, Operation};
use daemon::{Exit, Failure};
use serde_json::json;
use types::Duty;
use types::limits::REPLICATION_MAX;

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum RebalanceAction {
    /// Print what is to move, or would if something were done; changes nothing.
    Plan(PlanFlags),
    /// Print what moves, how far it is, and what is stuck.
    Status(StatusFlags),
    /// Begin no more moves; those under way end.
    Pause(ClusterFlags),
    /// Begin moves again.
    Resume(ClusterFlags),
    /// Give up what is being copied, and begin no more until resumed.
    Abort(ClusterFlags),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PlanFlags {
    /// As if this node were drained.
    #[arg(long, value_name = "NODE", group = "if_done")]
    drain: Option<NodeName>,
    /// As if this node were removed.
    #[arg(long, value_name = "NODE", group = "if_done")]
    remove: Option<NodeName>,
    /// As if so many replicas were wanted.
    #[arg(long, value_name = "N", group = "if_done", value_parser = clap::value_parser!(u8).range(1..=i64::from(REPLICATION_MAX)))]
    replication: Option<u8>,
    /// As if this node had this weight.
    #[arg(long, value_name = "NODE=N", group = "if_done", value_parser = node_weight)]
    weight: Option<(NodeName, u32)>,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct StatusFlags {
    /// On a terminal: stay, with a progress bar, until everything is where it should be.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    cluster: ClusterFlags,
}

fn node_weight(text: &str) -> Result<(NodeName, u32), String> {
    let parsed = text.split_once('=').and_then(|(node, weight)| Some((node.parse().ok()?, weight.parse().ok()?)));
    parsed.ok_or_else(|| "write it as n3=200".to_owned())
}

pub(crate) async fn run(globals: &Globals, action: RebalanceAction) -> Result<Exit, Failure> {
    match action {
        RebalanceAction::Plan(flags) => {
            let operator = Operator::new(globals, &flags.cluster)?;
            let if_done = wanted(&operator, &flags).await?;
            plan::show(globals, &operator, if_done.as_ref()).await
        }
        RebalanceAction::Status(flags) => {
            status::run(globals, &Operator::new(globals, &flags.cluster)?, flags.watch).await
        }
        RebalanceAction::Pause(cluster) => order(globals, &cluster, &Operation::PauseMoves).await,
        RebalanceAction::Resume(cluster) => order(globals, &cluster, &Operation::ResumeMoves).await,
        RebalanceAction::Abort(cluster) => order(globals, &cluster, &Operation::AbortMoves).await,
    }
}

async fn wanted(operator: &Operator<'_>, flags: &PlanFlags) -> Result<Option<Operation>, Failure> {
    Ok(if let Some(name) = &flags.drain {
        Some(Operation::SetDuty { node: operator.node(name).await?, duty: Duty::Draining })
    } else if let Some(name) = &flags.remove {
        Some(Operation::SetDuty { node: operator.node(name).await?, duty: Duty::Removed })
    } else if let Some((name, weight)) = &flags.weight {
        Some(Operation::SetWeight { node: operator.node(name).await?, weight: *weight })
    } else {
        let replication = |replication| Configure { replication: Some(replication), ..Configure::default() };
        flags.replication.map(replication).map(Operation::Configure)
    })
}

async fn order(globals: &Globals, cluster: &ClusterFlags, order: &Operation) -> Result<Exit, Failure> {
    let operator = Operator::new(globals, cluster)?;
    let epoch = operator.operate(order).await?;
    let moves = operator.moves(None).await?;
    let (underway, planned) = (moves.underway.len(), moves.planned.len());
    let text = || match order {
        Operation::ResumeMoves => {
            format!("moves go on: {}; watch: dhtctl rebalance status --watch", counted(underway + planned, "partition"))
        }
        Operation::AbortMoves => {
            let ends = if underway == 0 {
                String::new()
            } else {
                format!("{} past copying still ends, ", counted(underway, "move"))
            };
            format!("what was being copied is given up, {ends}{planned} wait until: dhtctl rebalance resume")
        }
        _ => format!("no more moves begin: {underway} under way end, {planned} wait until: dhtctl rebalance resume"),
    };
    print(
        globals.output,
        text,
        || json!({ "epoch": epoch.0, "paused": moves.paused, "underway": underway, "planned": planned }),
        || vec![if moves.paused { "paused" } else { "going" }.to_owned()],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::NodeId;

    /// Guards against a weight that is given to another node than was meant.
    #[test]
    fn weights_as_typed() {
        assert_eq!(node_weight("n3=200"), Ok((NodeName::Id(NodeId(3)), 200)));
        assert_eq!(node_weight("h:1=50"), Ok((NodeName::Address("h:1".into()), 50)));
        for wrong in ["n3", "n3=", "=3", "n3=-1", "bob=3"] {
            assert!(node_weight(wrong).is_err(), "{wrong}");
        }
    }
}
