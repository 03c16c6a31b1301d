//! Each rule of PROTOCOL.md that is switched off by hand changes the trace of a script that stands for it.

use crate::SCRIPTS;
use crate::bench::Bench;
use replcore::mutants::{Mutant, set};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The rule, and the scripts that must notice that it is gone.
const NOTICED_BY: &[(Mutant, &[&str])] = &[
    (Mutant::P2Log, &["rule_02"]),
    (Mutant::P2Promise, &["rule_02"]),
    (Mutant::P2OwnVote, &["rule_02"]),
    (Mutant::P3, &["scenario_12"]),
    (Mutant::P4Promise, &["scenario_03"]),
    (Mutant::P4Answers, &["scenario_03", "rule_04"]),
    (Mutant::P4Epoch, &["scenario_16"]),
    (Mutant::P5Old, &["scenario_11"]),
    (Mutant::P5Prior, &["scenario_01", "rule_05"]),
    (Mutant::P5Activated, &["scenario_03"]),
    (Mutant::P7Promise, &["rule_07", "rule_14"]),
    (Mutant::P7Prev, &["mismatch"]),
    (Mutant::P7Shorter, &["rule_07"]),
    (Mutant::P8, &["scenario_02"]),
    (Mutant::P9Majority, &["rule_09"]),
    (Mutant::P9Prior, &["scenario_01"]),
    (Mutant::P9Learner, &["learner"]),
    (Mutant::P9Durable, &["rule_09"]),
    (Mutant::P10, &["scenario_05"]),
    (Mutant::P10Held, &["held"]),
    (Mutant::P11, &["scenario_06"]),
    (Mutant::P12Judged, &["scenario_07"]),
    (Mutant::P12Answered, &["scenario_07"]),
    (Mutant::P13, &["rule_14"]),
    (Mutant::P14, &["rule_14"]),
    (Mutant::P14Prior, &["scenario_01"]),
    (Mutant::P15Longest, &["takeover_conflict"]),
    (Mutant::P15Kept, &["takeover"]),
    (Mutant::P15Early, &["takeover_conflict"]),
    (Mutant::P15Fetch, &["scenario_13"]),
    (Mutant::P16, &["rule_16"]),
    (Mutant::P16Activation, &["scenario_01"]),
    (Mutant::P17Round, &["scenario_09"]),
    (Mutant::P17Prepared, &["scenario_14"]),
    (Mutant::P16Locks, &["scenario_08_moves"]),
    (Mutant::P22Append, &["scenario_08_locks"]),
    (Mutant::P22Reads, &["scenario_08_locks"]),
    (Mutant::P22Scan, &["scenario_08_locks"]),
    (Mutant::FenceHeld, &["transaction_fence"]),
    (Mutant::P24, &["scenario_08_late"]),
    (Mutant::P25Early, &["scenario_08_commits"]),
    (Mutant::P25Locks, &["scenario_08_locks"]),
    (Mutant::P26Early, &["scenario_08_commits"]),
    (Mutant::P26Done, &["scenario_08_commits"]),
    (Mutant::P26Named, &["scenario_08_late"]),
    (Mutant::P26Reads, &["transaction_waits"]),
    (Mutant::P27, &["scenario_08_moves"]),
    (Mutant::P27Open, &["scenario_08_moves"]),
    (Mutant::P17Uncommitted, &["read"]),
    (Mutant::ScanStale, &["scan"]),
    (Mutant::ScanRound, &["scan"]),
    (Mutant::WatchUncommitted, &["watch"]),
    (Mutant::WatchLate, &["watch"]),
    (Mutant::WatchEarly, &["watch"]),
    (Mutant::WatchTrimmed, &["watch"]),
    (Mutant::ExpiryVersion, &["expiry"]),
    (Mutant::ExpiryEarly, &["expiry"]),
    (Mutant::ExpirySeen, &["expiry"]),
    (Mutant::ExpiryTakeover, &["expiry"]),
    (Mutant::P23Beyond, &["scenario_04"]),
    (Mutant::P23Committed, &["rule_23"]),
    (Mutant::P23Early, &["scenario_04"]),
    (Mutant::P23Late, &["snapshot_late"]),
    (Mutant::P28Retry, &["retry", "scenario_10"]),
    (Mutant::P28Stamp, &["scenario_10"]),
    (Mutant::FenceOlder, &["fence"]),
    (Mutant::FenceAppended, &["fence"]),
    (Mutant::FenceTakeover, &["fence"]),
    (Mutant::FenceSnapshot, &["fence"]),
    (Mutant::P29, &["takeover"]),
];

/// The trace of a script with one rule broken; none where the core's own assertions end it.
fn trace(script: &str, mutant: Option<Mutant>) -> Option<String> {
    set(mutant);
    let run = catch_unwind(AssertUnwindSafe(|| goldenscript::generate(&mut Bench::default(), script)));
    set(None);
    run.ok().and_then(Result::ok)
}

/// Guards against scripts that would not notice the rule that they stand for.
#[test]
fn a_script_notices_each_broken_rule() {
    for (mutant, names) in NOTICED_BY {
        for name in *names {
            let (_, script) =
                SCRIPTS.iter().find(|(script, _)| script == name).expect("a script that is listed exists");
            assert!(trace(script, None).as_deref() == Some(*script), "{name} differs with no rule broken");
            let noticed = trace(script, Some(*mutant)).as_deref() != Some(*script);
            assert!(noticed, "{name} does not notice {mutant:?}: {}", mutant.what());
        }
    }
}

/// Guards against a new mutant that nobody looks for.
#[test]
fn every_mutant_is_listed() {
    for mutant in Mutant::ALL {
        assert!(NOTICED_BY.iter().any(|(listed, _)| listed == mutant), "{mutant:?} is not listed");
    }
}

/// Guards against a table that readers can't trust.
#[test]
fn the_table_names_every_mutant_and_its_scripts() {
    let table = include_str!("../README.md");
    for (mutant, names) in NOTICED_BY {
        let row = format!("| {mutant:?} |");
        let row = table.lines().find(|line| line.starts_with(&row));
        let row = row.unwrap_or_else(|| panic!("tests/README.md has no row for {mutant:?}"));
        let scripts = format!("| {} |", names.join(", "));
        assert!(row.contains(&scripts), "tests/README.md: {mutant:?} is noticed by {scripts}");
    }
}
