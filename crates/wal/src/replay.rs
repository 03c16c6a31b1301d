//! Reading a log at start: every record in order, and the verdict on where and why it ends (P3).
//!
//! The frames' numbers go on without holes through all segments. Where the next number is not found, the log ends,
//! if nothing of it lies behind: the rest of the segment and all later segments are searched, sector by sector, for the
//! header of a later frame. One suffices as evidence, even if its own payload is damaged: frame n + 1 is written only
//! after frame n is durable. What is left of a torn frame that was cut can stay behind when its replacement goes into
//! another segment, being longer or shorter; its number is then not the next one, and it is passed over.

use crate::files::{File, Files};
use crate::format::{self, FIRST_FRAME_OFFSET, FRAME_HEADER_BYTES, FrameHeader, SECTOR_BYTES};
use crate::format::{SEGMENT_HEADER_BYTES, SegmentHeader, SegmentHeaderError};
use crate::mutants::{Mutant, on};
use crate::prepare::{FileKind, Segment};
use crate::{SegmentNumber, WalError};
use bytes::Bytes;
use std::path::{Path, PathBuf};

/// How much is read at once.
const READ_BYTES: usize = 256 << 10;

/// What opening a log found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// How many records were replayed.
    pub records: u64,
    /// How many frames they were in, marks included.
    pub frames: u64,
    /// The log was created just now. A caller that knows it had one must treat that as damage.
    pub created: bool,
    /// The log was closed cleanly before.
    pub closed_cleanly: bool,
    /// What lay where the next frame goes: one that was being written when the process or the machine stopped, none of
    /// it acknowledged, or what a recycled file held before.
    pub cut: Option<Cut>,
}

/// The end of a log that was not closed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The segment's file.
    pub file: PathBuf,
    /// Where in the file the next frame goes, in bytes.
    pub offset: u64,
    /// Why what lies there is no frame.
    pub what: String,
}

/// Takes a record's segment and bytes, or refuses it with a reason.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(SegmentNumber, Bytes) -> Result<(), String>;

/// A segment as replay found it.
pub(crate) struct Found {
    pub(crate) number: SegmentNumber,
    pub(crate) bytes: u64,
    /// Its first frame, or the one to become its first.
    pub(crate) first_frame: u64,
}

/// Where the log ends.
pub(crate) struct End {
    pub(crate) log_id: u64,
    pub(crate) recovery: Recovery,
    pub(crate) segments: Vec<Found>,
    /// The index of the segment in which the next frame goes.
    pub(crate) segment: usize,
    /// Where in that segment.
    pub(crate) offset: u64,
    pub(crate) next_frame: u64,
    /// The lowest segment needed, as the last frame has it.
    pub(crate) first_needed: SegmentNumber,
    /// The last frame as it lies on disk, with its segment and offset.
    pub(crate) last_frame: Option<(SegmentNumber, u64, Vec<u8>)>,
}

/// Where the next frame was expected and not found.
struct Stop {
    segment: usize,
    path: PathBuf,
    offset: u64,
    /// What was found instead; nothing where no frame seems to have begun.
    what: Option<String>,
}

/// Replays the segments `numbers`, at least one and in order.
pub(crate) fn replay<F: Files>(
    files: &F,
    directory: &Path,
    numbers: &[SegmentNumber],
    sink: Sink<'_>,
) -> Result<End, WalError> {
    let first_path = FileKind::Segment.path(directory, numbers[0]);
    let mut scan = Scan {
        log_id: open_segment(files, directory, numbers[0], None)?.1,
        next_frame: (numbers[0] == SegmentNumber(1)).then_some(1),
        first_frame: None,
        recovery: Recovery::default(),
        last: None,
        sink,
    };
    let mut found = Vec::with_capacity(numbers.len());
    let mut stop: Option<Stop> = None;
    for (index, &number) in numbers.iter().enumerate() {
        if index > 0 && number != numbers[index - 1].next() {
            let missing = FileKind::Segment.path(directory, numbers[index - 1].next());
            return Err(WalError::damaged(&missing, 0, "the segment is missing"));
        }
        let (segment, _) = open_segment(files, directory, number, Some(scan.log_id))?;
        found.push((number, segment.bytes, scan.next_frame));
        let (offset, what) = scan.segment(&segment, &mut stop)?;
        stop.get_or_insert(Stop { segment: index, path: segment.path, offset, what });
    }
    let stop = stop.expect("replay is given at least one segment, and the scan of each leaves a stop");
    scan.end(files, directory, &first_path, found, stop)
}

