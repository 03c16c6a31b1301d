//! A world explored to its end, and what that took.

use crate::history::Broken;
use crate::pair::{PAIRS, Pair};
use crate::world::{Mutant, WORLDS, World};
use stateright::{Checker, Expectation, HasDiscoveries, Model};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Any world there is.
#[derive(Clone, Copy, Debug)]
pub enum Any {
    /// One partition and its replicas.
    Replicas(World),
    /// Two partitions and their transactions.
    Pair(Pair),
}

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

impl Any {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Any> {
        WORLDS.iter().copied().map(Any::Replicas).chain(PAIRS.iter().copied().map(Any::Pair))
    }

    /// The world with this name.
    pub fn named(name: &str) -> Option<Any> {
        Any::all().find(|world| world.name() == name)
    }

    /// The name to type.
    pub fn name(&self) -> &'static str {
        match self {
            Any::Replicas(world) => world.name,
            Any::Pair(pair) => pair.name,
        }
    }

    /// What it is there for.
    pub fn what(&self) -> &'static str {
        match self {
            Any::Replicas(world) => world.what,
            Any::Pair(pair) => pair.what,
        }
    }

    /// Explored only when asked for: takes longer than a minute.
    pub fn is_large(&self) -> bool {
        match self {
            Any::Replicas(world) => world.large,
            Any::Pair(pair) => pair.large,
        }
    }

    /// The same with one rule broken.
    #[must_use]
    pub fn with(self, mutant: Option<Mutant>) -> Any {
        match self {
            Any::Replicas(world) => Any::Replicas(World { mutant, ..world }),
            Any::Pair(pair) => Any::Pair(Pair { mutant, ..pair }),
        }
    }

    /// Walks every path of the world, until there are no more or a property is broken.
    ///
    /// After `limit` it is given up.
    pub fn explore(self, threads: usize, limit: Duration) -> Explored {
        match self {
            Any::Replicas(world) => {
                // Breadth first finds the shortest way to what is broken; depth first needs less memory.
                let deep = world.large && world.mutant.is_none();
                explore(world, deep, threads, limit, |instant| instant.history.broken.clone())
            }
            Any::Pair(pair) => explore(pair, pair.large && pair.mutant.is_none(), threads, limit, Pair::broken),
        }
    }
}

fn explore<M>(
    world: M,
    deep: bool,
    threads: usize,
    limit: Duration,
    broken: fn(&M::State) -> Option<Broken>,
) -> Explored
where
    M: Model + Copy + Send + Sync + 'static,
    M::State: Hash + PartialEq + Clone + std::fmt::Debug + Send + Sync + 'static,
    M::Action: Clone + PartialEq + std::fmt::Debug,
{
    let began = Instant::now();
    let builder = world.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    let builder = builder.timeout(limit);
    match deep {
        true => summary(&world, began, limit, &builder.spawn_dfs().join(), broken),
        false => summary(&world, began, limit, &builder.spawn_bfs().join(), broken),
    }
}

fn summary<M: Model>(
    world: &M,
    began: Instant,
    limit: Duration,
    checker: &impl Checker<M>,
    broken_at: fn(&M::State) -> Option<Broken>,
) -> Explored
where
    M::State: Hash + PartialEq + Clone + std::fmt::Debug,
    M::Action: Clone + PartialEq + std::fmt::Debug,
{
    let took = began.elapsed();
    let discoveries = checker.discoveries();
    let properties = world.properties();
    let always = properties.iter().filter(|property| property.expectation == Expectation::Always);
    let broken = always.filter_map(|property| discoveries.get(property.name)).next().map(|path| {
        let (property, what) = broken_at(path.last_state()).map(|b| (b.property, b.what)).unwrap_or_default();
        let actions = path.clone().into_actions().iter().map(|action| format!("{action:?}")).collect();
        Counterexample { property, what, actions }
    });
    let sometimes = properties.iter().filter(|property| property.expectation == Expectation::Sometimes);
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
