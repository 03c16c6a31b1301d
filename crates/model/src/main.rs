//! `model`: explores small worlds to the end, and says how many states there are.
#![allow(clippy::print_stdout, reason = "a command-line program's output")]

use clap::Parser;
use model::explore::Any;
use std::process::ExitCode;
use std::time::Duration;

/// The real cores in small worlds, explored to the end.
#[derive(Parser)]
struct Arguments {
    /// Only this world.
    #[arg(long, value_parser = world)]
    world: Option<Any>,
    /// Those too that take longer than a minute.
    #[arg(long)]
    large: bool,
    /// Give a world up after this many seconds.
    #[arg(long, default_value_t = 3600)]
    seconds_max: u64,
    /// Threads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Break this rule of the replica core; a name of `replcore::mutants`.
    #[cfg(feature = "mutants")]
    #[arg(long, value_parser = mutant)]
    mutant: Option<replcore::mutants::Mutant>,
}

fn world(text: &str) -> Result<Any, String> {
    let names: Vec<_> = Any::all().map(|world| world.name()).collect();
    Any::named(text).ok_or_else(|| format!("there are {}", names.join(", ")))
}

#[cfg(feature = "mutants")]
fn mutant(text: &str) -> Result<replcore::mutants::Mutant, String> {
    let all = replcore::mutants::Mutant::ALL;
    let names = || all.iter().map(|mutant| format!("{mutant:?}")).collect::<Vec<_>>().join(", ");
    all.iter().copied().find(|mutant| format!("{mutant:?}") == text).ok_or_else(|| format!("there are {}", names()))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[cfg(feature = "mutants")]
    let mutant = arguments.mutant;
    #[cfg(not(feature = "mutants"))]
    let mutant = None;
    let chosen: Vec<Any> = match arguments.world {
        Some(world) => vec![world],
        None => Any::all().filter(|world| arguments.large || !world.is_large()).collect(),
    };
    println!("{:<20} {:>12} {:>12} {:>6} {:>9}  what", "world", "states", "steps", "depth", "seconds");
    let mut held = true;
    for world in chosen {
        let limit = Duration::from_secs(arguments.seconds_max);
        let explored = world.with(mutant).explore(arguments.threads.into(), limit);
        let seconds = explored.took.as_secs_f64();
        println!(
            "{:<20} {:>12} {:>12} {:>6} {seconds:>9.1}  {}",
            world.name(),
            explored.states,
            explored.steps,
            explored.depth,
            world.what()
        );
        if !explored.finished {
            println!("  given up: there is more");
        }
        for name in &explored.impossible {
            println!("  never: {name}");
        }
        if let Some(broken) = &explored.broken {
            println!("  broken: {}: {}", broken.property, broken.what);
            broken.actions.iter().for_each(|action| println!("    {action}"));
        }
        held &= explored.finished && explored.broken.is_none() && explored.impossible.is_empty();
    }
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
