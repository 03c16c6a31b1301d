//! The search for an order: Wing and Gong's, with Lowe's memory of what was tried (Testing for linearizability, 2017),
//! on the linked list that Porcupine uses.
//!
//! Calls and answers stand in one list by time. The search takes any call that stands before the first answer, lets it
//! happen, and takes call and answer out of the list; where an answer stands first, its call could not happen in time,
//! and the search goes back. A set of operations that have happened, together with the register they left, is tried
//! once. The set is known by the sum of random 128-bit numbers, one for each operation: two sets with one sum are less
//! likely than a broken machine.

use super::model::Register;
use super::{Heard, Operation};
use crate::random::Random;
use rustc_hash::FxHashSet;
use std::fmt::Write;

pub(super) enum Failure {
    /// The bound was reached.
    Undecided,
    /// There is no order; what to show of it.
    Impossible(String),
}

const NONE: usize = usize::MAX;
/// Operations shown of the longest part that could be explained.
const SHOWN_MAX: usize = 8;

/// Where an operation's call and answer stand in the list. Node 0 is the list's head.
struct List {
    next: Vec<usize>,
    previous: Vec<usize>,
    /// The operation, and whether this is its call.
    node: Vec<(usize, bool)>,
    /// By operation: its answer's node; open operations have none.
    answer: Vec<usize>,
}

impl List {
    fn new(operations: &[&Operation]) -> List {
        // At one instant calls come first: what might overlap does.
        let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(operations.len() * 2);
        for (index, operation) in operations.iter().enumerate() {
            events.push((operation.called_at, false, index));
            if operation.heard != Heard::Unknown {
                events.push((operation.answered_at.max(operation.called_at), true, index));
            }
        }
        events.sort_unstable();
        let count = events.len() + 1;
        let mut answer = vec![NONE; operations.len()];
        let mut node = vec![(NONE, false)];
        for (at, (_, is_answer, index)) in events.iter().enumerate() {
            node.push((*index, !is_answer));
            if *is_answer {
                answer[*index] = at + 1;
            }
        }
        let next = (1..=count).map(|at| if at < count { at } else { NONE }).collect();
        let previous = (0..count).map(|at: usize| at.wrapping_sub(1)).collect();
        List { next, previous, node, answer }
    }

    /// Operations whose calls are in the list before the node `end`.
    fn calls_before(&self, end: usize) -> Vec<usize> {
        std::iter::successors(Some(self.next[0]), |at| Some(self.next[*at]))
            .take_while(|at| *at != end && *at != NONE)
            .filter(|at| self.node[*at].1)
            .map(|at| self.node[at].0)
            .collect()
    }

    fn take_out(&mut self, at: usize) {
        let (before, after) = (self.previous[at], self.next[at]);
        self.next[before] = after;
        if after != NONE {
            self.previous[after] = before;
        }
    }

    fn put_back(&mut self, at: usize) {
        let (before, after) = (self.previous[at], self.next[at]);
        self.next[before] = at;
        if after != NONE {
            self.previous[after] = at;
        }
    }
}

struct Step {
    call: usize,
    before: Register,
    /// Nothing else needed trying here: the operation only looked, and saw what is there.
    only_choice: bool,
}

/// How many steps it took to find an order.
pub(super) fn search(operations: &[&Operation], steps_max: u64) -> Result<u64, Failure> {
    let mut list = List::new(operations);
    let mut random = Random::new(0);
    let names: Vec<u128> =
        operations.iter().map(|_| u128::from(random.number()) << 64 | u128::from(random.number())).collect();
    let mut tried: FxHashSet<(u128, Register)> = FxHashSet::default();
    let mut register = Register::default();
    let mut happened = 0u128;
    let mut unexplained = list.answer.iter().filter(|answer| **answer != NONE).count();
    let mut steps: Vec<Step> = Vec::new();
    let mut longest = Longest { unexplained: unexplained + 1, ..Longest::default() };
    let mut taken = 0;
    let mut at = list.next[0];
    while unexplained > 0 {
        taken += 1;
        if taken > steps_max {
            return Err(Failure::Undecided);
        }
        let (index, is_call) = if at == NONE { (NONE, false) } else { list.node[at] };
        if is_call {
            let Some(after) = register.after(operations, index) else {
                at = list.next[at];
                continue;
            };
            let closed = list.answer[index] != NONE;
            let only_choice = closed && after == register;
            if !tried.insert((happened.wrapping_add(names[index]), after)) {
                at = list.next[at];
                continue;
            }
            steps.push(Step { call: at, before: register, only_choice });
            register = after;
            happened = happened.wrapping_add(names[index]);
            list.take_out(at);
            if closed {
                unexplained -= 1;
                list.take_out(list.answer[index]);
            }
            at = list.next[0];
            continue;
        }
        if unexplained < longest.unexplained {
            let shown = &steps[steps.len().saturating_sub(SHOWN_MAX)..];
            longest = Longest {
                unexplained,
                explained: steps.len(),
                register,
                blocked: index,
                last: shown.iter().map(|step| list.node[step.call].0).collect(),
                waiting: list.calls_before(at),
            };
        }
        // An answer whose call has not happened: back to the last choice.
        loop {
            let Some(step) = steps.pop() else { return Err(Failure::Impossible(longest.explain(operations))) };
            let (index, _) = list.node[step.call];
            if list.answer[index] != NONE {
                unexplained += 1;
                list.put_back(list.answer[index]);
            }
            list.put_back(step.call);
            register = step.before;
            happened = happened.wrapping_sub(names[index]);
            at = list.next[step.call];
            if !step.only_choice {
                break;
            }
        }
    }
    Ok(taken)
}

/// The part that could be explained best.
#[derive(Default)]
struct Longest {
    unexplained: usize,
    explained: usize,
    register: Register,
    blocked: usize,
    last: Vec<usize>,
    waiting: Vec<usize>,
}

impl Longest {
    fn explain(&self, operations: &[&Operation]) -> String {
        let mut text =
            format!("  {} of {} operations can be put in order; the last:\n", self.explained, operations.len());
        let mut line = |what: &dyn std::fmt::Display| {
            // Writing to a String can't fail.
            let _ = writeln!(text, "{what}");
        };
        for index in &self.last {
            line(&format_args!("    {}", operations[*index]));
        }
        line(&format_args!("  the key then has {}", self.register.describe(operations)));
        if let Some(blocked) = operations.get(self.blocked) {
            line(&format_args!("  and this can't be explained:\n    {blocked}"));
        }
        let waiting: Vec<_> = self.waiting.iter().filter(|index| **index != self.blocked).collect();
        if !waiting.is_empty() {
            line(&"  not yet placed, called before that was answered:");
        }
        for index in waiting.iter().rev().take(SHOWN_MAX) {
            line(&format_args!("    {}", operations[**index]));
        }
        text
    }
}
