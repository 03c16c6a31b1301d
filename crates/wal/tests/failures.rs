//! P2: after a failed write or sync nothing is acknowledged and nothing is tried again; a full disk says so.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{open, records, replayed, tiny};
use std::io::ErrorKind;
use std::sync::mpsc::channel;
use wal::testing::{Operation, SimFiles, Survival};
use wal::{Options, WalError, Writer};

/// Guards against an acknowledgement, or another try, after a write or sync that failed.
#[test]
fn after_a_failure_nothing_more_is_taken() {
    for operation in [Operation::Write, Operation::Sync] {
        let files = SimFiles::new();
        let (mut wal, _) = open(&files, tiny()).unwrap();
        wal.append(&records(0..1)).unwrap();
        files.fail(operation, 0, ErrorKind::Other);
        let error = wal.append(&records(1..2)).unwrap_err();
        assert!(matches!(error, WalError::Io { .. }), "{error}");
        let steps = files.steps();
        assert!(matches!(wal.append(&records(1..2)), Err(WalError::Failed)));
        assert!(matches!(wal.append(&records(1..1)), Err(WalError::Failed)));
        wal.release_before(wal.current_segment()).unwrap();
        assert!(matches!(wal.close(), Err(WalError::Failed)));
        assert_eq!(files.steps(), steps, "{operation:?}: something was written after the failure");
    }
}

/// Guards against believing the page cache after a failed sync: the next process reads the frame, the disk does not hold
/// it, and a sync alone would report success without writing it.
#[test]
fn what_a_failed_sync_left_in_the_cache_is_written_again_before_it_counts() {
    let files = SimFiles::new();
    let (mut wal, _) = open(&files, tiny()).unwrap();
    wal.append(&records(0..1)).unwrap();
    files.fail(Operation::Sync, 0, ErrorKind::Other);
    wal.append(&records(1..2)).unwrap_err();
    drop(wal);
    assert_eq!(replayed(&files.restart(Survival::Everything)).unwrap(), [0], "the disk should not hold the frame");

    let seen = replayed(&files).unwrap();
    assert_eq!(seen, [0, 1], "the cache should show the frame");
    assert_eq!(replayed(&files.restart(Survival::Nothing)).unwrap(), seen);
}

/// Guards against failures while a segment is prepared or released that are swallowed, or that lose something.
#[test]
fn a_failure_at_any_operation_is_told_and_loses_nothing() {
    for operation in [
        Operation::Create,
        Operation::Write,
        Operation::Sync,
        Operation::Rename,
        Operation::Remove,
        Operation::SyncDirectory,
    ] {
        for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
            for nth in 0.. {
                let files = SimFiles::new();
                files.fail(operation, nth, kind);
                let mut acknowledged = 0;
                let outcome = (|| {
                    let (mut wal, _) = open(&files, tiny())?;
                    for index in 0..60 {
                        wal.append(&records(index..index + 1))?;
                        acknowledged = index + 1;
                        if index % 20 == 19 {
                            wal.release_before(wal.current_segment())?;
                        }
                    }
                    wal.close()
                })();
                let happened = files.count(operation) > nth;
                let case = format!("{operation:?} {nth} {kind:?}: {outcome:?}");
                match (operation, kind) {
                    // The first segment is needed at once. The next one is tried once more if the disk was full.
                    (Operation::Create, ErrorKind::StorageFull) if nth > 0 => assert!(outcome.is_ok(), "{case}"),
                    // A directory's sync is not: no later one could prove anything.
                    (Operation::Create | Operation::SyncDirectory, _) if nth <= 1 => {
                        assert!(outcome.is_err(), "{case}");
                    }
                    _ => assert!(happened || outcome.is_ok(), "{case}"),
                }
                for survival in [Survival::Nothing, Survival::Random(nth)] {
                    let replayed = replayed(&files.restart(survival)).unwrap_or_else(|error| panic!("{case}: {error}"));
                    let end = replayed.last().map_or(0, |last| last + 1);
                    assert!(end >= acknowledged, "{case}: ends at {end}, acknowledged {acknowledged}");
                }
                if !happened {
                    break;
                }
            }
        }
    }
}

