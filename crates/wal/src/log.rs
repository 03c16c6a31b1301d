//! The log as a value for one thread: open, append, release, close.

use crate::files::{File, Files};
use crate::format::{
    self, FIRST_FRAME_OFFSET, FRAME_HEADER_BYTES, FrameHeader, PAGE_BYTES, RECORD_BYTES_MAX, SECTOR_BYTES,
};
use crate::mutants::{Mutant, on};
use crate::prepare::{FileKind, Preparer, Segment, Workshop};
use crate::records::Records;
use crate::replay::{self, End, Found, Recovery, Sink};
use crate::{SegmentNumber, WalError};
use bytes::Bytes;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// Sizes and habits of a log. All can change from one run to the next.
#[derive(Clone, Debug)]
pub struct Options {
    /// The size of a segment once the log has grown, in bytes.
    pub segment_bytes: u64,
    /// The size of a new log's first segment; each next one has twice the size until `segment_bytes`. Small, because
    /// the first one is filled with zeros before the log can be used.
    pub first_segment_bytes: u64,
    /// Groups longer than this are split into frames, each synced in turn. A longer record is a frame of its own.
    pub frame_bytes_max: usize,
    /// How many released segments of full size are kept to be used again.
    pub spares_max: usize,
    /// How much of a new segment is filled with zeros between two syncs.
    pub fill_step_bytes: u64,
    /// Whether segments are prepared and released by a helper thread. Without it the writer does that itself, in the
    /// same order in every run: for tests.
    pub background: bool,
    /// The id of a log to be created; drawn at random if not given. For tests.
    pub log_id: Option<u64>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 << 20,
            first_segment_bytes: 4 << 20,
            frame_bytes_max: 1 << 20,
            spares_max: 2,
            fill_step_bytes: 1 << 20,
            background: true,
            log_id: None,
        }
    }
}

impl Options {
    /// The same with sizes that can be: whole pages, room for a frame, the first segment not larger than the others.
    fn rounded(mut self) -> Options {
        self.segment_bytes = self.segment_bytes.max(PAGE_BYTES).next_multiple_of(PAGE_BYTES);
        self.first_segment_bytes =
            self.first_segment_bytes.clamp(PAGE_BYTES, self.segment_bytes).next_multiple_of(PAGE_BYTES);
        self.fill_step_bytes = self.fill_step_bytes.max(PAGE_BYTES).next_multiple_of(PAGE_BYTES);
        self.frame_bytes_max = self.frame_bytes_max.clamp(1, RECORD_BYTES_MAX);
        self
    }
}

/// What a log has done since it was opened.
#[derive(Clone, Copy, Default)]
pub(crate) struct Work {
    pub(crate) frames: u64,
    pub(crate) records: u64,
    /// Bytes of frames, without what fills their last pages.
    pub(crate) bytes: u64,
}

/// A write-ahead log, open for appending.
///
/// Dropping it without [`Wal::close`] is what a crash does: nothing acknowledged is lost, but the next start takes
/// damage to the last frame for a torn tail.
pub struct Wal<F: Files> {
    options: Options,
    preparer: Preparer<F>,
    log_id: u64,
    /// The segment being written; its entry is the last of `live`.
    current: Segment<F::File>,
    /// Where in it the next frame goes.
    position: u64,
    /// From the lowest segment not yet released to the current one.
    live: VecDeque<Found>,
    /// Ready segments after the current one, found at start.
    ahead: VecDeque<Segment<F::File>>,
    next_frame: u64,
    first_needed: SegmentNumber,
    /// The frame being built: room for its header, then its payload.
    frame: Vec<u8>,
    work: Work,
    /// The last frame is the mark of a clean close.
    marked: bool,
    /// A write or sync failed (P2).
    failed: bool,
    recovery: Recovery,
}

