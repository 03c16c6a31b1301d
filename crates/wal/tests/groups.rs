//! Group commit: what waits becomes one frame and one sync; acknowledgements come in order; an end is clean.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{open, records, replayed, tiny};
use std::sync::mpsc::{Receiver, channel};
use wal::testing::{Operation, SimFiles};
use wal::{Options, SegmentNumber, WalError, Writer};

/// Segments so large that no rotation adds syncs of its own.
fn roomy() -> Options {
    Options { first_segment_bytes: 1 << 20, segment_bytes: 1 << 20, frame_bytes_max: 8000, ..tiny() }
}

fn spawn(files: &SimFiles, options: Options) -> (Writer, Receiver<WalError>) {
    let (wal, _) = open(files, options).unwrap();
    let (failures, failed) = channel();
    (Writer::spawn(wal, move |error| failures.send(error).unwrap()).unwrap(), failed)
}

/// Guards against a sync for each submission, and against acknowledging one before its own sync returned.
#[test]
fn what_waits_while_a_sync_runs_shares_the_next() {
    let files = SimFiles::new();
    let (writer, _failed) = spawn(&files, roomy());
    let (done, acknowledged) = channel();
    let before = files.count(Operation::Sync);
    files.hold_syncs();
    for index in 0..10 {
        let done = done.clone();
        writer.submit(records(index..index + 1), move |_| done.send(index).unwrap());
        if index == 0 {
            files.wait_for_held_sync();
        }
    }
    assert!(acknowledged.try_recv().is_err(), "acknowledged before it was durable");
    assert!(writer.counters().waiting_bytes > 0);
    files.release_syncs();
    let order: Vec<usize> = acknowledged.iter().take(10).collect();
    assert_eq!(order, (0..10).collect::<Vec<_>>());
    assert_eq!(files.count(Operation::Sync) - before, 2);
    let counters = writer.counters();
    assert_eq!((counters.groups, counters.submissions, counters.records, counters.waiting_bytes), (2, 10, 10, 0));
}

/// Guards against frames without bound, and against submissions that change places where a group is split.
#[test]
fn a_group_that_is_too_long_becomes_several_frames_in_order() {
    let files = SimFiles::new();
    let (writer, _failed) = spawn(&files, Options { frame_bytes_max: 1500, ..roomy() });
    let (done, acknowledged) = channel();
    files.hold_syncs();
    let mut index = 0;
    for count in [1, 2, 9, 1, 30, 3] {
        let range = index..index + count;
        index = range.end;
        let done = done.clone();
        writer.submit(records(range.clone()), move |_| done.send(range).unwrap());
    }
    files.release_syncs();
    let mut next = 0;
    for range in acknowledged.iter().take(6) {
        assert_eq!(range.start, next);
        next = range.end;
    }
    writer.shutdown().unwrap();
    assert!(writer.counters().groups > 6, "{:?}", writer.counters());
    assert_eq!(replayed(&files).unwrap(), (0..index).collect::<Vec<_>>());
}

