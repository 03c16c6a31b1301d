//! The write-ahead log: one per process, with group commit; it knows only bytes.
//!
//! What is appended is a run of *records*. Everything that waits is written as one checksummed *frame* and made
//! durable by one `fdatasync`; the next frame is written only after that returned (P2). Frames live in *segments*,
//! files of a fixed size that are filled with zeros before they are used and recycled afterwards, so that the sync of
//! a frame finds the file's length and blocks already on disk and needs no commit of the file system's journal.
//!
//! ```text
//! segment 7                                          segment 8 (being written)           segment 9 (ready)
//! [header][frame 41][frame 42]..[frame 90][rest]     [header][frame 91][zeros or stale]  [header][zeros or stale]
//! ```
//!
//! Invariants, each the reason something can be told apart at start ([`Wal::open`], P3):
//!
//! - Frames are numbered 1, 2, 3, … without holes through all segments. Each carries, under its checksum, the log's
//!   random id and its segment's number, so a frame from a recycled file's earlier life is never taken for one of this.
//! - At most one frame is not yet durable, and it is the last. So a bad frame with *any* later frame of this log after
//!   it is damage; a bad frame with nothing after it is a torn tail, was never acknowledged, and is cut.
//! - Frames begin at sectors of their own: no sector that holds an acknowledged byte ever gets other content.
//! - A segment has its full length, its header and its directory entry durable before its first frame is written. So a
//!   file shorter than its header says was cut later, and a bad header is never the work of a crash.
//! - Every frame names the lowest segment still needed; segments below are removed, in order, only after such a frame
//!   is durable. So a missing segment is noticed, in the middle and at the beginning.
//! - A clean close appends a mark: after it, damage to the last records can be told from a torn tail, too.
//! - After a failed write or sync nothing more is acknowledged, and nothing is tried again on that log (P2). Because the
//!   page cache may then show what the disk does not hold, opening writes the last frame again and syncs it before it
//!   returns.
//!
//! Left out: what records mean, keeping two processes out of one directory (the servers lock theirs), and damage to
//! the last frame after a crash, which nothing on this disk can tell from a torn tail: the other replicas can.
//!
//! [`Wal`] is the log as a value for one thread; [`Writer`] puts it on a thread of its own and gathers groups.
//! [`Files`] is the file layer below; [`testing`] has one that loses what was not synced.

mod error;
mod files;
mod format;
mod frames;
mod log;
mod mutants;
mod prepare;
mod records;
mod replay;
pub mod testing;
mod writer;

pub use error::WalError;
pub use files::{File, Files, RealFiles};
pub use format::RECORD_BYTES_MAX;
pub use frames::frames;
pub use log::{Options, Wal};
pub use records::Records;
pub use replay::{Cut, Recovery};
pub use writer::{Counters, Writer};

use std::fmt;

/// A segment's place in its log: 1, 2, 3, …; ever increasing, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct SegmentNumber(pub u64);

impl SegmentNumber {
    /// The segment after this one.
    pub(crate) fn next(self) -> SegmentNumber {
        SegmentNumber(self.0 + 1)
    }
}

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
