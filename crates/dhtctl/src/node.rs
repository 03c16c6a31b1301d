//! `node drain|remove|cordon|uncordon|weight`: what becomes of one storage node.

use crate::cli::{ClusterFlags, Globals};
use crate::cluster::{duty_word, print};
use crate::operator::{NodeName, Operator};
use crate::output::{self, counted};
use crate::rebalance::plan;
use clap::{Args, Subcommand};
use client::{Move, Moves, Operation};
use daemon::{Exit, Failure};
use indicatif::ProgressBar;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::time::Duration;
use types::{Duty, Epoch, NodeId, View};

/// How often somebody who waits looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum NodeAction {
    /// Move everything off a node, so that it can be stopped; nothing is under-replicated meanwhile.
    Drain(DrainFlags),
    /// Give up a node that is dead: what it held is rebuilt on others.
    Remove(RemoveFlags),
    /// Let a node keep what it has, and give it nothing more.
    Cordon(NodeFlags),
    /// Let a node carry its share again; also ends a drain.
    Uncordon(NodeFlags),
    /// Change a node's share relative to others; 100 is usual.
    Weight(WeightFlags),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct NodeFlags {
    /// As `dhtctl nodes` shows it: n3, 3 or its address.
    node: NodeName,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DrainFlags {
    /// Only print what would move.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Stay until the node holds nothing.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    node: NodeFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RemoveFlags {
    /// Only print what would move.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    node: NodeFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct WeightFlags {
    #[command(flatten)]
    node: NodeFlags,
    /// Its share: a node of weight 200 holds twice as much as one of 100.
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    weight: u32,
}

pub(crate) async fn run(globals: &Globals, action: NodeAction) -> Result<Exit, Failure> {
    match action {
        NodeAction::Drain(flags) => {
            let operator = Operator::new(globals, &flags.node.cluster)?;
            drain(globals, &operator, &flags).await
        }
        NodeAction::Remove(flags) => {
            let operator = Operator::new(globals, &flags.node.cluster)?;
            let node = operator.node(&flags.node.node).await?;
            set_duty(globals, &operator, node, Duty::Removed, flags.dry_run).await
        }
        NodeAction::Cordon(flags) => {
            let operator = Operator::new(globals, &flags.cluster)?;
            set_duty(globals, &operator, operator.node(&flags.node).await?, Duty::Cordoned, false).await
        }
        NodeAction::Uncordon(flags) => {
            let operator = Operator::new(globals, &flags.cluster)?;
            set_duty(globals, &operator, operator.node(&flags.node).await?, Duty::Active, false).await
        }
        NodeAction::Weight(flags) => {
            let operator = Operator::new(globals, &flags.node.cluster)?;
            let (node, weight) = (operator.node(&flags.node.node).await?, flags.weight);
            let epoch = operator.operate(&Operation::SetWeight { node, weight }).await?;
            let moves = operator.moves(None).await?;
            print(
                globals.output,
                || format!("{node} has weight {weight}; {}", outlook(&moves)),
                || json!({ "node": node.0, "weight": weight, "epoch": epoch.0 }),
                || vec![node.0.to_string()],
            )
        }
    }
}

async fn drain(globals: &Globals, operator: &Operator<'_>, flags: &DrainFlags) -> Result<Exit, Failure> {
    let node = operator.node(&flags.node.node).await?;
    if !flags.wait {
        return set_duty(globals, operator, node, Duty::Draining, flags.dry_run).await;
    }
    let epoch = operator.operate(&Operation::SetDuty { node, duty: Duty::Draining }).await?;
    await_empty(operator, node, epoch).await?;
    print(
        globals.output,
        || format!("{node} holds nothing any more: it can be stopped"),
        || json!({ "node": node.0, "duty": duty_word(Duty::Draining), "epoch": epoch.0, "holds": 0 }),
        || vec![node.0.to_string()],
    )
}

async fn set_duty(
    globals: &Globals,
    operator: &Operator<'_>,
    node: NodeId,
    duty: Duty,
    dry_run: bool,
) -> Result<Exit, Failure> {
    let operation = Operation::SetDuty { node, duty };
    if dry_run {
        return plan::show(globals, operator, Some(&operation)).await;
    }
    let epoch = operator.operate(&operation).await?;
    let moves = operator.moves(None).await?;
    print(
        globals.output,
        || duty_text(node, duty, &moves),
        || {
            let leaving = leaving(&moves, node).count();
            json!({ "node": node.0, "duty": duty_word(duty), "epoch": epoch.0, "leaving_partitions": leaving })
        },
        || vec![node.0.to_string()],
    )
}

fn leaving(moves: &Moves, node: NodeId) -> impl Iterator<Item = &Move> {
    moves.underway.iter().chain(&moves.planned).filter(move |moving| moving.leaves == Some(node))
}

fn duty_text(node: NodeId, duty: Duty, moves: &Moves) -> String {
    let count = counted(leaving(moves, node).count(), "partition");
    let bytes = output::bytes(leaving(moves, node).map(|moving| moving.bytes).sum());
    let empty = leaving(moves, node).next().is_none();
    match duty {
        Duty::Draining if empty => {
            format!("{node} is draining, and nothing has to leave it: see dhtctl nodes before it is stopped")
        }
        Duty::Draining => format!("{node} is draining: {count}, {bytes}, leave it; {}", outlook(moves)),
        Duty::Removed if empty => format!("{node} is removed: it held nothing"),
        Duty::Removed => format!("{node} is removed: {count}, {bytes}, are rebuilt on others; {}", outlook(moves)),
        Duty::Cordoned => {
            format!("{node} keeps what it has and is given nothing more; undo: dhtctl node uncordon {node}")
        }
        Duty::Active => format!("{node} carries its share; {}", outlook(moves)),
    }
}

/// What happens next, and where to see it.
fn outlook(moves: &Moves) -> String {
    match moves.underway.len() + moves.planned.len() {
        0 => "nothing has to move".to_owned(),
        _ if moves.paused => "moves are paused, so nothing begins until: dhtctl rebalance resume".to_owned(),
        count => format!("{count} in all to move; watch: dhtctl rebalance status --watch"),
    }
}

/// Until no partition names the node: then nobody asks it for anything.
async fn await_empty(operator: &Operator<'_>, node: NodeId, since: Epoch) -> Result<(), Failure> {
    let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
    let mut said = BTreeSet::new();
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let moves = operator.moves_patiently().await?;
        let view = operator.view().await?;
        // Any member answers with its view: one that has not heard of the drain yet says nothing about its end.
        if view.epoch >= since {
            if holds(&view, node)? == 0 {
                break;
            }
            let left = format!("{node} holds {}", counted(holds(&view, node)?, "partition"));
            bar.iter().for_each(|bar| bar.set_message(left.clone()));
        }
        let paused =
            moves.paused.then(|| "moves are paused, so nothing begins until: dhtctl rebalance resume".to_owned());
        for line in moves.underway.iter().filter_map(|moving| moving.blocked.clone()).chain(paused) {
            if said.insert(line.clone()) {
                match &bar {
                    Some(bar) => bar.println(line),
                    None => output::note(&line),
                }
            }
        }
        bar.iter().for_each(ProgressBar::tick);
    }
    bar.iter().for_each(ProgressBar::finish_and_clear);
    Ok(())
}

