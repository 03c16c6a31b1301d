//! Between which sums a read must be, when each addition has happened surely, possibly, or not at all by then.

use crate::Outcome;

/// Something added to one sum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addition {
    pub(crate) called_at: u64,
    pub(crate) answered_at: Option<u64>,
    pub(crate) outcome: Outcome,
    pub(crate) amount: i64,
}

/// Additions by the instants from which they may, and must, be in the sum.
pub(crate) struct Bounds {
    /// Calls of what may have happened, ascending, with the sums of what was added and of what was taken so far.
    possible: Vec<(u64, i128, i128)>,
    /// Answers of what was done, likewise.
    done: Vec<(u64, i128, i128)>,
}

impl Bounds {
    /// What was definitely not done is left out.
    pub(crate) fn new(additions: impl Iterator<Item = Addition>) -> Bounds {
        let (mut possible, mut done) = (Vec::new(), Vec::new());
        for addition in additions.filter(|addition| addition.outcome != Outcome::NotDone) {
            let amount = i128::from(addition.amount);
            possible.push((addition.called_at, amount.max(0), amount.min(0)));
            if let Some(at) = addition.outcome.done_by(addition.called_at, addition.answered_at) {
                done.push((at, amount.max(0), amount.min(0)));
            }
        }
        for sums in [&mut possible, &mut done] {
            sums.sort_unstable_by_key(|(at, ..)| *at);
            let (mut added, mut taken) = (0, 0);
            for (_, up, down) in sums {
                (added, taken) = (added + *up, taken + *down);
                (*up, *down) = (added, taken);
            }
        }
        Bounds { possible, done }
    }

    /// The least and the greatest sum that a read between the two instants can see.
    pub(crate) fn between(&self, called_at: u64, answered_at: u64) -> (i128, i128) {
        let until = |sums: &[(u64, i128, i128)], count: usize| {
            count.checked_sub(1).map_or((0, 0), |last| (sums[last].1, sums[last].2))
        };
        // What was done before the call is in; what was called by the answer may be.
        let must = until(&self.done, self.done.partition_point(|(at, ..)| *at < called_at));
        let may = until(&self.possible, self.possible.partition_point(|(at, ..)| *at <= answered_at));
        (must.0 + may.1, may.0 + must.1)
    }

    /// Likewise, when everything was quiet.
    pub(crate) fn at_end(&self) -> (i128, i128) {
        self.between(u64::MAX, u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against bounds that are too narrow or too wide: compared with trying every choice of what may be in.
    #[test]
    fn bounds_are_those_of_every_choice() {
        let mut random = crate::random::Random::new(3);
        for _ in 0..2_000 {
            let additions: Vec<Addition> = (0..random.between(0, 7))
                .map(|_| {
                    let called_at = random.below(20);
                    let outcome = [Outcome::Done, Outcome::NotDone, Outcome::Unknown][random.index(3)];
                    let answered_at = (outcome != Outcome::Unknown).then_some(called_at + random.below(10));
                    Addition { called_at, answered_at, outcome, amount: random.between(0, 10) as i64 - 5 }
                })
                .collect();
            let (called_at, answered_at) = (random.below(20), random.between(20, 30));
            let (mut low, mut high) = (i128::MAX, i128::MIN);
            for choice in 0..1u32 << additions.len() {
                let is_in = |i: usize| choice >> i & 1 == 1;
                let fits = additions.iter().enumerate().all(|(i, a)| match a.outcome {
                    Outcome::NotDone => !is_in(i),
                    _ if a.called_at > answered_at => !is_in(i),
                    Outcome::Done if a.answered_at.unwrap() < called_at => is_in(i),
                    _ => true,
                });
                if fits {
                    let sum = (0..additions.len()).filter(|i| is_in(*i)).map(|i| i128::from(additions[i].amount)).sum();
                    (low, high) = (low.min(sum), high.max(sum));
                }
            }
            assert_eq!(Bounds::new(additions.iter().copied()).between(called_at, answered_at), (low, high));
        }
    }
}
