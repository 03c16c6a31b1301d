//! What the processes of a cluster share around their real work.
//!
//! Settings with environment and file twins ([`settings`]), logging ([`logging`]), the data directory and its small
//! durable files ([`directory`]), listening ([`listen`]), the admin HTTP server ([`admin`]), shutdown ([`shutdown`]), and
//! exit codes with the one-line error that goes with them ([`exit`]); and the allocator of every program that links this.
//!
//! Invariants: an error is one line that says what failed, where, and what to do next; nothing listens beyond this
//! machine unless it was told to, twice. Left out: TLS, and anything that knows what a server does.

pub mod admin;
pub mod directory;
mod error;
pub mod exit;
pub mod listen;
pub mod logging;
pub mod settings;
pub mod shutdown;

/// The store allocates and frees pages of every size from many threads, which the system's allocator is slow at: a node is
/// filled about one and a half times as fast with this one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub use directory::DataDirectory;
pub use error::Error;
pub use exit::{Exit, Failure, main_on, main_with};
pub use settings::CommonFlags;
