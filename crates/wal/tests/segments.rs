//! Rotation, release, recycling and records that are too large for what is ready.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{directory, frames, open, record, records, replayed, tiny};
use std::path::PathBuf;
use wal::testing::{Operation, SimFiles, Survival};
use wal::{Options, RECORD_BYTES_MAX, Records, SegmentNumber, Wal, WalError};

/// A log that has rotated and recycled its segments several times: the disk, and the first record kept.
fn recycled(background: bool, closed: bool) -> (SimFiles, usize) {
    let files = SimFiles::new();
    let (mut wal, _) = open(&files, Options { background, ..tiny() }).unwrap();
    let mut kept = 0;
    for index in 0..200 {
        let segment = wal.append(&records(index..index + 1)).unwrap();
        if index % 20 == 19 {
            wal.release_before(segment).unwrap();
            assert_eq!(wal.first_segment(), segment);
            kept = index;
        }
    }
    if closed {
        wal.close().unwrap();
    }
    (files, kept)
}

fn numbers_of(files: &SimFiles, extension: &str) -> Vec<PathBuf> {
    files.paths().into_iter().filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// Guards against a log that grows for ever, or that fills a new file where it has an old one.
#[test]
fn released_segments_are_used_again() {
    for background in [false, true] {
        let (files, kept) = recycled(background, true);
        let replayed = replayed(&files).unwrap();
        assert!(replayed[0] <= kept && replayed.ends_with(&(kept..200).collect::<Vec<_>>()), "{replayed:?}");
        assert!(numbers_of(&files, "spare").len() <= 2, "{:?}", files.paths());
        assert_eq!(numbers_of(&files, "tmp"), Vec::<PathBuf>::new());
    }
    let (files, _) = recycled(false, true);
    let (wal, _) = open(&files, tiny()).unwrap();
    let (created, used) = (files.count(Operation::Create), wal.current_segment().0);
    assert!(created < used, "{created} files for {used} segments");
}

/// Guards against taking a frame of the file's earlier life for one of this: the end of the log is before them.
#[test]
fn frames_of_a_recycled_files_earlier_life_are_not_replayed() {
    let (files, kept) = recycled(false, false);
    let current = &numbers_of(&files, "wal")[..];
    let stale = frames(&files).into_iter().filter(|frame| {
        let bytes = files.read(&frame.path).unwrap();
        let of_frame = u64::from_le_bytes(bytes[frame.start + 16..frame.start + 24].try_into().unwrap());
        let of_file = u64::from_le_bytes(bytes[24..32].try_into().unwrap());
        current.contains(&frame.path) && of_frame < of_file
    });
    assert!(stale.count() > 0, "the test needs stale frames");
    let restarted = files.restart(Survival::Everything);
    assert!(replayed(&restarted).unwrap().ends_with(&(kept..200).collect::<Vec<_>>()));
}

/// Guards against stale frames that hide damage: in recycled files, too, a flipped byte is noticed or does not matter.
#[test]
fn a_flipped_byte_in_a_recycled_log_is_damage_or_does_not_matter() {
    let (files, _) = recycled(false, true);
    let all = replayed(&files.duplicate()).unwrap();
    let mut damaged = 0;
    for path in numbers_of(&files, "wal") {
        let bytes = files.read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x80;
            let files = files.duplicate();
            files.replace(&path, bytes);
            match replayed(&files) {
                Ok(left) => assert_eq!(left, all, "{} byte {at}", path.display()),
                Err(WalError::Damaged { .. }) => damaged += 1,
                Err(error) => panic!("{} byte {at}: {error}", path.display()),
            }
        }
    }
    let covered: usize = all.iter().map(|&index| 64 + 8 + record(index).len()).sum();
    assert!(damaged >= covered, "{damaged} of at least {covered} bytes that count were noticed");
}

/// Guards against more disk work for a group than its one write and one sync.
#[test]
fn a_frame_is_one_write_and_one_sync() {
    let files = SimFiles::new();
    let large = Options { first_segment_bytes: 1 << 20, segment_bytes: 1 << 20, frame_bytes_max: 1 << 16, ..tiny() };
    let (mut wal, _) = open(&files, large).unwrap();
    let before = files.steps();
    for index in 0..100 {
        wal.append(&records(index..index + 3)).unwrap();
    }
    assert_eq!(files.steps() - before, 200);
    wal.append(&Records::new()).unwrap();
    assert_eq!(files.steps() - before, 200, "nothing to append is nothing to write");
}

