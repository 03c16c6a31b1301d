//! The storage node: it keeps keys and replicates each partition to a quorum.
//!
//! The protocol is `replcore`'s: one replica is a value that takes events and gives effects. This crate is the I/O around
//! it, and decides nothing about safety but the order of things: what is on disk before what is said (P2, P5).
//!
//! ```text
//!  clients ──► kv ──┐            ┌──► write-ahead log (one thread, one fsync for all)
//!  HTTP ──► http ───┤            │
//!                   ├──► shard ──┼──► peers (one stream per pair of nodes)
//!  peers ──► peer ──┤            │
//!  viewleader ─► session ─► control (views to disk)      applier ──► engine (one thread)
//!                                └──► keeper (trims the log)
//! ```
//!
//! Beside that: `scanner` reads the engine for clients' scans, `watch` tells those who watch what was committed.
//!
//! # A request's way
//!
//! `kv` decodes a client's batch, sorts it by partition and hands each [`shard`] its part. The shard, a single task that
//! owns the replicas of every n-th partition, steps them and gathers what they want: one submission to the log, one
//! batch per peer, one batch of answers per client. Nothing on that way has a task, a timer or a lock of its own.
//!
//! # Invariants
//!
//! - An answer leaves only after what it answers for is on disk (P2). A failed write or fsync ends the node.
//! - Before the viewleaders have accepted this start of the node, nothing is answered (P20).
//! - A view is on disk before any replica sees it (P5).
//! - An idle partition costs memory only.
//! - While no viewleader can be reached, everything that is served goes on being served.
//!
//! # What is left out
//!
//! Snapshots between nodes and member changes: a log is kept for a replica that is behind. TLS.

mod applier;
pub mod cli;
mod clock;
mod config;
mod control;
mod disk;
mod error;
mod fatal;
mod filler;
mod gate;
mod grpc;
mod http;
mod http_scan;
mod identity;
mod journal;
mod keeper;
mod kv;
mod me;
mod meters;
mod node;
mod peer;
mod recovery;
mod reports;
mod running;
mod scanner;
mod servers;
mod session;
mod shard;
mod watch;

pub use config::Config;
pub use error::Error;
pub use node::run;
