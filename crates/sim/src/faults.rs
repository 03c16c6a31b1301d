//! What goes wrong: at intervals that chance decides, one fault of those that the plan allows, and later its end.

mod members;

pub(crate) use members::tidy_up;

use crate::context::Context;
use crate::group::Group;
use crate::happening::{Group as OfGroup, Happening, Input, Process, ToGroup};
use crate::network::Place;
use crate::node::Node;
use crate::plan::FaultWeights;
use crate::queue::{MS, Micros};
use types::PartitionId;
use viewcore::Operation;

/// One thing that a fault does, or undoes.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Crash(usize),
    Restart(usize),
    Pause(usize),
    Resume(usize),
    Cut(Vec<(Place, Place)>),
    Mend(Vec<(Place, Place)>),
    Lag(Vec<(Place, Place)>, Micros),
    SlowDisk(usize, Micros),
    LoseLeader,
    Damage(usize, PartitionId),
    Operate(Operation),
    Wipe(usize),
}

impl Fault {
    /// Draws the next fault, with its end put into the queue.
    pub(crate) fn draw(ctx: &mut Context) -> Vec<Fault> {
        let nodes = ctx.plan.nodes;
        let node = ctx.random.index(nodes);
        let long = ctx.random.chance(250);
        let lasts = if long { ctx.between(300 * MS, 1_500 * MS) } else { ctx.between(MS, 300 * MS) };
        let faults = ctx.plan.faults;
        let FaultWeights { crash, power_loss, pause, one_way, isolate, split, slow_disk, no_leader, .. } = faults;
        let FaultWeights { damage, lag, members, wipe, .. } = faults;
        let weights =
            [crash, power_loss, pause, one_way, isolate, split, slow_disk, no_leader, damage, lag, members, wipe];
        let mut drawn = ctx.random.below(weights.iter().sum());
        let kind = weights.iter().position(|weight| {
            let here = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            here
        });
        let (faults, end) = match kind {
            Some(0) => (vec![Fault::Crash(node)], vec![Fault::Restart(node)]),
            Some(1) => ((0..nodes).map(Fault::Crash).collect(), (0..nodes).map(Fault::Restart).collect()),
            Some(2) => (vec![Fault::Pause(node)], vec![Fault::Resume(node)]),
            Some(3) => {
                let other = (node + 1 + ctx.random.index(nodes - 1)) % nodes;
                cut(vec![(Place::Node(node), Place::Node(other))])
            }
            Some(4) => cut(isolated(ctx, node)),
            Some(5) => {
                let chance = ctx.random.number();
                let side = |node: usize| chance >> node & 1 == 0;
                let apart = |a: usize, b: usize| side(a) && !side(b);
                cut(pairs(nodes).filter(|(a, b)| apart(*a, *b) || apart(*b, *a)).map(of_nodes).collect())
            }
            Some(6) => {
                let slower = ctx.between(MS, 400 * MS);
                (vec![Fault::SlowDisk(node, slower)], vec![Fault::SlowDisk(node, 0)])
            }
            Some(7) => {
                ctx.after(lasts, Happening::Group(OfGroup::NewLeader));
                (vec![Fault::LoseLeader], vec![])
            }
            Some(8) => {
                (vec![Fault::Damage(node, PartitionId(ctx.random.below(ctx.plan.partitions.into()) as u32))], vec![])
            }
            Some(9) => {
                let (links, lag) = (isolated(ctx, node), ctx.between(30 * MS, 1_500 * MS));
                (vec![Fault::Lag(links.clone(), lag)], vec![Fault::Lag(links, 0)])
            }
            Some(10) => members::draw(ctx, node),
            Some(11) => (vec![Fault::Wipe(node)], vec![Fault::Restart(node)]),
            _ => (vec![], vec![]),
        };
        for fault in end {
            let later = if ctx.random.chance(800) { 0 } else { ctx.random.below(300 * MS) };
            ctx.after(lasts + later, Happening::Fault(fault));
        }
        faults
    }

    pub(crate) fn happen(self, ctx: &mut Context, nodes: &mut [Node], group: &mut Group) {
        let now = ctx.now;
        ctx.trace.note(now, &[12], || format!("fault: {self:?}"));
        match self {
            Fault::Crash(node) => crash(ctx, nodes, node),
            Fault::Restart(node) => {
                if !nodes[node].is_up() {
                    nodes[node].start(ctx);
                }
            }
            Fault::Pause(node) => nodes[node].paused = nodes[node].is_up(),
            Fault::Resume(node) => {
                if nodes[node].paused {
                    nodes[node].resume(ctx);
                }
            }
            Fault::Cut(links) => {
                for (from, to) in &links {
                    ctx.network.cut(*from, *to);
                }
                streams(ctx, nodes, &links, false);
            }
            Fault::Mend(links) => {
                for (from, to) in &links {
                    ctx.network.mend(*from, *to);
                }
                streams(ctx, nodes, &links, true);
            }
            Fault::Lag(links, lag) => links.iter().for_each(|(from, to)| ctx.network.lag(*from, *to, lag)),
            Fault::SlowDisk(node, slower) => nodes[node].slow_disk = slower,
            Fault::LoseLeader => group.lose_leader(),
            Fault::Damage(node, partition) => damage(ctx, nodes, group, node, partition),
            Fault::Operate(operation) => {
                ctx.after(0, Happening::ToGroup(ToGroup::Operate(operation)));
            }
            Fault::Wipe(node) => members::wipe(ctx, nodes, node),
        }
    }
}

