//! A look at sled's log before sled opens it.
//!
//! At start sled replays its log from the last snapshot on. A message there whose checksum does not match it takes for
//! the end of that segment, and goes on with the next: updates in the middle would be missing, and no record's checksum
//! can tell. So the same messages are checked here first. (Pages from before the snapshot are checked by sled when it
//! reads them, and then it says so.)
//!
//! What is damage, and what only the end of the log? Three witnesses say how far the log was whole: the snapshot, our
//! [note](super::note) of what was made durable, and the headers of segments, each of which names a place up to which
//! everything had been written. Up to the furthest of them nothing may be missing. Beyond is what a crash cut off, and
//! sled handles that.
//!
//! Segments are used again, so an old one may be missing, but none that begins after the note: sled gives no segment
//! away before the one after it is written, and a note is made at least once in a segment. That is what tells a segment
//! that a power failure lost from one that was given away.
//!
//! One case looks like damage and is none: a crash while a segment that had been free was written again, its end before
//! its beginning. There the bad place is followed by messages of the segment with which the log would have gone on.
//!
//! Not looked at: whether the file still has every old segment that the snapshot names. Where it was cut in the middle
//! sled panics; no crash does that.
//!
//! The format (`pagecache/{logger,iterator,snapshot}.rs`, `serialization.rs`), integers little-endian:
//!
//! ```text
//! file     = segments of SEGMENT_BYTES, in any order; all zero where free
//! segment  = crc32 ^ ~0 u32, lsn ^ i64::MAX, stable lsn ^ i64::MAX; messages; fewer than 32 bytes of anything
//! message  = crc32 ^ ~0 u32 (of body, then of what follows), kind u8, length, segment number, page: varints; body
//! snapshot = body, its length u64, crc32 of the body u32; the name has the lsn in hexadecimal
//! ```

use super::SEGMENT_BYTES;
use super::directory::Directory;
use super::note::Note;
use crate::EngineError;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

const SEGMENT_HEADER_BYTES: usize = 20;
/// No message begins in so many last bytes of a segment.
const MESSAGE_HEADER_BYTES_MAX: usize = 32;
const SNAPSHOT_TRAILER_BYTES: usize = 12;

const KIND_CAP: u8 = 2;
const KIND_BATCH_MANIFEST: u8 = 3;
const KIND_MAX: u8 = 11;
/// Kinds whose content lies in a file of its own.
const KINDS_BLOB: [u8; 3] = [7, 9, 11];

/// Checks what sled is about to replay.
///
/// # Errors
/// [`EngineError::Corrupt`] with the place, [`EngineError::Io`].
pub(super) fn audit(directory: &Directory, file: &File, note: &Note) -> Result<(), EngineError> {
    let path = directory.sled_file();
    let corrupt = |at: u64, what: &str| Err(EngineError::corrupt(format!("{} at byte {at}: {what}", path.display())));
    let snapshot_lsn = newest_snapshot(directory)?;
    if snapshot_lsn < note.snapshot_lsn {
        return Err(EngineError::corrupt(format!("the newest snapshot in {} is missing", directory.sled().display())));
    }
    let replayed_from = segment_of(snapshot_lsn.unwrap_or(0));
    let mut offsets = BTreeMap::new();
    let noted_through = snapshot_lsn.map_or(-1, |lsn| lsn - 1).max(note.stable_lsn);
    let mut whole_through = noted_through;
    for offset in segment_offsets(file, &path)? {
        match SegmentHeader::read(file, offset, &path)? {
            SegmentHeader::Free => {}
            SegmentHeader::Damaged => return corrupt(offset, "a segment's header does not match its checksum"),
            SegmentHeader::Used { lsn, .. } if lsn < replayed_from => {}
            SegmentHeader::Used { lsn, stable_lsn } => {
                whole_through = whole_through.max(stable_lsn);
                if offsets.insert(lsn, offset).is_some() {
                    return corrupt(offset, "a second segment of that name");
                }
            }
        }
    }
    // How far the log goes without a gap.
    let mut end_lsn = segment_of(noted_through.max(0)).max(replayed_from);
    if noted_through >= end_lsn && !offsets.contains_key(&end_lsn) {
        // The segment with what was noted last may have been given away, to a later one; or sled, opening, found nothing
        // in it that it needs, and was to begin the next.
        let is_used_again = offsets.keys().any(|lsn| *lsn > end_lsn);
        let was_left = snapshot_lsn.is_some_and(|lsn| {
            segment_of(lsn) == end_lsn
                && (note.stable_lsn < lsn || note.stable_lsn + 1 == end_lsn + SEGMENT_BYTES as i64)
        });
        if is_used_again || was_left {
            end_lsn += SEGMENT_BYTES as i64;
        }
    }
    let mut damaged = Vec::new();
    let mut content = Vec::new();
    for (&lsn, &offset) in &offsets {
        read_segment(file, offset, &mut content).map_err(EngineError::io("read", &path))?;
        match walk(&content, lsn) {
            Walk::Whole if lsn == end_lsn => end_lsn += SEGMENT_BYTES as i64,
            Walk::Whole => {}
            Walk::Blob(at) => return corrupt(offset + at as u64, "a blob, of which this program writes none"),
            Walk::BadAt(at) if lsn == end_lsn => end_lsn += at as i64,
            Walk::BadAt(at) if lsn < end_lsn => damaged.push((offset + at as u64, newer_segments(&content[at..], lsn))),
            // Behind a gap: sled will not replay it.
            Walk::BadAt(_) => {}
        }
    }
    if end_lsn <= whole_through {
        let at = offsets.get(&segment_of(end_lsn)).map_or(0, |offset| offset + (end_lsn % SEGMENT_BYTES as i64) as u64);
        return corrupt(at, "a message is missing or does not match its checksum");
    }
    match damaged.into_iter().find(|(_, newer)| !newer.contains(&end_lsn)) {
        Some((at, _)) => corrupt(at, "a message does not match its checksum"),
        None => Ok(()),
    }
}

