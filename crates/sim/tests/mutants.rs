//! A rule of PROTOCOL.md that is switched off by hand must be noticed: each within so many seeds of one scenario.
//!
//! The table in `crates/replcore/tests/README.md` is what `cargo test -p sim --test mutants -- --nocapture` prints.

use replcore::mutants::{Mutant, set};
use sim::{Keep, Scenario};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The first seed below `seeds` that notices, and what it says.
fn noticed(mutant: Mutant, scenario: Option<Scenario>, seeds: u64) -> Option<(u64, String)> {
    set(Some(mutant));
    let found = (0..seeds).find_map(|seed| {
        // The core's own assertions count too: in production they end the process before it does harm.
        let run = catch_unwind(AssertUnwindSafe(|| sim::run(seed, scenario, Keep::Nothing).violation));
        match run {
            Ok(violation) => violation.map(|violation| (seed, violation.invariant.to_owned())),
            Err(_) => Some((seed, "assertion".to_owned())),
        }
    });
    set(None);
    found
}

#[test]
fn survey() {
    std::panic::set_hook(Box::new(|_| {}));
    for mutant in Mutant::ALL {
        for scenario in [None].into_iter().chain(Scenario::ALL.map(Some)) {
            let name = scenario.map_or("any", Scenario::name);
            match noticed(*mutant, scenario, 1500) {
                Some((seed, how)) => println!("{mutant:?} {name}: seed {seed}, {how}"),
                None => println!("{mutant:?} {name}: NOT NOTICED"),
            }
        }
    }
}
