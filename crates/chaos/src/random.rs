//! What a run draws from its seed: the same seed, the same schedule.

use std::time::Duration;

/// A sequence of numbers that its seed determines (SplitMix64, Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// An independent sequence for one part of a run, so that what one part draws changes nothing for another.
    pub(crate) fn part(seed: u64, part: u64) -> Random {
        let mut random = Random(seed ^ part.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// True in so many of a hundred cases.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    /// Between the two, both included.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let spread_us = most.saturating_sub(least).as_micros() as u64;
        least + Duration::from_micros(self.next() % (spread_us + 1))
    }

    /// One of a list that is not empty.
    pub(crate) fn choose<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.below(list.len()))
    }

    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a seed that does not determine the run, and a shuffle that loses a fault.
    #[test]
    fn a_seed_determines_everything() {
        let draw = |seed| {
            let mut random = Random::part(seed, 3);
            let mut list: Vec<u32> = (0..20).collect();
            random.shuffle(&mut list);
            (list, random.between(Duration::from_secs(1), Duration::from_secs(2)))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        let (mut list, time) = draw(9);
        list.sort_unstable();
        assert_eq!(list, (0..20).collect::<Vec<_>>());
        assert!((Duration::from_secs(1)..=Duration::from_secs(2)).contains(&time));
    }
}