/// How far the newest snapshot reaches, once it is known to be whole; `None` if there is none.
pub(super) fn newest_snapshot(directory: &Directory) -> Result<Option<i64>, EngineError> {
    let sled = directory.sled();
    let mut newest = None;
    for entry in fs::read_dir(&sled).map_err(EngineError::io("list", &sled))? {
        let path = entry.map_err(EngineError::io("list", &sled))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(lsn) = name.strip_prefix("snap.") {
            let lsn = i64::from_str_radix(lsn, 16)
                .map_err(|_| EngineError::corrupt(format!("{} is no name of a snapshot", path.display())))?;
            newest = newest.max(Some((lsn, path)));
        }
    }
    let Some((lsn, path)) = newest else { return Ok(None) };
    let content = fs::read(&path).map_err(EngineError::io("read", &path))?;
    let is_whole = content.len().checked_sub(SNAPSHOT_TRAILER_BYTES).is_some_and(|body_bytes| {
        let (body, trailer) = content.split_at(body_bytes);
        trailer[8..] == crc32fast::hash(body).to_le_bytes() && trailer[..8] == (body_bytes as u64).to_le_bytes()
    });
    if !is_whole {
        return Err(EngineError::corrupt(format!("{} does not match its checksum", path.display())));
    }
    Ok(Some(lsn))
}

/// The lsn of the segment that an lsn is in.
pub(super) fn segment_of(lsn: i64) -> i64 {
    lsn - lsn % SEGMENT_BYTES as i64
}

fn segment_offsets(file: &File, path: &Path) -> Result<impl Iterator<Item = u64>, EngineError> {
    let file_bytes = file.metadata().map_err(EngineError::io("read", path))?.len();
    // Sled passes over a last segment that has no whole header yet.
    Ok((0..(file_bytes.saturating_sub(SEGMENT_HEADER_BYTES as u64 - 1))).step_by(SEGMENT_BYTES))
}

enum SegmentHeader {
    Free,
    Damaged,
    Used { lsn: i64, stable_lsn: i64 },
}

impl SegmentHeader {
    fn read(file: &File, offset: u64, path: &Path) -> Result<SegmentHeader, EngineError> {
        let mut header = [0; SEGMENT_HEADER_BYTES];
        file.read_exact_at(&mut header, offset).map_err(EngineError::io("read", path))?;
        Ok(SegmentHeader::parse(&header))
    }

    fn parse(header: &[u8; SEGMENT_HEADER_BYTES]) -> SegmentHeader {
        if *header == [0; SEGMENT_HEADER_BYTES] {
            return SegmentHeader::Free;
        }
        let (crc, numbers) = header.split_at(4);
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&numbers[at..at + 8]);
            i64::from_le_bytes(bytes) ^ i64::MAX
        };
        let (lsn, stable_lsn) = (number(0), number(8));
        let is_whole = crc == (!crc32fast::hash(numbers)).to_le_bytes();
        if is_whole && lsn >= 0 && lsn == segment_of(lsn) {
            SegmentHeader::Used { lsn, stable_lsn }
        } else {
            SegmentHeader::Damaged
        }
    }
}

