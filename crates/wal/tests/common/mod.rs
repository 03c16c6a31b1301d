//! What the log's tests share: tiny segments, records that tell their place, and a look at what a log holds.

#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use wal::testing::SimFiles;
use wal::{Options, Records, SegmentNumber, Wal, WalError};

/// The log's directory on the simulated disk.
pub(crate) fn directory() -> &'static Path {
    Path::new("/log")
}

/// Segments of a page or two, frames of at most three sectors' payload, every step in the same order in each run.
pub(crate) fn tiny() -> Options {
    Options {
        segment_bytes: 8192,
        first_segment_bytes: 4096,
        frame_bytes_max: 1500,
        spares_max: 2,
        fill_step_bytes: 4096,
        background: false,
        log_id: Some(42),
    }
}

/// Record `index`: its number, then some bytes that depend on it, up to about two sectors.
pub(crate) fn record(index: usize) -> Vec<u8> {
    let mut bytes = (index as u64).to_le_bytes().to_vec();
    bytes.extend((0..(index * 397) % 900).map(|at| (at + index) as u8));
    bytes
}

/// The records of the numbers in `range`.
pub(crate) fn records(range: std::ops::Range<usize>) -> Records {
    let mut records = Records::new();
    range.for_each(|index| records.push(&record(index)));
    records
}

/// A record that was replayed: its segment and number.
pub(crate) type Replayed = (SegmentNumber, usize);

/// The log and the (segment, record number) pairs it replayed; panics if a record's bytes are not what was written.
pub(crate) fn open(files: &SimFiles, options: Options) -> Result<(Wal<SimFiles>, Vec<Replayed>), WalError> {
    let mut replayed = Vec::new();
    let wal = Wal::open(files.clone(), directory(), options, &mut |segment, bytes| {
        let index = u64::from_le_bytes(bytes[..8].try_into().expect("every record begins with its number")) as usize;
        assert_eq!(bytes, record(index), "record {index} is not what was written");
        replayed.push((segment, index));
        Ok(())
    })?;
    Ok((wal, replayed))
}

/// The record numbers that a log replays.
pub(crate) fn replayed(files: &SimFiles) -> Result<Vec<usize>, WalError> {
    Ok(open(files, tiny())?.1.into_iter().map(|(_, index)| index).collect())
}

/// A frame found in a file by its magic: where it begins and ends, without what fills its last sector.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FoundFrame {
    pub(crate) path: PathBuf,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// All frames on the disk, in the order of files and offsets; on a disk without recycled files that is their order.
pub(crate) fn frames(files: &SimFiles) -> Vec<FoundFrame> {
    let mut found = Vec::new();
    for path in files.paths() {
        let bytes = files.read(&path).expect("the path was just listed");
        for start in (0..bytes.len()).step_by(512) {
            if bytes[start..].starts_with(b"RLfr") {
                let payload = u32::from_le_bytes(bytes[start + 48..start + 52].try_into().expect("four bytes"));
                found.push(FoundFrame { path: path.clone(), start, end: start + 64 + payload as usize });
            }
        }
    }
    found
}
