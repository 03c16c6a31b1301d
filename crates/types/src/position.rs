//! Where a key lives: its SHA-1 on a ring of 2^160, and the partition that holds that arc.

use crate::ids::PartitionId;
use crate::limits::PARTITIONS_MAX;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use std::fmt;

/// SHA-1 of a key, a number on the ring, most significant byte first. SHA-1 spreads keys; it guards nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position(pub [u8; 20]);

impl Position {
    /// The position of `key`.
    pub fn of_key(key: &[u8]) -> Position {
        Position(Sha1::digest(key).into())
    }

    /// The partition that holds this position: its top log2(`count`) bits.
    pub fn partition(&self, count: PartitionCount) -> PartitionId {
        let top = u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]]);
        // A shift by 32 is what one partition asks for: u64 makes it well-defined.
        PartitionId((u64::from(top) >> (32 - count.bits())) as u32)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How many partitions a cluster has: a power of two from 1 to 65,536, fixed at bootstrap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct PartitionCount(u32);

impl PartitionCount {
    /// `None` unless `count` is a power of two within the limit.
    pub fn new(count: u32) -> Option<PartitionCount> {
        (count.is_power_of_two() && count <= PARTITIONS_MAX).then_some(PartitionCount(count))
    }

    /// The number itself.
    pub fn get(self) -> u32 {
        self.0
    }

    /// log2 of the number.
    pub fn bits(self) -> u32 {
        self.0.trailing_zeros()
    }

    /// Every partition's id, in order.
    pub fn ids(self) -> impl Iterator<Item = PartitionId> {
        (0..self.0).map(PartitionId)
    }

    /// The partition of `key`.
    pub fn partition_of(self, key: &[u8]) -> PartitionId {
        Position::of_key(key).partition(self)
    }
}

impl TryFrom<u32> for PartitionCount {
    type Error = &'static str;

    fn try_from(count: u32) -> Result<Self, Self::Error> {
        PartitionCount::new(count).ok_or("the number of partitions is a power of two from 1 to 65536")
    }
}

impl From<PartitionCount> for u32 {
    fn from(count: PartitionCount) -> u32 {
        count.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against bits taken from the wrong end, and against a shift overflow with one partition.
    #[test]
    fn the_top_bits_choose() {
        let position = Position::of_key(b"abc"); // a9993e36…
        let of = |count| position.partition(PartitionCount::new(count).unwrap());
        assert_eq!(of(1), PartitionId(0));
        assert_eq!(of(2), PartitionId(1));
        assert_eq!(of(256), PartitionId(0xa9));
        assert_eq!(of(65_536), PartitionId(0xa999));
    }

    #[test]
    fn odd_counts_are_refused() {
        for count in [0, 3, 255, 131_072, u32::MAX] {
            assert_eq!(PartitionCount::new(count), None, "{count}");
        }
    }
}
