//! What the checkers share: how an operation ended, and what is wrong with a history.

use crate::report::{Piece, PieceOperation};

/// How an operation ended, as far as its client knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// It was done, between call and answer.
    Done,
    /// It was not done, and never will be.
    NotDone,
    /// Nobody knows: it may be done at any time after its call, or never.
    Unknown,
}

impl Outcome {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::NotDone => "not done",
            Outcome::Unknown => "unknown",
        }
    }

    /// When the effect was there at the latest: the answer's instant, if the answer was that it was done.
    pub(crate) fn done_by(self, called_at: u64, answered_at: Option<u64>) -> Option<u64> {
        // An answer before its call is a clock's fault: nothing is concluded from it but that the call came first.
        (self == Outcome::Done).then_some(answered_at?.max(called_at))
    }
}

/// One thing that is wrong with a history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Anomaly<K> {
    /// Which of the checker's anomalies it is.
    pub kind: K,
    /// One line for people: what was seen, and why that can't be.
    pub sentence: String,
    /// The operations that show it.
    pub piece: Piece,
}

/// Operations that a piece shows at most: more is no picture any more.
pub(crate) const SHOWN_MAX: usize = 24;

impl<K> Anomaly<K> {
    /// An anomaly shown by these operations, of which the first [`SHOWN_MAX`] are kept, by ascending call.
    pub(crate) fn new(kind: K, sentence: String, shown: impl IntoIterator<Item = PieceOperation>) -> Anomaly<K> {
        let mut operations: Vec<_> = shown.into_iter().take(SHOWN_MAX).collect();
        operations.sort_by_key(|operation| (operation.began_us, operation.client));
        operations.dedup();
        Anomaly { kind, piece: Piece { title: sentence.clone(), operations }, sentence }
    }
}
