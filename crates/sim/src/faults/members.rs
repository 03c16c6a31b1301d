//! What operators do, wisely or not, and disks that are lost for good.

use super::Fault;
use crate::context::Context;
use crate::group::Group;
use crate::happening::{Happening, ToGroup};
use crate::node::Node;
use types::{Duty, NodeId};
use viewcore::{Configure, Operation};

/// Something that an operator does.
pub(super) fn draw(ctx: &mut Context, node: usize) -> (Vec<Fault>, Vec<Fault>) {
    let id = ctx.disks[node].id;
    let at_random = NodeId(1 + ctx.random.below(ctx.plan.nodes as u64));
    let id = id.unwrap_or(at_random);
    let configure = |configure| vec![Fault::Operate(Operation::Configure(configure))];
    let now = match ctx.random.below(20) {
        // A node that never ran joins; another one returns.
        0..=5 => vec![Fault::Restart(ctx.plan.founders + ctx.random.index(ctx.plan.nodes - ctx.plan.founders + 1))]
            .into_iter()
            .filter(|fault| matches!(fault, Fault::Restart(place) if *place < ctx.plan.nodes))
            .collect(),
        6..=9 => vec![Fault::Operate(Operation::SetDuty { node: id, duty: Duty::Draining })],
        10..=12 => vec![Fault::Operate(Operation::SetDuty { node: id, duty: Duty::Active })],
        13 => vec![Fault::Operate(Operation::SetDuty { node: id, duty: Duty::Cordoned })],
        14 | 15 => {
            let weight = [10, 50, 100, 300][ctx.random.index(4)];
            vec![Fault::Operate(Operation::SetWeight { node: id, weight })]
        }
        // Fewer replicas bear fewer losses: not in worlds that lose some.
        16 if ctx.plan.faults.damage == 0 && ctx.plan.faults.wipe == 0 => {
            let replication = Some(ctx.random.between(1, 5) as u8);
            configure(Configure { replication, ..Configure::default() })
        }
        17 => {
            let moves_per_node = Some(ctx.random.between(1, 4) as u32);
            configure(Configure { replace_after_ms: Some(1_000), moves_per_node, ..Configure::default() })
        }
        18 => vec![Fault::Operate(Operation::AbortMoves)],
        _ => vec![Fault::Operate(Operation::PauseMoves)],
    };
    let pauses = matches!(now.first(), Some(Fault::Operate(Operation::PauseMoves | Operation::AbortMoves)));
    (now, if pauses { vec![Fault::Operate(Operation::ResumeMoves)] } else { vec![] })
}

/// At most one disk in a world: of three replicas two would be too many.
pub(super) fn wipe(ctx: &mut Context, nodes: &mut [Node], node: usize) {
    let damaged = ctx.disks.iter().any(|disk| !disk.damaged().is_empty());
    if ctx.counts.wiped == 0 && ctx.plan.faults.damage == 0 && !damaged && ctx.disks[node].id.is_some() {
        nodes[node].wipe(ctx);
    }
}

/// What a careful operator does when everything runs again: nothing is paused, and who lost his disk is removed.
pub(crate) fn tidy_up(ctx: &mut Context, group: &Group) {
    let mut wanted = Vec::new();
    if group.state().policy().paused {
        wanted.push(Operation::ResumeMoves);
    }
    let mut lost = Vec::new();
    for info in group.state().nodes() {
        let there = ctx.places.get(&info.id).is_some_and(|place| ctx.disks[*place].id == Some(info.id));
        if !there {
            lost.push(info.id);
        }
        if !there && info.duty != Duty::Removed {
            wanted.push(Operation::SetDuty { node: info.id, duty: Duty::Removed });
        }
    }
    let rests = |duty| matches!(duty, Duty::Draining | Duty::Cordoned);
    for info in group.state().nodes().filter(|info| !lost.is_empty() && rests(info.duty)) {
        // Somebody has to take what is lost.
        wanted.push(Operation::SetDuty { node: info.id, duty: Duty::Active });
    }
    for node in lost {
        ctx.after(0, Happening::ToGroup(ToGroup::Vouch(node)));
    }
    for operation in wanted {
        ctx.after(0, Happening::ToGroup(ToGroup::Operate(operation)));
    }
}
