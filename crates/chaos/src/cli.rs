//! What can be said on the command line.

use crate::nemesis::{KINDS, Kind};
use crate::workload::WORKLOADS;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// How long a run takes unless anything else is said.
const MINUTES_DEFAULT: u64 = 5;
/// A week. All histories are kept in memory until the end: some 3 GiB an hour.
const SECONDS_MAX: u64 = 7 * 24 * 3600;

/// Breaks a real cluster under load, heals it, and holds it to what its clients saw.
#[derive(Debug, Parser)]
#[command(
    name = "dht-chaos",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 everything held, 1 a violation, 2 usage, 3 a fault did not land, the load was too low or \
                  this machine refuses something, 4 undecided, 70 a bug."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster, load it, break it, heal it, and check what clients saw.
    Run(RunFlags),
    /// The same until every fault came once, whatever time that takes: a table of faults and workloads with no cell empty.
    Matrix(RunFlags),
    /// Print the faults that can be injected.
    Faults,
    /// Print the workloads.
    Workloads,
    /// Run again what a report describes: the same seed, faults and load.
    Replay(ReplayFlags),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RunFlags {
    /// How long faults are injected; checking comes after that. 5 unless anything else is said.
    #[arg(long, value_name = "N", conflicts_with_all = ["seconds", "rounds"], value_parser = clap::value_parser!(u64).range(..=SECONDS_MAX / 60))]
    minutes: Option<u64>,
    /// The same in seconds.
    #[arg(long, value_name = "N", conflicts_with = "rounds", value_parser = clap::value_parser!(u64).range(..=SECONDS_MAX))]
    seconds: Option<u64>,
    /// How often every fault comes, instead of a time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: Option<u32>,
    /// Decides which faults hit whom, when and for how long; drawn unless given.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Storage nodes.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=32))]
    pub(crate) nodes: u8,
    /// Viewleaders: 1, 3 or 5.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = odd_count)]
    pub(crate) viewleaders: u8,
    /// Partitions: a power of two, from 8 to 4096.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = partition_count)]
    pub(crate) partitions: u32,
    /// Which faults: names that `dht-chaos faults` lists, all, or none; all, but with --attach none.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    faults: Option<Vec<String>>,
    /// Which workloads: names that `dht-chaos workloads` lists, or all.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = "all")]
    pub(crate) workloads: Vec<String>,
    /// Clients of each workload.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) clients: u8,
    /// Operations that must be done in every second in which nothing is broken.
    #[arg(long, value_name = "OPS", default_value_t = 50)]
    pub(crate) floor: u64,
    /// Where report.json and report.html go; those that are there become previous.json and previous.html.
    #[arg(long, value_name = "DIR", default_value = "dht-chaos-report")]
    pub(crate) report: PathBuf,
    /// Connect the processes by namespaces of the kernel, which really lose packets; needs root. Late and lossy links
    /// are left out.
    #[arg(long, conflicts_with = "attach")]
    pub(crate) netns: bool,
    /// Show the load as it is now.
    #[arg(long)]
    pub(crate) live: bool,
    /// Load and check the running cluster of these viewleaders; nothing is broken, and every key is deleted in the end.
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub(crate) attach: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ReplayFlags {
    /// A report.json.
    pub(crate) path: PathBuf,
    /// Where the report of this run goes.
    #[arg(long, value_name = "DIR", default_value = "dht-chaos-replay")]
    pub(crate) report: PathBuf,
}

fn partition_count(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(count) if (8..=4096).contains(&count) && u32::is_power_of_two(count) => Ok(count),
        _ => Err("a cluster of the harness has 8, 16, 32, … or 4096 partitions".to_owned()),
    }
}

fn odd_count(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(count @ (1 | 3 | 5)) => Ok(count),
        _ => Err("a group of viewleaders has 1, 3 or 5 members".to_owned()),
    }
}

impl RunFlags {
    /// How long faults are injected; `None`: as long as the rounds take.
    pub(crate) fn duration(&self) -> Option<Duration> {
        let seconds = self.seconds.unwrap_or(self.minutes.unwrap_or(MINUTES_DEFAULT) * 60);
        self.rounds.is_none().then_some(Duration::from_secs(seconds))
    }

    /// The same; one round, unless a time or another number of rounds is given.
    pub(crate) fn by_rounds(mut self) -> RunFlags {
        if self.minutes.is_none() && self.seconds.is_none() {
            self.rounds.get_or_insert(1);
        }
        self
    }

    /// The faults that are named.
    ///
    /// # Errors
    /// One line for a name that is none.
    pub(crate) fn kinds(&self) -> Result<Vec<Kind>, String> {
        match self.fault_names().as_slice() {
            [all] if all == "all" => {
                Ok(KINDS.iter().map(|(kind, ..)| *kind).filter(|kind| self.possible(*kind).is_ok()).collect())
            }
            [none] if none == "none" => Ok(Vec::new()),
            names => names
                .iter()
                .map(|name| {
                    let kind = Kind::named(name);
                    let kind =
                        kind.ok_or_else(|| format!("there is no fault `{name}`; dht-chaos faults lists them"))?;
                    self.possible(kind).map(|()| kind)
                })
                .collect(),
        }
    }

    /// Whether the cluster that is asked for survives such a fault, and its network can have it.
    fn possible(&self, kind: Kind) -> Result<(), String> {
        let name = kind.name();
        match kind {
            Kind::Slow | Kind::Lossy if self.netns => Err(format!("with --netns no link can be {name}")),
            Kind::LeaderWipe | Kind::LeaderFlip if self.viewleaders == 1 => {
                Err(format!("{name} takes a viewleader's files for good: a group of one does not survive that"))
            }
            _ => Ok(()),
        }
    }

