//! A placement being planned: who holds what, and what may change hands.

use super::rules::Rules;

/// A placement on open nodes and pinned ones. Keeps each partition within its zones, and never names a node twice.
pub(super) struct Table<'a> {
    pub(super) rules: &'a Rules,
    /// Per partition its places.
    placed: Vec<Vec<usize>>,
    /// Per place, if it is open, its partitions in order.
    holds: Vec<Vec<u32>>,
    /// Per partition the open nodes that are replicas now and are not in this placement.
    displaced: Vec<usize>,
    /// Partitions that two nodes share, by both places.
    together: Vec<u32>,
    /// By place, one over what it is to hold: sharing is measured by it.
    per_load: Vec<f32>,
}

/// A replica of a partition changes hands, or, `from` nobody, is new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Exchange {
    pub(super) partition: u32,
    pub(super) from: Option<usize>,
    pub(super) to: usize,
}

impl<'a> Table<'a> {
    /// What is there now, without what can't stay: replicas on leaving nodes, in crowded zones, and too many.
    pub(super) fn new(rules: &'a Rules) -> Self {
        let nodes = rules.zones.len();
        let mut table = Self {
            rules,
            placed: rules.aims.iter().map(|aim| aim.pinned.clone()).collect(),
            holds: vec![Vec::new(); nodes],
            displaced: vec![0; rules.aims.len()],
            together: vec![0; nodes * nodes],
            per_load: rules.least.iter().map(|least| 1.0 / (*least).max(1) as f32).collect(),
        };
        let mut loads = vec![0usize; nodes];
        for place in rules.aims.iter().flat_map(|aim| &aim.now) {
            loads[*place] += 1;
        }
        let mut members = Vec::new();
        for (partition, aim) in (0u32..).zip(&rules.aims) {
            members.clear();
            members.extend(aim.now.iter().copied().filter(|place| rules.open[*place]));
            table.displaced[partition as usize] = members.len();
            // Those that have most to give go first, so they come last.
            members.sort_by_key(|place| (loads[*place] as i64 - i64::from(rules.least[*place]), *place));
            for place in &members {
                if table.wants(partition) > 0 && table.fits(partition, None, *place) {
                    table.exchange(Exchange { partition, from: None, to: *place });
                } else {
                    loads[*place] -= 1;
                }
            }
        }
        table
    }

    /// The places of a partition on open and pinned nodes.
    pub(super) fn placed(&self, partition: u32) -> &[usize] {
        &self.placed[partition as usize]
    }

    /// The partitions of an open node.
    pub(super) fn holds(&self, place: usize) -> &[u32] {
        &self.holds[place]
    }

    pub(super) fn load(&self, place: usize) -> usize {
        self.holds[place].len()
    }

    /// How many replicas a partition lacks.
    pub(super) fn wants(&self, partition: u32) -> usize {
        let aim = &self.rules.aims[partition as usize];
        (aim.pinned.len() + aim.wanted).saturating_sub(self.placed(partition).len())
    }

    /// Whether a node is no replica of the partition now, so that making it one is a move.
    pub(super) fn is_new(&self, partition: u32, place: usize) -> bool {
        !self.rules.aims[partition as usize].now.contains(&place)
    }

    /// Whether an open node that is a replica now is to be one no longer: it may come back for nothing.
    pub(super) fn has_displaced(&self, partition: u32) -> bool {
        self.displaced[partition as usize] > 0
    }

    /// Whether nothing joins the partition so far.
    pub(super) fn is_untouched(&self, partition: u32) -> bool {
        !self.placed(partition).iter().any(|place| self.is_new(partition, *place))
    }

    /// Whether `to` may take the place of `from` in a partition.
    pub(super) fn fits(&self, partition: u32, from: Option<usize>, to: usize) -> bool {
        self.rules.open[to]
            && !self.placed(partition).contains(&to)
            && !self.full_zones(partition, from).contains(&self.rules.zones[to])
    }

