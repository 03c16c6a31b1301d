//! Locks with fencing tokens: whoever came later wins, and who was overtaken can't write any more.
//!
//! Two that believe to be holders at one time are no anomaly: one that stands still can't know that its lease has ended.
//! What must not be is that its writes still count once a later holder has written; and that a later one is granted the
//! lock while the earlier one's lease, counted as its client counts it, has not ended.

use crate::report::PieceOperation;
use crate::{Anomaly, Outcome};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// What was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Get the lock; this token came with it. `None` unless the outcome is `Done`.
    Acquire(Option<u64>),
    /// Write what the lock guards, under this token.
    Write(u64),
    /// Give the lock back.
    Release(u64),
    /// Looked, and could count on the lease that this token stands on: at `called_at`, and until then.
    Hold(u64),
}

/// One operation. Instants are microseconds of one clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Who asked: a holder.
    pub client: u64,
    /// Which lock.
    pub lock: Bytes,
    /// When it was called.
    pub called_at: u64,
    /// When it was answered; `None` where no answer came.
    pub answered_at: Option<u64>,
    /// What was asked.
    pub action: Action,
    /// How it ended.
    pub outcome: Outcome,
}

/// What can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// A write was accepted under a token older than one already used.
    StaleWrite,
    /// One token, two holders: granted twice, or used by another client than the one that got it.
    TwoHolders,
    /// A token not greater than that of an earlier holder.
    TokenFell,
    /// Granted to the next one while the holder's lease had not ended.
    GrantedTooSoon,
}

/// Checks each lock alone; what is not [`Outcome::Done`] shows nothing.
pub fn check(history: &[Operation]) -> Vec<Anomaly<Kind>> {
    let mut by_lock: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
    for operation in history.iter().filter(|operation| operation.outcome == Outcome::Done) {
        by_lock.entry(&operation.lock).or_default().push(operation);
    }
    let mut anomalies = Vec::new();
    for (lock, operations) in by_lock {
        let name = lock.escape_ascii().to_string();
        holders(&name, &operations, &mut anomalies);
        let grants = operations.iter().copied().filter_map(|operation| match operation.action {
            Action::Acquire(token) => Some((token?, operation)),
            Action::Write(_) | Action::Release(_) | Action::Hold(_) => None,
        });
        for (earlier, later) in overtaken(grants.clone()) {
            let sentence = format!("lock {name} gave token {} after token {}", later.0, earlier.0);
            anomalies.push(Anomaly::new(Kind::TokenFell, sentence, [drawn(earlier.1), drawn(later.1)]));
        }
        let holds = operations.iter().copied().filter_map(|operation| match operation.action {
            Action::Hold(token) => Some((token, operation)),
            Action::Acquire(_) | Action::Write(_) | Action::Release(_) => None,
        });
        let both = overtaken(grants.chain(holds)).into_iter();
        for (earlier, later) in both.filter(|(_, later)| matches!(later.1.action, Action::Hold(_))) {
            let sentence = format!(
                "lock {name} was granted with token {} while the lease under token {} could still be counted on",
                earlier.0, later.0
            );
            anomalies.push(Anomaly::new(Kind::GrantedTooSoon, sentence, [drawn(earlier.1), drawn(later.1)]));
        }
        let writes = operations.iter().copied().filter_map(|operation| match operation.action {
            Action::Write(token) => Some((token, operation)),
            Action::Acquire(_) | Action::Release(_) | Action::Hold(_) => None,
        });
        for (earlier, later) in overtaken(writes) {
            let sentence = format!(
                "lock {name}: a write under token {} was accepted after one under token {}",
                later.0, earlier.0
            );
            let grants = operations.iter().copied().filter(|operation| {
                matches!(operation.action, Action::Acquire(Some(token)) if token == earlier.0 || token == later.0)
            });
            let shown = [earlier.1, later.1].into_iter().chain(grants).map(drawn);
            anomalies.push(Anomaly::new(Kind::StaleWrite, sentence, shown));
        }
    }
    anomalies
}

/// Tokens with more than one holder; each is told once.
fn holders(name: &str, operations: &[&Operation], anomalies: &mut Vec<Anomaly<Kind>>) {
    // Grants first: whoever got the token first is its holder.
    let grants = operations.iter().filter(|operation| matches!(operation.action, Action::Acquire(_)));
    let writes = operations.iter().filter(|operation| matches!(operation.action, Action::Write(_)));
    let mut first_by_token: BTreeMap<u64, &Operation> = BTreeMap::new();
    let mut told = BTreeSet::new();
    for operation in grants.chain(writes) {
        let (Action::Acquire(Some(token)) | Action::Write(token)) = operation.action else { continue };
        let first = *first_by_token.entry(token).or_insert(operation);
        let is_second_grant = !std::ptr::eq(first, *operation) && matches!(operation.action, Action::Acquire(_));
        if (is_second_grant || first.client != operation.client) && told.insert(token) {
            let (one, other) = (first.client, operation.client);
            let sentence = match is_second_grant {
                true => format!("lock {name} gave token {token} twice, to clients {one} and {other}"),
                false => format!("client {other} wrote under token {token} of lock {name}, which client {one} had"),
            };
            anomalies.push(Anomaly::new(Kind::TwoHolders, sentence, [drawn(first), drawn(operation)]));
        }
    }
}

