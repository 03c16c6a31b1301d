//! What lists show by themselves: who appended what, in which order, and what can be wrong before any cycle.

use super::{Kind, Step, TOLD_MAX, Transaction};
use crate::{Anomaly, Outcome};
use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};

/// One key's list.
#[derive(Default)]
pub(super) struct List {
    /// The longest list that anybody read.
    pub(super) elements: Vec<u64>,
    /// Who was done and appended what nobody read: that follows the longest list. Ascending.
    pub(super) unread: Vec<usize>,
}

/// What was read and appended, by index of transaction.
pub(super) struct Lists<'a> {
    pub(super) by_key: BTreeMap<&'a Bytes, List>,
    /// Who appended an element, and which of its appends to that key it was.
    pub(super) appended: FxHashMap<(&'a Bytes, u64), (usize, usize)>,
    /// Whether it was done: acknowledged, or seen.
    pub(super) is_done: Vec<bool>,
}

/// The lists that a transaction read before it appended to that key itself: what it saw of others.
pub(super) fn reads_of_others(transaction: &Transaction) -> impl Iterator<Item = (&Bytes, &[u64])> {
    let mut appended: FxHashSet<&Bytes> = FxHashSet::default();
    transaction.operations.iter().filter_map(move |step| match step {
        Step::Append { key, .. } => {
            appended.insert(key);
            None
        }
        Step::Read { key, list } if !appended.contains(key) => Some((key, list.as_deref()?)),
        Step::Read { .. } => None,
    })
}

/// All lists that a transaction read.
fn reads(transaction: &Transaction) -> impl Iterator<Item = (&Bytes, &Vec<u64>)> {
    transaction.operations.iter().filter_map(|step| match step {
        Step::Read { key, list } => Some((key, list.as_ref()?)),
        Step::Append { .. } => None,
    })
}

