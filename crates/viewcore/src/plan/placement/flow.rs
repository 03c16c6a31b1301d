//! From what is there to an even placement, by the cheapest paths.
//!
//! Too much is where a partition lacks a replica, or a node holds more than it is to hold at most; too little is at
//! nodes that hold less. First as much as possible goes from where there is too much to nodes below their least, since
//! those have to be filled anyway; then the rest to nodes below their most; then nodes that are still below their least
//! get theirs from nodes that are above. Each time directly where possible, at a cost of one move, and along a path over
//! other nodes where not.
//!
//! A path is a chain of exchanges. An exchange costs one where a node joins a partition of which it is no replica now, and
//! saves one where such a node gives way again. A search that fails has found nodes from which no path leads on; that
//! stays so, because no later path enters what can't be left, so no search enters them again: failures don't add up.

use super::by_surplus;
use super::table::{Exchange, Table};
use std::collections::BTreeSet;

/// Comparisons after which no better partition is looked for to be handed on: spreading is a wish, speed a need.
const COMPARISONS: usize = 1000;

/// Makes the placement complete and even.
pub(super) fn settle(table: &mut Table<'_>) {
    let rules = table.rules;
    let open: Vec<usize> = (0..rules.open.len()).filter(|place| rules.open[*place]).collect();
    for (bound, cost_max) in [(&rules.least, 1), (&rules.most, i64::MAX)] {
        for partition in incomplete(table) {
            let receivers = below(table, &open, bound);
            complete(table, partition, &receivers, |load, to| (bound[to] as usize).saturating_sub(load));
        }
        for from in overfull(table, &open) {
            hand_on(table, from, &below(table, &open, bound), bound);
        }
        let mut search = Search { open: &open, cost_max, closed: vec![false; rules.open.len()] };
        for partition in incomplete(table) {
            while table.wants(partition) > 0
                && search.shift(table, Source::Missing(partition), |load, to| load < bound[to])
            {}
        }
        for from in overfull(table, &open) {
            let too_many = |table: &Table<'_>| table.load(from) > rules.most[from] as usize;
            while too_many(table) && search.shift(table, Source::Nodes(vec![from]), |load, to| load < bound[to]) {}
        }
    }
    // Where pinned replicas are in the way of even shares, a replica matters more.
    for partition in incomplete(table) {
        complete(table, partition, &open, |load, _| usize::MAX - load);
    }
    feed(table, &open);
}

/// Partitions that lack replicas.
fn incomplete(table: &Table<'_>) -> Vec<u32> {
    (0..table.rules.aims.len() as u32).filter(|partition| table.wants(*partition) > 0).collect()
}

/// Nodes with more than they are to hold at most, the fullest first.
fn overfull(table: &Table<'_>, open: &[usize]) -> Vec<usize> {
    let mut places: Vec<usize> =
        open.iter().copied().filter(|place| table.load(*place) > table.rules.most[*place] as usize).collect();
    places.sort_by_key(by_surplus(table.rules, |place| table.load(place)));
    places
}

fn below(table: &Table<'_>, open: &[usize], bound: &[u32]) -> Vec<usize> {
    open.iter().copied().filter(|place| table.load(*place) < bound[*place] as usize).collect()
}

/// Gives a partition the replicas it lacks, of nodes with `room` (by load and place).
fn complete(table: &mut Table<'_>, partition: u32, receivers: &[usize], room: impl Fn(usize, usize) -> usize) {
    while table.wants(partition) > 0 {
        let Some((_, to)) = table.best_receiver(partition, None, receivers, |to| room(table.load(to), to)) else {
            break;
        };
        table.exchange(Exchange { partition, from: None, to });
    }
}

/// Hands partitions of an overfull node directly to receivers that are below their bound.
fn hand_on(table: &mut Table<'_>, from: usize, receivers: &[usize], bound: &[u32]) {
    if receivers.is_empty() {
        return;
    }
    // What it would have to receive itself first, then what nothing else happens to in this round.
    let mut partitions = table.holds(from).to_vec();
    partitions.sort_by_key(|partition| (!table.is_new(*partition, from), !table.is_untouched(*partition), *partition));
    let window = (COMPARISONS / receivers.len()).max(1);
    while table.load(from) > table.rules.most[from] as usize && !partitions.is_empty() {
        let room = |to: usize| (bound[to] as usize).saturating_sub(table.load(to));
        let seen = window.min(partitions.len());
        let offers = partitions[..seen].iter().enumerate().filter_map(|(nth, partition)| {
            let (shared, to) = table.best_receiver(*partition, Some(from), receivers, room)?;
            Some((shared, nth, to))
        });
        match offers.min_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((_, nth, to)) => {
                let partition = partitions.remove(nth);
                table.exchange(Exchange { partition, from: Some(from), to });
            }
            None => drop(partitions.drain(..seen)),
        }
    }
}

/// Fills the nodes that are below their least from those above theirs.
fn feed(table: &mut Table<'_>, open: &[usize]) {
    let rules = table.rules;
    let mut reached: Option<Vec<bool>> = None;
    for &to in open {
        while table.load(to) < rules.least[to] as usize {
            let mut donors: Vec<usize> =
                open.iter().copied().filter(|place| table.load(*place) > rules.least[*place] as usize).collect();
            donors.sort_by_key(by_surplus(rules, |place| table.load(place)));
            if let Some(exchange) = donors.iter().find_map(|from| best_offer(table, *from, to)) {
                table.exchange(exchange);
                continue;
            }
            if reached.as_ref().is_some_and(|reached| !reached[to]) {
                break;
            }
            let mut search = Search { open, cost_max: i64::MAX, closed: vec![false; rules.open.len()] };
            if !search.shift(table, Source::Nodes(donors), |_, end| end == to) {
                reached = Some(search.closed);
                break;
            }
        }
    }
}

