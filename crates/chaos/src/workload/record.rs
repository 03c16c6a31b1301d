//! One question and what was heard, told apart in three: done, not done, unknown.

use super::Seat;
use client::{Error, Found, PutOutcome};
use types::Condition;

/// How a question ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome<T> {
    /// It was answered.
    Done(T),
    /// It had no effect and never will have.
    NotDone,
    /// It may have happened, or may happen at any later time.
    Unknown,
}

impl<T> Outcome<T> {
    /// What the checkers call it, where an answer says that it was done.
    pub(crate) fn checked(&self) -> check::Outcome {
        match self {
            Outcome::Done(_) => check::Outcome::Done,
            Outcome::NotDone => check::Outcome::NotDone,
            Outcome::Unknown => check::Outcome::Unknown,
        }
    }

    pub(crate) fn of(answer: Result<T, Error>) -> Outcome<T> {
        match answer {
            Ok(answer) => Outcome::Done(answer),
            Err(Error::Unknown { .. } | Error::Unheard { .. }) => Outcome::Unknown,
            Err(_) => Outcome::NotDone,
        }
    }
}

/// An answer with its two instants, in microseconds since the load began.
pub(crate) struct Timed<T> {
    pub(crate) called_us: u64,
    pub(crate) answered_us: u64,
    pub(crate) outcome: Outcome<T>,
}

impl<T> Timed<T> {
    /// As the checkers have it: never, where nobody knows how it ended.
    pub(crate) fn answered_at(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Done(_) | Outcome::NotDone => Some(self.answered_us),
            Outcome::Unknown => None,
        }
    }
}

/// Asks, and counts the answer.
pub(crate) async fn timed<T>(seat: &Seat, question: impl Future<Output = Result<T, Error>>) -> Timed<T> {
    ask(seat, question, false).await
}

/// As [`timed`], for what others may be served before.
pub(crate) async fn in_line<T>(seat: &Seat, question: impl Future<Output = Result<T, Error>>) -> Timed<T> {
    ask(seat, question, true).await
}

async fn ask<T>(seat: &Seat, question: impl Future<Output = Result<T, Error>>, in_line: bool) -> Timed<T> {
    let called_us = seat.load.now_us();
    let outcome = Outcome::of(question.await);
    seat.count(&outcome, called_us, in_line);
    Timed { called_us, answered_us: seat.load.now_us(), outcome }
}

pub(crate) async fn get(seat: &Seat, key: &str) -> Timed<Option<Found>> {
    timed(seat, seat.client.get(key.to_owned())).await
}

pub(crate) async fn put(seat: &Seat, key: &str, value: String, condition: Condition) -> Timed<PutOutcome> {
    timed(seat, seat.client.put(key.to_owned(), value, condition)).await
}
