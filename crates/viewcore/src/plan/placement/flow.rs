//! From what is there to an even placement, by the cheapest paths.
//!
//! Too much is where a partition lacks a replica, or a node holds more than it is to hold at most; too little is at
//! nodes that hold less. First as much as possible goes from where there is too much to nodes below their least, since
//! those have to be filled anyway; then the rest to nodes below their most; then nodes that are still below their least
//! get theirs from nodes that are above. Each time directly where possible, at a cost of one move, and along a path over
//! other nodes where not.
//!
//! A path is a chain of exchanges. An exchange costs one where a node joins a partition of which it is no replica now, and
//! saves one where such a node gives way again. Paths that cost one are looked for first, from everywhere, then those that
//! cost two, and so on. A search that fails has found nodes from which no path leads on at this cost; that stays so,
//! because no later path enters what can't be left, so no search enters them again: failures don't add up.

use super::table::{Exchange, Table};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Comparisons after which no better partition is looked for to be handed on: spreading is a wish, speed a need.
const COMPARISONS: usize = 200;

/// Costs up to which paths are looked for, one after the other: few cost more than two moves.
const COSTS: [i64; 4] = [1, 2, 3, NO_LIMIT];
const NO_LIMIT: i64 = 1 << 24;

/// Makes the placement complete and even.
pub(super) fn settle(table: &mut Table<'_>) {
    let rules = table.rules;
    let open: Vec<usize> = (0..rules.open.len()).filter(|place| rules.open[*place]).collect();
    for (bound, cost_max) in
        [(&rules.least, 1)].into_iter().chain(COSTS.into_iter().map(|cost_max| (&rules.most, cost_max)))
    {
        for partition in incomplete(table) {
            let receivers = below(table, &open, bound);
            complete(table, partition, &receivers, |load, to| (bound[to] as usize).saturating_sub(load));
        }
        for from in overfull(table, &open) {
            hand_on(table, from, &below(table, &open, bound), bound);
        }
        let mut search = Search::new(&open, cost_max, rules.open.len());
        for partition in incomplete(table) {
            while table.wants(partition) > 0 && search.shift(table, Source::Missing(partition), bound) {}
        }
        for from in overfull(table, &open) {
            let too_many = |table: &Table<'_>| table.load(from) > rules.most[from] as usize;
            while too_many(table) && search.shift(table, Source::Nodes(vec![from]), bound) {}
        }
    }
    // Where pinned replicas are in the way of even shares, a replica matters more.
    for partition in incomplete(table) {
        complete(table, partition, &open, |load, _| usize::MAX - load);
    }
    feed(table, &open);
}

/// Partitions that lack replicas, those with the least choice of zones first.
fn incomplete(table: &Table<'_>) -> Vec<u32> {
    let all = 0..table.rules.aims.len() as u32;
    let mut partitions: Vec<u32> = all.filter(|partition| table.wants(*partition) > 0).collect();
    partitions.sort_by_cached_key(|partition| Reverse(table.full_zones(*partition, None).len()));
    partitions
}

/// Nodes with more than they are to hold at most, the fullest first.
fn overfull(table: &Table<'_>, open: &[usize]) -> Vec<usize> {
    let mut places: Vec<usize> =
        open.iter().copied().filter(|place| table.load(*place) > table.rules.most[*place] as usize).collect();
    places.sort_by_key(|place| (Reverse(table.load(*place) - table.rules.most[*place] as usize), *place));
    places
}

/// Nodes that hold less than their bound.
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
    let mut partitions: Vec<u32> = table.holds(from).to_vec();
    partitions.sort_by_cached_key(|partition| (!table.is_new(*partition, from), !table.is_untouched(*partition)));
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

