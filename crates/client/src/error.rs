//! Why something was not done, or is not known to be done.

use types::{ErrorCode, FencingToken, PartitionId, Seq};

/// What a caller hears when there is no answer to give. Each reads as one line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// No member of the viewleader group can be reached.
    #[error("no viewleader answers at {addresses}: {why}; start one or check --leaders")]
    NoViewleader {
        /// All that were tried.
        addresses: String,
        /// What the last one's failure was.
        why: String,
    },
    /// Somebody answers, but nobody who knows what a view is.
    #[error("{address} answers but is not a viewleader; check --leaders")]
    NotAViewleader {
        /// Who answered.
        address: String,
    },
    /// The viewleaders answer that they can't help now.
    #[error("the viewleaders at {addresses} answer, but: {why}; see dhtctl status")]
    ViewleaderUnavailable {
        /// All that were tried.
        addresses: String,
        /// What one of them said.
        why: String,
    },
    /// The cluster has no partition map yet.
    #[error(
        "the cluster is not ready: {registered} of {expected} storage nodes have registered; start the others, then try again"
    )]
    NotBootstrapped {
        /// Nodes that have registered.
        registered: u32,
        /// Nodes that must.
        expected: u32,
    },
    /// The request breaks a limit; nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// The request had no effect and never will have: it may be sent again.
    #[error("not done: {message}")]
    NotDone {
        /// The last reason.
        code: ErrorCode,
        /// In words: what, where, what next.
        message: String,
    },
    /// The request may have happened, now or later (P29).
    #[error("outcome unknown: {message}; read the key to see")]
    Unknown {
        /// Why it is not known.
        message: String,
    },
    /// What a watch was to show next is no longer kept (see [`WatchFrom`](crate::WatchFrom)).
    #[error(
        "compacted at {oldest}: the changes of {partition} after {after} are no longer kept; start over with what is \
         there now"
    )]
    Compacted {
        /// Of which partition.
        partition: PartitionId,
        /// The last that was seen.
        after: Seq,
        /// The oldest change that is kept.
        oldest: Seq,
    },
    /// The write came with a fencing token that is not the newest any more: it was not done, and never will be.
    #[error("denied: the lock was granted again since, with token {}; this one is {}", newest.0, token.0)]
    Fenced {
        /// What the write came with.
        token: FencingToken,
        /// What the partition has seen.
        newest: FencingToken,
    },
    /// A change of a lease or a lock may have happened, now or later. The same request again is harmless.
    #[error("outcome unknown: {message}; dhtctl locks and dhtctl lease list show what is")]
    Unheard {
        /// Why it is not known.
        message: String,
    },
    /// Somebody else holds the lock.
    #[error("{holder} holds it")]
    Held {
        /// Who.
        holder: String,
    },
    /// A lease has ended, or can't be counted on any more.
    #[error("{message}")]
    LeaseGone {
        /// Which, and what follows.
        message: String,
    },
    /// The list of viewleaders or another option can't be used.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Whether the same request can be made again without the risk of doing it twice.
    pub fn is_safe_to_retry(&self) -> bool {
        !matches!(self, Error::Unknown { .. })
    }
}

/// Why a request that was handed to a node's stream got no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnansweredCause {
    /// No connection could be made.
    Refused,
    /// The connection or the stream ended.
    Broken,
    /// Its time was up.
    TimedOut,
    /// A newer view has another primary for its partition.
    Moved,
}

/// A request without an answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{address}: {why}")]
pub struct Unanswered {
    /// The node's address.
    pub address: String,
    /// What happened.
    pub cause: UnansweredCause,
    /// Whether the node may have received it. If not, it has had no effect and never will.
    pub may_have_arrived: bool,
    /// In words.
    pub why: String,
}
