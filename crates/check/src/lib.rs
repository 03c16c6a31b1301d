//! One definition of correct: what the simulator and the chaos harness hold histories against, and the report.
//!
//! A *history* is what clients asked and what they heard, with the instants of both. Each checker has its own kind:
//!
//! * [`register`]: keys with versions and conditions, linearizable one by one.
//! * [`append`]: transactions that append to lists and read them; anomalies by the names that research gave them.
//! * [`sets`], [`counters`], [`bank`], [`locks`], [`watches`]: small and exact.
//!
//! [`report`] is what a run found: data, JSON, and a page for people.
//!
//! Invariants: no I/O, no clock, no chance but [`random`] with fixed seeds. What was *done*, what was *not done* and what
//! nobody knows are told apart everywhere ([`Outcome`]), and what nobody knows stays open for ever. A history that a
//! checker does not decide within its bounds is [`report::Verdict::Undecided`], and counts as a failure.

pub mod anomaly;
pub mod append;
pub mod bank;
mod bounds;
pub mod counters;
pub mod locks;
pub mod random;
pub mod register;
pub mod report;
pub mod sets;
pub mod watches;

pub use anomaly::{Anomaly, Outcome};

/// The register checker's history.
pub mod history {
    pub use crate::register::{Action, Heard, Operation};
}