/// Opens a segment and checks its header, which no crash can damage: it is durable before the file has its name.
/// Returns the log's id, too, which must be `log_id` where that is known.
pub(crate) fn open_segment<F: Files>(
    files: &F,
    directory: &Path,
    number: SegmentNumber,
    log_id: Option<u64>,
) -> Result<(Segment<F::File>, u64), WalError> {
    let path = FileKind::Segment.path(directory, number);
    let file = files.open(&path).map_err(|error| WalError::io("open", &path, error))?;
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let read = file.read_at(&mut bytes, 0).map_err(|error| WalError::io("read", &path, error))?;
    let header = SegmentHeader::decode(&bytes[..read]).map_err(|error| match error {
        SegmentHeaderError::NotASegment => WalError::damaged(&path, 0, "this is not the beginning of a log segment"),
        SegmentHeaderError::Checksum => WalError::damaged(&path, 0, "the segment's header has a wrong checksum"),
        SegmentHeaderError::Version(version) => {
            WalError::UnknownVersion { file: path.clone(), version, known: format::VERSION }
        }
    })?;
    if header.number != number {
        return Err(WalError::damaged(&path, 0, format!("the file holds segment {}", header.number)));
    }
    if log_id.is_some_and(|log_id| header.log_id != log_id) {
        return Err(WalError::damaged(&path, 0, "the segment belongs to another log"));
    }
    let length = file.length().map_err(|error| WalError::io("read the length of", &path, error))?;
    if length < header.bytes {
        let what = format!("the file ends here, but its header says {} bytes", header.bytes);
        return Err(WalError::damaged(&path, length, what));
    }
    Ok((Segment { number, bytes: header.bytes, path, file }, header.log_id))
}

struct Last {
    segment: SegmentNumber,
    offset: u64,
    header: FrameHeader,
}

enum Frame {
    /// The next frame, sound; its records went to the sink.
    Delivered(FrameHeader),
    /// A later frame than the next: its number.
    TooEarly(u64),
    /// No sound frame; what is wrong, if one seems to have begun.
    None(Option<String>),
}

struct Scan<'a> {
    log_id: u64,
    /// `None` before the first frame of a log whose beginning was released.
    next_frame: Option<u64>,
    /// The first frame that was replayed.
    first_frame: Option<u64>,
    recovery: Recovery,
    last: Option<Last>,
    sink: Sink<'a>,
}

