//! The routing client: get, put, delete and transactions against a cluster, with outcomes that are told honestly.
//!
//! A [`Client`] keeps the view that the viewleaders publish ([`Leaders`], `views`), hashes each key to its partition and
//! sends the request over the one stream it has open with that partition's primary ([`NodeStreams`]). Everything that
//! waits for a node leaves as one batch; answers come in any order.
//!
//! ```text
//! put/get/delete ─ attempts (retry, deadline) ─ routes (partition → stream) ─ node_stream (batches, slots) ─ node
//!                                                  ▲ views (watch, refresh) ─ leaders (hedged calls)
//! ```
//!
//! Invariants:
//! - A request has an effect once at most: every attempt carries the same request id and stamp (P28).
//! - What is reported as done is done, what is reported as not done never happens, everything else is
//!   [`Error::Unknown`] (P29). Once an attempt may have taken effect, only a positive answer to a retry settles it: a
//!   failed condition does not, because the first attempt may still be on its way.
//! - A change of the view ends every wait for a primary that is no longer one.
//!
//! Leases, locks and elections go another way, to the leader of the viewleader group: [`Coordination`].
//!
//! Left out: TLS; asking storage nodes for a view when no viewleader has ever answered.

mod attempts;
mod client;
mod clock;
mod coordination;
mod endpoint;
mod error;
mod leaders;
mod mutants;
mod node_stream;
mod node_streams;
mod operations;
mod outcome;
mod routes;
mod scan;
mod slots;
mod status;
mod transaction;
mod views;
mod watch;

pub use client::{Client, Options};
pub use coordination::{Claimed, Coordination, Lease, LeaseStatus, LockGuard, LockStatus, Observed};
pub use error::{Error, Unanswered, UnansweredCause};
pub use leaders::Leaders;
pub use node_streams::{NodeStreams, Sent};
pub use operations::{Configure, Move, Moves, NodeMoves, Operation, Stranded};
pub use outcome::{DeleteOutcome, Found, PutOutcome, Route, Transacted, Written};
pub use scan::{Item, Scan, ScanOptions};
pub use status::{ClusterStatus, MemberStatus, NodeStatus};
pub use transaction::TransactionBuilder;
pub use watch::{Cursor, Watch, WatchEvent, WatchFrom, WatchViews, WatchWhat};