/// Guards against a full disk that looks like any other failure, that loses something, or that stays full for ever:
/// with room, the same log goes on.
#[test]
fn a_full_disk_says_so_and_the_log_goes_on_once_there_is_room() {
    for background in [false, true] {
        let options = Options { background, ..tiny() };
        let files = SimFiles::new();
        files.set_capacity(Some(40_000));
        let (mut wal, _) = open(&files, options.clone()).unwrap();
        let mut acknowledged = 0;
        let error = loop {
            match wal.append(&records(acknowledged..acknowledged + 1)) {
                Ok(_) => acknowledged += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, WalError::DiskFull { .. }), "{error}");
        assert!(error.to_string().starts_with("disk full: cannot fill /log/"), "{error}");
        assert!(error.to_string().ends_with("free some space, then start again"), "{error}");
        drop(wal);
        assert!(files.paths().iter().all(|path| path.extension().unwrap() == "wal"), "{:?}", files.paths());

        let all: Vec<usize> = (0..acknowledged).collect();
        assert_eq!(replayed(&files).unwrap(), all, "a full disk can still be read");
        files.set_capacity(None);
        let (mut wal, _) = open(&files, options).unwrap();
        for index in acknowledged..acknowledged + 40 {
            wal.append(&records(index..index + 1)).unwrap();
        }
    }
}

/// Guards against a log that needs room for what it has already: released segments are used again.
#[test]
fn a_log_that_is_released_goes_on_without_more_room() {
    let files = SimFiles::new();
    files.set_capacity(Some(30_000));
    let (mut wal, _) = open(&files, tiny()).unwrap();
    for index in 0..300 {
        let segment = wal.append(&records(index..index + 1)).unwrap();
        wal.release_before(segment).unwrap();
    }
}

/// Guards against a done that is called for something that is not durable, and against a failure that is told twice or
/// not at all.
#[test]
fn the_writer_acknowledges_nothing_after_a_failed_sync_and_tells_once() {
    let files = SimFiles::new();
    let (wal, _) = open(&files, tiny()).unwrap();
    let (failures, failed) = channel();
    let writer = Writer::spawn(wal, move |error| failures.send(error).unwrap()).unwrap();
    let (done, acknowledged) = channel();
    let submit = |index: usize| {
        let done = done.clone();
        writer.submit(records(index..index + 1), move |_| done.send(index).unwrap());
    };
    submit(0);
    assert_eq!(acknowledged.recv().unwrap(), 0);

    files.hold_syncs();
    files.fail(Operation::Sync, 0, ErrorKind::Other);
    submit(1);
    files.wait_for_held_sync();
    submit(2);
    files.release_syncs();
    assert!(matches!(failed.recv().unwrap(), WalError::Io { operation: "sync", .. }));
    submit(3);
    assert!(matches!(writer.shutdown(), Err(WalError::Failed)));
    assert!(matches!(writer.shutdown(), Err(WalError::Failed)));
    submit(4);
    drop(done);
    assert_eq!(acknowledged.iter().collect::<Vec<_>>(), Vec::<usize>::new());
    assert!(failed.recv().is_err(), "told once, and then the closure is gone");
}

/// Guards against a log that stands still without a word because a callback panicked.
#[test]
fn a_panic_in_a_done_ends_the_log_and_is_told() {
    let (wal, _) = open(&SimFiles::new(), tiny()).unwrap();
    let (failures, failed) = channel();
    let writer = Writer::spawn(wal, move |error| failures.send(error).unwrap()).unwrap();
    writer.submit(records(0..1), |_| panic!("a bug in a callback"));
    assert!(matches!(failed.recv().unwrap(), WalError::Panicked { .. }));
    assert!(matches!(writer.shutdown(), Err(WalError::Failed)));
}

/// Guards against a failure that is told twice or never, or an acknowledgement after it, where no thread writes the log.
#[test]
fn without_a_thread_a_failure_is_told_once_and_nothing_follows() {
    let files = SimFiles::new();
    let (wal, _) = open(&files, tiny()).unwrap();
    let (failures, failed) = channel();
    let writer = Writer::inline(wal, move |error| failures.send(error).unwrap());
    files.fail(Operation::Sync, 0, ErrorKind::Other);
    writer.submit(records(0..1), |_| panic!("acknowledged"));
    let steps = files.steps();
    writer.submit(records(1..2), |_| panic!("acknowledged after a failure"));
    assert!(matches!(writer.shutdown(), Err(WalError::Failed)));
    assert_eq!(files.steps(), steps, "something was written after the failure");
    assert_eq!(failed.iter().count(), 1);
}
