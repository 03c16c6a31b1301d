//! What of a key's history is settled before any search: versions name writes, and leave little to choose.
//!
//! * Answers that name a version can only have happened in the order of their versions: a write before whatever saw it,
//!   and that before the next write. Of several that saw one version, any order that agrees with time does.
//! * A value that only one request wrote and that was read at a version was written at that version: if that request was
//!   never answered, it is now one of those whose place is settled ("found out"), only without a latest instant.
//! * What remains of the unanswered requests are those that nobody saw. Two of them are the same to everybody if they
//!   ask the same under the same condition, or put values that nobody ever saw or named: they are one *class*, of which
//!   only the number counts. So hundreds of them cost as much as a few.
//!
//! Answers that say that the key has no value name no version; the search places them.

use super::model::Register;
use super::{Action, Heard, Operation};
use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;
use types::{Condition, MutationKind};

/// One operation with a settled place.
pub(super) struct Placed {
    pub(super) index: usize,
    /// The version that it wrote or saw.
    pub(super) version: u64,
    /// Nobody was told, but somebody saw what it wrote.
    pub(super) is_found_out: bool,
}

/// Unanswered requests that are the same to everybody.
pub(super) struct Class {
    /// The operation that stands for all.
    pub(super) index: usize,
    /// When each was called, ascending.
    pub(super) called_at: Vec<u64>,
    pub(super) is_conditional: bool,
    /// It puts a value that nobody saw or named: it leaves the same as any other such class.
    is_unseen: bool,
}

/// A key's history, prepared.
#[derive(Default)]
pub(super) struct Plan {
    /// Answers that name a version, in the only order possible.
    pub(super) order: Vec<Placed>,
    /// From each place of `order` on (and after the last): the first answer, and whose it is.
    pub(super) first_answer: Vec<(u64, usize)>,
    /// Answers that the key has no value, by ascending call.
    pub(super) lookers: Vec<usize>,
    pub(super) classes: Vec<Class>,
    /// The put that stands for all whose value nobody saw or named.
    unseen: Option<usize>,
    /// Classes that don't depend on a version or value.
    general: Vec<usize>,
    /// Classes that must find this version, or this value.
    by_version: BTreeMap<u64, Vec<usize>>,
    by_value: FxHashMap<Bytes, Vec<usize>>,
}

#[derive(PartialEq, Eq, Hash)]
enum Asks<'a> {
    Delete,
    Put(&'a Bytes),
    /// A put of a value that nobody saw or named.
    PutUnseen,
}

