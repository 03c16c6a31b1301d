//! Every small world is explored to its end; and the model is one that finds what is broken.

use model::explore::Any;
use model::world::Mutant;
use std::time::Duration;

const THREADS: usize = 2;
/// A bound reached only by a test that fails.
const LIMIT: Duration = Duration::from_secs(600);

/// Guards against a path, among all there are, on which the core breaks a promise; and against a world in which nothing
/// can happen any more.
#[test]
fn small_worlds_hold_to_the_end() {
    for world in Any::all().filter(|world| !world.is_large()) {
        let explored = world.explore(THREADS, LIMIT);
        println!("{:<20} {:>9} states in {:.1} s", world.name(), explored.states, explored.took.as_secs_f64());
        assert!(explored.finished, "{}: given up after {} states", world.name(), explored.states);
        assert!(explored.broken.is_none(), "{}: {:#?}", world.name(), explored.broken);
        assert!(explored.impossible.is_empty(), "{}: never: {:?}", world.name(), explored.impossible);
    }
}

/// The rule, and the world that can't hold without it.
const FOUND_IN: &[(Mutant, &str)] = &[
    (Mutant::P2Log, "crash"),
    (Mutant::P2OwnVote, "crash"),
    (Mutant::P2Promise, "crash-takeover"),
    (Mutant::P7Promise, "takeover-read"),
    (Mutant::P8, "takeover-read"),
    (Mutant::P9Learner, "members"),
    (Mutant::P9Majority, "writes"),
    (Mutant::P13, "takeover-writes"),
    (Mutant::P14, "takeover-writes"),
    (Mutant::P15Kept, "takeover-writes"),
    (Mutant::P16Locks, "transaction"),
    (Mutant::P22Append, "transactions-crash"),
    (Mutant::P22Reads, "transaction"),
    (Mutant::P25Early, "transaction"),
    (Mutant::P25Locks, "transaction"),
    (Mutant::P26Early, "transaction"),
    (Mutant::P26Named, "transactions"),
    (Mutant::P26Reads, "transaction-reads"),
    (Mutant::P28Retry, "retry"),
    (Mutant::P29, "takeover-writes"),
];

/// Guards against a model that would not find what it is there for.
#[test]
fn broken_rules_are_found() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for (mutant, name) in FOUND_IN {
        let Some(world) = Any::named(name) else { panic!("there is no world {name}") };
        let explored = world.with(Some(*mutant)).explore(THREADS, LIMIT);
        match explored.broken {
            Some(broken) => println!(
                "{:<12} {name:<16} {:>7} states, {:>2} actions: {}",
                format!("{mutant:?}"),
                explored.states,
                broken.actions.len(),
                broken.property
            ),
            None => missed.push(*mutant),
        }
    }
    std::panic::set_hook(hook);
    assert!(missed.is_empty(), "nothing is broken without {missed:?}");
}
