//! Cycles, and their names: Tarjan's strongly connected components (1972), over fewer or more kinds of edges, so that
//! every tangle is told by the strongest name that it deserves; in each, a shortest cycle.

use super::graph::{Edge, Graph, Why};
use super::{Kind, TOLD_MAX, Transaction};
use crate::Anomaly;
use std::collections::VecDeque;

/// Searches for a cycle with a single rw at most, in one tangle: a tangle in which none is found by then is told as G2.
const SINGLES_MAX: usize = 2_000;

/// Which edges count: the weaker the names, the more of them. Those without time first.
const PASSES: [(&[Why], Kind); 6] = [
    (&[Why::Ww], Kind::G0),
    (&[Why::Ww, Why::Wr], Kind::G1c),
    (&[Why::Ww, Why::Wr, Why::Rw], Kind::G2),
    (&[Why::Ww, Why::Time], Kind::G0),
    (&[Why::Ww, Why::Wr, Why::Time], Kind::G1c),
    (&[Why::Ww, Why::Wr, Why::Rw, Why::Time], Kind::G2),
];

/// Adds one anomaly per tangle.
pub(super) fn find(history: &[Transaction], graph: &Graph<'_>, anomalies: &mut Vec<Anomaly<Kind>>) {
    let mut is_told = vec![false; graph.edges.len()];
    let mut told = 0;
    for (kinds, kind) in PASSES {
        let counts = |edge: &Edge| edge.why == Why::Pass || kinds.contains(&edge.why);
        for component in components(graph, counts) {
            if component.iter().any(|node| is_told[*node]) {
                continue;
            }
            let mut is_inside = vec![false; graph.edges.len()];
            for node in &component {
                (is_inside[*node], is_told[*node]) = (true, true);
            }
            let within = |edge: &Edge| counts(edge) && is_inside[edge.to];
            let Some((kind, cycle)) = cycle(graph, &component, kind, within) else { continue };
            told += 1;
            if told > TOLD_MAX {
                return;
            }
            anomalies.push(tell(history, graph, kind, &cycle));
        }
    }
}

/// A shortest cycle through some edge, and its name. For G2, one with a single rw if there is one.
fn cycle(
    graph: &Graph<'_>,
    component: &[usize],
    kind: Kind,
    within: impl Fn(&Edge) -> bool,
) -> Option<(Kind, Vec<(usize, Edge)>)> {
    let all = || {
        let edges = component.iter().flat_map(|node| graph.edges[*node].iter().map(move |edge| (*node, *edge)));
        edges.filter(|(_, edge)| within(edge))
    };
    let close = |(from, edge): (usize, Edge), within: &dyn Fn(&Edge) -> bool| {
        let mut cycle = vec![(from, edge)];
        cycle.extend(path(graph, edge.to, from, within)?);
        Some(cycle)
    };
    if kind == Kind::G2 {
        let no_rw = |edge: &Edge| within(edge) && edge.why != Why::Rw;
        let mut singles = all().filter(|(_, edge)| edge.why == Why::Rw).take(SINGLES_MAX);
        if let Some(cycle) = singles.find_map(|edge| close(edge, &no_rw)) {
            return Some((Kind::GSingle, cycle));
        }
    }
    // One from each of some edges that are about data, and of these cycles the shortest.
    let starts = all().filter(|(_, edge)| !matches!(edge.why, Why::Time | Why::Pass)).take(64);
    let cycle = starts.filter_map(|edge| close(edge, &within)).min_by_key(Vec::len)?;
    Some((kind, cycle))
}

/// A shortest way, by breadth.
fn path(graph: &Graph<'_>, from: usize, to: usize, within: &dyn Fn(&Edge) -> bool) -> Option<Vec<(usize, Edge)>> {
    let mut came_by: rustc_hash::FxHashMap<usize, (usize, Edge)> = rustc_hash::FxHashMap::default();
    let mut open = VecDeque::from([from]);
    while let Some(node) = open.pop_front() {
        if node == to {
            let mut way = Vec::new();
            let mut at = to;
            while at != from {
                let (before, edge) = came_by[&at];
                way.push((before, edge));
                at = before;
            }
            way.reverse();
            return Some(way);
        }
        for edge in graph.edges[node].iter().filter(|edge| within(edge)) {
            if edge.to != from && !came_by.contains_key(&edge.to) {
                came_by.insert(edge.to, (node, *edge));
                open.push_back(edge.to);
            }
        }
    }
    None
}

