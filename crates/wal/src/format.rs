//! How segments, frames and records lie on disk. Numbers are little-endian, checksums CRC-32C.
//!
//! ```text
//! segment  magic 8 | version 4 | checksum 4 | log id 8 | segment number 8 | segment length 8 | 24 zeros | up to 512: zeros
//! frame    magic 4 | header checksum 4 | log id 8 | segment number 8 | frame number 8 | first segment needed 8
//!          | first frame needed 8 | payload length 4 | record count 4 | payload checksum 4 | flags 4
//!          | payload: records | up to 512: zeros
//! record   length 4 | checksum of length and content 4 | content
//! ```
//!
//! The frame's header has its own checksum, which covers the payload's: a header can be trusted, and found again
//! behind damage, without its payload. Of the segment's header every later version keeps the first 64 bytes' checksum
//! and the version's place, so that "newer" is told from "damaged".

use crate::SegmentNumber;
use std::ops::Range;

/// The longest record, in bytes. Far above what the servers' own limits let in.
pub const RECORD_BYTES_MAX: usize = 64 << 20;

/// The version this code reads and writes.
pub(crate) const VERSION: u32 = 1;
/// Frames begin at multiples of this: the unit a disk writes whole or not at all.
pub(crate) const SECTOR_BYTES: u64 = 512;
/// Segments are multiples of this, and writes end at multiples of it: the page cache's unit.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// Where a segment's first frame begins.
pub(crate) const FIRST_FRAME_OFFSET: u64 = SECTOR_BYTES;
/// The part of a segment's header that holds something.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;
/// A frame's header, in bytes.
pub(crate) const FRAME_HEADER_BYTES: usize = 64;
/// A record's header, in bytes.
pub(crate) const RECORD_HEADER_BYTES: usize = 8;

const SEGMENT_MAGIC: [u8; 8] = *b"RingWAL\n";
const FRAME_MAGIC: [u8; 4] = *b"RLfr";
const FLAG_CLOSED: u32 = 1;

/// What a segment says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    /// Drawn at random when the log was created; the same in all its segments and frames.
    pub(crate) log_id: u64,
    pub(crate) number: SegmentNumber,
    /// The file's length in bytes.
    pub(crate) bytes: u64,
}

/// Why a segment's header could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SegmentHeaderError {
    NotASegment,
    Checksum,
    Version(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[0..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.log_id.to_le_bytes());
        out[24..32].copy_from_slice(&self.number.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.bytes.to_le_bytes());
        let checksum = segment_header_checksum(&out);
        out[12..16].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<SegmentHeader, SegmentHeaderError> {
        let Some(bytes) = bytes.first_chunk::<SEGMENT_HEADER_BYTES>() else {
            return Err(SegmentHeaderError::NotASegment);
        };
        if bytes[0..8] != SEGMENT_MAGIC {
            return Err(SegmentHeaderError::NotASegment);
        }
        if u32_at(bytes, 12) != segment_header_checksum(bytes) {
            return Err(SegmentHeaderError::Checksum);
        }
        match u32_at(bytes, 8) {
            VERSION => Ok(SegmentHeader {
                log_id: u64_at(bytes, 16),
                number: SegmentNumber(u64_at(bytes, 24)),
                bytes: u64_at(bytes, 32),
            }),
            version => Err(SegmentHeaderError::Version(version)),
        }
    }
}

fn segment_header_checksum(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[0..12]), &bytes[16..])
}

/// What a frame says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameHeader {
    pub(crate) log_id: u64,
    pub(crate) segment: SegmentNumber,
    /// 1, 2, 3, … through the whole log.
    pub(crate) number: u64,
    /// The lowest segment that was still needed when the frame was written.
    pub(crate) first_needed: SegmentNumber,
    /// The first frame of that segment, or the one to become its first.
    pub(crate) first_needed_frame: u64,
    pub(crate) payload_bytes: u32,
    pub(crate) records: u32,
    pub(crate) payload_checksum: u32,
    /// The mark of a clean close.
    pub(crate) closed: bool,
}

impl FrameHeader {
    pub(crate) fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0; FRAME_HEADER_BYTES];
        let flags = if self.closed { FLAG_CLOSED } else { 0 };
        out[0..4].copy_from_slice(&FRAME_MAGIC);
        out[8..16].copy_from_slice(&self.log_id.to_le_bytes());
        out[16..24].copy_from_slice(&self.segment.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.number.to_le_bytes());
        out[32..40].copy_from_slice(&self.first_needed.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.first_needed_frame.to_le_bytes());
        out[48..52].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[52..56].copy_from_slice(&self.records.to_le_bytes());
        out[56..60].copy_from_slice(&self.payload_checksum.to_le_bytes());
        out[60..64].copy_from_slice(&flags.to_le_bytes());
        let checksum = crc32c::crc32c(&out[8..]);
        out[4..8].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// The header at the beginning of `bytes`, or nothing if none lies there whole.
    pub(crate) fn decode(bytes: &[u8]) -> Option<FrameHeader> {
        let bytes = bytes.first_chunk::<FRAME_HEADER_BYTES>()?;
        if bytes[0..4] != FRAME_MAGIC || u32_at(bytes, 4) != crc32c::crc32c(&bytes[8..]) {
            return None;
        }
        Some(FrameHeader {
            log_id: u64_at(bytes, 8),
            segment: SegmentNumber(u64_at(bytes, 16)),
            number: u64_at(bytes, 24),
            first_needed: SegmentNumber(u64_at(bytes, 32)),
            first_needed_frame: u64_at(bytes, 40),
            payload_bytes: u32_at(bytes, 48),
            records: u32_at(bytes, 52),
            payload_checksum: u32_at(bytes, 56),
            closed: u32_at(bytes, 60) & FLAG_CLOSED != 0,
        })
    }
}