fn cut(links: Vec<(Place, Place)>) -> (Vec<Fault>, Vec<Fault>) {
    (vec![Fault::Cut(links.clone())], vec![Fault::Mend(links)])
}

fn pairs(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..nodes).flat_map(move |a| (0..nodes).map(move |b| (a, b))).filter(|(a, b)| a != b)
}

fn of_nodes((a, b): (usize, usize)) -> (Place, Place) {
    (Place::Node(a), Place::Node(b))
}

/// A node alone: cut off in one direction or both, from the viewleader too or not.
fn isolated(ctx: &mut Context, node: usize) -> Vec<(Place, Place)> {
    let here = Place::Node(node);
    let (outward, inward) = [(true, true), (true, true), (true, false), (false, true)][ctx.random.index(4)];
    let mut others: Vec<Place> = (0..ctx.plan.nodes).filter(|other| *other != node).map(Place::Node).collect();
    if ctx.random.chance(500) {
        others.push(Place::Leader);
    }
    let mut links = Vec::new();
    for other in others {
        if outward {
            links.push((here, other));
        }
        if inward {
            links.push((other, here));
        }
    }
    links
}

fn crash(ctx: &mut Context, nodes: &mut [Node], node: usize) {
    let Some(start) = nodes[node].start_number() else { return };
    let id = ctx.disks[node].id;
    nodes[node].crash(ctx);
    let Some(id) = id else { return };
    // The machine may be gone with the process, and then nobody is told.
    if ctx.random.chance(700) {
        let delay = ctx.between(MS, 40 * MS);
        ctx.after(delay, Happening::Group(OfGroup::SessionEnded { node: id, start }));
        for (at, other) in nodes.iter().enumerate() {
            if let Some(start) = other.start_number() {
                let delay = ctx.between(MS, 40 * MS);
                ctx.process(delay, at, start, Process::Input(Input::PeerDown(id)));
                if ctx.random.chance(300) {
                    ctx.send(Place::Node(at), Place::Leader, Happening::ToGroup(ToGroup::Suspect(id)));
                }
            }
        }
    }
}

/// Streams between nodes may notice that a link is cut, and notice for certain that it is whole again.
fn streams(ctx: &mut Context, nodes: &[Node], links: &[(Place, Place)], up: bool) {
    for (from, to) in links {
        let (Place::Node(from), Place::Node(to)) = (*from, *to) else { continue };
        for (at, peer) in [(from, to), (to, from)] {
            let (Some(start), Some(peer)) = (nodes[at].start_number(), ctx.disks[peer].id) else { continue };
            if up || ctx.random.chance(300) {
                let delay = ctx.between(MS, 60 * MS);
                // What a stream carried when it broke is lost, and one may break and be whole again at once.
                if up && ctx.random.chance(300) {
                    ctx.process(delay / 2, at, start, Process::Input(Input::PeerDown(peer)));
                }
                let input = if up { Input::PeerUp(peer) } else { Input::PeerDown(peer) };
                ctx.process(delay, at, start, Process::Input(input));
            }
        }
    }
}

/// At most one replica of a partition: two of three would stop it for good (P3).
fn damage(ctx: &mut Context, nodes: &mut [Node], group: &Group, node: usize, partition: PartitionId) {
    let out_of_service = ctx.disks.iter().any(|disk| disk.is_out_of_service(partition));
    let configuration = group.view().and_then(|view| view.configuration(partition));
    let enough = |members: &[types::NodeId]| members.len() >= 3;
    let can_bear_it =
        configuration.is_some_and(|now| enough(&now.replicas) && (now.is_activated() || enough(&now.prior)));
    if out_of_service || !can_bear_it || ctx.counts.wiped > 0 || !nodes[node].is_accepted() {
        return;
    }
    ctx.disks[node].damage(partition);
    // Some damage is only found when somebody reads.
    if ctx.random.chance(500) {
        nodes[node].take(ctx, Input::Damaged(partition));
    }
}

/// Everything runs again, nothing is cut, slow or absent.
pub(crate) fn heal(ctx: &mut Context, nodes: &mut [Node], group: &mut Group) {
    let now = ctx.now;
    ctx.trace.note(now, &[13], || "no faults from now on".into());
    ctx.healed = true;
    ctx.network.heal();
    for (place, node) in nodes.iter_mut().enumerate() {
        node.slow_disk = 0;
        if !node.is_up() {
            node.start(ctx);
        }
        if node.paused {
            node.resume(ctx);
        }
        for partition in ctx.disks[place].damaged() {
            node.take(ctx, Input::Damaged(partition));
        }
    }
    let links: Vec<_> = pairs(nodes.len()).map(of_nodes).collect();
    streams(ctx, nodes, &links, true);
    if !group.has_leader() {
        ctx.after(0, Happening::Group(OfGroup::NewLeader));
    }
    tidy_up(ctx, group);
}
