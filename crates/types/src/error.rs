//! Error codes as they travel between processes. People read the message beside them; programs read these.

use serde::{Deserialize, Serialize};

/// Why a request was not done. The numbers are on the wire: never reuse one.
///
/// All but [`ErrorCode::Unknown`] promise that this attempt had no effect and never will.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[repr(u16)]
pub enum ErrorCode {
    /// A deadline passed or a primary was deposed after the request was appended: it may or may not happen.
    Unknown = 1,
    /// This node is not the partition's primary, or no longer; the view tells who is.
    NotPrimary = 2,
    /// The primary has no quorum, or is still taking over: try again.
    Unavailable = 3,
    /// Too much is waiting here already: try again later.
    Overloaded = 4,
    /// The deadline passed before anything was done.
    DeadlineExceeded = 5,
    /// The request's stamp is older than what the partition remembers (P28).
    StampTooOld = 6,
    /// Key, value or request breaks a limit; the message says which.
    Invalid = 7,
    /// The message is for another cluster.
    WrongCluster = 8,
    /// The node is shutting down.
    ShuttingDown = 9,
    /// The partition's data here is damaged and out of service.
    Damaged = 10,
    /// The cluster has no partition map yet: too few storage nodes have registered.
    NotBootstrapped = 11,
    /// The viewleader group has no leader at the moment.
    NoLeader = 12,
    /// Refused by a rule; the message says which.
    Refused = 13,
    /// A bug: the message says where.
    Internal = 14,
    /// Another transaction is under way with one of the keys; nothing was done: try again a little later.
    Conflict = 20,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [ErrorCode; 15] = [
        ErrorCode::Unknown,
        ErrorCode::NotPrimary,
        ErrorCode::Unavailable,
        ErrorCode::Overloaded,
        ErrorCode::DeadlineExceeded,
        ErrorCode::StampTooOld,
        ErrorCode::Invalid,
        ErrorCode::WrongCluster,
        ErrorCode::ShuttingDown,
        ErrorCode::Damaged,
        ErrorCode::NotBootstrapped,
        ErrorCode::NoLeader,
        ErrorCode::Refused,
        ErrorCode::Internal,
        ErrorCode::Conflict,
    ];

    /// The number on the wire.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The code with this number. A number from a later version is [`ErrorCode::Unknown`]: it promises nothing.
    pub fn from_number(number: u32) -> ErrorCode {
        ErrorCode::ALL.into_iter().find(|code| code.number() == number).unwrap_or(ErrorCode::Unknown)
    }

    /// Whether the same request may succeed if it is simply sent again, here or to the primary.
    pub fn is_retryable(self) -> bool {
        use ErrorCode::{NoLeader, NotBootstrapped, NotPrimary, Overloaded, ShuttingDown, Unavailable, Unknown};
        matches!(self, Unknown | NotPrimary | Unavailable | Overloaded | ShuttingDown | NotBootstrapped | NoLeader)
            || matches!(self, ErrorCode::Damaged | ErrorCode::Conflict)
    }
}
