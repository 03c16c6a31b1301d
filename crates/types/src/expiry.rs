//! The hidden record beside a key whose value does not live for ever.

use crate::entry::{MalformedBatch, put_varint, take_varint};
use crate::ids::{LeaseId, Seq};
use bytes::{Buf, Bytes, BytesMut};

/// How long a value lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lifetime {
    /// For so many milliseconds of whoever serves the partition, from 1 to [`TTL_MAX`](crate::limits::TTL_MAX).
    Milliseconds(u64),
    /// As long as this lease of the viewleaders. One that has ended, or never was, ends it at once.
    Lease(LeaseId),
}

/// How long one version of a key lives. A key that was written again since has another version, and this says nothing of
/// it any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Expiry {
    /// The version it is about.
    pub version: Seq,
    /// How long that lives.
    pub lifetime: Lifetime,
}

impl Expiry {
    /// As it is stored.
    pub fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(20);
        put_varint(&mut out, self.version.0);
        match self.lifetime {
            Lifetime::Milliseconds(ttl_ms) => put_varint(&mut out, ttl_ms),
            Lifetime::Lease(lease) => {
                // No time at all: a lease follows.
                put_varint(&mut out, 0);
                put_varint(&mut out, lease.0);
            }
        }
        out.freeze()
    }

    /// Reads what [`Expiry::encode`] wrote.
    ///
    /// # Errors
    /// [`MalformedBatch`] for anything else.
    pub fn decode(stored: &Bytes) -> Result<Expiry, MalformedBatch> {
        let mut input = stored.clone();
        let version = Seq(take_varint(&mut input)?);
        let lifetime = match take_varint(&mut input)? {
            0 => Lifetime::Lease(LeaseId(take_varint(&mut input)?)),
            ttl_ms => Lifetime::Milliseconds(ttl_ms),
        };
        let expiry = Expiry { version, lifetime };
        if input.has_remaining() { Err(MalformedBatch("bytes after an expiry's end")) } else { Ok(expiry) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against an encoder and a decoder that disagree, and a cut record that passes for a whole one.
    #[test]
    fn what_is_encoded_is_decoded() {
        let lifetimes = [Lifetime::Milliseconds(1), Lifetime::Lease(LeaseId(7)), Lifetime::Lease(LeaseId(u64::MAX))];
        for (version, lifetime) in [0, 1, u64::MAX].into_iter().zip(lifetimes) {
            let expiry = Expiry { version: Seq(version), lifetime };
            let stored = expiry.encode();
            assert_eq!(Expiry::decode(&stored), Ok(expiry));
            assert!(Expiry::decode(&stored.slice(..stored.len() - 1)).is_err());
        }
    }
}
