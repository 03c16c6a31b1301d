//! P2: the power goes off at every step the log takes, and whatever of the unsynced survives, every acknowledged record
//! is there afterwards, in order, and nothing that was not submitted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{directory, open, record, records, tiny};
use proptest::prelude::*;
use wal::testing::{SimFiles, Survival};
use wal::{Options, SegmentNumber, Wal, WalError};

/// One thing done to a log.
#[derive(Clone, Copy, Debug)]
enum Action {
    /// Append this many records at once.
    Append(usize),
    /// Release all segments before the current one.
    Release,
    /// Close the log and open it again.
    Reopen,
    /// Drop the log without closing, as a killed process does, and open it again.
    Kill,
}

/// What a run promised until it ended.
#[derive(Debug, Default)]
struct Promise {
    /// Records given to `append`.
    submitted: usize,
    /// Records of which `append` returned.
    acknowledged: usize,
    /// Records before this one may be gone: their segments were released.
    released: usize,
    /// The segment of each acknowledged record's group, as `append` returned it.
    segments: Vec<SegmentNumber>,
}

/// Runs `actions` until one fails or all are done.
fn run(files: &SimFiles, options: &Options, actions: &[Action]) -> (Promise, Result<(), WalError>) {
    let mut promise = Promise::default();
    let outcome = try_run(files, options, actions, &mut promise);
    (promise, outcome)
}

fn try_run(files: &SimFiles, options: &Options, actions: &[Action], promise: &mut Promise) -> Result<(), WalError> {
    let (mut wal, _) = open(files, options.clone())?;
    for action in actions {
        match action {
            Action::Append(count) => {
                let range = promise.submitted..promise.submitted + count;
                promise.submitted = range.end;
                let segment = wal.append(&records(range.clone()))?;
                promise.acknowledged = range.end;
                promise.segments.extend(range.map(|_| segment));
            }
            Action::Release => {
                let current = wal.current_segment();
                promise.released = promise.segments.partition_point(|&segment| segment < current);
                wal.release_before(current)?;
            }
            Action::Reopen | Action::Kill => {
                if matches!(action, Action::Reopen) {
                    wal.close()?;
                } else {
                    drop(wal);
                }
                let (reopened, replayed) = open(files, options.clone())?;
                check_replayed(promise, &replayed);
                wal = reopened;
            }
        }
    }
    wal.close()
}

fn check_replayed(promise: &Promise, replayed: &[(SegmentNumber, usize)]) {
    let first = replayed.first().map_or(0, |&(_, index)| index);
    let indices: Vec<usize> = replayed.iter().map(|&(_, index)| index).collect();
    assert_eq!(indices, (first..first + indices.len()).collect::<Vec<_>>(), "a hole in the middle; {promise:?}");
    if promise.acknowledged > promise.released {
        assert!(!replayed.is_empty() && first <= promise.released, "begins at {first}; {promise:?}");
    }
    if !replayed.is_empty() {
        let end = first + indices.len();
        assert!(promise.acknowledged <= end && end <= promise.submitted, "ends at {end}; {promise:?}");
    }
    for &(segment, index) in replayed {
        if let Some(&appended) = promise.segments.get(index) {
            assert!(appended <= segment, "record {index} is in segment {segment}, append said {appended}");
        }
    }
}

/// Starts on a disk after a crash: what it replays keeps the promise, and it goes on as a log does. Fails only if the
/// power goes off again.
fn start_again(files: &SimFiles, options: &Options, promise: &Promise) -> Result<(), WalError> {
    let (mut wal, replayed) = open(files, options.clone())?;
    check_replayed(promise, &replayed);
    let end = replayed.last().map_or(promise.acknowledged, |&(_, index)| index + 1);
    wal.append(&records(end..end + 2))?;
    wal.close()?;
    let (wal, again) = open(files, options.clone())?;
    assert!(wal.recovery().closed_cleanly);
    let expected: Vec<usize> = replayed.iter().map(|&(_, index)| index).chain([end, end + 1]).collect();
    // Opening finishes a release that the crash interrupted; the next one no longer replays those segments.
    let again: Vec<usize> = again.into_iter().map(|(_, index)| index).collect();
    assert!(
        expected.ends_with(&again) && again[0] <= promise.released.max(expected[0]),
        "{expected:?} became {again:?}"
    );
    Ok(())
}

const SURVIVALS: [Survival; 5] =
    [Survival::Nothing, Survival::Everything, Survival::Random(1), Survival::Random(2), Survival::Random(3)];

/// Appends of all sizes, rotations, releases, recycling, clean and unclean restarts.
fn script() -> Vec<Action> {
    let mut actions = Vec::new();
    for round in 0..45 {
        actions.push(Action::Append(1 + round % 4));
        match round % 15 {
            6 | 11 => actions.push(Action::Release),
            9 => actions.push(Action::Reopen),
            13 => actions.push(Action::Kill),
            _ => {}
        }
    }
    actions
}

/// Guards against any order of writes, syncs and renames in which a crash loses, tears or invents a record.
#[test]
fn a_crash_at_every_step_keeps_what_was_acknowledged() {
    let (options, actions) = (tiny(), script());
    let whole = SimFiles::new();
    let (promise, outcome) = run(&whole, &options, &actions);
    outcome.unwrap();
    assert!(promise.released > 0 && promise.segments.last().unwrap().0 > 6, "the script should rotate and release");
    let spare_reused = whole.paths().len() < 7;
    assert!(spare_reused, "{:?}", whole.paths());
    for step in 0..whole.steps() {
        let files = SimFiles::new();
        files.power_off_at(step);
        let (promise, outcome) = run(&files, &options, &actions);
        assert!(outcome.is_err() || step + 20 > whole.steps(), "step {step}: nothing noticed that the power was off");
        for survival in SURVIVALS {
            start_again(&files.restart(survival), &options, &promise)
                .unwrap_or_else(|error| panic!("step {step}, {survival:?}: {error}"));
        }
    }
}

