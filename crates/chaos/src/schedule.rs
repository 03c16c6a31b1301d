//! Which fault comes when: all of it drawn from the seed.

use crate::nemesis::Kind;
use crate::random::Random;
use std::time::Duration;

/// How long what is held is held.
const HOLD: (Duration, Duration) = (Duration::from_millis(1_500), Duration::from_millis(5_000));
/// Nothing is broken for so long between two faults: long enough for whole seconds of undisturbed load.
const QUIET: (Duration, Duration) = (Duration::from_millis(2_000), Duration::from_millis(3_000));

/// One fault to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Planned {
    pub(crate) kind: Kind,
    /// Undisturbed time before it.
    pub(crate) quiet: Duration,
    pub(crate) hold: Duration,
    /// What it draws from this decides target and details.
    pub(crate) seed: u64,
}

/// Faults without end: every kind once, in a drawn order, then again in another.
pub(crate) struct Schedule {
    kinds: Vec<Kind>,
    left: Vec<Kind>,
    random: Random,
}

impl Schedule {
    pub(crate) fn new(kinds: Vec<Kind>, random: Random) -> Schedule {
        Schedule { kinds, left: Vec::new(), random }
    }
}

impl Iterator for Schedule {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        if self.left.is_empty() {
            self.left = self.kinds.clone();
            self.random.shuffle(&mut self.left);
        }
        let kind = self.left.pop()?;
        Some(Planned {
            kind,
            quiet: self.random.between(QUIET.0, QUIET.1),
            hold: self.random.between(HOLD.0, HOLD.1),
            seed: self.random.next(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis::KINDS;

    /// Guards against a kind that never comes, and a seed that gives another schedule the second time.
    #[test]
    fn every_kind_comes_once_before_any_comes_twice() {
        let kinds: Vec<Kind> = KINDS.iter().map(|(kind, ..)| *kind).collect();
        let plan =
            |seed| -> Vec<Planned> { Schedule::new(kinds.clone(), Random::new(seed)).take(2 * kinds.len()).collect() };
        assert_eq!(plan(4), plan(4));
        assert_ne!(plan(4), plan(5));
        for round in plan(4).chunks(kinds.len()) {
            let mut came: Vec<Kind> = round.iter().map(|planned| planned.kind).collect();
            came.sort_unstable();
            let mut all = kinds.clone();
            all.sort_unstable();
            assert_eq!(came, all);
        }
        assert_eq!(Schedule::new(Vec::new(), Random::new(1)).next(), None);
    }
}
