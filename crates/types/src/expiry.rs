//! The hidden record beside a key whose value does not live for ever.

use crate::entry::{MalformedBatch, put_varint, take_varint};
use crate::ids::Seq;
use bytes::{Buf, Bytes, BytesMut};

/// How long one version of a key lives. A key that was written again since has another version, and this says nothing of
/// it any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Expiry {
    /// The version it is about.
    pub version: Seq,
    /// How long that lives, in milliseconds of whoever serves the partition.
    pub ttl_ms: u64,
}

impl Expiry {
    /// As it is stored.
    pub fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(20);
        put_varint(&mut out, self.version.0);
        put_varint(&mut out, self.ttl_ms);
        out.freeze()
    }

    /// Reads what [`Expiry::encode`] wrote.
    ///
    /// # Errors
    /// [`MalformedBatch`] for anything else.
    pub fn decode(stored: &Bytes) -> Result<Expiry, MalformedBatch> {
        let mut input = stored.clone();
        let expiry = Expiry { version: Seq(take_varint(&mut input)?), ttl_ms: take_varint(&mut input)? };
        if input.has_remaining() { Err(MalformedBatch("bytes after an expiry's end")) } else { Ok(expiry) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against an encoder and a decoder that disagree, and a cut record that passes for a whole one.
    #[test]
    fn what_is_encoded_is_decoded() {
        for (version, ttl_ms) in [(0, 0), (1, 30_000), (u64::MAX, u64::MAX)] {
            let expiry = Expiry { version: Seq(version), ttl_ms };
            let stored = expiry.encode();
            assert_eq!(Expiry::decode(&stored), Ok(expiry));
            assert!(Expiry::decode(&stored.slice(..stored.len() - 1)).is_err());
        }
    }
}