/// Partitions that name a draining node.
///
/// # Errors
/// Where it is not draining any more: it would be waited for in vain.
fn holds(view: &View, node: NodeId) -> Result<usize, Failure> {
    // A node that is dead and holds nothing is forgotten.
    let Some(info) = view.nodes.get(&node) else { return Ok(0) };
    if !info.duty.leaves() {
        let duty = duty_word(info.duty);
        return Err(Failure::new(Exit::Denied, format!("the drain of {node} was ended by somebody: it is {duty}")));
    }
    Ok(view.configurations.iter().filter(|configuration| configuration.names(node)).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use types::{ClusterId, Configuration, Incarnation, NodeInfo, PartitionCount, PartitionId};

    fn moving(leaves: u64) -> Move {
        Move {
            partition: PartitionId(1),
            joins: Some(NodeId(4)),
            leaves: Some(NodeId(leaves)),
            primary: Some(NodeId(2)),
            filling: false,
            keys: 1,
            bytes: 1 << 20,
            blocked: None,
        }
    }

    /// Guards against an answer that does not say what happens now, or counts what leaves another node.
    #[test]
    fn what_a_duty_means() {
        let moves = Moves { underway: vec![moving(3)], planned: vec![moving(3), moving(1)], ..Moves::default() };
        assert_eq!(
            duty_text(NodeId(3), Duty::Draining, &moves),
            "n3 is draining: 2 partitions, 2.0 MiB, leave it; 3 in all to move; watch: dhtctl rebalance status --watch"
        );
        let paused = Moves { paused: true, ..moves };
        assert!(duty_text(NodeId(3), Duty::Removed, &paused).ends_with("until: dhtctl rebalance resume"));
        assert_eq!(duty_text(NodeId(3), Duty::Removed, &Moves::default()), "n3 is removed: it held nothing");
        assert!(duty_text(NodeId(3), Duty::Cordoned, &Moves::default()).contains("dhtctl node uncordon n3"));
        assert_eq!(duty_text(NodeId(3), Duty::Active, &Moves::default()), "n3 carries its share; nothing has to move");
    }

    /// Guards against a node that is called empty while a partition still needs it: as learner or before an activation.
    #[test]
    fn empty_is_named_by_nobody() {
        let mut view = View::new(ClusterId(1), PartitionCount::new(1).unwrap(), 2);
        let info = NodeInfo {
            id: NodeId(3),
            address: "h:3".into(),
            http_address: String::new(),
            zone: String::new(),
            weight: 100,
            incarnation: Incarnation(1),
            accepted_at: Epoch(1),
            alive: true,
            duty: Duty::Draining,
        };
        view.nodes.insert(NodeId(3), info);
        let with = |configuration| View { configurations: vec![Arc::new(configuration)], ..view.clone() };
        let elsewhere = Configuration { replicas: vec![NodeId(1)], ..Configuration::default() };
        assert_eq!(holds(&with(elsewhere.clone()), NodeId(3)), Ok(0));
        assert_eq!(holds(&with(Configuration { prior: vec![NodeId(3)], ..elsewhere.clone() }), NodeId(3)), Ok(1));
        assert_eq!(holds(&with(Configuration { learner: Some(NodeId(3)), ..elsewhere }), NodeId(3)), Ok(1));
        assert_eq!(holds(&view, NodeId(9)), Ok(0), "it is forgotten");
        if let Some(info) = view.nodes.get_mut(&NodeId(3)) {
            info.duty = Duty::Active;
        }
        assert_eq!(holds(&view, NodeId(3)).unwrap_err().exit, Exit::Denied);
    }
}
