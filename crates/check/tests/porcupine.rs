//! The register checker compared with another implementation of another search, Porcupine in Rust, with a model of its
//! own: the set of all states that the register may be in.

use bytes::Bytes;
use check::history::{Action, Heard, Operation};
use check::random::Random;
use check::register::{self, Rejection, STEPS_MAX};
use std::collections::BTreeSet;
use types::{Condition, MutationKind, Record, Seq, WriteOutcome};

/// The register: no value, or a value; and its version, or what the version is above.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct State {
    value: Option<Bytes>,
    is_known: bool,
    version: u64,
}

impl State {
    /// If the value's version can be this one: the state in which it is.
    fn at(&self, version: u64) -> Option<State> {
        let fits = if self.is_known { self.version == version } else { self.version < version };
        (self.value.is_some() && fits).then(|| State { is_known: true, version, ..self.clone() })
    }

    /// The states in which the condition holds, and those in which it does not.
    fn split(&self, condition: &Condition) -> (Option<State>, Option<State>) {
        let whole = |holds: bool| if holds { (Some(self.clone()), None) } else { (None, Some(self.clone())) };
        match condition {
            Condition::None => whole(true),
            Condition::Absent => whole(self.value.is_none()),
            Condition::Present => whole(self.value.is_some()),
            Condition::Value(value) => whole(self.value.as_ref() == Some(value)),
            Condition::Version(version) => match self.at(version.0) {
                Some(at) => (Some(at), (!self.is_known).then(|| self.clone())),
                None => (None, Some(self.clone())),
            },
        }
    }

    /// What the change leaves, if it does anything; its version is told, or is above all before.
    fn changed(&self, kind: &MutationKind, told: Option<u64>) -> Option<State> {
        if told.is_some_and(|version| version <= self.version) {
            return None;
        }
        let version = told.unwrap_or(self.version);
        match kind {
            MutationKind::Put(value) | MutationKind::PutExpiring { value, .. } => {
                Some(State { value: Some(value.clone()), is_known: told.is_some(), version })
            }
            MutationKind::Delete if self.value.is_none() => None,
            MutationKind::Delete => Some(State { value: None, is_known: true, version }),
        }
    }

    fn next(&self, action: &Action, heard: &Heard) -> Vec<State> {
        let one = |state: Option<State>| state.into_iter().collect();
        match (action, heard) {
            (Action::Get, Heard::Found(record)) => {
                one(self.at(record.seq.0).filter(|state| state.value.as_ref() == Some(&record.value)))
            }
            (Action::Get, Heard::NotFound) => one(self.value.is_none().then(|| self.clone())),
            (Action::Mutate { kind: MutationKind::Delete, .. }, Heard::NotFound) => {
                one(self.value.is_none().then(|| self.clone()))
            }
            (Action::Mutate { condition, .. }, Heard::ConditionFailed(version)) => {
                let state = match version {
                    None => self.value.is_none().then(|| self.clone()),
                    Some(version) => self.at(version.0),
                };
                one(state.and_then(|state| state.split(condition).1))
            }
            (Action::Mutate { kind, condition }, Heard::Written(outcome)) => {
                let holds = self.split(condition).0.filter(|state| state.value.is_some() == outcome.replaced);
                one(holds.and_then(|state| state.changed(kind, Some(outcome.version.0))))
            }
            (Action::Mutate { kind, condition }, Heard::Unknown) => {
                let changed = self.split(condition).0.and_then(|state| state.changed(kind, None));
                [self.clone()].into_iter().chain(changed).collect()
            }
            _ => Vec::new(),
        }
    }
}

#[derive(Clone)]
struct Register;

impl porcupine_rs::Model for Register {
    type State = BTreeSet<State>;
    type Op = (Action, Heard);
    type Metadata = ();

    fn init() -> Self::State {
        BTreeSet::from([State { value: None, is_known: true, version: 0 }])
    }

    fn step(states: &Self::State, (action, heard): &Self::Op) -> (bool, Self::State) {
        let next: BTreeSet<State> = states.iter().flat_map(|state| state.next(action, heard)).collect();
        (!next.is_empty(), next)
    }
}

fn porcupine_accepts(history: &[Operation]) -> bool {
    let operations: Vec<porcupine_rs::Operation<Register>> = (history.iter())
        .map(|operation| porcupine_rs::Operation {
            client_id: None,
            call_time: operation.called_at as i64,
            return_time: if operation.heard == Heard::Unknown { i64::MAX } else { operation.answered_at as i64 },
            op: (operation.action.clone(), operation.heard.clone()),
            metadata: None,
        })
        .collect();
    porcupine_rs::check_operations(&operations)
}

fn value(number: u64) -> Bytes {
    Bytes::from(format!("v{number}"))
}