/// Guards against a release that takes the segment being written, or that comes back after a restart.
#[test]
fn a_release_stops_at_the_current_segment_and_lasts() {
    let (files, _) = recycled(false, true);
    let (mut wal, _) = open(&files, tiny()).unwrap();
    let current = wal.current_segment();
    wal.release_before(SegmentNumber(u64::MAX)).unwrap();
    assert_eq!((wal.first_segment(), wal.current_segment()), (current, current));
    assert!(wal.bytes() <= 8192);
    wal.release_before(SegmentNumber(1)).unwrap();
    wal.append(&records(200..201)).unwrap();
    drop(wal);
    let (wal, replayed) = open(&files, tiny()).unwrap();
    assert_eq!(wal.first_segment(), current);
    assert_eq!(replayed.last(), Some(&(current, 200)));
}

fn large_record(bytes: usize) -> Records {
    let mut records = Records::new();
    records.push_with(|out| out.extend((0..bytes).map(|at| at as u8)));
    records
}

fn lengths(files: &SimFiles) -> Result<Vec<usize>, WalError> {
    let mut lengths = Vec::new();
    Wal::open(files.clone(), directory(), tiny(), &mut |_, bytes| {
        lengths.push(bytes.len());
        Ok(())
    })?;
    Ok(lengths)
}

/// Guards against a record that fits no ready segment: a larger one is made, the ready one stays empty, and a crash in
/// the middle leaves a log that goes on.
#[test]
fn a_record_larger_than_the_ready_segment_gets_one_of_its_own_size() {
    let whole = SimFiles::new();
    let write = |files: &SimFiles| -> Result<usize, WalError> {
        let mut written = 0;
        let (mut wal, _) = open(files, tiny())?;
        for bytes in [100, 50_000, 100, 9_000, 100] {
            match wal.append(&large_record(bytes)) {
                Ok(_) => written += 1,
                Err(_) => return Ok(written),
            }
        }
        wal.close().map(|()| written)
    };
    assert_eq!(write(&whole).unwrap(), 5);
    assert_eq!(lengths(&whole).unwrap(), [100, 50_000, 100, 9_000, 100]);
    for step in 0..whole.steps() {
        let files = SimFiles::new();
        files.power_off_at(step);
        let written = write(&files).unwrap_or(0);
        for seed in 0..4 {
            let files = files.restart(Survival::Random(seed));
            let left = lengths(&files).unwrap_or_else(|error| panic!("step {step}, seed {seed}: {error}"));
            assert!(
                left.len() >= written && [100, 50_000, 100, 9_000, 100].starts_with(&left),
                "step {step}: {left:?}"
            );
            let (mut wal, _) =
                Wal::open(files.clone(), directory(), tiny(), &mut |_, _| Ok(())).map(|wal| (wal, ())).unwrap();
            wal.append(&large_record(20_000)).unwrap();
            wal.append(&large_record(7)).unwrap();
            drop(wal);
            assert!(lengths(&files).unwrap().ends_with(&[20_000, 7]));
        }
    }
}

/// Guards against replaying what a recycled file held before, where no frame number tells: in a first segment that stayed
/// empty because a record was too long for it.
#[test]
fn an_empty_recycled_first_segment_holds_nothing() {
    let (files, _) = recycled(false, true);
    let mut wal = Wal::open(files.clone(), directory(), tiny(), &mut |_, _| Ok(())).unwrap();
    // Until the segment made ready is one that was released.
    let begun = wal.current_segment();
    while wal.append(&large_record(1000)).unwrap() == begun {}
    let (empty, stale) = (SegmentNumber(wal.current_segment().0 + 1), frames(&files));
    let path = directory().join(format!("{:012}.wal", empty.0));
    assert!(stale.iter().any(|frame| frame.path == path && frame.start == 512), "the test needs a stale first frame");
    let segment = wal.append(&large_record(20_000)).unwrap();
    assert!(segment > empty);
    wal.release_before(empty).unwrap();
    assert_eq!(wal.first_segment(), empty);
    drop(wal);
    assert_eq!(lengths(&files).unwrap(), [20_000]);
}

