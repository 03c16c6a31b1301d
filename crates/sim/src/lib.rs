//! The deterministic simulator: the real replica core and the real viewleader core in a world made of seeded chance.
//!
//! A seed decides everything: how many nodes, how fast, what is lost, doubled, late or cut, who crashes and what the
//! disk keeps of it, who stands still. Clients fight over few keys meanwhile. [`invariants`] are checked at every step,
//! and at the end, when everything was healed, each key's history must be linearizable and transactions strictly
//! serializable ([`checker`]), no lock may be left, and everything must come to rest.
//!
//! The map: [`world`] runs one seed; `plan` is what the seed decides beforehand, `faults` what goes wrong; `node` is a
//! storage node around its replicas, with `disk` and the `network`; `group` the viewleaders; `client` the clients,
//! `transactions` what they do with several keys at once, `readers` those who scan and watch. [`trap`] has a process die
//! between two effects of one step, and [`matrix`] does so at each kind of them.
//!
//! Invariants of the simulator itself: no clock, no thread, no random source but [`random`], no iteration over a hash
//! table. The same seed gives the same trace, byte for byte.
//!
//! Left out: the write-ahead log's and the engine's own files (they have tests of their own), Raft inside the
//! viewleader group, and changes of a partition's members, which the core does not have yet.

mod client;
mod context;
mod disk;
mod faults;
mod group;
mod happening;
mod invariants;
pub mod matrix;
mod network;
mod node;
mod plan;
mod queue;
mod readers;
mod trace;
mod transactions;
pub mod trap;
mod world;

/// The only source of chance.
pub use check::random;
/// What "correct" means to clients.
pub use check::register as checker;
pub use context::Counts;
pub use invariants::Violation;
pub use plan::Scenario;
pub use trace::Keep;
pub use world::{Report, run};
