//! One bug, and what catches it.

use crate::REFERENCES;
use std::fmt;

/// Every crate's switches, as they stand in its source.
const SWITCHES: &[(&str, &str)] = &[
    ("replcore", include_str!("../../replcore/src/mutants.rs")),
    ("viewcore", include_str!("../../viewcore/src/mutants.rs")),
    ("viewcore::coordination", include_str!("../../viewcore/src/coordination/mutants.rs")),
    ("wal", include_str!("../../wal/src/mutants.rs")),
    ("engine", include_str!("../../engine/src/mutants.rs")),
    ("client", include_str!("../../client/src/mutants.rs")),
    ("viewleader", include_str!("../../viewleader/src/mutants.rs")),
];

/// A rule that can be broken, with what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    /// `crate::Name`, what `RINGLEADER_MUTANT` understands.
    pub name: &'static str,
    /// The rule of the protocol that it breaks, or the part of the design.
    pub rule: &'static str,
    /// Numbers of [`crate::REFERENCES`].
    pub known_from: &'static [usize],
    /// Each of these catches it.
    pub caught_by: &'static [Catcher],
}

/// What catches a bug.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Catcher {
    /// Seeds of the simulator, of one scenario or of any.
    Seeds(Option<&'static str>),
    /// A world of the model, explored breadth first.
    World(&'static str),
    /// Tests of a crate.
    Test {
        /// The crate.
        package: &'static str,
        /// `lib`, or a file in its `tests`.
        target: &'static str,
        /// Those whose names contain this.
        filter: &'static str,
    },
}

impl Catcher {
    /// The crate whose tests catch, if it is those.
    pub fn package(&self) -> Option<&'static str> {
        match self {
            Catcher::Test { package, .. } => Some(package),
            Catcher::Seeds(_) | Catcher::World(_) => None,
        }
    }
}

impl fmt::Display for Catcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Catcher::Seeds(None) => write!(f, "seeds"),
            Catcher::Seeds(Some(scenario)) => write!(f, "seeds of {scenario}"),
            Catcher::World(world) => write!(f, "world {world}"),
            Catcher::Test { package, target, filter: "" } => write!(f, "{package}, {target}"),
            Catcher::Test { package, target, filter } => write!(f, "{package}, {target}: {filter}"),
        }
    }
}

impl Bug {
    /// What the switch does, in the words that stand there; `None`: there is no such switch.
    pub fn what(&self) -> Option<String> {
        switches().into_iter().find(|(name, _)| name == self.name).map(|(_, what)| what)
    }

    /// The systems that had it, in short.
    pub fn origin(&self) -> String {
        let known = self.known_from.iter().filter_map(|number| REFERENCES.get(number - 1));
        let mut systems: Vec<&str> = known.filter_map(|(what, _)| what.split(',').next()).collect();
        systems.dedup();
        if systems.is_empty() { "the rule".to_owned() } else { systems.join(", ") }
    }
}

/// Every switch there is in the code, as `crate::Name`, and what it does.
pub fn switches() -> Vec<(String, String)> {
    let mut switches = Vec::new();
    for (package, source) in SWITCHES {
        let mut what = String::new();
        for line in source.lines().filter_map(|line| line.strip_prefix("    ")) {
            if let Some(words) = line.strip_prefix("/// ") {
                what = format!("{what} {words}").trim().to_owned();
            } else if let Some(name) = line.strip_suffix(',').filter(|name| name.chars().all(char::is_alphanumeric)) {
                switches.push((format!("{package}::{name}"), std::mem::take(&mut what)));
            } else {
                what.clear();
            }
        }
    }
    switches
}
