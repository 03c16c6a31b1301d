//! The hidden records of transactions: what a participant has locked and staged, and what a home has decided.
//!
//! ```text
//! prepared: version u8 = 1, count of keys only read, keys, count of keys not changed, keys, count of fences (0 or 1), names;
//!           then for each branch: count, keys with value length + 1 or 0
//! decision: version u8 = 1, succeeded u8, count of participants: partition, seq of its prepared record
//! ```

use super::locks::Locked;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use types::entry::{put_varint, take_varint};
use types::{Change, MalformedBatch, PartitionId, RecordKey, Seq};

const VERSION: u8 = 1;

/// What a participant holds for an attempt.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Staged {
    /// Keys that are locked and not written.
    pub(crate) read: Vec<Bytes>,
    /// What to write if the conditions hold.
    pub(crate) then: Vec<Change>,
    /// What to write if they do not.
    pub(crate) otherwise: Vec<Change>,
    /// Keys that either branch may write, though what it would do is nothing.
    pub(crate) idle: Vec<Bytes>,
    /// The name of the lock whose token it came with.
    pub(crate) fence: Option<Bytes>,
}

impl Staged {
    /// What one branch writes.
    pub(crate) fn branch(self, succeeded: bool) -> Vec<Change> {
        if succeeded { self.then } else { self.otherwise }
    }

    /// Every key, and whether it is locked exclusively.
    pub(crate) fn locked(&self) -> Vec<Locked> {
        let mut written: Vec<Bytes> = self.then.iter().chain(&self.otherwise).map(|c| c.key.name.clone()).collect();
        written.extend(self.idle.iter().cloned());
        written.sort_unstable();
        written.dedup();
        let read = self.read.iter().map(|key| (key.clone(), false));
        written.into_iter().map(|key| (key, true)).chain(read).collect()
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        let put_keys = |out: &mut BytesMut, keys: &[Bytes]| {
            put_varint(out, keys.len() as u64);
            keys.iter().for_each(|key| put_bytes(out, key));
        };
        put_keys(&mut out, &self.read);
        put_keys(&mut out, &self.idle);
        put_keys(&mut out, self.fence.as_slice());
        for branch in [&self.then, &self.otherwise] {
            put_varint(&mut out, branch.len() as u64);
            for change in branch {
                put_bytes(&mut out, &change.key.name);
                match &change.value {
                    None => put_varint(&mut out, 0),
                    Some(value) => {
                        put_varint(&mut out, value.len() as u64 + 1);
                        out.put_slice(value);
                    }
                }
            }
        }
        out.freeze()
    }

    /// # Errors
    /// [`MalformedBatch`] for anything that [`Staged::encode`] did not write.
    pub(crate) fn decode(mut input: Bytes) -> Result<Staged, MalformedBatch> {
        let input = &mut input;
        take_version(input)?;
        let read = take_keys(input)?;
        let idle = take_keys(input)?;
        let fence = take_keys(input)?.pop();
        let mut branches = [Vec::new(), Vec::new()];
        for branch in &mut branches {
            for _ in 0..take_varint(input)? {
                let key = RecordKey::user(take_bytes(input)?);
                let value = match take_varint(input)? {
                    0 => None,
                    bytes => Some(take_exactly(input, bytes - 1)?),
                };
                branch.push(Change { key, value });
            }
        }
        end(input)?;
        let [then, otherwise] = branches;
        Ok(Staged { read, then, otherwise, idle, fence })
    }
}

/// What a home has decided: the transaction has happened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Decision {
    /// Which branch.
    pub(crate) succeeded: bool,
    /// Who has something to write, and the seq of what it prepared.
    pub(crate) participants: Vec<(PartitionId, Seq)>,
}

impl Decision {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        out.put_u8(u8::from(self.succeeded));
        put_varint(&mut out, self.participants.len() as u64);
        for (partition, prepared) in &self.participants {
            put_varint(&mut out, u64::from(partition.0));
            put_varint(&mut out, prepared.0);
        }
        out.freeze()
    }

    /// # Errors
    /// [`MalformedBatch`] for anything that [`Decision::encode`] did not write.
    pub(crate) fn decode(mut input: Bytes) -> Result<Decision, MalformedBatch> {
        let input = &mut input;
        take_version(input)?;
        let succeeded = take_byte(input)? == 1;
        let mut participants = Vec::new();
        for _ in 0..take_varint(input)? {
            let partition = u32::try_from(take_varint(input)?).map_err(|_| MalformedBatch("a partition's number"))?;
            participants.push((PartitionId(partition), Seq(take_varint(input)?)));
        }
        end(input)?;
        Ok(Decision { succeeded, participants })
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &Bytes) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

fn take_byte(input: &mut Bytes) -> Result<u8, MalformedBatch> {
    input.try_get_u8().map_err(|_| MalformedBatch("a transaction's record ends too early"))
}

fn take_version(input: &mut Bytes) -> Result<(), MalformedBatch> {
    if take_byte(input)? == VERSION { Ok(()) } else { Err(MalformedBatch("unknown version of a transaction's record")) }
}

fn take_exactly(input: &mut Bytes, bytes: u64) -> Result<Bytes, MalformedBatch> {
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= input.len());
    Ok(input.split_to(bytes.ok_or(MalformedBatch("a transaction's record ends too early"))?))
}

fn take_bytes(input: &mut Bytes) -> Result<Bytes, MalformedBatch> {
    let bytes = take_varint(input)?;
    take_exactly(input, bytes)
}

fn take_keys(input: &mut Bytes) -> Result<Vec<Bytes>, MalformedBatch> {
    let count = take_varint(input)?;
    (0..count).map(|_| take_bytes(input)).collect()
}

fn end(input: &Bytes) -> Result<(), MalformedBatch> {
    if input.has_remaining() { Err(MalformedBatch("bytes after a transaction's record")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against an encoder and a decoder that disagree, and against a cut record that passes for a whole one.
    #[test]
    fn what_is_encoded_is_decoded() {
        let key = |name: &'static [u8]| Bytes::from_static(name);
        let change = |name, value| Change { key: RecordKey::user(key(name)), value };
        let staged = Staged {
            read: vec![key(b"r"), key(b"s")],
            then: vec![change(b"a", Some(key(b"1"))), change(b"b", None)],
            otherwise: vec![change(b"a", Some(Bytes::new()))],
            idle: vec![key(b"i")],
            fence: Some(key(b"f")),
        };
        let bytes = staged.encode();
        assert_eq!(Staged::decode(bytes.clone()), Ok(staged.clone()));
        assert!((0..bytes.len()).all(|cut| Staged::decode(bytes.slice(..cut)).is_err()));
        let names: Vec<_> = staged.locked();
        assert_eq!(
            names,
            [(key(b"a"), true), (key(b"b"), true), (key(b"i"), true), (key(b"r"), false), (key(b"s"), false)]
        );
        let decision =
            Decision { succeeded: true, participants: vec![(PartitionId(3), Seq(300)), (PartitionId(9), Seq(1))] };
        let bytes = decision.encode();
        assert_eq!(Decision::decode(bytes.clone()), Ok(decision));
        assert!((0..bytes.len()).all(|cut| Decision::decode(bytes.slice(..cut)).is_err()));
    }
}