impl<F: Files> Wal<F> {
    /// Opens the log in `directory`, or creates one where there is none, and gives every record to `replay` in order.
    ///
    /// When it returns, everything replayed is durable. Memory use does not grow with the log: one frame and one read
    /// buffer at a time. A record's bytes are a slice of its frame and keep that alive.
    ///
    /// # Errors
    ///
    /// Damage, an unknown format, a record that `replay` refused, or a failed file operation. None of them changes what
    /// the log holds.
    pub fn open(
        files: F,
        directory: &Path,
        options: Options,
        replay: &mut dyn FnMut(SegmentNumber, Bytes) -> Result<(), String>,
    ) -> Result<Wal<F>, WalError> {
        let options = options.rounded();
        let io = |operation, error| WalError::io(operation, directory, error);
        files.create_directory(directory).map_err(|error| io("create", error))?;
        let (mut segments, mut spares) = (Vec::new(), Vec::new());
        for name in files.list(directory).map_err(|error| io("list", error))? {
            match FileKind::parse(&name) {
                Some((FileKind::Segment, number)) => segments.push(number),
                Some((FileKind::Spare, number)) => spares.push(FileKind::Spare.path(directory, number)),
                Some((FileKind::Unfinished, number)) => {
                    let path = FileKind::Unfinished.path(directory, number);
                    files.remove(&path).map_err(|error| WalError::io("remove", &path, error))?;
                }
                None => tracing::warn!(name, directory = %directory.display(), "not a file of the log; left alone"),
            }
        }
        segments.sort_unstable();
        spares.sort_unstable();
        let wal = if segments.is_empty() {
            if let Some(spare) = spares.first() {
                // A segment is released only while a later one is in use.
                return Err(WalError::damaged(spare, 0, "there is a released segment, but none in use"));
            }
            Wal::create(files, directory, options)?
        } else {
            Wal::recover(&files, directory, options, &segments, spares, replay)?
        };
        if let Some(cut) = &wal.recovery.cut
            && !wal.recovery.closed_cleanly
        {
            tracing::info!(file = %cut.file.display(), offset = cut.offset, what = cut.what, "the log was not closed; it ends here");
        }
        Ok(wal)
    }

    fn create(files: F, directory: &Path, options: Options) -> Result<Wal<F>, WalError> {
        let log_id = match options.log_id {
            Some(log_id) => log_id,
            None => getrandom::u64().map_err(|error| {
                WalError::io("draw a random id for", directory, std::io::Error::other(error.to_string()))
            })?,
        };
        let number = SegmentNumber(1);
        let mut workshop = Workshop::new(files, directory, log_id, &options);
        let Some(current) = workshop.prepare(number, options.first_segment_bytes)? else {
            return Err(WalError::Failed);
        };
        let end = End {
            log_id,
            recovery: Recovery { created: true, ..Recovery::default() },
            segments: vec![Found { number, bytes: current.bytes, first_frame: 1 }],
            segment: 0,
            offset: FIRST_FRAME_OFFSET,
            next_frame: 1,
            first_needed: number,
            last_frame: None,
        };
        Wal::start(options, workshop, end, current, VecDeque::new())
    }

    fn recover(
        files: &F,
        directory: &Path,
        options: Options,
        numbers: &[SegmentNumber],
        spares: Vec<PathBuf>,
        sink: Sink<'_>,
    ) -> Result<Wal<F>, WalError> {
        let mut end = replay::replay(files, directory, numbers, sink)?;
        let open = |number| Ok(replay::open_segment(files, directory, number, Some(end.log_id))?.0);
        if let Some((number, offset, frame)) = end.last_frame.as_ref().filter(|_| !on(Mutant::CacheBelieved)) {
            // P2: the sync of this frame may have failed, or never have run. The page cache can then show what the disk
            // does not hold and believe it clean, so a sync alone would prove nothing. Of all others the sync returned.
            let segment: Segment<F::File> = open(*number)?;
            let write = segment.file.write_at(frame, *offset);
            write.map_err(|error| WalError::io("write", &segment.path, error))?;
            segment.file.sync_data().map_err(|error| WalError::io("sync", &segment.path, error))?;
        }
        let current = open(end.segments[end.segment].number)?;
        let ahead: Result<VecDeque<_>, WalError> =
            end.segments.split_off(end.segment + 1).iter().map(|found| open(found.number)).collect();
        let ahead = ahead?;
        let mut workshop = Workshop::new(files.clone(), directory, end.log_id, &options);
        for spare in spares {
            workshop.adopt_spare(spare)?;
        }
        files.sync_directory(directory).map_err(|error| WalError::io("sync", directory, error))?;
        Wal::start(options, workshop, end, current, ahead)
    }

    fn start(
        options: Options,
        workshop: Workshop<F>,
        end: End,
        current: Segment<F::File>,
        ahead: VecDeque<Segment<F::File>>,
    ) -> Result<Wal<F>, WalError> {
        let preparer = if options.background { Preparer::spawn(workshop)? } else { Preparer::inline(workshop) };
        let mut wal = Wal {
            options,
            preparer,
            log_id: end.log_id,
            current,
            position: end.offset,
            live: end.segments.into(),
            ahead,
            next_frame: end.next_frame,
            first_needed: end.first_needed,
            frame: Vec::new(),
            work: Work::default(),
            marked: end.recovery.closed_cleanly,
            failed: false,
            recovery: end.recovery,
        };
        wal.hand_over_released();
        wal.order_next();
        Ok(wal)
    }

