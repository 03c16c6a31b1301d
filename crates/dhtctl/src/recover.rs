//! `recover`: partitions that lost their majority go on with what is left. Shows what may be lost before it asks.

use crate::cli::{ClusterFlags, Globals};
use crate::cluster::{named, print};
use crate::operator::{NodeName, Operator, partition};
use crate::output::{self, counted, node_list};
use clap::Args;
use client::{Moves, Operation, Stranded};
use daemon::{Exit, Failure};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use types::{Epoch, NodeId, PartitionId};

/// How often a refusal because the view moved on is answered with a new look.
const TRIES_MAX: usize = 5;

#[derive(Clone, Debug, Args)]
pub(crate) struct RecoverFlags {
    /// Only these; all that lost their majority, unless given.
    #[arg(long = "partition", value_name = "N", value_parser = partition, num_args = 1..)]
    partitions: Vec<PartitionId>,
    /// Where partitions that nobody has any more start anew, empty; several nodes hold a replica each.
    #[arg(long, value_name = "NODE")]
    on: Vec<NodeName>,
    /// Don't ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    cluster: ClusterFlags,
}

/// A partition, its members, and who goes on with it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Recovery {
    stranded: Stranded,
    goes_on_with: Vec<NodeId>,
}

pub(crate) async fn run(globals: &Globals, flags: &RecoverFlags) -> Result<Exit, Failure> {
    let operator = Operator::new(globals, &flags.cluster)?;
    if let Some(highest) = flags.partitions.iter().max() {
        let count = operator.view().await?.partition_count.get();
        if highest.0 >= count {
            return Err(Failure::usage(format!(
                "there is no {highest}: the cluster has {count} partitions, from p0 on"
            )));
        }
    }
    let mut on = Vec::new();
    for name in &flags.on {
        on.push(operator.node(name).await?);
    }
    let mut moves = operator.moves(None).await?;
    let mut agreed: Option<Vec<Recovery>> = None;
    for tries_left in (0..TRIES_MAX).rev() {
        let recoveries = chosen(&moves, &flags.partitions, &on)?;
        if recoveries.is_empty() {
            return nothing(globals, moves.epoch);
        }
        // What was agreed to is what is done: another picture is another question.
        if agreed.as_ref() != Some(&recoveries) {
            output::note(&shown(&recoveries));
            if !flags.yes {
                confirm(recoveries.len())?;
            }
        }
        let survivors = recoveries.iter().map(|r| (r.stranded.partition, r.goes_on_with.clone())).collect();
        let recover = Operation::Recover { planned_on: moves.epoch, survivors };
        match operator.operate(&recover).await {
            Ok(epoch) => return done(globals, epoch, &recoveries),
            Err(refused) if refused.exit == Exit::Denied && tries_left > 0 => {
                let now = operator.moves(None).await?;
                if now.epoch == moves.epoch {
                    return Err(refused);
                }
                output::note(&format!(
                    "nothing was recovered: the cluster has moved on from {} to {} meanwhile",
                    moves.epoch, now.epoch
                ));
                moves = now;
                agreed = Some(recoveries);
            }
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::unavailable("the cluster changes faster than it can be looked at; try again"))
}

/// What is to be recovered, and with whom.
fn chosen(moves: &Moves, partitions: &[PartitionId], on: &[NodeId]) -> Result<Vec<Recovery>, Failure> {
    let wanted = |stranded: &&Stranded| partitions.is_empty() || partitions.contains(&stranded.partition);
    let recovery = |stranded: &Stranded| {
        let goes_on_with = if stranded.survivors.is_empty() { on.to_vec() } else { stranded.survivors.clone() };
        Recovery { stranded: stranded.clone(), goes_on_with }
    };
    let mut recoveries: Vec<Recovery> = moves.stranded.iter().filter(wanted).map(recovery).collect();
    recoveries.sort_by_key(|recovery| recovery.stranded.partition);
    let lost: Vec<PartitionId> =
        recoveries.iter().filter(|r| r.goes_on_with.is_empty()).map(|r| r.stranded.partition).collect();
    if !lost.is_empty() {
        return Err(Failure::usage(format!(
            "nobody has {} any more ({}): start a node of theirs again, or say where they start anew, empty, with --on NODE",
            counted(lost.len(), "partition"),
            named(&lost)
        )));
    }
    Ok(recoveries)
}

/// What is gone for good once this is done.
fn may_be_lost(stranded: &Stranded) -> String {
    if stranded.survivors.is_empty() {
        "everything".to_owned()
    } else if stranded.primary_survives {
        "nothing: its last primary is among the survivors".to_owned()
    } else {
        format!("what was acknowledged without {}", node_list(&stranded.survivors))
    }
}

fn shown(recoveries: &[Recovery]) -> String {
    let row = |recovery: &Recovery| {
        let Recovery { stranded, goes_on_with } = recovery;
        let lists = [&stranded.members, &stranded.survivors, goes_on_with].map(|list| node_list(list));
        let [members, survivors, with] = lists;
        vec![stranded.partition.to_string(), members, survivors, with, may_be_lost(stranded)]
    };
    let rows: Vec<_> = recoveries.iter().map(row).collect();
    output::table(&["partition", "members", "survivors", "goes on with", "may be lost"], &rows)
}

/// Words that nobody types by accident.
fn sentence(count: usize) -> String {
    format!("recover {}", counted(count, "partition"))
}

fn confirm(count: usize) -> Result<(), Failure> {
    let sentence = sentence(count);
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "nobody is there to confirm `{sentence}`; look at the list, then add --yes"
        )));
    }
    let mut stderr = std::io::stderr();
    let cannot = |error: std::io::Error| Failure::unavailable(format!("cannot ask for a confirmation: {error}"));
    write!(stderr, "\nWhat may be lost is lost for good, even if its nodes return. To go on, type `{sentence}`: ")
        .and_then(|()| stderr.flush())
        .map_err(cannot)?;
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed).map_err(cannot)?;
    if typed.trim() == sentence {
        return Ok(());
    }
    Err(Failure::new(Exit::NotFound, "not confirmed: nothing was recovered"))
}

