//! What happened, for people and for comparing two runs: every line goes into a hash, and only where somebody will read
//! them are lines made.

use crate::queue::{MS, Micros};
use std::collections::VecDeque;

/// Which lines are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Only the hash.
    Nothing,
    /// The last lines.
    Tail(usize),
    /// All lines.
    Everything,
}

/// The record of one run.
#[derive(Debug)]
pub(crate) struct Trace {
    keep: Keep,
    hash: u64,
    lines: VecDeque<String>,
}

impl Trace {
    pub(crate) fn new(keep: Keep) -> Trace {
        Trace { keep, hash: 0xcbf2_9ce4_8422_2325, lines: VecDeque::new() }
    }

    /// Something happened. `numbers` say what, so that two runs that differ have different hashes; `line` says it to
    /// people.
    pub(crate) fn note(&mut self, now: Micros, numbers: &[u64], line: impl FnOnce() -> String) {
        for number in [now].iter().chain(numbers) {
            self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        }
        if self.keep == Keep::Nothing {
            return;
        }
        if let Keep::Tail(most) = self.keep
            && self.lines.len() >= most
        {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:>6}.{:03} {}", now / MS, now % MS, line()));
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