/// Sets of more than one node in which each can be reached from each, by these edges. Without recursion: histories are
/// longer than stacks.
fn components(graph: &Graph<'_>, counts: impl Fn(&Edge) -> bool) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let count = graph.edges.len();
    let (mut index, mut low, mut is_on_stack) = (vec![NEW; count], vec![0; count], vec![false; count]);
    let (mut stack, mut found, mut next_index) = (Vec::new(), Vec::new(), 0);
    for root in 0..count {
        if index[root] != NEW {
            continue;
        }
        // A node, and how many of its edges were looked at.
        let mut calls = vec![(root, 0)];
        while let Some((node, looked_at)) = calls.last_mut() {
            let node = *node;
            if *looked_at == 0 {
                (index[node], low[node], is_on_stack[node]) = (next_index, next_index, true);
                next_index += 1;
                stack.push(node);
            }
            let edges = &graph.edges[node][*looked_at..];
            let new = edges.iter().position(|edge| {
                let is_back = counts(edge) && index[edge.to] != NEW && is_on_stack[edge.to];
                if is_back {
                    low[node] = low[node].min(index[edge.to]);
                }
                counts(edge) && index[edge.to] == NEW
            });
            if let Some(at) = new {
                let to = edges[at].to;
                *looked_at += at + 1;
                calls.push((to, 0));
                continue;
            }
            calls.pop();
            if let Some((parent, _)) = calls.last() {
                low[*parent] = low[*parent].min(low[node]);
            }
            if low[node] == index[node] {
                let mut component = Vec::new();
                while let Some(member) = stack.pop() {
                    is_on_stack[member] = false;
                    component.push(member);
                    if member == node {
                        break;
                    }
                }
                if component.len() > 1 {
                    found.push(component);
                }
            }
        }
    }
    found
}

/// The cycle in words, one reason per edge between transactions.
fn tell(history: &[Transaction], graph: &Graph<'_>, kind: Kind, cycle: &[(usize, Edge)]) -> Anomaly<Kind> {
    let is_transaction = |node: usize| node < history.len();
    // Numbers in the order in which the cycle meets them.
    let members: Vec<usize> = cycle.iter().map(|(from, _)| *from).filter(|node| is_transaction(*node)).collect();
    let name = |node: usize| format!("T{}", members.iter().position(|member| *member == node).map_or(0, |at| at + 1));
    let mut reasons = Vec::new();
    // It begins with an edge about data, and such an edge begins at a transaction.
    let mut edges = cycle.iter();
    while let Some((from, edge)) = edges.next() {
        let (mut to, mut element) = (edge.to, edge.element);
        while !is_transaction(to) {
            let Some((_, passed)) = edges.next() else { break };
            (to, element) = (passed.to, passed.element);
        }
        let (from, to) = (name(*from), name(to));
        let key = graph.keys.get(edge.key).map_or(String::new(), |key| key.escape_ascii().to_string());
        reasons.push(match edge.why {
            Why::Ww => format!("{to} appended to {key} after {from} (ww)"),
            Why::Wr => format!("{to} read {element} of {key} from {from} (wr)"),
            Why::Rw => format!("{from} read {key} without {element} of {to} (rw)"),
            Why::Time | Why::Pass => format!("{from} was answered before {to} was called (time)"),
        });
    }
    let sentence = format!("{}: {}", kind.name(), reasons.join(", and "));
    let shown = members.iter().map(|index| {
        let mut drawn = history[*index].drawn();
        drawn.text = format!("{}: {}", name(*index), drawn.text);
        drawn
    });
    Anomaly::new(kind, sentence, shown)
}
