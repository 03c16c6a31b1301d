//! The viewleader group's mind, without its body: what is decided, and by which rules.
//!
//! - [`ClusterState`] is what the group replicates: the view, and what guards it. [`ClusterState::apply`] is total and
//!   deterministic: the same commands in the same order give every member the same state and the same [`Outcome`].
//! - [`plan`] turns a state into the next [`Change`]. Only the leader plans, and proposes the outcome as a command;
//!   applying a command never plans, it only checks that the plan still fits.
//! - [`Leader`] is the memory of one leadership: who was heard when, who serves what, who restarts too often. Events
//!   in, proposals and probes out. None of it is replicated, and losing it loses nothing.
//! - [`coordination`] is what the group replicates beside the view: leases and locks.
//! - [`status`] says which partitions lack something, [`progress`] what moves and what blocks it.
//!
//! Invariants: a partition's terms strictly grow and one term names one primary (P18); one event is one change of the
//! epoch, however many partitions it touches; a node id is minted once.
//!
//! Deliberately absent: clocks (time arrives as an argument, in milliseconds), randomness, I/O, and every word of Raft.

pub mod apply;
mod change;
pub mod command;
pub mod coordination;
pub mod detector;
pub mod leader;
mod mutants;
pub mod observed;
mod operations;
pub mod patience;
pub mod plan;
pub mod progress;
mod registration;
pub mod state;
pub mod status;

pub use command::{
    Bootstrap, Cause, Change, Command, Configure, Done, Operation, Outcome, Refusal, Registration, Step,
};
pub use coordination::{Coordination, LeaseClock};
pub use detector::Detector;
pub use leader::{Effect, Event, Leader, LeaderSettings};
pub use observed::{Heartbeat, Observed, Serving};
pub use state::{ClusterState, Move, Policy, Recovery};