/// Reads a segment, or what there is of the last one.
fn read_segment(file: &File, offset: u64, content: &mut Vec<u8>) -> std::io::Result<()> {
    content.resize(SEGMENT_BYTES, 0);
    let mut filled = 0;
    while filled < SEGMENT_BYTES {
        match file.read_at(&mut content[filled..], offset + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    content.truncate(filled);
    Ok(())
}

/// How a segment's messages end.
#[derive(PartialEq, Eq, Debug)]
enum Walk {
    /// As a segment that is full does.
    Whole,
    /// With something else at this byte.
    BadAt(usize),
    /// With a message at this byte that this program never has sled write.
    Blob(usize),
}

fn walk(content: &[u8], lsn: i64) -> Walk {
    let segment_number = (lsn / SEGMENT_BYTES as i64) as u64;
    let mut at = SEGMENT_HEADER_BYTES;
    while at + MESSAGE_HEADER_BYTES_MAX <= SEGMENT_BYTES {
        match Message::parse(content.get(at..).unwrap_or_default()) {
            Some(message) if message.segment_number == segment_number => match message.kind {
                KIND_CAP => return Walk::Whole,
                kind if KINDS_BLOB.contains(&kind) => return Walk::Blob(at),
                _ => at += message.bytes,
            },
            _ => return Walk::BadAt(at),
        }
    }
    Walk::Whole
}

/// The lsns of later segments of which there are messages in this one's place: they were to take it, but their header
/// never got there.
fn newer_segments(content: &[u8], lsn: i64) -> BTreeSet<i64> {
    let messages = (0..content.len()).filter_map(|at| Message::parse(&content[at..]));
    let lsns = messages.filter_map(|m| i64::try_from(m.segment_number).ok()?.checked_mul(SEGMENT_BYTES as i64));
    lsns.filter(|newer| *newer > lsn).collect()
}

/// A message whose checksum holds.
struct Message {
    kind: u8,
    segment_number: u64,
    /// With its header.
    bytes: usize,
}

impl Message {
    fn parse(input: &[u8]) -> Option<Message> {
        let (crc, rest) = input.split_first_chunk::<4>()?;
        let (&kind, mut rest) = rest.split_first()?;
        if kind == 0 || kind > KIND_MAX {
            return None;
        }
        let length = usize::try_from(take_varint(&mut rest)?).ok()?;
        let segment_number = take_varint(&mut rest)?;
        take_varint(&mut rest)?;
        let body = rest.get(..length)?;
        if kind == KIND_BATCH_MANIFEST && length != 8 {
            return None;
        }
        let header_bytes = input.len() - rest.len();
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(body);
        hasher.update(&input[crc.len()..header_bytes]);
        let is_whole = *crc == (!hasher.finalize()).to_le_bytes();
        is_whole.then_some(Message { kind, segment_number, bytes: header_bytes + length })
    }
}

/// Takes one of sled's integers of variable length.
fn take_varint(input: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = input.split_first()?;
    let (number, bytes) = match first {
        0..=240 => (u64::from(first), 0),
        241..=248 => (240 + 256 * (u64::from(first) - 241) + u64::from(*rest.first()?), 1),
        249 => (2288 + 256 * u64::from(*rest.first()?) + u64::from(*rest.get(1)?), 2),
        _ => {
            let bytes = usize::from(first) - 247;
            let mut number = [0; 8];
            number[..bytes].copy_from_slice(rest.get(..bytes)?);
            (u64::from_le_bytes(number), bytes)
        }
    };
    *input = &rest[bytes..];
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: i64 = SEGMENT_BYTES as i64;
    const KIND_LINK: u8 = 10;

    /// A message as sled writes it; numbers up to 240 are varints of one byte.
    fn message(kind: u8, segment_number: u8, body: &[u8]) -> Vec<u8> {
        let length = [251, body.len() as u8, (body.len() >> 8) as u8, (body.len() >> 16) as u8, 0];
        let rest = [&[kind], &length[..], &[segment_number, 7]].concat();
        let crc = !crc32fast::hash(&[body, &rest].concat());
        [&crc.to_le_bytes(), &rest[..], body].concat()
    }

    /// A segment that holds messages of 1000 bytes up to its end, or `messages` of them.
    fn segment(lsn: i64, stable_lsn: i64, messages: usize) -> Vec<u8> {
        let numbers = [(lsn ^ i64::MAX).to_le_bytes(), (stable_lsn ^ i64::MAX).to_le_bytes()].concat();
        let mut content = [&(!crc32fast::hash(&numbers)).to_le_bytes(), &numbers[..]].concat();
        let message = message(KIND_LINK, (lsn / SEGMENT) as u8, &[5; 1000]);
        let room = (SEGMENT_BYTES - MESSAGE_HEADER_BYTES_MAX - content.len()) / message.len();
        content.extend(message.repeat(messages.min(room)));
        if messages > room {
            let left = SEGMENT_BYTES - content.len();
            let header_bytes = message.len() - 1000;
            content.extend(self::message(KIND_CAP, (lsn / SEGMENT) as u8, &vec![0; left - header_bytes]));
        }
        content.resize(SEGMENT_BYTES, 0);
        content
    }

    fn whole(number: i64) -> Vec<u8> {
        segment(number * SEGMENT, number * SEGMENT - 1, usize::MAX)
    }

    /// Audits a file of these segments against a note of what was durable.
    fn audited(segments: &[Vec<u8>], stable_lsn: i64) -> Result<(), EngineError> {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::lock(temporary.path()).unwrap();
        directory.prepare().unwrap();
        fs::write(directory.sled_file(), segments.concat()).unwrap();
        let file = File::open(directory.sled_file()).unwrap();
        audit(&directory, &file, &Note { stable_lsn, snapshot_lsn: None })
    }

    fn is_sound(segments: &[Vec<u8>], stable_lsn: i64) -> bool {
        match audited(segments, stable_lsn) {
            Ok(()) => true,
            Err(EngineError::Corrupt { .. }) => false,
            Err(other) => panic!("{other}"),
        }
    }

    /// Guards against a sound log that is refused: segments in any order, free ones between, a tail that a crash cut.
    #[test]
    fn a_sound_log_is_accepted() {
        let free = vec![0; SEGMENT_BYTES];
        let tail = segment(3 * SEGMENT, 3 * SEGMENT - 1, 9);
        let mut torn = tail.clone();
        torn[20 + 8 * 1012 + 500] ^= 1;
        for tail in [tail, torn] {
            assert!(is_sound(&[whole(2), free.clone(), tail, whole(0), whole(1)], 3 * SEGMENT + 100));
        }
        assert!(is_sound(&[segment(0, -1, 0)], -1), "a store that was just created");
    }

    /// Guards against damage in what was whole once, whichever witness says so.
    #[test]
    fn damage_before_the_end_is_noticed() {
        let damaged = |number| {
            let mut content = whole(number);
            content[500_000] ^= 0x10;
            content
        };
        let tail = segment(3 * SEGMENT, 3 * SEGMENT - 1, 9);
        for noted in [3 * SEGMENT + 100, 2 * SEGMENT, 0] {
            assert!(!is_sound(&[whole(0), damaged(1), whole(2), tail.clone()], noted), "noted through {noted}");
        }
        // Without a header that vouches for it, and before any note, it is the end of the log.
        assert!(is_sound(&[whole(0), damaged(1)], SEGMENT));
        assert!(!is_sound(&[whole(0), damaged(1)], SEGMENT + 600_000));
    }

    /// Guards against a lost segment that passes for one given away, and the other way round.
    #[test]
    fn a_segment_after_the_note_is_not_missed() {
        let tail = segment(4 * SEGMENT, 3 * SEGMENT, 9);
        let given_away = [whole(1), whole(2), whole(3), tail.clone()];
        assert!(is_sound(&given_away, SEGMENT + 5));
        assert!(is_sound(&given_away[1..], SEGMENT + 5), "the noted segment itself");
        assert!(!is_sound(&given_away[2..], SEGMENT + 5), "one after it");
        // The last header vouches for segment 3. Where it does not, that may be lost: sled ends the log there.
        assert!(!is_sound(&[whole(1), whole(2), tail], SEGMENT + 5));
        let unsure = segment(4 * SEGMENT, 3 * SEGMENT - 1, 9);
        assert!(is_sound(&[whole(1), whole(2), unsure], SEGMENT + 5));
        assert!(!is_sound(&[whole(1)], 2 * SEGMENT + 5), "the end");
    }

    /// Guards against a crash in the middle of reusing a segment that makes the whole store unreadable.
    #[test]
    fn a_segment_that_is_being_written_again_is_no_damage() {
        let overwritten_by = |number: u8| {
            let mut content = whole(0);
            let newer = message(KIND_LINK, number, &[6; 3000]);
            content[700_000..700_000 + newer.len()].copy_from_slice(&newer);
            content
        };
        assert!(is_sound(&[overwritten_by(3), whole(1), whole(2)], 2 * SEGMENT));
        assert!(!is_sound(&[overwritten_by(4), whole(1), whole(2)], 2 * SEGMENT), "by one that was not next");
        assert!(!is_sound(&[overwritten_by(2), whole(1), whole(2)], 2 * SEGMENT), "by one that is elsewhere");
    }

    /// Guards against content that lies in files which sled never syncs.
    #[test]
    fn a_blob_is_refused() {
        let mut content = segment(0, -1, 0);
        let blob = message(KINDS_BLOB[1], 0, &8i64.to_le_bytes());
        content[SEGMENT_HEADER_BYTES..SEGMENT_HEADER_BYTES + blob.len()].copy_from_slice(&blob);
        assert!(audited(&[content], -1).unwrap_err().to_string().contains("blob"));
    }
}
