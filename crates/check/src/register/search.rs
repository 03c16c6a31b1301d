//! The search for an order: Wing and Gong's, with Lowe's memory of what was tried (Testing for linearizability, 2017).
//!
//! At each node, some operations have happened and left a register. An operation can be next if its call comes before
//! the first answer of all that have not happened. What versions settle is in [`Plan`]; this leaves three kinds of steps:
//!
//! * An answer that the key has no value is placed as soon as it can be: it changes nothing, so that never hurts.
//! * Of the operations with a settled place, the next one.
//! * One of the unanswered requests that nobody saw, only where it makes a difference: if the next operation sees and
//!   leaves the same without it, it is left out; if the next one only looks and could look before it, it waits; and an
//!   unconditional one makes whatever unanswered one came right before it pointless. Every history that has an order has
//!   one of this form: leave out what can be left out, then move what can wait as far back as it goes.
//!
//! A node from which there is no way is remembered: by the place in the order, by what else has happened, and by the
//! register. What else has happened is known by the sum of random 128-bit numbers, one for each operation or class: two
//! sets with one sum are less likely than a broken machine. A history in which nothing is wrong is walked through in a
//! line, and nothing is remembered.

use super::Operation;
use super::model::Register;
use super::plan::{Class, Plan};
use super::stuck::Stuck;
use crate::random::Random;
use rustc_hash::FxHashSet;

pub(super) enum Failure {
    /// The bound was reached.
    Undecided,
    /// There is no order.
    Impossible(Stuck),
}

/// A list of 1 to n, from which numbers can be taken out and put back again, the last one first. 0 is its head.
struct List {
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl List {
    fn new(length: usize) -> List {
        let next = (1..=length).chain([0]).collect();
        List { next, previous: [length].into_iter().chain(0..length).collect() }
    }

    fn first(&self) -> Option<usize> {
        Some(self.next[0]).filter(|number| *number != 0)
    }

    fn take_out(&mut self, number: usize) {
        let (before, after) = (self.previous[number], self.next[number]);
        (self.next[before], self.previous[after]) = (after, before);
    }

    fn put_back(&mut self, number: usize) {
        let (before, after) = (self.previous[number], self.next[number]);
        (self.next[before], self.previous[after]) = (number, number);
    }
}

#[derive(Clone, Copy)]
enum Taken {
    /// The next one with a settled place.
    Next,
    /// Of the lookers, this one by call.
    Looker(usize),
    /// One of this class.
    Open(usize),
}

/// One operation that was let happen.
struct Step {
    taken: Taken,
    before: Register,
    /// What was before the last step, if that was an unanswered request.
    before_open: Option<Register>,
    /// Which class to try next at the node where this was taken.
    choice: usize,
}

pub(super) struct Search<'a> {
    pub(super) operations: &'a [&'a Operation],
    pub(super) plan: Plan,
    /// Place in the plan's order.
    pub(super) at: usize,
    pub(super) register: Register,
    /// How many lookers have happened.
    pub(super) looked: usize,
    before_open: Option<Register>,
    /// Lookers that have not happened, by call and by answer; numbers of both lists are ranks plus one.
    by_call: List,
    by_answer: List,
    /// By rank of answer: the answer and the operation. By rank of call: the rank of the answer.
    answers: Vec<(u64, usize)>,
    answer_rank: Vec<usize>,
    /// How many of each class have happened.
    used: Vec<usize>,
    /// What has happened besides the settled places: sums of these.
    names: Vec<u128>,
    happened: u128,
    steps: Vec<Step>,
}

type Node = (usize, [u64; 2], Register, Option<Register>);

/// How many steps it took to find an order.
pub(super) fn search(operations: &[&Operation], steps_max: u64) -> Result<u64, Failure> {
    let mut search = Search::new(operations);
    if let Some(stuck) = Stuck::settled(&search.plan, operations) {
        return Err(Failure::Impossible(stuck));
    }
    let mut hopeless: FxHashSet<Node> = FxHashSet::default();
    let mut stuck = Stuck::default();
    let mut taken = 0;
    // The class to try next at this node; `None`: nothing was tried here.
    let mut choice = None;
    loop {
        taken += 1;
        if taken > steps_max {
            return Err(Failure::Undecided);
        }
        let mut is_hopeless = false;
        if choice.is_none() {
            if search.look() {
                continue;
            }
            if search.is_done() {
                return Ok(taken);
            }
            is_hopeless = hopeless.contains(&search.node());
            if !is_hopeless && search.take_next() {
                continue;
            }
            stuck.note(&search);
        }
        if !is_hopeless {
            if search.take_open(choice.unwrap_or(0), &mut taken) {
                choice = None;
                continue;
            }
            hopeless.insert(search.node());
        }
        match search.back() {
            Some(next_choice) => choice = Some(next_choice),
            None => return Err(Failure::Impossible(stuck)),
        }
    }
}

