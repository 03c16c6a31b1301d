//! Virtual time: what will happen, in the order in which it will. Nothing here knows a real clock.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Microseconds since the world began.
pub(crate) type Micros = u64;
/// One millisecond.
pub(crate) const MS: Micros = 1_000;

/// What will happen; what is due at one instant happens in the order in which it was put in.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    heap: BinaryHeap<Reverse<Due<T>>>,
    put_in: u64,
}

#[derive(Debug)]
struct Due<T> {
    at: Micros,
    number: u64,
    what: T,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Queue<T> {
        Queue { heap: BinaryHeap::new(), put_in: 0 }
    }

    pub(crate) fn put(&mut self, at: Micros, what: T) {
        self.put_in += 1;
        self.heap.push(Reverse(Due { at, number: self.put_in, what }));
    }

    /// What is due next, and when.
    pub(crate) fn take(&mut self) -> Option<(Micros, T)> {
        self.heap.pop().map(|Reverse(due)| (due.at, due.what))
    }
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<T> Eq for Due<T> {}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
