//! Bugs that systems of this kind are known to have had: each can be switched on, and something must catch it.
//!
//! A bug is a *mutant*: one line of a crate, compiled only with that crate's feature `mutants`, that breaks one rule when
//! the environment says so (`RINGLEADER_MUTANT=wal::SyncRetried`; `types::mutants!`). [`BUGS`] says what is known of each,
//! [`run`] runs what is to catch it, and `tests/catalogue/README.md` is the table that [`table`] makes of it.
//!
//! What catches is what tests the code anyway: seeds of the simulator, worlds of the model, a crate's own tests. Nothing is
//! written for a bug alone but the line that breaks.

pub mod bug;
pub mod bugs;
pub mod run;
pub mod table;

pub use bug::{Bug, Catcher};
pub use bugs::{BUGS, REFERENCES};
