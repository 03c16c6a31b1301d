//! P3: what was durable comes back exactly, or the log says where it is damaged. A small log is cut and changed at
//! every offset.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{directory, frames, open, records, replayed, tiny};
use std::path::{Path, PathBuf};
use wal::WalError;
use wal::testing::SimFiles;

const RECORDS: usize = 20;

/// A log of a few segments with a record per frame, closed or left as a crash leaves it.
fn log(closed: bool) -> SimFiles {
    let files = SimFiles::new();
    let (mut wal, _) = open(&files, tiny()).unwrap();
    for index in 0..RECORDS {
        wal.append(&records(index..index + 1)).unwrap();
    }
    assert!(wal.current_segment().0 >= 3, "the log should span several segments");
    if closed {
        wal.close().unwrap();
    }
    assert_eq!(replayed(&files.duplicate()).unwrap(), (0..RECORDS).collect::<Vec<_>>());
    files
}

fn changed(files: &SimFiles, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<usize>, WalError> {
    let files = files.duplicate();
    let mut bytes = files.read(path).unwrap();
    change(&mut bytes);
    files.replace(path, bytes);
    replayed(&files)
}

fn is_damage(outcome: &Result<Vec<usize>, WalError>) -> bool {
    matches!(outcome, Err(WalError::Damaged { .. }))
}

/// Guards against replaying over damage: a wrong byte in a record, a frame, a header, wherever it is.
#[test]
fn a_flipped_byte_anywhere_is_damage_or_only_cuts_the_torn_tail() {
    let all: Vec<usize> = (0..RECORDS).collect();
    for closed in [false, true] {
        let files = log(closed);
        let frames = frames(&files);
        let last = frames.last().unwrap();
        for path in files.paths() {
            let length = files.read(&path).unwrap().len();
            for at in 0..length {
                let outcome = changed(&files, &path, |bytes| bytes[at] ^= 0x21);
                let frame = frames.iter().find(|frame| frame.path == path && (frame.start..frame.end).contains(&at));
                let case = format!("closed {closed}, {} byte {at}: {outcome:?}", path.display());
                match frame {
                    // The end of a closed log is a mark without records.
                    Some(frame) if frame == last && closed => assert_eq!(outcome.unwrap(), all, "{case}"),
                    Some(frame) if frame == last => assert_eq!(outcome.unwrap(), all[..RECORDS - 1], "{case}"),
                    Some(_) => assert!(is_damage(&outcome), "{case}"),
                    None if at < 64 => assert!(is_damage(&outcome), "{case}"),
                    // Between the frames lies nothing that counts.
                    None => assert_eq!(outcome.unwrap(), all, "{case}"),
                }
            }
        }
    }
}

/// Guards against taking a shortened file for a log that ends there: segments have their length from the beginning.
#[test]
fn a_file_cut_anywhere_is_damage() {
    for closed in [false, true] {
        let files = log(closed);
        for path in files.paths() {
            for length in 0..files.read(&path).unwrap().len() {
                let outcome = changed(&files, &path, |bytes| bytes.truncate(length));
                assert!(is_damage(&outcome), "{} cut to {length}: {outcome:?}", path.display());
            }
        }
    }
}

/// Guards against a hole in the middle: zeros from some offset to the end of a file, as a disk that lost writes shows.
/// Only what nothing follows can pass for a torn tail, and then what is left is whole frames from the beginning.
#[test]
fn zeros_from_an_offset_on_are_damage_or_leave_a_prefix() {
    for closed in [false, true] {
        let files = log(closed);
        let frames = frames(&files);
        let with_last = &frames.last().unwrap().path;
        for path in files.paths() {
            let length = files.read(&path).unwrap().len();
            for at in (64..length).step_by(11) {
                let outcome = changed(&files, &path, |bytes| bytes[at..].fill(0));
                let case = format!("closed {closed}, {} from {at}: {outcome:?}", path.display());
                let lost = frames.iter().filter(|frame| frame.path == path && frame.end > at).count();
                match outcome {
                    Ok(left) => {
                        assert!(lost == 0 || &path == with_last, "{case}");
                        assert_eq!(left, (0..left.len()).collect::<Vec<_>>(), "{case}");
                        // A frame whose last bytes are zeros anyway is not lost.
                        let expected = frames.len() - lost;
                        assert!(
                            (expected..=expected + 1).contains(&(left.len() + usize::from(closed))) || closed,
                            "{case}"
                        );
                    }
                    Err(WalError::Damaged { .. }) => assert!(lost > 0 && &path != with_last, "{case}"),
                    Err(_) => panic!("{case}"),
                }
            }
        }
    }
}

/// Guards against a log that goes on without one of its files, wherever it was: also the first one.
#[test]
fn a_missing_segment_is_damage() {
    for released in [false, true] {
        let files = log(true);
        if released {
            let (mut wal, _) = open(&files, tiny()).unwrap();
            wal.release_before(wal::SegmentNumber(2)).unwrap();
            wal.close().unwrap();
        }
        let segments: Vec<PathBuf> = files
            .paths()
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
            .collect();
        let last = &frames(&files).into_iter().rfind(|frame| segments.contains(&frame.path)).unwrap().path;
        for path in segments.iter().filter(|path| *path < last) {
            let files = files.duplicate();
            files.lose(path);
            let outcome = replayed(&files);
            assert!(is_damage(&outcome), "released {released}, without {}: {outcome:?}", path.display());
            if path != &segments[0] {
                let error = outcome.unwrap_err().to_string();
                assert!(error.contains(&format!("{} at byte 0: the segment is missing", path.display())), "{error}");
            }
        }
    }
}

/// Guards against a log whose released beginning hides a lost one: the first segment kept, or all, read as zeros.
#[test]
fn a_lost_beginning_is_damage() {
    let files = log(false);
    let (mut wal, _) = open(&files, tiny()).unwrap();
    wal.release_before(wal::SegmentNumber(2)).unwrap();
    wal.close().unwrap();
    let paths = files.paths();
    let first = paths.iter().find(|path| path.ends_with("000000000002.wal")).unwrap();
    let outcome = changed(&files, first, |bytes| bytes[512..].fill(0));
    assert!(is_damage(&outcome), "{outcome:?}");
    for path in &paths {
        let mut bytes = files.read(path).unwrap();
        bytes[512..].fill(0);
        files.replace(path, bytes);
    }
    let outcome = replayed(&files);
    assert!(is_damage(&outcome), "{outcome:?}");
}

/// Guards against files that were exchanged, renamed, copied or brought from elsewhere by hand.
#[test]
fn a_segment_in_another_ones_place_is_damage() {
    let files = log(true);
    let paths = files.paths();
    for from in &paths {
        for to in paths.iter().filter(|to| *to != from) {
            let files = files.duplicate();
            files.replace(to, files.read(from).unwrap());
            let outcome = replayed(&files);
            assert!(is_damage(&outcome), "{} as {}: {outcome:?}", from.display(), to.display());
        }
    }
    let other = SimFiles::new();
    let (wal, _) = open(&other, wal::Options { log_id: Some(43), ..tiny() }).unwrap();
    wal.close().unwrap();
    files.replace(&paths[1], other.read(&paths[1]).unwrap());
    assert!(is_damage(&replayed(&files)));
}

/// Guards against losing the log's whole content without a word: released files prove that there was one.
#[test]
fn spares_without_a_segment_are_damage() {
    let files = SimFiles::new();
    files.replace(&directory().join("000000000007.spare"), vec![0; 8192]);
    let outcome = replayed(&files);
    assert!(is_damage(&outcome), "{outcome:?}");
}

/// Guards against reading, or calling damaged, what a newer program wrote.
#[test]
fn an_unknown_version_is_refused_as_such() {
    let files = log(true);
    let path = &files.paths()[0];
    let outcome = changed(&files, path, |bytes| {
        bytes[8] = 2;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..64]);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    });
    match outcome {
        Err(error @ WalError::UnknownVersion { version: 2, known: 1, .. }) => {
            assert_eq!(
                error.to_string(),
                "/log/000000000001.wal has log format 2, this program knows 1; nothing was changed: start the program that wrote it"
            );
        }
        other => panic!("{other:?}"),
    }
}

/// Guards against reports that leave the operator searching: file, offset, what is wrong and what to do.
#[test]
fn damage_is_reported_precisely() {
    let files = log(false);
    let path = &files.paths()[0];
    let frame = &frames(&files)[1];
    let outcome = changed(&files, path, |bytes| bytes[frame.start + 80] ^= 1);
    assert_eq!(
        outcome.unwrap_err().to_string(),
        "write-ahead log damaged: /log/000000000001.wal at byte 1024: record 0 of 1 (at byte 1088) that has a wrong \
         checksum where frame 2 should be, but frame 3 follows at byte 1536 of 000000000001.wal; nothing was changed: \
         keep the directory for inspection and start with an empty one, to be rebuilt from the other replicas"
    );
}

/// Guards against a refusal that is swallowed: whoever replays has the last word.
#[test]
fn a_refused_record_ends_the_opening() {
    let files = log(true);
    let outcome = wal::Wal::open(files, directory(), tiny(), &mut |_, bytes| {
        if bytes[0] == 3 { Err("unknown kind".into()) } else { Ok(()) }
    });
    let Err(error) = outcome else { panic!("opened") };
    assert!(error.to_string().contains("was refused: unknown kind"), "{error}");
}