impl Plan {
    pub(super) fn new(operations: &[&Operation]) -> Plan {
        let found_out = found_out(operations);
        let mut plan = Plan::default();
        let mut open = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            let settled = match (&operation.heard, found_out.get(&index)) {
                (Heard::Written(outcome), _) => Some((outcome.version.0, false)),
                (Heard::Found(record), _) => Some((record.seq.0, false)),
                (Heard::ConditionFailed(Some(version)), _) => Some((version.0, false)),
                (Heard::Unknown, Some(version)) => Some((*version, true)),
                (Heard::Unknown, None) => None,
                // Keys of transactions are searched as one object, not here.
                (Heard::Transacted(_), _) => continue,
                (Heard::NotFound | Heard::ConditionFailed(None), _) => {
                    plan.lookers.push(index);
                    continue;
                }
            };
            match settled {
                Some((version, is_found_out)) => plan.order.push(Placed { index, version, is_found_out }),
                None => open.push(index),
            }
        }
        plan.lookers.sort_by_key(|index| operations[*index].called_at);
        let sees = |heard: &Heard| matches!(heard, Heard::Found(_) | Heard::ConditionFailed(_));
        plan.order.sort_by_key(|placed| {
            let operation = operations[placed.index];
            (placed.version, sees(&operation.heard), operation.called_at, placed.index)
        });
        plan.first_answer = vec![(u64::MAX, usize::MAX); plan.order.len() + 1];
        for (at, placed) in plan.order.iter().enumerate().rev() {
            let answer = operations[placed.index].answer().unwrap_or(u64::MAX);
            plan.first_answer[at] = plan.first_answer[at + 1].min((answer, placed.index));
        }
        plan.sort_into_classes(operations, open);
        plan
    }

    fn sort_into_classes(&mut self, operations: &[&Operation], mut open: Vec<usize>) {
        // Values that somebody saw or named.
        let mut seen: FxHashSet<&Bytes> = FxHashSet::default();
        for operation in operations {
            if let Heard::Found(record) = &operation.heard {
                seen.insert(&record.value);
            }
            if let Action::Mutate { condition: Condition::Value(value), .. } = &operation.action {
                seen.insert(value);
            }
        }
        open.sort_by_key(|index| operations[*index].called_at);
        let mut known: FxHashMap<(Asks<'_>, String), usize> = FxHashMap::default();
        for index in open {
            // A read that was not answered shows nothing.
            let Action::Mutate { kind, condition } = &operations[index].action else { continue };
            let asks = match kind.value() {
                None => Asks::Delete,
                Some(value) if seen.contains(value) => Asks::Put(value),
                Some(_) => Asks::PutUnseen,
            };
            let class = *known.entry((asks, format!("{condition:?}"))).or_insert(self.classes.len());
            if class == self.classes.len() {
                match condition {
                    Condition::Version(version) => self.by_version.entry(version.0).or_default().push(class),
                    Condition::Value(value) => self.by_value.entry(value.clone()).or_default().push(class),
                    Condition::None | Condition::Absent | Condition::Present => self.general.push(class),
                }
                let is_conditional = *condition != Condition::None;
                let is_unseen = kind.value().is_some_and(|value| !seen.contains(value));
                if is_unseen {
                    self.unseen.get_or_insert(index);
                }
                self.classes.push(Class { index, called_at: Vec::new(), is_conditional, is_unseen });
            }
            self.classes[class].called_at.push(operations[index].called_at);
        }
        self.general.sort_by_key(|class| !self.classes[*class].is_conditional);
    }

    /// The register after one of this class, or `None` if it has no effect here.
    pub(super) fn after(&self, class: usize, register: Register, operations: &[&Operation]) -> Option<Register> {
        let class = &self.classes[class];
        let after = register.after(operations, class.index)?;
        Some(self.unseen.filter(|_| class.is_unseen).map_or(after, |index| after.written_by(index)))
    }

    /// Classes whose condition this register may fulfil, where the next settled place is `at`: first those that can
    /// hardly ever happen elsewhere, as whoever is used here is missing later.
    pub(super) fn classes_for(&self, register: &Register, operations: &[&Operation], at: usize) -> Vec<usize> {
        let mut classes = Vec::new();
        if let Some(value) = register.value(operations) {
            classes.extend(self.by_value.get(value).into_iter().flatten());
            let versions = register.versions();
            let last = self.order.get(at).map_or(u64::MAX, |next| next.version).min(*versions.end());
            if *versions.start() <= last {
                classes.extend(self.by_version.range(*versions.start()..=last).flat_map(|(_, classes)| classes));
            }
        }
        classes.extend(&self.general);
        classes
    }
}

/// Unanswered puts that were seen, by their index, with the version at which they were: their value is that of no other
/// request that may have written it.
fn found_out(operations: &[&Operation]) -> FxHashMap<usize, u64> {
    let mut version_of: FxHashMap<&Bytes, u64> = FxHashMap::default();
    for operation in operations {
        if let (Action::Get, Heard::Found(record)) = (&operation.action, &operation.heard) {
            version_of.entry(&record.value).or_insert(record.seq.0);
        }
    }
    let mut writers: FxHashMap<&Bytes, (usize, usize)> = FxHashMap::default();
    for (index, operation) in operations.iter().enumerate() {
        if let (Action::Mutate { kind: MutationKind::Put(value), .. }, Heard::Unknown | Heard::Written(_)) =
            (&operation.action, &operation.heard)
        {
            writers.entry(value).and_modify(|(_, count)| *count += 1).or_insert((index, 1));
        }
    }
    let only =
        writers.into_iter().filter(|(_, (index, count))| *count == 1 && operations[*index].heard == Heard::Unknown);
    only.filter_map(|(value, (index, _))| Some((index, *version_of.get(value)?))).collect()
}