/// How many bytes a frame with such a payload takes: whole sectors.
pub(crate) fn frame_bytes(payload_bytes: usize) -> u64 {
    (FRAME_HEADER_BYTES as u64 + payload_bytes as u64).next_multiple_of(SECTOR_BYTES)
}

/// Fills in the header of the one record in `record`: room for the header, then the content.
pub(crate) fn seal_record(record: &mut [u8]) {
    let content_bytes = record.len() - RECORD_HEADER_BYTES;
    // Longer ones are refused before they are written; here they only must not wrap.
    let length = u32::try_from(content_bytes).unwrap_or(u32::MAX).to_le_bytes();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&length), &record[RECORD_HEADER_BYTES..]);
    record[0..4].copy_from_slice(&length);
    record[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// The length, header included, of the record at the beginning of `encoded`, which this process built.
pub(crate) fn record_bytes(encoded: &[u8]) -> usize {
    let Some(header) = encoded.first_chunk::<RECORD_HEADER_BYTES>() else { return encoded.len() };
    RECORD_HEADER_BYTES + u32_at(header, 0) as usize
}

/// Where in `payload` the content of the record beginning at `at` lies, or what is wrong with it.
pub(crate) fn record_at(payload: &[u8], at: usize) -> Result<Range<usize>, &'static str> {
    let Some(header) = payload[at..].first_chunk::<RECORD_HEADER_BYTES>() else {
        return Err("is cut short");
    };
    let start = at + RECORD_HEADER_BYTES;
    let content_bytes = u32_at(header, 0) as usize;
    let Some(content) = payload[start..].get(..content_bytes) else {
        return Err("is longer than its frame");
    };
    if u32_at(header, 4) != crc32c::crc32c_append(crc32c::crc32c(&header[0..4]), content) {
        return Err("has a wrong checksum");
    }
    Ok(start..start + content_bytes)
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a field outside the checksum: every flipped byte must be noticed.
    #[test]
    fn a_flipped_byte_in_a_header_is_noticed() {
        let segment = SegmentHeader { log_id: 9, number: SegmentNumber(3), bytes: 8192 };
        let frame = FrameHeader {
            log_id: 9,
            segment: SegmentNumber(3),
            number: 77,
            first_needed: SegmentNumber(2),
            first_needed_frame: 3,
            payload_bytes: 100,
            records: 4,
            payload_checksum: 5,
            closed: true,
        };
        assert_eq!(SegmentHeader::decode(&segment.encode()), Ok(segment));
        assert_eq!(FrameHeader::decode(&frame.encode()), Some(frame));
        for at in 0..SEGMENT_HEADER_BYTES {
            let mut bytes = segment.encode();
            bytes[at] ^= 0x10;
            assert!(SegmentHeader::decode(&bytes).is_err(), "byte {at}");
        }
        for at in 0..FRAME_HEADER_BYTES {
            let mut bytes = frame.encode();
            bytes[at] ^= 0x10;
            assert_eq!(FrameHeader::decode(&bytes), None, "byte {at}");
        }
    }

    /// Guards against a change of the format that forgets to change the version: logs on disk must stay readable.
    #[test]
    fn the_format_is_what_version_1_wrote() {
        let segment = SegmentHeader { log_id: 0x0102_0304_0506_0708, number: SegmentNumber(3), bytes: 8192 }.encode();
        let frame = FrameHeader {
            log_id: 0x0102_0304_0506_0708,
            segment: SegmentNumber(3),
            number: 4,
            first_needed: SegmentNumber(2),
            first_needed_frame: 3,
            payload_bytes: 12,
            records: 1,
            payload_checksum: 0x0a0b_0c0d,
            closed: false,
        }
        .encode();
        let mut record = *b"........abcd";
        seal_record(&mut record);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(&segment[..40]),
            "52696e6757414c0a010000002298a3dc080706050403020103000000000000000020000000000000"
        );
        assert_eq!(
            hex(&frame),
            concat!(
                "524c66724e35cf41080706050403020103000000000000000400000000000000",
                "020000000000000003000000000000000c000000010000000d0c0b0a00000000"
            )
        );
        assert_eq!(hex(&record), "0400000011719a7761626364");
    }
}