/// The partition that `from` had better give to `to`: one that `from` is to receive itself, or else one that shares the
/// least with `to`.
fn best_offer(table: &Table<'_>, from: usize, to: usize) -> Option<Exchange> {
    let offers = table.holds(from).iter().filter_map(|partition| {
        let (shared, _) = table.best_receiver(*partition, Some(from), &[to], |_| 1)?;
        Some((!table.is_new(*partition, from), !table.is_untouched(*partition), shared, *partition))
    });
    let best = offers.min_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)).then(a.3.cmp(&b.3)))?;
    Some(Exchange { partition: best.3, from: Some(from), to })
}

/// Where a path begins.
enum Source {
    /// At a partition that lacks a replica.
    Missing(u32),
    /// At one of these nodes.
    Nodes(Vec<usize>),
}

/// A search for cheapest paths.
struct Search<'a> {
    open: &'a [usize],
    /// No path that costs more is taken.
    cost_max: i64,
    /// By place: nodes from which no path leads on.
    closed: Vec<bool>,
}

/// How the search came to a node: at which distance, and by which exchange.
#[derive(Clone, Copy)]
struct Label {
    distance: i64,
    by: Option<Exchange>,
}

/// One move costs more than all exchanges of a path: of paths as cheap the shortest is taken. On such a path two
/// exchanges of one partition never stand in each other's way, since a shorter one would go past both.
const MOVE: i64 = 1 << 32;

impl Search<'_> {
    /// Shifts one replica from the source to a node that is an end (by load and place). False where there is no path.
    fn shift(&mut self, table: &mut Table<'_>, source: Source, is_end: impl Fn(u32, usize) -> bool) -> bool {
        let Some(path) = self.path(table, source, |place| is_end(table.load(place) as u32, place)) else {
            return false;
        };
        table.exchange_all(&path)
    }

    /// Labels are corrected until none can be, since exchanges that save a move have negative lengths; but no path costs
    /// less than one move (unless it fills up a crowded zone's victim again), so the first one found at that price does.
    fn path(&mut self, table: &Table<'_>, source: Source, is_end: impl Fn(usize) -> bool) -> Option<Vec<Exchange>> {
        if !self.open.iter().any(|place| is_end(*place)) {
            return None;
        }
        let mut labels: Vec<Option<Label>> = vec![None; table.rules.open.len()];
        let mut queue = BTreeSet::new();
        match source {
            Source::Missing(partition) => {
                for &to in self.open.iter().filter(|to| !self.closed[**to] && table.fits(partition, None, **to)) {
                    let distance = if table.is_new(partition, to) { MOVE } else { 0 };
                    labels[to] = Some(Label { distance, by: Some(Exchange { partition, from: None, to }) });
                    queue.insert((distance, to));
                }
            }
            Source::Nodes(places) => {
                for place in places.into_iter().filter(|place| !self.closed[*place]) {
                    labels[place] = Some(Label { distance: 0, by: None });
                    queue.insert((0, place));
                }
            }
        }
        let mut end: Option<(i64, usize)> = None;
        while let Some((distance, place)) = queue.pop_first() {
            if is_end(place) && end.is_none_or(|(least, _)| distance < least) {
                end = Some((distance, place));
                if distance < 2 * MOVE {
                    break;
                }
            }
            self.correct(table, place, distance, &mut labels, &mut queue);
        }
        let Some((distance, end)) = end else {
            for (closed, label) in self.closed.iter_mut().zip(&labels) {
                *closed |= label.is_some();
            }
            return None;
        };
        (distance.div_euclid(MOVE) <= self.cost_max).then(|| trace(&labels, end))
    }

    /// Gives all nodes to which `from` can hand a partition the distance over it, where that is less.
    fn correct(
        &self,
        table: &Table<'_>,
        from: usize,
        distance: i64,
        labels: &mut [Option<Label>],
        queue: &mut BTreeSet<(i64, usize)>,
    ) {
        for &partition in table.holds(from) {
            let left = distance + 1 - if table.is_new(partition, from) { MOVE } else { 0 };
            let full = table.full_zones(partition, Some(from));
            for &to in self.open {
                let known = labels[to].map_or(i64::MAX, |label| label.distance);
                if known <= left || self.closed[to] || full.contains(&table.rules.zones[to]) {
                    continue;
                }
                let distance = left + if table.is_new(partition, to) { MOVE } else { 0 };
                let by = Some(Exchange { partition, from: Some(from), to });
                // Only where a crowded zone made the start a dearer one could a path come back to itself.
                if known <= distance
                    || table.placed(partition).contains(&to)
                    || trace(labels, from).iter().any(|step| step.from == Some(to))
                {
                    continue;
                }
                queue.remove(&(known, to));
                queue.insert((distance, to));
                labels[to] = Some(Label { distance, by });
            }
        }
    }
}

/// The exchanges that lead to a node, first to last.
fn trace(labels: &[Option<Label>], end: usize) -> Vec<Exchange> {
    let mut path = Vec::new();
    let mut at = Some(end);
    while let Some(step) = at.and_then(|place| labels[place]).and_then(|label| label.by) {
        path.push(step);
        at = step.from;
    }
    path.reverse();
    path
}
