//! The search for an order: Wing and Gong's, with Lowe's memory of what was tried (Testing for linearizability, 2017),
//! on the linked list that Porcupine uses.
//!
//! Calls and answers stand in a list by time. The search takes any call that stands before the first answer, lets it
//! happen, and takes call and answer out of the list; where no call before the first answer can happen next, the search
//! goes back. A set of operations that have happened, together with the register they left, is tried once. The set is
//! known by the sum of random 128-bit numbers, one for each operation: two sets with one sum are less likely than a
//! broken machine.
//!
//! Operations without an answer stand in a list of their own and are tried last, and only where they make a difference.
//! If the next one sees and leaves the same without it, it is left out; if the next one only looks and could look before
//! it, it waits. Every history that has an order has one of this form: leave out what can be left out, then move what
//! can wait as far back as it goes. Without this rule each unknown write would double the search.

use super::{Heard, Operation};
use crate::random::Random;
use rustc_hash::FxHashSet;
use std::fmt::Write;
use std::hash::Hash;

/// What the operations of one history work on. The default is the state before the first.
pub(super) trait Model: Clone + Eq + Hash + Default {
    /// The state after the operation at `index`, or `None` if the answer can't be given here. An operation whose outcome
    /// is unknown must have an effect: that it has none is the same as that it never happens.
    fn after(&self, operations: &[&Operation], index: usize) -> Option<Self>;

    /// Whether the answer names a version that this state has gone past: then it can't be given any more.
    fn is_past(&self, operation: &Operation) -> bool;

    /// The state, for people.
    fn describe(&self, operations: &[&Operation]) -> String;
}

pub(super) enum Failure {
    /// The bound was reached.
    Undecided,
    /// There is no order; what to show of it.
    Impossible(String),
}

const NONE: usize = usize::MAX;
/// The heads of the two lists: of what was answered, and of calls that never were.
const ANSWERED: usize = 0;
const OPEN: usize = 1;
/// Operations shown of the longest part that could be explained.
const SHOWN_MAX: usize = 8;

/// Calls and answers, linked. A node's number is its place in time, but for the two heads.
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
        let mut list = List {
            next: vec![NONE; events.len() + 2],
            previous: vec![NONE; events.len() + 2],
            node: vec![(NONE, false); 2],
            answer: vec![NONE; operations.len()],
        };
        let mut ends = [ANSWERED, OPEN];
        for (at, (_, is_answer, index)) in (2..).zip(events) {
            let which = if operations[index].heard == Heard::Unknown { OPEN } else { ANSWERED };
            list.node.push((index, !is_answer));
            list.previous[at] = ends[which];
            list.next[ends[which]] = at;
            ends[which] = at;
            if is_answer {
                list.answer[index] = at;
            }
        }
        list
    }

    /// Operations not taken out whose calls come before the node `end`.
    fn calls_before(&self, end: usize) -> Vec<usize> {
        let walk =
            |head: usize| std::iter::successors(Some(head), |at| Some(self.next[*at]).filter(|next| *next < end));
        [OPEN, ANSWERED].into_iter().flat_map(walk).filter(|at| self.node[*at].1).map(|at| self.node[at].0).collect()
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

/// One operation that was let happen.
struct Step<M> {
    call: usize,
    before: M,
    /// Of an operation without an answer: the first answer that stood in the list.
    limit: Option<usize>,
    /// Nothing else needed trying here: the operation only looked, and saw what is there.
    only_choice: bool,
}

/// How many steps it took to find an order.
pub(super) fn search<M: Model>(operations: &[&Operation], steps_max: u64) -> Result<u64, Failure> {
    let mut list = List::new(operations);
    let mut random = Random::new(0);
    let names: Vec<u128> =
        operations.iter().map(|_| u128::from(random.number()) << 64 | u128::from(random.number())).collect();
    let mut tried: FxHashSet<(u128, M, Option<M>)> = FxHashSet::default();
    let mut register = M::default();
    let mut happened = 0u128;
    let mut unexplained = list.answer.iter().filter(|answer| **answer != NONE).count();
    let mut steps: Vec<Step<M>> = Vec::new();
    let mut longest = Longest { unexplained: unexplained + 1, ..Longest::default() };
    let mut taken = 0;
    let mut at = list.next[ANSWERED];
    // The first answer in the list, once the search looks at open operations.
    let mut limit = None;
    while unexplained > 0 {
        taken += 1;
        if taken > steps_max {
            return Err(Failure::Undecided);
        }
        if limit.is_none() && !list.node[at].1 {
            if unexplained < longest.unexplained {
                longest = Longest::new(unexplained, &steps, &register, &list, at);
            }
            limit = Some(at);
            at = list.next[OPEN];
        }
        // What can't happen any more after this can't happen after anything that follows.
        let is_dead = limit.is_none() && register.is_past(operations[list.node[at].0]);
        if !is_dead && at < limit.unwrap_or(NONE) {
            let index = list.node[at].0;
            let after = register.after(operations, index).filter(|after| {
                let only_looks = *after == register;
                let is_needless = |last: &Step<M>| {
                    let without = last.before.after(operations, index);
                    without.as_ref() == Some(after) || only_looks && without.as_ref() == Some(&last.before)
                };
                let last_open = steps.last().filter(|last| last.limit.is_some());
                let sum = happened.wrapping_add(names[index]);
                !last_open.is_some_and(is_needless)
                    && tried.insert((sum, after.clone(), limit.map(|_| register.clone())))
            });
            let Some(after) = after else {
                at = list.next[at];
                continue;
            };
            let only_choice = limit.is_none() && after == register;
            let before = std::mem::replace(&mut register, after);
            steps.push(Step { call: at, before, limit, only_choice });
            happened = happened.wrapping_add(names[index]);
            list.take_out(at);
            if limit.is_none() {
                unexplained -= 1;
                list.take_out(list.answer[index]);
            }
            (at, limit) = (list.next[ANSWERED], None);
            continue;
        }
        // Nothing can happen before the first answer, or something never can: back to the last choice.
        loop {
            let Some(step) = steps.pop() else { return Err(Failure::Impossible(longest.explain(operations))) };
            let (index, _) = list.node[step.call];
            if step.limit.is_none() {
                unexplained += 1;
                list.put_back(list.answer[index]);
            }
            list.put_back(step.call);
            register = step.before;
            happened = happened.wrapping_sub(names[index]);
            (at, limit) = (list.next[step.call], step.limit);
            if !step.only_choice {
                break;
            }
        }
    }
    Ok(taken)
}

/// The part that could be explained best.
#[derive(Default)]
struct Longest<M> {
    unexplained: usize,
    explained: usize,
    register: M,
    blocked: usize,
    last: Vec<usize>,
    waiting: Vec<usize>,
}

impl<M: Model> Longest<M> {
    fn new(unexplained: usize, steps: &[Step<M>], register: &M, list: &List, blocked: usize) -> Longest<M> {
        let shown = &steps[steps.len().saturating_sub(SHOWN_MAX)..];
        Longest {
            unexplained,
            explained: steps.len(),
            register: register.clone(),
            blocked: list.node[blocked].0,
            last: shown.iter().map(|step| list.node[step.call].0).collect(),
            waiting: list.calls_before(blocked),
        }
    }

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
        line(&format_args!("  there is then {}", self.register.describe(operations)));
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