    fn fault_names(&self) -> Vec<String> {
        let unless_said = if self.attach.is_empty() { "all" } else { "none" };
        self.faults.clone().unwrap_or_else(|| vec![unless_said.to_owned()])
    }

    /// The workloads that are named, as places in the list.
    ///
    /// # Errors
    /// One line for a name that is none.
    pub(crate) fn chosen_workloads(&self) -> Result<Vec<usize>, String> {
        if self.workloads == ["all"] {
            return Ok((0..WORKLOADS.len()).collect());
        }
        let place = |wanted: &String| {
            let found = WORKLOADS.iter().position(|(name, ..)| name == wanted);
            found.ok_or_else(|| format!("there is no workload `{wanted}`; dht-chaos workloads lists them"))
        };
        let places = self.workloads.iter().map(place).collect::<Result<Vec<usize>, String>>()?;
        match (1..places.len()).find(|at| places[..*at].contains(&places[*at])) {
            Some(twice) => {
                Err(format!("workload `{}` is named twice; for more load: --clients", self.workloads[twice]))
            }
            None => Ok(places),
        }
    }

    /// What runs the same again.
    pub(crate) fn command(&self, seed: u64) -> String {
        let time = match (self.duration(), self.rounds) {
            (None, Some(rounds)) => format!("--rounds {rounds}"),
            (duration, _) => format!("--seconds {}", duration.unwrap_or_default().as_secs()),
        };
        let mut words = vec![
            "dht-chaos run".to_owned(),
            time,
            format!("--seed {seed}"),
            format!("--nodes {}", self.nodes),
            format!("--viewleaders {}", self.viewleaders),
            format!("--partitions {}", self.partitions),
            format!("--faults {}", self.fault_names().join(",")),
            format!("--workloads {}", self.workloads.join(",")),
            format!("--clients {}", self.clients),
            format!("--floor {}", self.floor),
        ];
        if self.netns {
            words.push("--netns".to_owned());
        }
        if !self.attach.is_empty() {
            words.push(format!("--attach {}", self.attach.join(",")));
        }
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use daemon::{Exit, Failure};

    fn parse(line: &str) -> Result<Cli, Failure> {
        daemon::settings::parse(line.split_whitespace())
    }

    /// Guards against flags that clap only finds wrong when somebody uses them.
    #[test]
    fn the_command_line_is_consistent() {
        daemon::settings::command_of::<Cli>().debug_assert();
    }

    /// Guards against a replay of something else than what was run.
    #[test]
    fn the_command_of_a_run_is_that_run() {
        let line = "dht-chaos run --minutes 2 --nodes 4 --faults kill,cut --workloads sets --clients 2 --floor 7";
        let Command::Run(flags) = parse(line).unwrap().command else { panic!("not a run") };
        let Command::Run(again) = parse(&flags.command(9)).unwrap().command else { panic!("not a run") };
        assert_eq!(again.command(9), flags.command(9));
        assert_eq!((again.duration(), again.seed), (Some(Duration::from_secs(120)), Some(9)));
        assert_eq!(again.kinds().unwrap(), [Kind::Kill, Kind::Cut]);
    }

    /// Guards against a matrix that ends before every fault came, and a replay of it that is another run.
    #[test]
    fn a_matrix_is_a_run_by_rounds() {
        for (line, time) in [("", "--rounds 1"), ("--rounds 3", "--rounds 3"), ("--minutes 1", "--seconds 60")] {
            let Command::Matrix(flags) = parse(&format!("dht-chaos matrix {line}")).unwrap().command else {
                panic!("not a matrix")
            };
            let command = flags.by_rounds().command(9);
            assert!(command.contains(time), "{command}");
            let Command::Run(again) = parse(&command).unwrap().command else { panic!("not a run") };
            assert_eq!(again.command(9), command);
        }
    }

    /// Guards against a misspelt fault that silently never happens.
    #[test]
    fn what_is_not_known_is_refused() {
        let Command::Run(flags) = parse("dht-chaos run --faults kil --workloads set").unwrap().command else {
            panic!("not a run")
        };
        assert!(flags.kinds().unwrap_err().contains("`kil`"));
        assert!(flags.chosen_workloads().unwrap_err().contains("`set`"));
        for (line, word) in [
            ("--viewleaders 1 --faults kill,leader-wipe", "leader-wipe"),
            ("--netns --faults slow", "slow"),
            ("--workloads sets,locks,sets", "`sets`"),
        ] {
            let Command::Run(flags) = parse(&format!("dht-chaos run {line}")).unwrap().command else {
                panic!("not a run")
            };
            let why = flags.kinds().map(|_| ()).and_then(|()| flags.chosen_workloads().map(|_| ())).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
        let Command::Run(alone) = parse("dht-chaos run --viewleaders 1").unwrap().command else { panic!("not a run") };
        assert!(!alone.kinds().unwrap().contains(&Kind::LeaderFlip));
        for line in [
            "dht-chaos run --viewleaders 2",
            "dht-chaos run --nodes 1",
            "dht-chaos run --minutes 1 --seconds 1",
            "dht-chaos run --minutes 307445734561825861",
            "dht-chaos run --seconds 18446744073709551615",
            "dht-chaos run --partitions 100",
            "dht-chaos run --partitions 1",
            "dht-chaos matrix --rounds 1 --seconds 1",
        ] {
            assert_eq!(parse(line).unwrap_err().exit, Exit::Usage, "{line}");
        }
    }
}