    /// The zones that take no more of a partition once `from` is gone; some may be named twice.
    pub(super) fn full_zones(&self, partition: u32, from: Option<usize>) -> Vec<usize> {
        let others = || self.placed(partition).iter().filter(|place| Some(**place) != from).copied();
        let zone = |place: usize| self.rules.zones[place];
        let per_zone_max = self.rules.aims[partition as usize].per_zone_max;
        let crowd = |place: usize| others().filter(|other| zone(*other) == zone(place)).count();
        others().filter(|place| crowd(*place) >= per_zone_max).map(zone).collect()
    }

    /// Of the `receivers` that may take the place of `from` and have `room` left (how much, and none if 0), the one that
    /// shares the least with the other replicas, measured by what it is to hold, with that measure.
    pub(super) fn best_receiver(
        &self,
        partition: u32,
        from: Option<usize>,
        receivers: &[usize],
        room: impl Fn(usize) -> usize,
    ) -> Option<(f32, usize)> {
        let nodes = self.holds.len();
        let places = self.placed(partition);
        let full = self.full_zones(partition, from);
        let mut best: Option<(f32, usize, usize)> = None;
        for &to in receivers {
            let room = room(to);
            if room == 0 || places.contains(&to) || full.contains(&self.rules.zones[to]) {
                continue;
            }
            let others = places.iter().filter(|place| Some(**place) != from);
            let shared: u32 = others.map(|other| self.together[other * nodes + to]).sum();
            let shared = shared as f32 * self.per_load[to];
            if best.is_none_or(|(least, most_room, _)| shared < least || (shared == least && room > most_room)) {
                best = Some((shared, room, to));
            }
        }
        best.map(|(shared, _, to)| (shared, to))
    }

    /// Carries out an exchange that fits.
    pub(super) fn exchange(&mut self, exchange: Exchange) {
        if let Some(from) = exchange.from {
            self.remove(exchange.partition, from);
        }
        self.count(exchange.partition, exchange.to, true);
        self.placed[exchange.partition as usize].push(exchange.to);
        let holds = &mut self.holds[exchange.to];
        let at = holds.partition_point(|held| *held < exchange.partition);
        holds.insert(at, exchange.partition);
        self.displaced[exchange.partition as usize] -= usize::from(!self.is_new(exchange.partition, exchange.to));
    }

    fn remove(&mut self, partition: u32, from: usize) {
        self.placed[partition as usize].retain(|place| *place != from);
        if let Ok(at) = self.holds[from].binary_search(&partition) {
            self.holds[from].remove(at);
        }
        self.count(partition, from, false);
        self.displaced[partition as usize] += usize::from(!self.is_new(partition, from));
    }

    /// Carries out all exchanges, or none if one does not fit after those before it.
    pub(super) fn exchange_all(&mut self, exchanges: &[Exchange]) -> bool {
        for (done, exchange) in exchanges.iter().enumerate() {
            let holds = exchange.from.is_none_or(|from| self.placed(exchange.partition).contains(&from));
            if holds && self.fits(exchange.partition, exchange.from, exchange.to) {
                self.exchange(*exchange);
                continue;
            }
            for done in exchanges[..done].iter().rev() {
                self.undo(*done);
            }
            return false;
        }
        true
    }

    fn undo(&mut self, exchange: Exchange) {
        let Exchange { partition, from, to } = exchange;
        match from {
            Some(from) => self.exchange(Exchange { partition, from: Some(to), to: from }),
            None => self.remove(partition, to),
        }
    }

    /// Counts a node together with the other replicas of a partition, or no longer.
    fn count(&mut self, partition: u32, place: usize, together: bool) {
        let nodes = self.holds.len();
        for &other in self.placed[partition as usize].iter().filter(|other| **other != place) {
            for pair in [place * nodes + other, other * nodes + place] {
                self.together[pair] = if together { self.together[pair] + 1 } else { self.together[pair] - 1 };
            }
        }
    }
}
