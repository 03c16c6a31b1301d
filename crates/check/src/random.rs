//! The only source of chance: xoshiro256**, seeded by splitmix64 (Blackman and Vigna). The same seed draws the same
//! numbers on every machine and with every version of every library.

/// A stream of numbers that its seed decides.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Random {
        let mut mixed = seed;
        let state = std::array::from_fn(|_| {
            mixed = mixed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = mixed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Random { state }
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// From 0 to `end - 1`; 0 where `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The bias is below 2^-32 for every range that is used here.
        ((u128::from(self.number()) * u128::from(end)) >> 64) as u64
    }

    /// From `low` through `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True `permille` times in a thousand.
    pub fn chance(&mut self, permille: u64) -> bool {
        permille > 0 && self.below(1000) < permille
    }

    /// An index below `length`, which must not be 0.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// One of `choices`; `None` if there are none.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        choices.get(self.index(choices.len().max(1))).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against ranges that are off by one, and against a generator that is stuck.
    #[test]
    fn ranges_are_whole_and_seeds_differ() {
        let mut random = Random::new(1);
        let mut seen = [0; 6];
        for _ in 0..6_000 {
            seen[random.between(0, 5) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
        assert_ne!(Random::new(1).number(), Random::new(2).number());
        assert!(!Random::new(1).chance(0) && Random::new(1).chance(1000));
    }
}