fn nothing(globals: &Globals, epoch: Epoch) -> Result<Exit, Failure> {
    print(
        globals.output,
        || "nothing to recover: every partition asked for has a majority".to_owned(),
        || json!({ "epoch": epoch.0, "recovered": [] }),
        Vec::new,
    )
}

fn done(globals: &Globals, epoch: Epoch, recoveries: &[Recovery]) -> Result<Exit, Failure> {
    let partitions: Vec<PartitionId> = recoveries.iter().map(|recovery| recovery.stranded.partition).collect();
    print(
        globals.output,
        || {
            let (count, names) = (counted(partitions.len(), "partition"), named(&partitions));
            format!("recovered {count} ({names}) at {epoch}; how they get their replicas back: dhtctl rebalance status")
        },
        || json!({ "epoch": epoch.0, "recovered": recoveries.iter().map(recovery_json).collect::<Vec<_>>() }),
        || partitions.iter().map(|partition| partition.0.to_string()).collect(),
    )
}

fn recovery_json(recovery: &Recovery) -> Value {
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
    json!({
        "partition": recovery.stranded.partition.0,
        "members": numbers(&recovery.stranded.members),
        "survivors": numbers(&recovery.stranded.survivors),
        "goes_on_with": numbers(&recovery.goes_on_with),
        "may_be_lost": may_be_lost(&recovery.stranded),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranded(partition: u32, survivors: &[u64], primary_survives: bool) -> Stranded {
        Stranded {
            partition: PartitionId(partition),
            members: [1, 2, 3].map(NodeId).into(),
            survivors: survivors.iter().copied().map(NodeId).collect(),
            primary_survives,
        }
    }

    fn moves() -> Moves {
        let stranded = vec![stranded(7, &[], false), stranded(3, &[1], true), stranded(5, &[2], false)];
        Moves { stranded, ..Moves::default() }
    }

    /// Guards against somebody who agrees to a loss that was not shown.
    #[test]
    fn what_may_be_lost_is_shown() {
        let recoveries = chosen(&moves(), &[], &[NodeId(4), NodeId(5)]).unwrap();
        assert_eq!(
            shown(&recoveries),
            "  partition  members     survivors  goes on with  may be lost
  p3         n1, n2, n3  n1         n1            nothing: its last primary is among the survivors
  p5         n1, n2, n3  n2         n2            what was acknowledged without n2
  p7         n1, n2, n3  –          n4, n5        everything"
        );
        assert_eq!(sentence(recoveries.len()), "recover 3 partitions");
        assert_eq!(recovery_json(&recoveries[2])["goes_on_with"], json!([4, 5]));
    }

    /// Guards against a partition that is emptied without anybody having said where, and one nobody asked for.
    #[test]
    fn what_is_chosen() {
        let unsaid = chosen(&moves(), &[], &[]).unwrap_err();
        assert_eq!(unsaid.exit, Exit::Usage);
        assert!(unsaid.message.contains("(p7)") && unsaid.message.contains("--on"), "{unsaid}");
        let only: Vec<_> = chosen(&moves(), &[PartitionId(5), PartitionId(9)], &[NodeId(4)]).unwrap();
        assert_eq!(only.len(), 1);
        assert_eq!(only[0].goes_on_with, [NodeId(2)], "survivors go before --on");
    }
}