/// Guards against a shutdown that forgets what waits, or that looks like a crash at the next start.
#[test]
fn shutdown_writes_what_waits_and_closes_cleanly() {
    let files = SimFiles::new();
    let (writer, failed) = spawn(&files, roomy());
    let (done, acknowledged) = channel();
    files.hold_syncs();
    for index in 0..5 {
        let done = done.clone();
        writer.submit(records(index..index + 1), move |_| done.send(index).unwrap());
    }
    let other = writer.clone();
    let shutdown = std::thread::spawn(move || other.shutdown());
    files.wait_for_held_sync();
    files.release_syncs();
    shutdown.join().unwrap().unwrap();
    writer.submit(records(5..6), |_| panic!("acknowledged after the end"));
    writer.release_before(SegmentNumber(9));
    writer.shutdown().unwrap();
    drop(done);
    assert_eq!(acknowledged.iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(failed.recv().is_err(), "a clean end is no failure");
    let (wal, replayed) = open(&files, roomy()).unwrap();
    assert!(wal.recovery().closed_cleanly);
    assert_eq!(replayed.len(), 5);
}

/// Guards against a thread that lives on, or a log left open, when nobody can submit any more.
#[test]
fn dropping_the_last_handle_closes_the_log() {
    let files = SimFiles::new();
    let (writer, failed) = spawn(&files, roomy());
    let (done, acknowledged) = channel();
    writer.clone().submit(records(0..1), move |_| done.send(()).unwrap());
    drop(writer);
    acknowledged.recv().unwrap();
    assert!(failed.recv().is_err(), "the closure goes when the thread ends");
    assert!(open(&files, roomy()).unwrap().0.recovery().closed_cleanly);
}

/// Guards against a log without a thread that acknowledges before the sync or later than it could, stands still when it is
/// called from an acknowledgement, or passes for closed when its owner crashed.
#[test]
fn without_a_thread_everything_is_done_before_submitting_returns() {
    let files = SimFiles::new();
    let (wal, _) = open(&files, tiny()).unwrap();
    let writer = Writer::inline(wal, |error| panic!("{error}"));
    let (done, acknowledged) = channel();
    for index in 0..50 {
        let (files, done) = (files.clone(), done.clone());
        let syncs = files.count(Operation::Sync);
        writer.submit(records(index..index + 1), move |segment| {
            assert!(files.count(Operation::Sync) > syncs, "acknowledged before it was durable");
            done.send(segment).unwrap();
        });
        assert_eq!(acknowledged.try_iter().count(), 1);
    }
    let (again, done) = (writer.clone(), done.clone());
    writer.submit(records(50..51), move |_| again.submit(records(51..52), move |segment| done.send(segment).unwrap()));
    writer.release_before(acknowledged.try_recv().unwrap());
    assert!(writer.counters().first_segment > SegmentNumber(5));
    drop(writer);
    let (wal, replayed) = open(&files, tiny()).unwrap();
    let last = replayed.last().map(|(_, index)| *index);
    assert_eq!((wal.recovery().closed_cleanly, last), (false, Some(51)));

    let writer = Writer::inline(wal, |error| panic!("{error}"));
    writer.shutdown().unwrap();
    writer.submit(records(52..53), |_| panic!("acknowledged after the end"));
    assert!(open(&files, tiny()).unwrap().0.recovery().closed_cleanly);
}

/// Guards against releases that are lost, wait for the next submission, or overtake it.
#[test]
fn a_release_needs_no_submission() {
    let files = SimFiles::new();
    let (writer, _failed) = spawn(&files, tiny());
    let (done, acknowledged) = channel();
    for index in 0..100 {
        let done = done.clone();
        writer.submit(records(index..index + 1), move |segment| done.send(segment).unwrap());
    }
    let last = acknowledged.iter().take(100).last().unwrap();
    assert!(last > SegmentNumber(5));
    let before = writer.counters();
    assert_eq!((before.first_segment, before.current_segment), (SegmentNumber(1), last));
    writer.release_before(last);
    writer.release_before(SegmentNumber(2));
    writer.shutdown().unwrap();
    let after = writer.counters();
    assert_eq!(after.first_segment, last);
    assert!(after.retained_bytes < before.retained_bytes);
    assert_eq!(replayed(&files).unwrap().last(), Some(&99));
    assert_eq!(open(&files, tiny()).unwrap().0.first_segment(), last);
}

/// Guards against orders of locks and wake-ups that stand still: many threads at once, the helper thread, tiny segments.
#[test]
fn many_threads_submit_and_everything_comes_back_in_each_ones_order() {
    const THREADS: usize = 8;
    const EACH: usize = 200;
    let files = SimFiles::new();
    let wal =
        wal::Wal::open(files.clone(), common::directory(), Options { background: true, ..tiny() }, &mut |_, _| Ok(()));
    let writer = Writer::spawn(wal.unwrap(), |error| panic!("{error}")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let writer = writer.clone();
            scope.spawn(move || {
                let (done, acknowledged) = channel();
                for index in 0..EACH {
                    let mut records = wal::Records::new();
                    records.push(&[thread as u8, index as u8]);
                    let done = done.clone();
                    writer.submit(records, move |_| done.send(index).unwrap());
                    if index % 3 == 0 {
                        acknowledged.recv().unwrap();
                    }
                }
                drop(done);
                assert_eq!(acknowledged.iter().last(), Some(EACH - 1));
            });
        }
    });
    writer.shutdown().unwrap();
    let mut next = [0usize; THREADS];
    wal::Wal::open(files, common::directory(), tiny(), &mut |_, bytes| {
        let (thread, index) = (bytes[0] as usize, bytes[1] as usize);
        assert_eq!(index, next[thread] % 256);
        next[thread] += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(next, [EACH; THREADS]);
}