/// What a register went through at the hands of some clients: each operation takes effect at an instant between its
/// call and its answer. Unknown ones take effect late or never.
fn correct_history(random: &mut Random) -> Vec<Operation> {
    let clients = random.between(2, 5);
    let count = random.between(4, 22);
    // Values that name their write, or values that come again and again.
    let values = if random.chance(500) { 1_000_000 } else { 3 };
    let unknown_permille = random.below(300);
    let mut unknown_left = 5;
    let mut free_at = vec![0u64; clients as usize];
    let mut asked = Vec::new();
    for _ in 0..count {
        let client = random.index(clients as usize);
        let called_at = free_at[client] + random.below(20);
        let effect_at = called_at + random.below(15);
        let answered_at = effect_at + random.below(15);
        free_at[client] = answered_at + 1;
        let is_unknown = unknown_left > 0 && random.chance(unknown_permille);
        unknown_left -= u64::from(is_unknown);
        let effect_at = if is_unknown { effect_at + random.below(60) } else { effect_at };
        asked.push((effect_at, client as u64, called_at, answered_at, is_unknown));
    }
    asked.sort_unstable();
    let (mut present, mut version) = (None::<Record>, 0);
    let mut history = Vec::new();
    for (number, (_, client, called_at, answered_at, is_unknown)) in (0..).zip(asked) {
        let condition = match random.below(10) {
            0 => Condition::Absent,
            1 => Condition::Present,
            2 | 3 => Condition::Version(Seq(present.as_ref().map_or(version, |record| record.seq.0) + random.below(2))),
            4 => Condition::Value(present.as_ref().map_or(value(0), |record| record.value.clone())),
            _ => Condition::None,
        };
        let kind = match random.chance(200) {
            true => MutationKind::Delete,
            false => MutationKind::Put(value((number + random.below(3)) % values)),
        };
        if !is_unknown && random.chance(400) {
            let heard = present.clone().map_or(Heard::NotFound, Heard::Found);
            history.push(Operation { client, key: Bytes::new(), called_at, answered_at, action: Action::Get, heard });
            continue;
        }
        let holds = match &condition {
            Condition::None => true,
            Condition::Absent => present.is_none(),
            Condition::Present => present.is_some(),
            Condition::Version(version) => present.as_ref().is_some_and(|record| record.seq == *version),
            Condition::Value(value) => present.as_ref().is_some_and(|record| record.value == *value),
        };
        let heard = if is_unknown && random.chance(400) {
            Heard::Unknown
        } else if !holds {
            Heard::ConditionFailed(present.as_ref().map(|record| record.seq))
        } else if kind == MutationKind::Delete && present.is_none() {
            Heard::NotFound
        } else {
            version += random.between(1, 3);
            let replaced = present.is_some();
            present = match &kind {
                MutationKind::Put(value) | MutationKind::PutExpiring { value, .. } => {
                    Some(Record { seq: Seq(version), value: value.clone() })
                }
                MutationKind::Delete => None,
            };
            Heard::Written(WriteOutcome { version: Seq(version), replaced })
        };
        let heard = if is_unknown { Heard::Unknown } else { heard };
        let action = Action::Mutate { kind, condition };
        history.push(Operation { client, key: Bytes::new(), called_at, answered_at, action, heard });
    }
    history
}

/// Changes one thing: an answer, or when it came.
fn mutate(random: &mut Random, history: &mut [Operation]) {
    let other = history[random.index(history.len())].heard.clone();
    let index = random.index(history.len());
    let operation = &mut history[index];
    let near = |version: u64, random: &mut Random| Seq((version + random.below(5)).saturating_sub(2).max(1));
    match random.below(4) {
        0 => operation.called_at = operation.answered_at.saturating_sub(random.below(3)),
        1 => {
            let later = random.below(60);
            operation.called_at += later;
            operation.answered_at += later;
        }
        2 => match &mut operation.heard {
            Heard::Found(record) => record.seq = near(record.seq.0, random),
            Heard::Written(outcome) if random.chance(500) => outcome.replaced = !outcome.replaced,
            Heard::Written(outcome) => outcome.version = near(outcome.version.0, random),
            Heard::ConditionFailed(Some(version)) => *version = near(version.0, random),
            Heard::NotFound | Heard::ConditionFailed(None) | Heard::Transacted(_) | Heard::Unknown => {}
        },
        _ if operation.heard != Heard::Unknown && other != Heard::Unknown => operation.heard = other,
        _ => {}
    }
}

/// Guards against a checker that leaves out too much or too little, by agreement with one that knows no short cuts.
#[test]
fn the_checker_agrees_with_porcupine() {
    let mut random = Random::new(20);
    let (mut accepted, mut rejected) = (0, 0);
    for round in 0..12_000 {
        let mut history = correct_history(&mut random);
        if round % 3 > 0 {
            mutate(&mut random, &mut history);
        }
        let expected = porcupine_accepts(&history);
        assert!(expected || round % 3 > 0, "a correct history is rejected by the model: {history:#?}");
        match register::check(&history, STEPS_MAX) {
            Ok(_) => assert!(expected, "accepted, and Porcupine rejects it: {history:#?}"),
            Err(Rejection::NotLinearizable { explanation, .. }) => {
                assert!(!expected, "rejected, and Porcupine accepts it:\n{explanation}\n{history:#?}");
            }
            Err(undecided) => panic!("{undecided}"),
        }
        if expected { accepted += 1 } else { rejected += 1 }
    }
    assert!(accepted > 2_000 && rejected > 2_000, "{accepted} accepted, {rejected} rejected: too one-sided");
}

/// Guards against a smallest piece that shows nothing, or that is not small: Porcupine rejects it too.
#[test]
fn the_smallest_piece_shows_the_violation() {
    let mut random = Random::new(21);
    let mut sizes = Vec::new();
    while sizes.len() < 600 {
        let mut history = correct_history(&mut random);
        mutate(&mut random, &mut history);
        if porcupine_accepts(&history) {
            continue;
        }
        let result = register::judge("registers", &history, STEPS_MAX);
        let piece = result.violation.expect("a violation has a piece");
        let is_shown = |operation: &&Operation| {
            piece
                .operations
                .iter()
                .any(|shown| shown.client == operation.client && shown.began_us == operation.called_at)
        };
        let shown: Vec<Operation> = history.iter().filter(is_shown).cloned().collect();
        assert!(!porcupine_accepts(&shown), "{}\n{shown:#?}\n{history:#?}", result.sentence);
        sizes.push(shown.len());
    }
    sizes.sort_unstable();
    assert!(sizes[300] <= 3 && sizes[599] <= 12, "median {}, largest {}", sizes[300], sizes[599]);
}
