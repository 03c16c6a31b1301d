//! Who must come before whom, and why.

use super::lists::{Lists, reads_of_others};
use super::{Step, Transaction};
use crate::Outcome;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Why one comes before the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why {
    Ww,
    Wr,
    Rw,
    Time,
    /// From a node that only gathers to what it gathers for: counts for nothing by itself.
    Pass,
}

/// To whom, and why. What it is about: a key by its number, and an element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub(super) to: usize,
    pub(super) why: Why,
    pub(super) key: usize,
    pub(super) element: u64,
}

/// Transactions by index; behind them the nodes that gather, so that the number of edges stays linear: one per answer
/// for the order of time, and one per list for what was appended and never read.
pub(super) struct Graph<'a> {
    pub(super) edges: Vec<Vec<Edge>>,
    pub(super) keys: Vec<&'a Bytes>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(history: &[Transaction], lists: &Lists<'a>) -> Graph<'a> {
        let mut graph = Graph { edges: vec![Vec::new(); history.len()], keys: Vec::new() };
        let number: BTreeMap<&Bytes, usize> = lists.by_key.keys().enumerate().map(|(n, key)| (*key, n)).collect();
        graph.keys = lists.by_key.keys().copied().collect();

        // By key: where what was never read is gathered.
        let mut tails: Vec<Option<usize>> = vec![None; number.len()];
        for (key, list) in &lists.by_key {
            let key_number = number[key];
            let writer = |element: &u64| {
                lists.appended.get(&(*key, *element)).map(|(index, _)| *index).filter(|index| lists.is_done[*index])
            };
            let mut before: Option<usize> = None;
            for element in &list.elements {
                let Some(next) = writer(element) else { continue };
                if let Some(before) = before {
                    graph.add(before, next, Why::Ww, key_number, *element);
                }
                before = Some(next);
            }
            if let Some(first) = list.unread.first() {
                let tail = graph.node();
                tails[key_number] = Some(tail);
                for next in &list.unread {
                    graph.add(tail, *next, Why::Pass, key_number, own_append(&history[*next], key));
                }
                if let Some(last) = before.filter(|last| list.unread.binary_search(last).is_err()) {
                    graph.add(last, tail, Why::Ww, key_number, own_append(&history[*first], key));
                }
            }
        }
        for (reader, transaction) in history.iter().enumerate().filter(|(_, t)| t.outcome == Outcome::Done) {
            for (key, seen) in reads_of_others(transaction) {
                let Some(key_number) = number.get(key).copied() else { continue };
                let list = &lists.by_key[key];
                let writer = |element: &u64| lists.appended.get(&(key, *element)).map(|(index, _)| *index);
                if let Some(last) = seen.last()
                    && let Some(from) = writer(last).filter(|index| lists.is_done[*index])
                {
                    graph.add(from, reader, Why::Wr, key_number, *last);
                }
                match list.elements.get(seen.len()) {
                    Some(next) => {
                        if let Some(to) = writer(next).filter(|index| lists.is_done[*index]) {
                            graph.add(reader, to, Why::Rw, key_number, *next);
                        }
                    }
                    None => {
                        // Who appends itself comes before the others too, but not before itself.
                        if let Some(tail) = tails[key_number].filter(|_| list.unread.binary_search(&reader).is_err()) {
                            let element = own_append(&history[list.unread[0]], key);
                            graph.add(reader, tail, Why::Rw, key_number, element);
                        }
                    }
                }
            }
        }
        graph.add_time(history, lists);
        graph
    }

    /// Every answer leads to the next answer, and to whoever was called after it and not after the next one.
    fn add_time(&mut self, history: &[Transaction], lists: &Lists<'_>) {
        let mut answers: Vec<(u64, usize)> = history
            .iter()
            .enumerate()
            .filter_map(|(index, t)| Some((t.outcome.done_by(t.called_at, t.answered_at)?, index)))
            .collect();
        answers.sort_unstable();
        let first = self.edges.len();
        for (at, (_, index)) in answers.iter().enumerate() {
            let node = self.node();
            self.add(*index, node, Why::Time, 0, 0);
            if at > 0 {
                self.add(node - 1, node, Why::Pass, 0, 0);
            }
        }
        for (index, transaction) in history.iter().enumerate().filter(|(index, _)| lists.is_done[*index]) {
            let before = answers.partition_point(|(answer, _)| *answer < transaction.called_at);
            if before > 0 {
                self.add(first + before - 1, index, Why::Pass, 0, 0);
            }
        }
    }

    fn node(&mut self) -> usize {
        self.edges.push(Vec::new());
        self.edges.len() - 1
    }

    fn add(&mut self, from: usize, to: usize, why: Why, key: usize, element: u64) {
        if from != to {
            self.edges[from].push(Edge { to, why, key, element });
        }
    }
}

/// The first element that the transaction, which appended to this key, appended.
fn own_append(transaction: &Transaction, of: &Bytes) -> u64 {
    let appended = transaction.operations.iter().find_map(|step| match step {
        Step::Append { key, element } if key == of => Some(*element),
        _ => None,
    });
    appended.unwrap_or(0)
}