impl Scan<'_> {
    /// Reads a segment to its end, and returns where the next frame was not found and why. `stop` is where the segments
    /// before stopped; a next frame found here means that they were only full.
    fn segment<T: File>(
        &mut self,
        segment: &Segment<T>,
        stop: &mut Option<Stop>,
    ) -> Result<(u64, Option<String>), WalError> {
        let mut window = Window { segment, buffer: Vec::new(), start: 0 };
        let mut offset = FIRST_FRAME_OFFSET;
        let what = loop {
            match self.frame(&mut window, offset)? {
                Frame::Delivered(header) => {
                    *stop = None;
                    self.last = Some(Last { segment: segment.number, offset, header });
                    offset += format::frame_bytes(header.payload_bytes as usize);
                }
                Frame::TooEarly(number) => return Err(self.gap(segment, stop.take(), offset, None, offset, number)),
                Frame::None(what) => break what,
            }
        };
        match self.find_later(&mut window, offset + SECTOR_BYTES)? {
            Some((later, number)) => Err(self.gap(segment, stop.take(), offset, what, later, number)),
            None => Ok((offset, what)),
        }
    }

    /// Reads the frame at `offset`.
    fn frame<T: File>(&mut self, window: &mut Window<'_, T>, offset: u64) -> Result<Frame, WalError> {
        let segment = window.segment;
        let bytes = window.at(offset, FRAME_HEADER_BYTES)?;
        let Some(header) = FrameHeader::decode(bytes) else {
            let begun = bytes.first().is_some_and(|&byte| byte != 0);
            return Ok(Frame::None(begun.then(|| "no readable frame header".into())));
        };
        if !self.is_of_this_life(&header, segment) {
            return Ok(Frame::None(None));
        }
        match self.next_frame {
            Some(next) if header.number > next => return Ok(Frame::TooEarly(header.number)),
            // Torn when it was written, cut, and its number given to a shorter frame that fitted the segment before.
            Some(next) if header.number < next => return Ok(Frame::None(None)),
            _ => {}
        }
        let payload_offset = offset + FRAME_HEADER_BYTES as u64;
        let payload_bytes = header.payload_bytes as usize;
        let payload = window.at(payload_offset, payload_bytes)?;
        let sound = crc32c::crc32c(payload) == header.payload_checksum || on(Mutant::ChecksumIgnored);
        if payload.len() < payload_bytes || !sound {
            return Ok(Frame::None(Some(first_bad_record(&header, payload, payload_offset))));
        }
        // A copy of exactly the frame: who keeps a slice of a record keeps no more than its frame alive.
        self.deliver(segment, offset, &header, &Bytes::copy_from_slice(payload))?;
        self.next_frame = Some(header.number + 1);
        self.first_frame.get_or_insert(header.number);
        self.recovery.frames += 1;
        self.recovery.records += u64::from(header.records);
        Ok(Frame::Delivered(header))
    }

    fn deliver<T: File>(
        &mut self,
        segment: &Segment<T>,
        offset: u64,
        header: &FrameHeader,
        payload: &Bytes,
    ) -> Result<(), WalError> {
        let mut at = 0;
        for record in 0..header.records as usize {
            // The frame is sound, so a bad record in it was damaged before it was written.
            let range = format::record_at(payload, at).map_err(|what| {
                WalError::damaged(&segment.path, offset, format!("record {record} of frame {} {what}", header.number))
            })?;
            at = range.end;
            (self.sink)(segment.number, payload.slice(range)).map_err(|reason| WalError::Refused {
                file: segment.path.clone(),
                offset,
                record,
                reason,
            })?;
        }
        if at != payload.len() {
            let what = format!("frame {} holds more than its {} records", header.number, header.records);
            return Err(WalError::damaged(&segment.path, offset, what));
        }
        Ok(())
    }

    /// The first later frame of this log's life at or after `from` in the segment: its offset and number.
    fn find_later<T: File>(&self, window: &mut Window<'_, T>, from: u64) -> Result<Option<(u64, u64)>, WalError> {
        let segment = window.segment;
        let mut offset = from;
        while offset < segment.bytes && !on(Mutant::DamageCut) {
            if let Some(header) = FrameHeader::decode(window.at(offset, FRAME_HEADER_BYTES)?)
                && self.is_of_this_life(&header, segment)
                && self.next_frame.is_none_or(|next| header.number > next)
            {
                return Ok(Some((offset, header.number)));
            }
            offset += SECTOR_BYTES;
        }
        Ok(None)
    }

    fn is_of_this_life<T>(&self, header: &FrameHeader, segment: &Segment<T>) -> bool {
        header.log_id == self.log_id && header.segment == segment.number
    }

    /// The next frame is not at `offset` of `segment`, where `what` was found, but frame `number` lies at `later`.
    /// Where segments before had stopped at a frame that seems to have begun, that is where the damage is.
    fn gap<T>(
        &self,
        segment: &Segment<T>,
        stop: Option<Stop>,
        offset: u64,
        what: Option<String>,
        later: u64,
        number: u64,
    ) -> WalError {
        let (path, offset, what) = match stop {
            Some(stop) if stop.what.is_some() || later == FIRST_FRAME_OFFSET => (stop.path, stop.offset, stop.what),
            _ => (segment.path.clone(), offset, what),
        };
        let missing = self.next_frame.map_or_else(|| "a frame".into(), |next| format!("frame {next}"));
        let what = what.unwrap_or_else(|| "nothing written".into());
        let follows = segment.path.file_name().unwrap_or_default().to_string_lossy();
        WalError::damaged(
            &path,
            offset,
            format!("{what} where {missing} should be, but frame {number} follows at byte {later} of {follows}"),
        )
    }

    fn end<F: Files>(
        self,
        files: &F,
        directory: &Path,
        first_path: &Path,
        found: Vec<(SegmentNumber, u64, Option<u64>)>,
        stop: Stop,
    ) -> Result<End, WalError> {
        let next_frame = self.next_frame.unwrap_or(1);
        let first_frame = self.first_frame.unwrap_or(1);
        let (first_needed, first_needed_frame) = match &self.last {
            Some(last) => (last.header.first_needed, last.header.first_needed_frame),
            None => (SegmentNumber(1), 1),
        };
        if found[0].0 > first_needed || first_frame > first_needed_frame {
            let what = format!(
                "the log begins here with frame {first_frame}, but frame {first_needed_frame} of segment {first_needed} is still needed"
            );
            return Err(WalError::damaged(first_path, 0, what));
        }
        let mut recovery = self.recovery;
        recovery.cut = stop.what.map(|what| Cut { file: stop.path, offset: stop.offset, what });
        recovery.closed_cleanly = self.last.as_ref().is_some_and(|last| last.header.closed);
        let last_frame = match self.last {
            None => None,
            Some(last) => {
                let (segment, _) = open_segment(files, directory, last.segment, Some(self.log_id))?;
                let mut window = Window { segment: &segment, buffer: Vec::new(), start: 0 };
                let bytes = FRAME_HEADER_BYTES + last.header.payload_bytes as usize;
                Some((last.segment, last.offset, window.at(last.offset, bytes)?.to_vec()))
            }
        };
        let segments = found.into_iter().map(|(number, bytes, next)| Found {
            number,
            bytes,
            first_frame: next.unwrap_or(first_frame),
        });
        Ok(End {
            log_id: self.log_id,
            recovery,
            segments: segments.collect(),
            segment: stop.segment,
            offset: stop.offset,
            next_frame,
            first_needed,
            last_frame,
        })
    }
}

