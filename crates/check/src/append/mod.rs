//! Transactions that append to lists and read whole lists, held against strict serializability: Elle's way (Kingsbury and
//! Alvaro, 2020), with the names of Adya's thesis (1999).
//!
//! A list that was read shows the order in which its elements were appended, and elements are unique, so every list
//! names the transactions that made it. From that, and from the instants, follows who must come before whom:
//!
//! * **ww**: whose element comes right after another's in a list comes after it.
//! * **wr**: who read a list comes after whoever appended its last element.
//! * **rw**: who read a list comes before whoever appended the next element.
//! * **time**: who was called after another was answered comes after it.
//!
//! A cycle of these can't be put in any order; its name tells what it takes. What can be seen without cycles is looked
//! for first. An append to a single key is a transaction of one step.
//!
//! What was not answered counts as done as soon as anybody saw an element of it, and can't be blamed for anything
//! before that. Left out: lists that nobody ever read, of which nothing is known but that acknowledged appends follow
//! what was read.

mod cycles;
mod graph;
mod lists;

use crate::report::PieceOperation;
use crate::{Anomaly, Outcome};
use bytes::Bytes;

/// One step of a transaction. Elements are unique per key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Put `element` at the end of `key`'s list.
    Append {
        /// Which list.
        key: Bytes,
        /// What; never the same twice for one key.
        element: u64,
    },
    /// Read `key`'s whole list.
    Read {
        /// Which list.
        key: Bytes,
        /// What was there, oldest first; `None` where no answer came.
        list: Option<Vec<u64>>,
    },
}

/// One transaction. Instants are microseconds of one clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// Who asked, for people.
    pub client: u64,
    /// When it was called.
    pub called_at: u64,
    /// When it was answered; `None` where no answer came.
    pub answered_at: Option<u64>,
    /// What it did, in order.
    pub operations: Vec<Step>,
    /// How it ended.
    pub outcome: Outcome,
}

/// What can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// G0: a cycle of ww.
    G0,
    /// G1a: a read of what was not done.
    G1a,
    /// G1b: a read of a transaction's intermediate state.
    G1b,
    /// G1c: a cycle of ww and wr.
    G1c,
    /// G-single: a cycle with exactly one rw. With time in it, a stale read.
    GSingle,
    /// G2: a cycle with several rw.
    G2,
    /// An acknowledged append that a later read does not have.
    LostAppend,
    /// One element twice in a list.
    Duplicate,
    /// Two reads of one list, neither the beginning of the other.
    IncompatibleOrder,
    /// An element that nobody appended.
    Invented,
    /// A transaction that does not see its own appends, or two different states.
    Internal,
}

impl Kind {
    /// Its name in the literature, or the plain word.
    pub fn name(self) -> &'static str {
        match self {
            Kind::G0 => "G0",
            Kind::G1a => "G1a (aborted read)",
            Kind::G1b => "G1b (intermediate read)",
            Kind::G1c => "G1c (circular information flow)",
            Kind::GSingle => "G-single (read skew)",
            Kind::G2 => "G2 (write skew)",
            Kind::LostAppend => "lost append",
            Kind::Duplicate => "duplicate",
            Kind::IncompatibleOrder => "incompatible orders",
            Kind::Invented => "invented element",
            Kind::Internal => "internal inconsistency",
        }
    }
}

/// Checks that the transactions are strictly serializable, as far as lists show it. Linear in the history and in the
/// lists' lengths, as long as there is nothing wrong; one anomaly per tangle of cycles, and at most some dozens in all.
pub fn check(history: &[Transaction]) -> Vec<Anomaly<Kind>> {
    let mut anomalies = Vec::new();
    let lists = lists::Lists::new(history, &mut anomalies);
    // Where lists contradict each other there is no order to find cycles in.
    let has_order = !anomalies.iter().any(|found| matches!(found.kind, Kind::IncompatibleOrder | Kind::Duplicate));
    if has_order {
        let graph = graph::Graph::new(history, &lists);
        cycles::find(history, &graph, &mut anomalies);
    }
    anomalies
}

/// Anomalies told of one sort at most: more of them tell nothing new.
const TOLD_MAX: usize = 16;

impl Transaction {
    fn drawn(&self) -> PieceOperation {
        let steps: Vec<String> = self.operations.iter().map(Step::text).collect();
        PieceOperation {
            client: self.client,
            began_us: self.called_at,
            ended_us: self.answered_at,
            text: format!("{} → {}", steps.join("; "), self.outcome.word()),
        }
    }
}

impl Step {
    fn text(&self) -> String {
        match self {
            Step::Append { key, element } => format!("append {element} to {}", key.escape_ascii()),
            Step::Read { key, list: None } => format!("read {}", key.escape_ascii()),
            Step::Read { key, list: Some(list) } => {
                // The end tells most.
                let shown: Vec<String> = list.iter().rev().take(6).rev().map(u64::to_string).collect();
                let more = if list.len() > shown.len() { "… " } else { "" };
                format!("read {} = [{more}{}]", key.escape_ascii(), shown.join(" "))
            }
        }
    }
}

#[cfg(test)]
mod tests;