/// Fills the nodes that are below their least from those above theirs: first with what these are to receive themselves,
/// which costs nothing more.
fn feed(table: &mut Table<'_>, open: &[usize]) {
    let rules = table.rules;
    let donors = |table: &Table<'_>| -> Vec<usize> {
        open.iter().copied().filter(|place| table.load(*place) > rules.least[*place] as usize).collect()
    };
    let may_receive =
        |table: &Table<'_>, place: &usize| table.holds(*place).iter().any(|held| table.is_new(*held, *place));
    let search = |cost_max| Search::new(open, cost_max, rules.open.len());
    loop {
        let mut newly = donors(table);
        newly.retain(|place| may_receive(table, place));
        if newly.is_empty() || !search(0).shift(table, Source::Nodes(newly), &rules.least) {
            break;
        }
    }
    for to in below(table, open, &rules.least) {
        for from in donors(table) {
            if table.load(to) >= rules.least[to] as usize {
                break;
            }
            if let Some(exchange) = best_offer(table, from, to) {
                table.exchange(exchange);
            }
        }
    }
    for cost_max in COSTS {
        while search(cost_max).shift(table, Source::Nodes(donors(table)), &rules.least) {}
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

/// A search for paths that cost at most so much, where there are none that cost less.
struct Search<'a> {
    open: &'a [usize],
    /// No path that costs more is taken, and none is begun: 0 at least.
    cost_max: i64,
    /// By place: from this distance on no path leads on.
    hopeless: Vec<i64>,
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

impl<'a> Search<'a> {
    fn new(open: &'a [usize], cost_max: i64, nodes: usize) -> Self {
        Self { open, cost_max, hopeless: vec![i64::MAX; nodes] }
    }

    /// Shifts one replica from the source to a node below its bound. False where no path leads there.
    fn shift(&mut self, table: &mut Table<'_>, source: Source, bound: &[u32]) -> bool {
        self.path(table, source, bound).is_some_and(|path| table.exchange_all(&path))
    }

    /// Labels are corrected until none can be, since exchanges that save a move have negative lengths; the first path
    /// found is taken.
    fn path(&mut self, table: &Table<'_>, source: Source, bound: &[u32]) -> Option<Vec<Exchange>> {
        let is_end = |place: usize| table.load(place) < bound[place] as usize;
        if !self.open.iter().any(|place| is_end(*place)) {
            return None;
        }
        let mut labels = Labels { by_place: vec![None; table.rules.open.len()], queue: BTreeSet::new() };
        match source {
            Source::Missing(partition) => {
                for &to in self.open.iter().filter(|to| table.fits(partition, None, **to)) {
                    let distance = if table.is_new(partition, to) { MOVE } else { 0 };
                    self.label(&mut labels, to, Label { distance, by: Some(Exchange { partition, from: None, to }) });
                }
            }
            Source::Nodes(places) => {
                for place in places {
                    self.label(&mut labels, place, Label { distance: 0, by: None });
                }
            }
        }
        // All these are at the least distance, or no ends: those at it were filled directly.
        if let Some(end) = labels.queue.iter().map(|(_, place)| *place).find(|place| is_end(*place)) {
            return Some(labels.trace(end));
        }
        while let Some((distance, place)) = labels.queue.pop_first() {
            if let Some(end) = self.correct(table, place, distance, &mut labels, is_end) {
                return Some(labels.trace(end));
            }
        }
        for (hopeless, label) in self.hopeless.iter_mut().zip(&labels.by_place) {
            // Whole moves count: a path fails for its cost, never for its length.
            *hopeless = label.map_or(*hopeless, |label| (*hopeless).min(label.distance.div_euclid(MOVE) * MOVE));
        }
        None
    }

    /// Gives all nodes to which `from` can hand a partition the distance over it, where that is less, up to the first
    /// that is an end, which is the answer.
    fn correct(
        &self,
        table: &Table<'_>,
        from: usize,
        distance: i64,
        labels: &mut Labels,
        is_end: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let costs_all = distance.div_euclid(MOVE) >= self.cost_max;
        for &partition in table.holds(from) {
            let is_new = table.is_new(partition, from);
            if costs_all && !is_new && !table.has_displaced(partition) {
                continue;
            }
            let left = distance + 1 - if is_new { MOVE } else { 0 };
            let full = table.full_zones(partition, Some(from));
            for &to in self.open {
                if labels.distance(to) <= left || full.contains(&table.rules.zones[to]) {
                    continue;
                }
                let distance = left + if table.is_new(partition, to) { MOVE } else { 0 };
                // A path would come back to itself only where the start was not the cheapest: where another node of a
                // crowded zone had better gone.
                if labels.distance(to) <= distance
                    || table.placed(partition).contains(&to)
                    || labels.trace(from).iter().any(|step| step.from == Some(to))
                {
                    continue;
                }
                let by = Some(Exchange { partition, from: Some(from), to });
                if self.label(labels, to, Label { distance, by }) && is_end(to) {
                    return Some(to);
                }
            }
        }
        None
    }

    /// Labels a node, unless nothing comes of it.
    fn label(&self, labels: &mut Labels, place: usize, label: Label) -> bool {
        let leads_on = label.distance.div_euclid(MOVE) <= self.cost_max && label.distance < self.hopeless[place];
        if leads_on {
            labels.queue.remove(&(labels.distance(place), place));
            labels.queue.insert((label.distance, place));
            labels.by_place[place] = Some(label);
        }
        leads_on
    }
}

/// Where a search has come, and what is still to be looked at, the nearest first.
struct Labels {
    by_place: Vec<Option<Label>>,
    queue: BTreeSet<(i64, usize)>,
}

impl Labels {
    fn distance(&self, place: usize) -> i64 {
        self.by_place[place].map_or(i64::MAX, |label| label.distance)
    }

    /// The exchanges that lead to a node, first to last.
    fn trace(&self, end: usize) -> Vec<Exchange> {
        let mut path = Vec::new();
        let mut at = Some(end);
        while let Some(step) = at.and_then(|place| self.by_place[place]).and_then(|label| label.by) {
            path.push(step);
            at = step.from;
        }
        path.reverse();
        path
    }
}