/// Says where in a damaged payload, at `payload_offset` of its file, the damage begins.
fn first_bad_record(header: &FrameHeader, payload: &[u8], payload_offset: u64) -> String {
    let frame = header.number;
    let mut at = 0;
    for record in 0..header.records {
        match format::record_at(payload, at) {
            Ok(range) => at = range.end,
            Err(what) => {
                let offset = payload_offset + at as u64;
                return format!("record {record} of {} (at byte {offset}) that {what}", header.records);
            }
        }
    }
    format!("a frame {frame} with a wrong checksum")
}

/// A segment read in large pieces.
struct Window<'a, T> {
    segment: &'a Segment<T>,
    buffer: Vec<u8>,
    start: u64,
}

impl<T: File> Window<'_, T> {
    /// The `bytes` at `offset`, fewer where the segment ends before.
    fn at(&mut self, offset: u64, bytes: usize) -> Result<&[u8], WalError> {
        let bytes = (bytes as u64).min(self.segment.bytes.saturating_sub(offset)) as usize;
        if offset < self.start || offset + bytes as u64 > self.start + self.buffer.len() as u64 {
            let room = self.segment.bytes.saturating_sub(offset).min(READ_BYTES.max(bytes) as u64);
            self.buffer.resize(room as usize, 0);
            let read = self.segment.file.read_at(&mut self.buffer, offset);
            let read = read.map_err(|error| WalError::io("read", &self.segment.path, error))?;
            self.buffer.truncate(read);
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        let to = (from + bytes).min(self.buffer.len());
        Ok(self.buffer.get(from..to).unwrap_or_default())
    }
}
