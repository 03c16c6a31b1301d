//! The search for an order: Wing and Gong's, with Lowe's memory of what was tried (Testing for linearizability, 2017),
//! on the linked list that Porcupine uses.
//!
//! Calls and answers stand in a list by time. The search takes any call that stands before the first answer, lets it
//! happen, and takes call and answer out of the list; where no call before the first answer can happen next, the search
//! goes back. A set of operations that have happened, together with the registers they left, is tried once. The set is
//! known by the sum of random 128-bit numbers, one for each operation: two sets with one sum are less likely than a
//! broken machine.
//!
//! Operations without an answer stand in a list of their own and are tried last, and only where they make a difference.
//! If the next one sees and leaves the same without it, it is left out; if the next one only looks and could look before
//! it, it waits. Every history that has an order has one of this form: leave out what can be left out, then move what
//! can wait as far back as it goes. Without this rule each unknown write would double the search.

use super::super::{Heard, Operation};
use super::{Registers, Stuck};
use crate::random::Random;
use rustc_hash::FxHashSet;

pub(in super::super) enum Failure {
    /// The bound was reached.
    Undecided,
    /// There is no order.
    Impossible(Stuck),
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
struct Step {
    call: usize,
    before: Registers,
    /// Of an operation without an answer: the first answer that stood in the list.
    limit: Option<usize>,
    /// Nothing else needed trying here: the operation only looked, and saw what is there.
    only_choice: bool,
}

/// How many steps it took to find an order.
pub(in super::super) fn search(operations: &[&Operation], steps_max: u64) -> Result<u64, Failure> {
    let mut list = List::new(operations);
    let mut random = Random::new(0);
    let names: Vec<u128> =
        operations.iter().map(|_| u128::from(random.number()) << 64 | u128::from(random.number())).collect();
    let mut tried: FxHashSet<(u128, Registers, Option<Registers>)> = FxHashSet::default();
    let mut registers = Registers::default();
    let mut happened = 0u128;
    let mut unexplained = list.answer.iter().filter(|answer| **answer != NONE).count();
    let mut steps: Vec<Step> = Vec::new();
    let mut longest = Longest { unexplained: unexplained + 1, stuck: Stuck::default() };
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
                longest = Longest::new(unexplained, &steps, &registers, &list, at);
            }
            limit = Some(at);
            at = list.next[OPEN];
        }
        // What can't happen any more after this can't happen after anything that follows.
        let is_dead = limit.is_none() && registers.is_past(operations[list.node[at].0]);
        if !is_dead && at < limit.unwrap_or(NONE) {
            let index = list.node[at].0;
            let after = registers.after(operations, index).filter(|after| {
                let only_looks = *after == registers;
                let is_needless = |last: &Step| {
                    let without = last.before.after(operations, index);
                    without.as_ref() == Some(after) || only_looks && without.as_ref() == Some(&last.before)
                };
                let last_open = steps.last().filter(|last| last.limit.is_some());
                let sum = happened.wrapping_add(names[index]);
                !last_open.is_some_and(is_needless)
                    && tried.insert((sum, after.clone(), limit.map(|_| registers.clone())))
            });
            let Some(after) = after else {
                at = list.next[at];
                continue;
            };
            let only_choice = limit.is_none() && after == registers;
            let before = std::mem::replace(&mut registers, after);
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
            let Some(step) = steps.pop() else { return Err(Failure::Impossible(longest.stuck)) };
            let (index, _) = list.node[step.call];
            if step.limit.is_none() {
                unexplained += 1;
                list.put_back(list.answer[index]);
            }
            list.put_back(step.call);
            registers = step.before;
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
struct Longest {
    unexplained: usize,
    stuck: Stuck,
}

impl Longest {
    fn new(unexplained: usize, steps: &[Step], registers: &Registers, list: &List, blocked: usize) -> Longest {
        let shown = &steps[steps.len().saturating_sub(SHOWN_MAX)..];
        let index = list.node[blocked].0;
        let waiting = list.calls_before(blocked).into_iter().filter(|waiting| *waiting != index);
        let stuck = Stuck {
            explained: steps.len(),
            last: shown.iter().map(|step| list.node[step.call].0).collect(),
            registers: registers.clone(),
            blocked: Some(index),
            waiting: waiting.collect(),
        };
        Longest { unexplained, stuck }
    }
}