impl<'a> Lists<'a> {
    pub(super) fn new(history: &'a [Transaction], anomalies: &mut Vec<Anomaly<Kind>>) -> Lists<'a> {
        let mut appended = FxHashMap::default();
        // How often each transaction appends to a key: an earlier one's list is an intermediate state.
        let mut appends: FxHashMap<(usize, &Bytes), usize> = FxHashMap::default();
        for (index, transaction) in history.iter().enumerate() {
            for step in &transaction.operations {
                if let Step::Append { key, element } = step {
                    let count = appends.entry((index, key)).or_default();
                    appended.entry((key, *element)).or_insert((index, *count));
                    *count += 1;
                }
            }
        }
        let mut lists = Lists {
            by_key: BTreeMap::new(),
            appended,
            is_done: history.iter().map(|transaction| transaction.outcome == Outcome::Done).collect(),
        };
        for transaction in history.iter().filter(|transaction| transaction.outcome == Outcome::Done) {
            for (key, list) in reads(transaction) {
                let longest = lists.by_key.entry(key).or_default();
                if list.len() > longest.elements.len() {
                    longest.elements.clone_from(list);
                }
            }
        }
        for (key, list) in &lists.by_key {
            for (index, _) in list.elements.iter().filter_map(|element| lists.appended.get(&(*key, *element))) {
                lists.is_done[*index] |= history[*index].outcome == Outcome::Unknown;
            }
        }
        lists.look_at_each_read(history, &appends, anomalies);
        lists.look_for_lost_ones(history, anomalies);
        lists
    }

    fn look_at_each_read(
        &self,
        history: &[Transaction],
        appends: &FxHashMap<(usize, &Bytes), usize>,
        anomalies: &mut Vec<Anomaly<Kind>>,
    ) {
        let mut told: BTreeSet<(Kind, &Bytes)> = BTreeSet::new();
        let mut torn: BTreeSet<&Bytes> = BTreeSet::new();
        for (reader, transaction) in history.iter().enumerate().filter(|(_, t)| t.outcome == Outcome::Done) {
            // Each kind is told once per key.
            let mut found = |kind: Kind, key, what: String, other: Option<usize>| {
                if anomalies.len() < TOLD_MAX * 4 && told.insert((kind, key)) {
                    let sentence = format!("{}: client {} {what}", kind.name(), transaction.client);
                    let shown = [reader].into_iter().chain(other).map(|index| history[index].drawn());
                    anomalies.push(Anomaly::new(kind, sentence, shown));
                }
            };
            if let Some((key, expected)) = contradicts_itself(transaction) {
                found(Kind::Internal, key, format!("read {} and not {expected}", key.escape_ascii()), None);
            }
            for (key, list) in reads(transaction) {
                let name = key.escape_ascii();
                let longest = &self.by_key[key].elements;
                if !longest.starts_with(list) && torn.insert(key) {
                    let at = list.iter().zip(longest).take_while(|(one, other)| one == other).count();
                    let (one, other) = (list[at], longest[at]);
                    let by = history.iter().position(|t| {
                        t.outcome == Outcome::Done && reads(t).any(|(k, l)| k == key && l.get(at) == Some(&other))
                    });
                    let what = format!("read {name} with {one} where another read has {other}");
                    found(Kind::IncompatibleOrder, key, what, by);
                }
                // A list that begins the longest one has been looked at with it.
                let is_new = list.len() == longest.len() || !longest.starts_with(list);
                let mut seen = FxHashSet::default();
                // By transaction, which of its appends came last.
                let mut numbers: FxHashMap<usize, usize> = FxHashMap::default();
                for element in list.iter().filter(|_| is_new) {
                    if !seen.insert(*element) {
                        found(Kind::Duplicate, key, format!("read {name} with {element} twice"), None);
                    }
                    match self.appended.get(&(key, *element)) {
                        None => {
                            let what = format!("read {name} with {element}, which nobody appended");
                            found(Kind::Invented, key, what, None);
                        }
                        Some((writer, _)) if history[*writer].outcome == Outcome::NotDone => {
                            let what = format!("read {name} with {element}, whose append was answered as not done");
                            found(Kind::G1a, key, what, Some(*writer));
                        }
                        Some((writer, number)) => {
                            if numbers.insert(*writer, *number).is_some_and(|before| before > *number) {
                                let what = format!("read {name} with {element} after what was appended after it");
                                found(Kind::IncompatibleOrder, key, what, Some(*writer));
                            }
                        }
                    }
                }
                let last = list.last().and_then(|last| Some((last, self.appended.get(&(key, *last))?)));
                if let Some((last, (writer, number))) = last.filter(|(_, (writer, _))| *writer != reader)
                    && number + 1 < appends[&(*writer, key)]
                {
                    let what = format!("read {name} up to {last}, in the middle of a transaction's appends");
                    found(Kind::G1b, key, what, Some(*writer));
                }
            }
        }
    }

    /// Acknowledged appends that nobody read: lost if anybody read the list later.
    fn look_for_lost_ones(&mut self, history: &'a [Transaction], anomalies: &mut Vec<Anomaly<Kind>>) {
        // By key, the last call of a transaction that read the list.
        let mut last_read: FxHashMap<&Bytes, usize> = FxHashMap::default();
        for (index, transaction) in history.iter().enumerate().filter(|(_, t)| t.outcome == Outcome::Done) {
            for (key, _) in reads(transaction) {
                let last = last_read.entry(key).or_insert(index);
                if history[*last].called_at < transaction.called_at {
                    *last = index;
                }
            }
        }
        let read: FxHashSet<(&Bytes, u64)> =
            self.by_key.iter().flat_map(|(key, list)| list.elements.iter().map(|element| (*key, *element))).collect();
        let mut told = 0;
        for (index, transaction) in history.iter().enumerate() {
            if !self.is_done[index] {
                continue;
            }
            let done_by = transaction.outcome.done_by(transaction.called_at, transaction.answered_at);
            for step in &transaction.operations {
                let Step::Append { key, element } = step else { continue };
                if read.contains(&(key, *element)) {
                    continue;
                }
                let is_later = |reader: &&usize| done_by.is_some_and(|at| history[**reader].called_at > at);
                match last_read.get(key).filter(is_later) {
                    Some(reader) => {
                        told += 1;
                        if told <= TOLD_MAX {
                            let sentence = format!(
                                "{}: {element} was acknowledged in {} and is not in what client {} read later",
                                Kind::LostAppend.name(),
                                key.escape_ascii(),
                                history[*reader].client
                            );
                            let shown = [history[*reader].drawn(), transaction.drawn()];
                            anomalies.push(Anomaly::new(Kind::LostAppend, sentence, shown));
                        }
                    }
                    None => {
                        let unread = &mut self.by_key.entry(key).or_default().unread;
                        if unread.last() != Some(&index) {
                            unread.push(index);
                        }
                    }
                }
            }
        }
    }
}

/// The first read that is not what the transaction itself has read and appended before, and what it should have been.
fn contradicts_itself(transaction: &Transaction) -> Option<(&Bytes, String)> {
    // By key: what was read at first, if it was, and what was appended.
    let mut known: BTreeMap<&Bytes, (Option<&[u64]>, Vec<u64>)> = BTreeMap::new();
    for step in &transaction.operations {
        match step {
            Step::Append { key, element } => known.entry(key).or_default().1.push(*element),
            Step::Read { list: None, .. } => {}
            Step::Read { key, list: Some(list) } => {
                let (first, own) = known.entry(key).or_default();
                let Some(before) = list.strip_suffix(own.as_slice()) else {
                    return Some((key, format!("with its own {own:?} at the end")));
                };
                if first.is_some_and(|first| first != before) {
                    return Some((key, "as it had read it before".to_owned()));
                }
                *first = Some(before);
            }
        }
    }
    None
}
