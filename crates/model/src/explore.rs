//! A world explored to its end, and what that took.

use crate::world::World;
use stateright::{Checker, HasDiscoveries, Model};
use std::time::{Duration, Instant};

/// How an exploration went.
#[derive(Clone, Debug)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// Steps taken from them, those that led to known states too.
    pub steps: usize,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// There was nothing more to explore.
    pub finished: bool,
    /// A property that does not hold, and the shortest way there.
    pub broken: Option<Counterexample>,
    /// What should be possible and is not: the world is not what it should be.
    pub impossible: Vec<&'static str>,
}

/// The shortest way to a state that must not be.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// The property.
    pub property: &'static str,
    /// What was seen at the end.
    pub what: String,
    /// What happened, in order.
    pub actions: Vec<String>,
}

/// Walks every path of the world, until there are no more or a property is broken.
///
/// After `limit` it is given up.
pub fn explore(world: World, threads: usize, limit: Duration) -> Explored {
    let began = Instant::now();
    let builder = world.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    let builder = builder.timeout(limit);
    // Breadth first finds the shortest way to what is broken; depth first needs less memory.
    match world.mutant.is_some() || !world.large {
        true => summary(world, began, limit, &builder.spawn_bfs().join()),
        false => summary(world, began, limit, &builder.spawn_dfs().join()),
    }
}

fn summary(world: World, began: Instant, limit: Duration, checker: &impl Checker<World>) -> Explored {
    let took = began.elapsed();
    let discoveries = checker.discoveries();
    let properties = world.properties();
    let broken = properties.iter().filter(|property| property.expectation == stateright::Expectation::Always);
    let broken = broken.filter_map(|property| discoveries.get(property.name)).next().map(|path| {
        let history = &path.last_state().history;
        let (property, what) = history.broken.clone().map(|b| (b.property, b.what)).unwrap_or_default();
        let actions = path.clone().into_actions().iter().map(|action| format!("{action:?}")).collect();
        Counterexample { property, what, actions }
    });
    let sometimes = properties.iter().filter(|property| property.expectation == stateright::Expectation::Sometimes);
    let impossible = match broken {
        Some(_) => Vec::new(),
        None => sometimes.map(|p| p.name).filter(|name| !discoveries.contains_key(name)).collect(),
    };
    Explored {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        took,
        finished: broken.is_some() || took < limit,
        broken,
        impossible,
    }
}