impl<'a> Search<'a> {
    fn new(operations: &'a [&'a Operation]) -> Search<'a> {
        let plan = Plan::new(operations);
        let lookers = plan.lookers.len();
        let mut ranked: Vec<(u64, usize, usize)> = (plan.lookers.iter().enumerate())
            .map(|(rank, index)| (operations[*index].answer().unwrap_or(u64::MAX), *index, rank))
            .collect();
        ranked.sort_unstable();
        let mut answer_rank = vec![0; lookers];
        for (rank, (_, _, by_call)) in ranked.iter().enumerate() {
            answer_rank[*by_call] = rank;
        }
        let mut random = Random::new(0);
        let names = (0..lookers + plan.classes.len())
            .map(|_| u128::from(random.number()) << 64 | u128::from(random.number()))
            .collect();
        Search {
            operations,
            at: 0,
            looked: 0,
            register: Register::default(),
            before_open: None,
            by_call: List::new(lookers),
            by_answer: List::new(lookers),
            answers: ranked.into_iter().map(|(answer, index, _)| (answer, index)).collect(),
            answer_rank,
            used: vec![0; plan.classes.len()],
            names,
            happened: 0,
            steps: Vec::new(),
            plan,
        }
    }

    fn is_done(&self) -> bool {
        self.at == self.plan.order.len() && self.by_call.first().is_none()
    }

    fn node(&self) -> Node {
        (self.at, [(self.happened >> 64) as u64, self.happened as u64], self.register, self.before_open)
    }

    /// The first answer of all that have not happened, and whose it is: what happens next was called before.
    pub(super) fn first_answer(&self) -> (u64, usize) {
        let looker = self.by_answer.first().map(|number| self.answers[number - 1]);
        looker.unwrap_or((u64::MAX, usize::MAX)).min(self.plan.first_answer[self.at])
    }

    /// The operations that happened last, oldest first, at most this many.
    pub(super) fn last(&self, count: usize) -> Vec<usize> {
        let mut at = self.at;
        let mut last: Vec<usize> = (self.steps.iter().rev().take(count))
            .map(|step| match step.taken {
                Taken::Looker(number) => self.plan.lookers[number - 1],
                Taken::Open(class) => self.plan.classes[class].index,
                Taken::Next => {
                    at -= 1;
                    self.plan.order[at].index
                }
            })
            .collect();
        last.reverse();
        last
    }

    fn push(&mut self, taken: Taken, after: Register, choice: usize) {
        self.steps.push(Step { taken, before: self.register, before_open: self.before_open, choice });
        self.before_open = matches!(taken, Taken::Open(_)).then_some(self.register);
        self.register = after;
    }

    /// Lets the first looker happen, if the key has no value.
    fn look(&mut self) -> bool {
        if !self.register.is_absent() {
            return false;
        }
        let Some(number) = self.by_call.first() else { return false };
        let index = self.plan.lookers[number - 1];
        let is_called = self.operations[index].called_at <= self.first_answer().0;
        if !is_called || self.register.after(self.operations, index).is_none() {
            return false;
        }
        self.push(Taken::Looker(number), self.register, usize::MAX);
        self.looked += 1;
        self.by_call.take_out(number);
        self.by_answer.take_out(self.answer_rank[number - 1] + 1);
        self.happened = self.happened.wrapping_add(self.names[number - 1]);
        true
    }

    /// The register after the next settled one, whatever the time.
    fn after_next(&self, register: Register) -> Option<Register> {
        let next = self.plan.order.get(self.at)?;
        let after = register.after(self.operations, next.index)?;
        if next.is_found_out { after.bind(next.version) } else { Some(after) }
    }

    /// Lets the next settled one happen, if it can.
    fn take_next(&mut self) -> bool {
        let Some(next) = self.plan.order.get(self.at) else { return false };
        if self.operations[next.index].called_at > self.first_answer().0 {
            return false;
        }
        let Some(after) = self.after_next(self.register) else { return false };
        if let Some(before) = self.before_open {
            let without = self.after_next(before);
            let only_looks = after == self.register;
            if without == Some(after) || only_looks && without == Some(before) {
                return false;
            }
        }
        self.push(Taken::Next, after, 0);
        self.at += 1;
        true
    }

    /// Lets an unanswered request happen, from the choice `first` on.
    fn take_open(&mut self, first: usize, tried: &mut u64) -> bool {
        let last_call = self.first_answer().0;
        let classes = self.plan.classes_for(&self.register, self.operations, self.at);
        for (choice, class) in classes.iter().copied().enumerate().skip(first) {
            *tried += 1;
            let Some(after) = self.after_open(class, last_call) else { continue };
            // A conditional one that does the same here goes first, and alone: the other can take its place anywhere.
            let is_conditional = |class: usize| self.plan.classes[class].is_conditional;
            let does_same = |other: usize| is_conditional(other) && self.after_open(other, last_call) == Some(after);
            let is_spared = !is_conditional(class) && classes[..choice].iter().any(|other| does_same(*other));
            if is_spared || !self.is_useful(class, after, last_call) {
                continue;
            }
            self.push(Taken::Open(class), after, choice + 1);
            self.used[class] += 1;
            self.happened = self.happened.wrapping_add(self.names[self.plan.lookers.len() + class]);
            return true;
        }
        false
    }

    fn after_open(&self, class: usize, last_call: u64) -> Option<Register> {
        let Class { called_at, is_conditional, .. } = &self.plan.classes[class];
        called_at.get(self.used[class]).filter(|called_at| **called_at <= last_call)?;
        let after_it = |register| self.plan.after(class, register, self.operations);
        let after = after_it(self.register)?;
        if let Some(before) = self.before_open {
            let is_pointless = !is_conditional || after == before || after_it(before) == Some(after);
            (!is_pointless).then_some(())?;
        }
        // What the next one can't come after any more would never be explained.
        let is_past = self.plan.order.get(self.at).is_some_and(|next| match next.is_found_out {
            true => next.version <= after.last_version(),
            false => after.is_past(self.operations[next.index]),
        });
        (!is_past).then_some(after)
    }

    /// Whether anything can follow that could not without this one: a looker, the next settled one, or another
    /// unanswered one under a condition.
    fn is_useful(&self, class: usize, after: Register, last_call: u64) -> bool {
        let called = |index: usize| self.operations[index].called_at <= last_call;
        if after.is_absent() && self.by_call.first().is_some_and(|number| called(self.plan.lookers[number - 1])) {
            return true;
        }
        let is_next = self.plan.order.get(self.at).is_some_and(|next| {
            called(next.index)
                && self.after_next(after).is_some_and(|then| Some(then) != self.after_next(self.register))
        });
        is_next
            || self.plan.classes_for(&after, self.operations, self.at).into_iter().any(|other| {
                let Class { called_at, is_conditional, .. } = &self.plan.classes[other];
                let used = self.used[other] + usize::from(other == class);
                let is_there = called_at.get(used).is_some_and(|called_at| *called_at <= last_call);
                let without = self.plan.after(other, self.register, self.operations);
                let then = || self.plan.after(other, after, self.operations);
                *is_conditional && is_there && then().is_some_and(|then| Some(then) != without && then != self.register)
            })
    }

    /// Takes back the last step that was a choice; says which choice is next at its node.
    fn back(&mut self) -> Option<usize> {
        loop {
            let step = self.steps.pop()?;
            (self.register, self.before_open) = (step.before, step.before_open);
            match step.taken {
                Taken::Looker(number) => {
                    self.looked -= 1;
                    self.by_answer.put_back(self.answer_rank[number - 1] + 1);
                    self.by_call.put_back(number);
                    self.happened = self.happened.wrapping_sub(self.names[number - 1]);
                }
                Taken::Next => {
                    self.at -= 1;
                    return Some(step.choice);
                }
                Taken::Open(class) => {
                    self.used[class] -= 1;
                    self.happened = self.happened.wrapping_sub(self.names[self.plan.lookers.len() + class]);
                    return Some(step.choice);
                }
            }
        }
    }
}
