//! A rule of PROTOCOL.md that is switched off by hand is noticed within some hundred seeds.
//!
//! Rules whose absence takes tens of thousands of seeds to show are noticed by golden scripts instead; the table in
//! `crates/replcore/tests/README.md` has all.

use replcore::mutants::{Mutant, set};
use sim::{Keep, Scenario};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The rule, the scenario (none: any), and how many seeds it takes at most.
const NOTICED_WITHIN: &[(Mutant, Option<Scenario>, u64)] = &[
    (Mutant::P2Log, None, 5),
    (Mutant::P2Promise, None, 5),
    (Mutant::P2OwnVote, None, 10),
    (Mutant::P3, Some(Scenario::Damage), 50),
    (Mutant::P4Promise, None, 5),
    (Mutant::P4Answers, None, 5),
    (Mutant::P4Epoch, None, 5),
    (Mutant::P5Prior, None, 50),
    (Mutant::P7Promise, None, 10),
    (Mutant::P7Prev, None, 50),
    (Mutant::P7Shorter, None, 5),
    (Mutant::P8, Some(Scenario::Network), 100),
    (Mutant::P9Majority, None, 5),
    (Mutant::P9Prior, None, 5),
    (Mutant::P9Learner, None, 20),
    (Mutant::P9Durable, None, 5),
    (Mutant::P11, Some(Scenario::Crashes), 100),
    (Mutant::P12Judged, None, 5),
    (Mutant::P12Answered, None, 20),
    (Mutant::P13, None, 20),
    (Mutant::P14, None, 50),
    (Mutant::P14Prior, Some(Scenario::Pauses), 80),
    (Mutant::P15Longest, Some(Scenario::Crashes), 50),
    (Mutant::P15Kept, None, 50),
    (Mutant::P15Early, None, 100),
    (Mutant::P16Activation, Some(Scenario::Damage), 150),
    (Mutant::P23Committed, Some(Scenario::Crashes), 200),
    (Mutant::P23Early, Some(Scenario::Crashes), 300),
    (Mutant::P28Retry, None, 10),
    (Mutant::P28Stamp, None, 50),
    (Mutant::P29, Some(Scenario::Crashes), 100),
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
    for (mutant, scenario, seeds) in NOTICED_WITHIN {
        set(Some(*mutant));
        let first = (0..*seeds).find(|seed| notices(*seed, *scenario));
        set(None);
        match first {
            Some(seed) => println!("{mutant:?}: seed {seed}"),
            None => missed.push(*mutant),
        }
    }
    std::panic::set_hook(hook);
    assert!(missed.is_empty(), "nobody noticed {missed:?}");
}