    /// What opening the log found.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The lowest segment not released.
    pub fn first_segment(&self) -> SegmentNumber {
        self.live.front().map_or(self.current.number, |first| first.number)
    }

    /// The segment being written.
    pub fn current_segment(&self) -> SegmentNumber {
        self.current.number
    }

    /// How many bytes of disk hold records that are not released.
    pub fn bytes(&self) -> u64 {
        let all: u64 = self.live.iter().map(|segment| segment.bytes).sum();
        all - self.current.bytes + self.position
    }

    pub(crate) fn work(&self) -> Work {
        self.work
    }

    /// Appends `records`; they are durable when it returns. The segment returned holds the first of them; if there are
    /// more than fit one frame, others can lie in later segments.
    ///
    /// # Errors
    ///
    /// After a failed write or sync every later call fails, too (P2). A record that is too long changes nothing.
    pub fn append(&mut self, records: &Records) -> Result<SegmentNumber, WalError> {
        if records.encoded().len() <= self.options.frame_bytes_max {
            return self.append_group(std::iter::once(records));
        }
        check_lengths(records)?;
        let mut first = None;
        let mut rest = records.encoded();
        while !rest.is_empty() {
            let (bytes, count) = leading_records(rest, self.options.frame_bytes_max);
            self.begin_frame();
            self.frame.extend_from_slice(&rest[..bytes]);
            let segment = self.write_frame(count, false)?;
            first.get_or_insert(segment);
            rest = &rest[bytes..];
        }
        Ok(first.unwrap_or(self.current.number))
    }

