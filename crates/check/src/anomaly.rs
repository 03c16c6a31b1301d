//! What the checkers share: how an operation ended, and what is wrong with a history.

use crate::report::Piece;

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
