//! Ids and counters, each a type of its own so that none is taken for another.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

counter!(
    /// A storage node, minted by the viewleader group when a data directory first registers; never reused. 0 is none.
    NodeId, "n"
);
counter!(
    /// How many changes the view has seen. One event is one change, however many partitions it touches.
    Epoch, "e"
);
counter!(
    /// The epoch at which a partition's replicas (members or order) last changed. It fences everything below.
    Term, "t"
);
counter!(
    /// An entry's place in its partition's log: 1, 2, 3, … without holes. 0 is "before the first".
    Seq, "s"
);
counter!(
    /// A node's start count, fsynced in its data directory before it registers.
    Incarnation, "i"
);
counter!(
    /// Random, drawn at each start: tells two processes on copies of one directory apart.
    BootNonce, "b"
);
counter!(
    /// One life of a partition's data on a node (P4, P5): a delete removes one generation and no other.
    Generation, "g"
);
counter!(
    /// A lease, minted by the viewleader group; never reused. 0 is none.
    LeaseId, "l"
);
counter!(
    /// Comes with every grant of a lock: greater than all that were granted before under the same name. 0 is none.
    FencingToken, "f"
);

impl Term {
    /// The term that a change committed at `epoch` begins.
    pub fn begun_at(epoch: Epoch) -> Term {
        Term(epoch.0)
    }
}

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl Seq {
    /// The seq after this one.
    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }

    /// The seq before this one; 0 stays 0.
    #[must_use]
    pub fn before(self) -> Seq {
        Seq(self.0.saturating_sub(1))
    }
}

/// One of P equal arcs of the ring: the top log2(P) bits of the position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct PartitionId(pub u32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

impl fmt::Debug for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Random, drawn once when a cluster is bootstrapped; 0 is "not known yet".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl ClusterId {
    /// The id of no cluster: a directory that has not joined one yet.
    pub const NONE: ClusterId = ClusterId(0);
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