type Token<'a> = (u64, &'a Operation);

/// Each operation called after the answer of one with a greater token, that one first.
fn overtaken<'a>(operations: impl Iterator<Item = Token<'a>>) -> Vec<(Token<'a>, Token<'a>)> {
    let mut by_call: Vec<Token<'a>> = operations.collect();
    let mut by_answer: Vec<(u64, Token<'a>)> = by_call
        .iter()
        .filter_map(|token| Some((token.1.outcome.done_by(token.1.called_at, token.1.answered_at)?, *token)))
        .collect();
    by_call.sort_by_key(|(_, operation)| operation.called_at);
    by_answer.sort_by_key(|(answered_at, _)| *answered_at);
    let mut answered = by_answer.into_iter().peekable();
    let mut newest: Option<Token<'a>> = None;
    let mut found = Vec::new();
    for later in by_call {
        while let Some((_, earlier)) = answered.next_if(|(answered_at, _)| *answered_at < later.1.called_at) {
            if newest.is_none_or(|newest| earlier.0 > newest.0) {
                newest = Some(earlier);
            }
        }
        if let Some(earlier) = newest.filter(|earlier| earlier.0 > later.0) {
            found.push((earlier, later));
        }
    }
    found
}

fn drawn(operation: &Operation) -> PieceOperation {
    let lock = operation.lock.escape_ascii();
    let text = match operation.action {
        Action::Acquire(Some(token)) => format!("acquire {lock} → token {token}"),
        Action::Acquire(None) => format!("acquire {lock} → {}", operation.outcome.word()),
        Action::Write(token) => format!("write under {lock}, token {token} → {}", operation.outcome.word()),
        Action::Release(token) => format!("release {lock}, token {token} → {}", operation.outcome.word()),
        Action::Hold(token) => format!("holds {lock}, token {token}"),
    };
    PieceOperation { client: operation.client, began_us: operation.called_at, ended_us: operation.answered_at, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(client: u64, called_at: u64, answered_at: u64, action: Action) -> Operation {
        let (lock, answered_at) = (Bytes::from_static(b"l"), Some(answered_at));
        Operation { client, lock, called_at, answered_at, action, outcome: Outcome::Done }
    }

    fn kinds(history: &[Operation]) -> Vec<Kind> {
        check(history).into_iter().map(|anomaly| anomaly.kind).collect()
    }

    fn two_holders() -> Vec<Operation> {
        vec![
            operation(1, 0, 1, Action::Acquire(Some(1))),
            operation(1, 2, 3, Action::Write(1)),
            operation(2, 4, 5, Action::Acquire(Some(2))),
            operation(2, 10, 12, Action::Write(2)),
        ]
    }

    /// Guards against a checker that rejects what is right: an overtaken holder may write until the next one has.
    #[test]
    fn what_is_possible_is_accepted() {
        let mut history = two_holders();
        history.push(operation(1, 6, 11, Action::Write(1)));
        assert_eq!(kinds(&history), [], "overlapping writes may be in either order");
        history.push(Operation { outcome: Outcome::NotDone, ..operation(1, 20, 21, Action::Write(1)) });
        history.push(Operation { outcome: Outcome::Unknown, ..operation(1, 20, 21, Action::Write(1)) });
        assert_eq!(kinds(&history), []);
    }

    /// Guards against each anomaly passing unseen.
    #[test]
    fn each_anomaly_is_caught() {
        let with = |more| {
            let mut history = two_holders();
            history.push(more);
            kinds(&history)
        };
        assert_eq!(with(operation(1, 13, 14, Action::Write(1))), [Kind::StaleWrite]);
        assert_eq!(with(operation(3, 6, 7, Action::Acquire(Some(2)))), [Kind::TwoHolders]);
        assert_eq!(with(operation(3, 11, 14, Action::Write(2))), [Kind::TwoHolders]);
        assert_eq!(with(operation(3, 6, 7, Action::Acquire(Some(0)))), [Kind::TokenFell]);
        assert_eq!(check(&two_holders()), []);
        assert_eq!(with(operation(1, 6, 6, Action::Hold(1))), [Kind::GrantedTooSoon]);
        assert_eq!(with(operation(1, 4, 4, Action::Hold(1))), [], "the other's grant was under way");
        assert_eq!(with(operation(2, 11, 11, Action::Hold(2))), []);
    }

    /// Guards against locks being mixed up: tokens are compared within one.
    #[test]
    fn locks_are_independent() {
        let mut history = two_holders();
        let other = operation(3, 20, 21, Action::Acquire(Some(1)));
        history.push(Operation { lock: Bytes::from_static(b"other"), ..other });
        assert_eq!(kinds(&history), []);
    }
}
