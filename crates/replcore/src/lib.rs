//! One partition's replica as a value: events in, effects out.
//!
//! [`Replica::step`] takes one [`Event`] (a message, a view, a client's request, "this is on disk now") and appends the
//! [`Effect`]s that follow: what to write to the log, what to send, whom to answer. There is no I/O here, no clock, no
//! randomness and no async, so the simulator and the storage node run the same code, and a golden script can show it.
//!
//! # The protocol in one page
//!
//! An outside master, the viewleader group, decides *who* replicates a partition; replicas only move data. Each change
//! of members or order begins a new *term* with one *primary*. The rules P1–P29 are named where they are kept.
//!
//! * **Writing** (P7–P12, `primary`, `follower.rs`). The primary judges a request against everything it has appended,
//!   appends an entry, and sends `Prepare` to the other replicas while its own log syncs. A follower whose log matches
//!   appends, syncs and answers `Prepared`. On disk at a majority, the entry is committed and the client is answered.
//! * **Takeover** (P13–P16, `takeover.rs`). A new primary makes a majority promise its term (`Seal`), adopts the greatest
//!   log among them, appends an empty entry, and serves when that is committed. Who has promised a term refuses all
//!   lower ones, so the old primary can neither commit nor answer a read.
//! * **Reading** (P17, `reads.rs`). A read waits for one round, sent after it arrived, in which a majority confirms that
//!   nobody has promised a higher term.
//! * **Scanning** (P17, `scanning.rs`). A page of many records is confirmed like a read, read from the state by the driver,
//!   and completed by what is committed and not applied.
//! * **Watching** (`watching.rs`). Whoever serves can tell what was committed after a seq, from its log.
//! * **Keys that expire** (`expiring.rs`). The driver's timers propose; an entry of the log deletes.
//! * **Filling a replica** (P23, `sending.rs`, `installing.rs`). A learner, or a replica that was away for long, gets the
//!   log where that is still kept; otherwise a snapshot, read while writes go on, then the log.
//! * **Transactions** (P22, P24–P27, `transactions/`). Two-phase commit between the primaries of partitions; locks, staged
//!   values and decisions are hidden records in the partitions' logs.
//! * **Retries** (P28, `requests.rs`). The entry that carries a change also carries the request's id and its answer, so a
//!   retry after a failover gets the first answer instead of a second effect.
//!
//! # Invariants
//!
//! * An answer leaves only after everything it answers for is on disk (P2): effects that must wait are held until
//!   [`Event::Persisted`] covers what they stand for.
//! * `promised` never falls. Below it, nothing is accepted, counted, confirmed or answered as a success (P8).
//! * Only entries above `committed` are ever truncated; only committed entries are ever handed to the state.
//!
//! # What is left out
//!
//! Snapshots to a primary that takes over: it is given up for one that has the log. Timers: the
//! driver sends [`Event::Tick`] to replicas that ask for it ([`Replica::needs_tick`]), and ticks only ever cause
//! repetition and reports, never a decision about safety.

pub mod event;
pub mod message;
pub mod mutants;
pub mod persist;

mod disk;
mod expiring;
mod fences;
mod fingerprint;
mod follower;
mod installing;
mod log;
mod overlay;
mod primary;
mod reads;
mod replica;
mod requests;
mod scanning;
mod sending;
mod takeover;
mod transactions;
mod views;
mod watching;

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod tests;

pub use event::{
    Answer, Apply, Collected, Effect, Event, PersistIndex, Proposal, Settings, State, StateDamaged, Token,
    TransactionProposal,
};
pub use message::{Body, Chunk, Message, SnapshotId};
pub use persist::{Base, MalformedRecord, PersistRecord, Recovered, Recovery, Standing};
pub use replica::{Replica, RoleSummary};
pub use transactions::{Age, DoubtStage, InDoubt, Judgement, TransactionBody, TransactionMessage};
pub use watching::{Changed, Fed, NotFed};
