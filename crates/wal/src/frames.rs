//! Where the frames of a segment lie: for tools that look at a log that nobody has open.

use crate::format::{self, FIRST_FRAME_OFFSET, FRAME_HEADER_BYTES, FrameHeader, SegmentHeader};
use std::ops::Range;

/// The bytes of each frame that a segment's file holds, in order and without padding; what a recycled file held before
/// is left out. `None` for a file that is no segment.
pub fn frames(segment: &[u8]) -> Option<Vec<Range<usize>>> {
    let header = SegmentHeader::decode(segment).ok()?;
    let mut frames = Vec::new();
    let mut next: Option<u64> = None;
    let mut offset = FIRST_FRAME_OFFSET as usize;
    while let Some(frame) = segment.get(offset..).and_then(FrameHeader::decode) {
        let is_of_this_life = frame.log_id == header.log_id && frame.segment == header.number;
        let (payload, bytes) = (offset + FRAME_HEADER_BYTES, frame.payload_bytes as usize);
        let is_sound =
            segment.get(payload..payload + bytes).is_some_and(|it| crc32c::crc32c(it) == frame.payload_checksum);
        if !is_of_this_life || !is_sound || next.is_some_and(|next| next != frame.number) {
            break;
        }
        frames.push(offset..payload + bytes);
        next = Some(frame.number + 1);
        offset += format::frame_bytes(bytes) as usize;
    }
    Some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, RealFiles, Records, Wal};

    /// Guards against frames that are not found, and against damage to one of them, with others behind it, that a log
    /// does not notice.
    #[test]
    fn damage_to_a_frame_that_others_follow_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Wal::open(RealFiles, directory.path(), Options::default(), &mut |_, _| Ok(()));
        let mut wal = open().unwrap();
        for content in [&b"one"[..], b"two", b"three"] {
            let mut records = Records::new();
            records.push(content);
            wal.append(&records).unwrap();
        }
        wal.close().unwrap();
        let path = std::fs::read_dir(directory.path()).unwrap().flatten().map(|entry| entry.path()).min().unwrap();
        let whole = std::fs::read(&path).unwrap();
        let found = frames(&whole).unwrap();
        assert_eq!(found.len(), 4, "three, and the mark of the close: {found:?}");
        assert!(whole[found[1].clone()].ends_with(b"two"));
        for at in found[0].clone().chain(found[2].clone()) {
            let mut flipped = whole.clone();
            flipped[at] ^= 4;
            std::fs::write(&path, &flipped).unwrap();
            assert!(open().is_err(), "byte {at}");
        }
        assert_eq!(frames(b"no segment"), None);
    }
}
