//! The simulator in short: some seeds, and that it is what it claims to be.

use sim::{Counts, Keep, Scenario};

/// Guards against whatever breaks an invariant of the cores within so few seeds; `cargo run --release -p sim` runs more.
#[test]
fn two_hundred_seeds() {
    for seed in 0..200 {
        let report = sim::run(seed, None, Keep::Tail(40));
        if let Some(violation) = report.violation {
            panic!(
                "seed {seed} broke {violation}\n{}\nreplay: cargo run --release -p sim -- --seeds {seed} --trace",
                report.trace.join("\n")
            );
        }
    }
}

/// Guards against anything that is not the seed's: a clock, an address, the order of a hash table.
#[test]
fn one_seed_is_one_trace() {
    for scenario in Scenario::ALL {
        for seed in 0..8 {
            let first = sim::run(seed, Some(scenario), Keep::Everything);
            let second = sim::run(seed, Some(scenario), Keep::Everything);
            assert!(first.trace == second.trace, "{scenario} {seed}: two runs of one seed differ");
            assert_eq!(first.hash, second.hash, "{scenario} {seed}");
            let unread = sim::run(seed, Some(scenario), Keep::Nothing);
            assert_eq!(first.hash, unread.hash, "{scenario} {seed}: being watched changes what happens");
        }
    }
    let other = |seed| sim::run(seed, None, Keep::Nothing).hash;
    assert_ne!(other(1), other(2));
}

/// Guards against worlds in which nothing happens: they would find nothing either.
#[test]
fn the_worlds_are_lively() {
    let counts = (0..60).map(|seed| sim::run(seed, Some(Scenario::Storm), Keep::Nothing).counts);
    let all = counts.fold(Counts::default(), Counts::plus);
    assert!(all.answered > 60 * 30 && all.unknown > 10, "{all:?}");
    assert!(all.crashes > 60 && all.records_lost > 30 && all.terms_served > 60 * 2, "{all:?}");
    let calm = sim::run(0, Some(Scenario::Calm), Keep::Nothing).counts;
    assert!(calm.crashes == 0 && calm.unknown == 0 && calm.answered == calm.operations, "{calm:?}");
}
