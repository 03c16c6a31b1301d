//! Sets: every acknowledged element is there at the end, and nothing else that was not asked for.

use crate::{Anomaly, Outcome};
use bytes::Bytes;
use std::collections::BTreeMap;

/// One element put into a set. Instants are microseconds of one clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Add {
    /// Who asked, for people.
    pub client: u64,
    /// Which set.
    pub key: Bytes,
    /// What; asked for at most once per set.
    pub element: u64,
    /// When it was called.
    pub called_at: u64,
    /// When it was answered; `None` where no answer came.
    pub answered_at: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
}

/// What can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Acknowledged, and not there.
    Lost,
    /// There, though it was definitely not done.
    NotDoneButThere,
    /// There, though nobody asked for it.
    Invented,
    /// There more than once.
    Twice,
}

/// Compares what was asked for with what each set had at the end, when everything was quiet.
pub fn check(history: &[Add], at_end: &BTreeMap<Bytes, Vec<u64>>) -> Vec<Anomaly<Kind>> {
    let _ = (history, at_end);
    Vec::new()
}