/// A log of one segment with a single sector left, whose next frame, too long for that, was torn in the second segment:
/// its header is on disk and its payload is not.
fn torn_in_the_next_segment() -> SimFiles {
    let template = SimFiles::new();
    let (mut wal, _) = open(&template, tiny()).unwrap();
    wal.append(&large_record(6 * 512 - 72)).unwrap();
    drop(wal);
    let append = |files: &SimFiles| {
        let mut wal = Wal::open(files.clone(), directory(), tiny(), &mut |_, _| Ok(())).unwrap();
        wal.append(&large_record(1200)).map(|_| files.steps())
    };
    let last_sync = append(&template.duplicate()).unwrap() - 1;
    for seed in 0.. {
        let files = template.duplicate();
        files.power_off_at(last_sync);
        append(&files).unwrap_err();
        let files = files.restart(Survival::Random(seed));
        let begun = frames(&files).iter().any(|frame| frame.path == directory().join("000000000002.wal"));
        if begun && lengths(&files.duplicate()).unwrap().len() == 1 {
            return files;
        }
    }
    unreachable!("one of all seeds keeps the header and not the payload");
}

/// Guards against taking the rest of a torn frame for damage once its number was given to another frame: a shorter one in
/// the segment before, or one as long in its own place.
#[test]
fn the_rest_of_a_torn_frame_does_not_matter() {
    for then in [[10, 20, 30], [10, 1200, 1200], [1200, 10, 20], [5000, 10, 1200]] {
        let files = torn_in_the_next_segment();
        let mut expected = lengths(&files).unwrap();
        for bytes in then {
            let mut wal = Wal::open(files.clone(), directory(), tiny(), &mut |_, _| Ok(())).unwrap();
            wal.append(&large_record(bytes)).unwrap();
            expected.push(bytes);
            drop(wal);
            assert_eq!(lengths(&files).unwrap(), expected, "{then:?}");
        }
    }
}

/// Guards against a log that breaks, or writes something unreadable, when it is given too much.
#[test]
fn a_record_that_is_too_long_is_refused_and_changes_nothing() {
    let files = SimFiles::new();
    let (mut wal, _) = open(&files, tiny()).unwrap();
    let mut too_long = records(0..3);
    too_long.push_with(|out| out.resize(out.len() + RECORD_BYTES_MAX + 1, 0));
    let error = wal.append(&too_long).unwrap_err();
    assert!(matches!(error, WalError::RecordTooLong { .. }), "{error}");
    wal.append(&records(0..1)).unwrap();
    drop(wal);
    assert_eq!(replayed(&files).unwrap(), [0]);
}

/// Guards against sizes that only work as long as nobody changes them.
#[test]
fn a_log_goes_on_with_other_sizes() {
    let files = SimFiles::new();
    let mut next = 0;
    for (segment_bytes, spares_max) in [(8192, 2), (40_960, 2), (4096, 0), (1, 5), (8192, 1)] {
        let options = Options { segment_bytes, spares_max, ..tiny() };
        let (mut wal, replayed) = open(&files, options).unwrap();
        assert!(numbers_of(&files, "spare").len() <= spares_max, "{:?}", files.paths());
        assert_eq!(replayed.last().map_or(0, |&(_, index)| index + 1), next);
        for _ in 0..60 {
            wal.append(&records(next..next + 1)).unwrap();
            next += 1;
        }
        wal.release_before(wal.current_segment()).unwrap();
        wal.append(&records(next..next + 1)).unwrap();
        next += 1;
        wal.close().unwrap();
    }
}

/// Guards against a helper thread that still works in the directory when the log is gone and the next one opens it.
#[test]
fn a_dropped_log_leaves_no_thread_at_work() {
    let files = SimFiles::new();
    // The first segment is filled with one sync and gets its header with another; the next one has to wait.
    files.hold_syncs();
    files.let_syncs_through(2);
    let (wal, _) = open(&files, Options { background: true, ..tiny() }).unwrap();
    files.wait_for_held_sync();
    std::thread::scope(|scope| {
        let dropped = scope.spawn(|| {
            drop(wal);
            numbers_of(&files, "tmp")
        });
        files.release_syncs();
        assert_eq!(dropped.join().unwrap(), Vec::<PathBuf>::new());
    });
}

/// Guards against taking other people's files for the log's, or removing them.
#[test]
fn foreign_files_are_left_alone() {
    let (files, _) = recycled(false, true);
    let before = replayed(&files).unwrap();
    let foreign =
        ["README", "1.wal", "000000000001.wal.bak", "00000000000x.wal", ".lock"].map(|name| directory().join(name));
    for path in &foreign {
        files.replace(path, b"not a log".to_vec());
    }
    assert_eq!(replayed(&files).unwrap(), before);
    assert!(foreign.iter().all(|path| files.read(path).is_some()));
}
