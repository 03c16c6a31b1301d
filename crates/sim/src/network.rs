//! The network: per directed pair of places a delay, loss, duplication and reordering, and cuts in one direction.
//!
//! A message that left before a cut still arrives. Links of clients and of the viewleader are streams: they lose (the
//! stream breaks) and delay, but never duplicate.

use crate::plan::LinkQuality;
use crate::queue::{MS, Micros};
use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};

/// An end of a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Place {
    Node(usize),
    Leader,
    Clients,
}

#[derive(Debug)]
pub(crate) struct Network {
    between_nodes: LinkQuality,
    streams: LinkQuality,
    /// From, to.
    cut: BTreeSet<(Place, Place)>,
    /// Everything takes up to so much longer.
    lagging: BTreeMap<(Place, Place), Micros>,
}

impl Network {
    pub(crate) fn new(between_nodes: LinkQuality) -> Network {
        let streams = LinkQuality {
            delay_max: between_nodes.delay_max.min(5 * MS),
            loss_permille: between_nodes.loss_permille.min(20),
            duplicate_permille: 0,
            straggle_permille: between_nodes.straggle_permille.min(20),
            ..between_nodes
        };
        Network { between_nodes, streams, cut: BTreeSet::new(), lagging: BTreeMap::new() }
    }

    /// The delays after which a message sent now arrives: none, one or two.
    pub(crate) fn delays(&self, random: &mut Random, from: Place, to: Place) -> [Option<Micros>; 2] {
        if self.cut.contains(&(from, to)) {
            return [None, None];
        }
        let quality = match (from, to) {
            (Place::Node(_), Place::Node(_)) => self.between_nodes,
            _ => self.streams,
        };
        if random.chance(quality.loss_permille) {
            return [None, None];
        }
        let again = random.chance(quality.duplicate_permille);
        let lag = self.lagging.get(&(from, to)).copied().unwrap_or(0);
        let mut delay = || {
            let straggles = random.chance(quality.straggle_permille);
            let most = if straggles { quality.straggle_max } else { quality.delay_max };
            random.between(quality.delay_min, most) + random.between(lag / 2, lag)
        };
        [Some(delay()), again.then(delay)]
    }

    pub(crate) fn cut(&mut self, from: Place, to: Place) {
        self.cut.insert((from, to));
    }

    pub(crate) fn mend(&mut self, from: Place, to: Place) {
        self.cut.remove(&(from, to));
    }

    /// Everything sent from now on takes up to `lag` longer; 0: no more.
    pub(crate) fn lag(&mut self, from: Place, to: Place, lag: Micros) {
        self.lagging.insert((from, to), lag);
    }

    pub(crate) fn is_cut(&self, from: Place, to: Place) -> bool {
        self.cut.contains(&(from, to))
    }

    /// No faults from now on; what is under way may still come twice.
    pub(crate) fn heal(&mut self) {
        self.cut.clear();
        self.lagging.clear();
        for quality in [&mut self.between_nodes, &mut self.streams] {
            *quality = LinkQuality { delay_min: quality.delay_min, delay_max: quality.delay_max, ..Default::default() };
        }
    }
}
