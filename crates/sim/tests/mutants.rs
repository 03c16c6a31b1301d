//! A rule of PROTOCOL.md that is switched off by hand is noticed within few seeds.
//!
//! Rules whose absence takes tens of thousands of seeds to show are noticed by golden scripts instead; the table in
//! `crates/replcore/tests/README.md` has all.

use replcore::mutants::{Mutant, set};
use sim::{Keep, Scenario};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How many seeds a rule's absence may take to show. Most show within 300; but each change of the simulator or of the core
/// deals the worlds anew, and that must not turn a rule that is tested into one that seems not to be.
const SEEDS_MAX: u64 = 3_000;

/// The rule, and the scenario that shows its absence soonest (none: any).
const NOTICED: &[(Mutant, Option<Scenario>)] = &[
    (Mutant::P2Log, None),
    (Mutant::P2Promise, None),
    (Mutant::P2OwnVote, None),
    (Mutant::P3, Some(Scenario::Damage)),
    (Mutant::P4Promise, None),
    (Mutant::P4Answers, None),
    (Mutant::P4Epoch, None),
    (Mutant::P5Prior, None),
    (Mutant::P7Promise, None),
    (Mutant::P7Prev, None),
    (Mutant::P7Shorter, None),
    (Mutant::P8, Some(Scenario::Network)),
    (Mutant::P9Majority, None),
    (Mutant::P9Prior, None),
    (Mutant::P9Learner, None),
    (Mutant::P9Durable, None),
    (Mutant::P11, Some(Scenario::Crashes)),
    (Mutant::P12Judged, None),
    (Mutant::P12Answered, None),
    (Mutant::P13, None),
    (Mutant::P14, None),
    (Mutant::P14Prior, Some(Scenario::Pauses)),
    (Mutant::P15Longest, Some(Scenario::Crashes)),
    (Mutant::P15Kept, None),
    (Mutant::P15Early, None),
    (Mutant::P16Locks, None),
    (Mutant::P22Append, None),
    (Mutant::P22Reads, None),
    (Mutant::P22Scan, None),
    (Mutant::FenceHeld, None),
    (Mutant::P25Early, None),
    (Mutant::P25Locks, None),
    (Mutant::P26Early, None),
    (Mutant::P26Done, None),
    (Mutant::P27Open, None),
    (Mutant::P17Uncommitted, None),
    (Mutant::ScanStale, None),
    (Mutant::ScanRound, None),
    (Mutant::WatchUncommitted, None),
    (Mutant::WatchLate, None),
    (Mutant::WatchEarly, None),
    (Mutant::WatchTrimmed, None),
    (Mutant::ExpiryVersion, None),
    (Mutant::ExpiryEarly, None),
    (Mutant::ExpirySeen, None),
    (Mutant::ExpiryTakeover, None),
    (Mutant::P23Early, Some(Scenario::Crashes)),
    (Mutant::P28Retry, None),
    (Mutant::P28Stamp, None),
    (Mutant::FenceOlder, None),
    (Mutant::FenceAppended, None),
    (Mutant::FenceTakeover, None),
    (Mutant::P29, Some(Scenario::Crashes)),
];

/// Whether a seed notices: an invariant is broken, or an assertion of the core's own ends the process in time.
fn notices(seed: u64, scenario: Option<Scenario>) -> bool {
    let run = catch_unwind(AssertUnwindSafe(|| sim::run(seed, scenario, Keep::Nothing).violation.is_some()));
    run.unwrap_or(true)
}

/// Guards against a simulator that would not find what it is there for.
#[test]
fn each_broken_rule_is_noticed() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for (mutant, scenario) in NOTICED {
        set(Some(*mutant));
        let first = (0..SEEDS_MAX).find(|seed| notices(*seed, *scenario));
        set(None);
        match first {
            Some(seed) => println!("{mutant:?}: seed {seed}"),
            None => missed.push(*mutant),
        }
    }
    std::panic::set_hook(hook);
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
}