/// Guards against a start that makes things worse: the power goes off a second time, at every step of coming back.
#[test]
fn a_crash_at_every_step_of_the_start_after_a_crash_keeps_what_was_acknowledged() {
    let (options, actions) = (tiny(), script());
    let whole = SimFiles::new();
    run(&whole, &options, &actions).1.unwrap();
    for step in (0..whole.steps()).step_by(3) {
        let files = SimFiles::new();
        files.power_off_at(step);
        let (promise, _) = run(&files, &options, &actions);
        for first in [Survival::Everything, Survival::Random(step)] {
            for second_step in 0.. {
                let files = files.restart(first);
                files.power_off_at(second_step);
                let replayed = open(&files, options.clone());
                let survived_start = files.steps() <= second_step;
                if let Ok((_, replayed)) = &replayed {
                    check_replayed(&promise, replayed);
                }
                drop(replayed);
                for second in [Survival::Nothing, Survival::Random(second_step)] {
                    start_again(&files.restart(second), &options, &promise).unwrap_or_else(|error| {
                        panic!("step {step}, {first:?}, then {second_step}, {second:?}: {error}")
                    });
                }
                if survived_start {
                    break;
                }
            }
        }
    }
}

/// Guards against trusting the page cache: a process that was killed in the middle of a write finds the frame there,
/// acts on it, and then the power goes off.
#[test]
fn what_was_replayed_after_a_kill_survives_a_power_cut() {
    let (options, actions) = (tiny(), script());
    let whole = SimFiles::new();
    run(&whole, &options, &actions).1.unwrap();
    for step in 0..whole.steps() {
        let files = SimFiles::new();
        files.power_off_at(step);
        let (_promise, _died) = run(&files, &options, &actions);
        let killed = files.duplicate();
        let (mut wal, before) = open(&killed, options.clone()).unwrap_or_else(|error| panic!("step {step}: {error}"));
        // Goes on in what is ready; with a full disk no later step makes the earlier ones durable by the way.
        killed.set_capacity(Some(0));
        let mut next = before.last().map_or(0, |&(_, index)| index + 1);
        while wal.append(&records(next..next + 1)).is_ok() {
            next += 1;
        }
        let released = wal.first_segment();
        drop(wal);
        let (_, after) = open(&killed.restart(Survival::Nothing), options.clone()).unwrap();
        let kept: Vec<usize> = after.iter().map(|&(_, index)| index).collect();
        let needed = before.iter().find(|&&(segment, _)| segment >= released).map_or(0, |&(_, index)| index);
        assert!(kept.ends_with(&(needed..next).collect::<Vec<_>>()), "step {step}: {needed} to {next} became {kept:?}");
    }
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        12 => (1usize..6).prop_map(Action::Append),
        2 => Just(Action::Release),
        1 => Just(Action::Reopen),
        1 => Just(Action::Kill),
    ]
}

proptest! {
    /// Guards against combinations that nobody thought of, with the helper thread and without, over several lives with
    /// other sizes each.
    #[test]
    fn any_crash_keeps_what_was_acknowledged(
        lives in prop::collection::vec((prop::collection::vec(action(), 1..40), 0u64..120, any::<u64>(), 1u64..6, any::<bool>()), 1..4),
    ) {
        let mut files = SimFiles::new();
        for (actions, step, seed, pages, background) in lives {
            let options = Options { segment_bytes: 4096 * pages, background, ..tiny() };
            let (wal, before) = open(&files, options.clone()).unwrap();
            // Opening finishes a release that the life before had made durable.
            let first_kept = before.iter().find(|&&(segment, _)| segment >= wal.first_segment());
            drop(wal);
            // Records go on where the life before ended, so that a mixture of two lives would be seen.
            let begin = before.last().map_or(0, |&(_, index)| index + 1);
            files.power_off_at(files.steps() + step);
            let mut promise = Promise {
                submitted: begin,
                acknowledged: begin,
                released: first_kept.map_or(begin, |&(_, index)| index),
                segments: vec![SegmentNumber(0); begin],
            };
            let _died = try_run(&files, &options, &actions, &mut promise);
            files = files.restart(Survival::Random(seed));
            let (_, replayed) = open(&files, options).unwrap();
            check_replayed(&promise, &replayed);
        }
    }
}

/// Guards against a format that only the simulated disk can read back.
#[test]
fn a_log_on_real_files_comes_back() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("deep/log");
    let options = Options { segment_bytes: 1 << 16, first_segment_bytes: 1 << 13, ..Options::default() };
    let mut expected = Vec::new();
    for life in 0..4 {
        let mut replayed = Vec::new();
        let mut wal = Wal::open(wal::RealFiles, &path, options.clone(), &mut |_, bytes| {
            replayed.push(bytes);
            Ok(())
        })
        .unwrap();
        assert_eq!((wal.recovery().created, wal.recovery().closed_cleanly), (life == 0, life % 2 == 1));
        assert!(expected.ends_with(&replayed) || replayed.ends_with(&expected), "life {life}");
        if life > 1 {
            wal.release_before(wal.current_segment()).unwrap();
        }
        for index in life * 100..life * 100 + 100 {
            wal.append(&records(index..index + 1)).unwrap();
            expected.push(record(index).into());
        }
        if life % 2 == 0 {
            wal.close().unwrap();
        }
    }
    assert!(std::fs::read_dir(&path).unwrap().count() < 12);
    assert_eq!(directory().file_name(), path.file_name());
}