    /// Appends several submissions as one frame; together they must not be longer than a frame may be.
    pub(crate) fn append_group<'a>(
        &mut self,
        group: impl Iterator<Item = &'a Records>,
    ) -> Result<SegmentNumber, WalError> {
        self.begin_frame();
        let mut count = 0;
        for records in group {
            check_lengths(records)?;
            self.frame.extend_from_slice(records.encoded());
            count += records.len() as u32;
        }
        if count == 0 {
            return if self.failed { Err(WalError::Failed) } else { Ok(self.current.number) };
        }
        self.write_frame(count, false)
    }

    /// How long a group may be, in bytes, to become one frame.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        self.options.frame_bytes_max
    }

    /// Says that the records of all segments below `number` are not needed any longer. Their files are used again or
    /// removed. The current segment always stays.
    ///
    /// # Errors
    ///
    /// As [`Wal::append`]: what is no longer needed is itself written to the log, before anything is removed.
    pub fn release_before(&mut self, number: SegmentNumber) -> Result<(), WalError> {
        if self.note_release(number) {
            self.begin_frame();
            self.write_frame(0, false)?;
        }
        Ok(())
    }

    /// Notes a release, to take effect with the next frame. Returns whether it releases anything.
    pub(crate) fn note_release(&mut self, number: SegmentNumber) -> bool {
        self.first_needed = self.first_needed.max(number.min(self.current.number));
        self.first_segment() < self.first_needed
    }

    /// Closes the log with a mark, so that the next start can tell damage to the last records.
    ///
    /// # Errors
    ///
    /// As [`Wal::append`].
    pub fn close(mut self) -> Result<(), WalError> {
        if self.failed {
            return Err(WalError::Failed);
        }
        if !self.marked {
            self.begin_frame();
            self.write_frame(0, true)?;
        }
        Ok(())
    }

    fn begin_frame(&mut self) {
        if self.frame.capacity() > 4 * self.options.frame_bytes_max {
            // Once in a while a record is far longer than the others; its memory is not kept.
            self.frame = Vec::new();
        }
        self.frame.clear();
        self.frame.resize(FRAME_HEADER_BYTES, 0);
    }

    /// Writes the frame that was built and makes it durable.
    fn write_frame(&mut self, records: u32, closed: bool) -> Result<SegmentNumber, WalError> {
        if self.failed {
            return Err(WalError::Failed);
        }
        let outcome = self.try_write_frame(records, closed);
        // P2: whatever failed, nothing is tried again.
        self.failed = outcome.is_err() && !on(Mutant::FailureForgotten);
        outcome
    }

    fn try_write_frame(&mut self, records: u32, closed: bool) -> Result<SegmentNumber, WalError> {
        self.preparer.check()?;
        if on(Mutant::ReleasedEarly) {
            self.hand_over_released();
        }
        let payload_bytes = self.frame.len() - FRAME_HEADER_BYTES;
        let frame_bytes = format::frame_bytes(payload_bytes);
        if self.position + frame_bytes > self.current.bytes {
            self.rotate(frame_bytes)?;
        }
        let first_needed_frame = self.live.iter().find(|segment| segment.number >= self.first_needed);
        let header = FrameHeader {
            log_id: self.log_id,
            segment: self.current.number,
            number: self.next_frame,
            first_needed: self.first_needed,
            first_needed_frame: first_needed_frame.map_or(self.next_frame, |segment| segment.first_frame),
            payload_bytes: payload_bytes as u32,
            records,
            payload_checksum: crc32c::crc32c(&self.frame[FRAME_HEADER_BYTES..]),
            closed,
        };
        self.frame[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
        // Zeros up to the end of the page: the kernel never has to read a page in order to change a part of it.
        let end = (self.position + frame_bytes).next_multiple_of(PAGE_BYTES).min(self.current.bytes);
        self.frame.resize((end - self.position) as usize, 0);
        let Segment { file, path, .. } = &self.current;
        file.write_at(&self.frame, self.position).map_err(|error| WalError::io("write", path, error))?;
        if !on(Mutant::UnsyncedAcknowledged) {
            // P2: never tried again.
            let synced = file.sync_data().or_else(|e| if on(Mutant::SyncRetried) { file.sync_data() } else { Err(e) });
            synced.map_err(|error| WalError::io("sync", path, error))?;
        }
        self.position += frame_bytes;
        self.next_frame += 1;
        self.marked = closed;
        self.work.frames += 1;
        self.work.records += u64::from(records);
        self.work.bytes += frame_bytes;
        self.hand_over_released();
        Ok(self.current.number)
    }

    /// Goes on in the next segment that has room for `frame_bytes`. One that is too small stays empty.
    fn rotate(&mut self, frame_bytes: u64) -> Result<(), WalError> {
        let needed = (FIRST_FRAME_OFFSET + frame_bytes).next_multiple_of(PAGE_BYTES);
        loop {
            let next = match self.ahead.pop_front() {
                Some(next) => next,
                None => self.take_next(needed)?,
            };
            let (number, bytes) = (next.number, next.bytes);
            self.live.push_back(Found { number, bytes, first_frame: self.next_frame });
            self.current = next;
            self.position = FIRST_FRAME_OFFSET;
            if needed <= bytes {
                break;
            }
        }
        self.order_next();
        Ok(())
    }

    /// The ordered segment. If the disk was full when it was ordered, there may be room for it by now.
    fn take_next(&mut self, needed: u64) -> Result<Segment<F::File>, WalError> {
        if self.preparer.is_ordered() {
            match self.preparer.take() {
                Err(WalError::DiskFull { .. }) => {}
                outcome => return outcome,
            }
        }
        self.preparer.order(self.current.number.next(), self.next_bytes().max(needed));
        self.preparer.take()
    }

    /// Has the next segment made ready, if none is.
    fn order_next(&mut self) {
        if self.ahead.is_empty() && !self.preparer.is_ordered() {
            self.preparer.order(self.current.number.next(), self.next_bytes());
        }
    }

    fn next_bytes(&self) -> u64 {
        (self.current.bytes * 2).min(self.options.segment_bytes)
    }

    /// Gives away the segments that the last durable frame no longer needs.
    fn hand_over_released(&mut self) {
        while let Some(first) = self.live.front()
            && first.number < self.first_needed
            && first.number < self.current.number
        {
            self.preparer.release(first.number, first.bytes);
            self.live.pop_front();
        }
    }
}

fn check_lengths(records: &Records) -> Result<(), WalError> {
    match records.longest_bytes() {
        bytes if bytes > RECORD_BYTES_MAX => Err(WalError::RecordTooLong { bytes, max: RECORD_BYTES_MAX }),
        _ => Ok(()),
    }
}

/// How many bytes and records of `encoded` go into the next frame: as many as fit `bytes_max`, and at least one.
fn leading_records(encoded: &[u8], bytes_max: usize) -> (usize, u32) {
    let (mut bytes, mut count) = (0, 0);
    while bytes < encoded.len() {
        let next = bytes + format::record_bytes(&encoded[bytes..]);
        if count > 0 && next > bytes_max {
            break;
        }
        bytes = next;
        count += 1;
    }
    (bytes, count)
}

/// Frames are sectors of their own, and pages whole sectors.
const _: () = assert!(PAGE_BYTES.is_multiple_of(SECTOR_BYTES));
