//! A whole run: cluster, load, faults, healing, last reads, verdict, report.

mod clients;
mod faults;
mod judge;

use crate::cli::RunFlags;
use crate::cluster::{Cluster, Shape};
use crate::error::Error;
use crate::nemesis::Kind;
use crate::probe::Probe;
use crate::random::Random;
use crate::report;
use crate::screen::Screen;
use crate::workload::{WORKLOADS, Workload};
use check::report::{Report, Verdict};
use client::{Client, Options};
use clients::Clients;
use daemon::{Exit, Failure};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::signal::unix::{SignalKind, signal};

/// Parts of a run that draw from the seed.
const DRAWS_NETWORK: u64 = 1;
const DRAWS_SCHEDULE: u64 = 2;
const DRAWS_LOAD: u64 = 3;

/// How long clients try.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// And those that must succeed.
const PATIENT_TIMEOUT: Duration = Duration::from_secs(30);
const REPLICATION: u8 = 3;
const SPARES: u8 = 1;

/// Runs, reports, and says how it ended.
///
/// # Errors
/// [`Failure`] for what can't be run, or was interrupted.
pub(crate) async fn run(flags: &RunFlags) -> Result<Exit, Failure> {
    let kinds = flags.kinds().map_err(Failure::usage)?;
    let workloads = flags.chosen_workloads().map_err(Failure::usage)?;
    if !flags.attach.is_empty() && !kinds.is_empty() {
        return Err(Failure::usage("nothing of a running cluster is broken; say --faults none with --attach"));
    }
    let seed = match flags.seed {
        Some(seed) => seed,
        None => getrandom::u32()
            .map_err(|error| Failure::unavailable(format!("the system has no random numbers: {error}")))?
            .into(),
    };
    let mut stop = pin!(asked_to_stop());
    // Signals are caught from the first poll on: before there is anything that a Ctrl-C would leave behind.
    if let Ok(asked) = tokio::time::timeout(Duration::ZERO, &mut stop).await {
        return Err(asked);
    }
    let place = report::Place::prepare(&flags.report)?;
    let mut cluster = match flags.attach.is_empty() {
        true => Some(Cluster::new(shape(flags), &mut Random::part(seed, DRAWS_NETWORK))?),
        false => None,
    };
    let screen = Screen::new(flags.live, Instant::now());
    let began = SystemTime::now();
    let prefix = format!("chaos-{seed:x}-{}/", humantime::format_rfc3339_seconds(began));
    let plan = Plan { flags, seed, began, prefix: &prefix, kinds, workloads, screen: &screen };
    let mut outcome = tokio::select! {
        outcome = plan.drive(&mut cluster) => outcome.map_err(Failure::from),
        asked = &mut stop => Err(asked),
    };
    screen.close();
    let mut held = matches!(&outcome, Ok(report) if report.verdict == Verdict::Held);
    if let Some(mut cluster) = cluster {
        match &mut outcome {
            Ok(report) => {
                if let (Err(error), true) = (cluster.stop().await, held) {
                    (report.verdict, report.sentence) = (Verdict::Violated, error.to_string());
                    held = false;
                }
            }
            Err(_) => cluster.kill_all().await,
        }
        if !held && !stop_was_asked(&outcome) {
            eprint(&format!("data and logs are kept in {}", cluster.root.keep().display()));
        }
    }
    if !flags.attach.is_empty()
        && let Err(error) = clients::delete_all(&flags.attach, &prefix).await
    {
        eprint(&format!("keys that begin with {prefix} are left in that cluster: {error}"));
    }
    let report = outcome?;
    crate::print(&summary(&report))?;
    match place.write(&report) {
        Ok(path) => crate::print(&format!("report: {}\n", path.display()))?,
        // What was found is worth more than why it could not be written down.
        Err(error) if !held => eprint(&error.to_string()),
        Err(error) => return Err(error.into()),
    }
    Ok(exit_code(report.verdict))
}

fn shape(flags: &RunFlags) -> Shape {
    Shape {
        viewleaders: flags.viewleaders,
        nodes: flags.nodes,
        spares: SPARES,
        partitions: flags.partitions,
        replication: REPLICATION,
        namespaces: flags.netns,
    }
}

fn exit_code(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Held => Exit::Done,
        Verdict::Violated => Exit::NotFound,
        Verdict::Undecided => Exit::Unknown,
        Verdict::FaultsDidNotLand | Verdict::LoadTooLow => Exit::Unavailable,
    }
}

/// Ctrl-C, SIGTERM, or a terminal that is closed.
async fn asked_to_stop() -> Failure {
    let cannot = |error: std::io::Error| Failure::unavailable(format!("cannot catch signals: {error}"));
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return cannot(error),
    };
    tokio::select! {
        asked = daemon::shutdown::requested(false) => match asked {
            Ok(_reason) => interrupted(),
            Err(error) => cannot(error),
        },
        _ = hangup.recv() => interrupted(),
    }
}

fn interrupted() -> Failure {
    Failure::new(Exit::Unknown, INTERRUPTED)
}

const INTERRUPTED: &str = "stopped before the end: nothing is known";

fn stop_was_asked(outcome: &Result<Report, Failure>) -> bool {
    matches!(outcome, Err(failure) if failure.message == INTERRUPTED)
}

/// A line for whoever watches; nobody has to.
fn eprint(text: &str) {
    use std::io::Write;
    let _unread = writeln!(std::io::stderr(), "{text}");
}

/// What is to be run.
struct Plan<'a> {
    flags: &'a RunFlags,
    seed: u64,
    began: SystemTime,
    /// What every key begins with.
    prefix: &'a str,
    kinds: Vec<Kind>,
    workloads: Vec<usize>,
    screen: &'a Screen,
}

impl Plan<'_> {
    async fn drive(&self, cluster: &mut Option<Cluster>) -> Result<Report, Error> {
        let leaders = match cluster {
            Some(cluster) => {
                cluster.launch().await?;
                let (nodes, viewleaders) = (self.flags.nodes, self.flags.viewleaders);
                self.screen
                    .say(&format!("{nodes} storage nodes and {viewleaders} viewleaders serve; seed {}", self.seed));
                cluster.leader_addresses()
            }
            None => self.flags.attach.clone(),
        };
        let workloads: Vec<(usize, Arc<dyn Workload>)> =
            self.workloads.iter().map(|which| (*which, WORKLOADS[*which].2(self.prefix))).collect();
        let patient = Client::connect(&leaders, Options { timeout: PATIENT_TIMEOUT }).await?;
        let status = patient.status().await?;
        let clients = Clients::start(&leaders, &workloads, self.flags.clients, self.seed, self.screen).await?;
        let probe = Probe::start(patient.clone(), self.prefix);
        let mut injected = self.inject(cluster.as_mut(), &clients, &probe).await;
        // While clients finish what they are at, and wait for what was promised to them, there is no load any more.
        let load_ended = clients.load.began.elapsed();
        let mut can_be_read = !injected.is_broken_off();
        if let (Some(trouble), Some(cluster)) = (&mut injected.trouble, cluster.as_mut()) {
            // What clients still wait for comes only once whoever the last fault hit is there again.
            self.screen.say("broken off; waiting until the cluster is whole");
            let whole = async {
                cluster.mend().await?;
                cluster.await_whole().await
            };
            match whole.await {
                Ok(()) => can_be_read = injected.refused.is_none(),
                Err(error) => trouble.push_str(&format!("; {error}")),
            }
        }
        let load = clients.stop().await;
        self.add_operations(&mut injected, &load);
        let mut trouble = injected.trouble.clone();
        drop(probe);
        if can_be_read {
            self.screen.say("the load has ended; reading everything back");
            if let Err(error) = self.read_back(cluster.as_ref(), &workloads, &patient).await {
                trouble = Some(trouble.map_or_else(|| error.to_string(), |trouble| format!("{trouble}; {error}")));
            }
        }
        let judged = judge::workloads(&workloads, self.screen).await;
        let floor = judge::floor(&load.meter.seconds(), &injected, load_ended, self.flags.floor);
        let (verdict, sentence) = judge::verdict(&judged, &injected, trouble, floor);
        // A violation is one, whatever else went wrong.
        if let Some(refused) = injected.refused.filter(|_| verdict != Verdict::Violated) {
            return Err(refused);
        }
        Ok(Report {
            verdict,
            sentence,
            seed: self.seed,
            command: self.flags.command(self.seed),
            began: humantime::format_rfc3339_seconds(self.began).to_string(),
            seconds: load_ended.as_secs(),
            nodes: status.nodes.len() as u32,
            viewleaders: status.members.len() as u32,
            faults: injected.spans,
            timeline: report::timeline(&load.meter.seconds()),
            workloads: judged,
        })
    }

    async fn read_back(
        &self,
        cluster: Option<&Cluster>,
        workloads: &[(usize, Arc<dyn Workload>)],
        patient: &Client,
    ) -> Result<(), Error> {
        if let Some(cluster) = cluster {
            cluster.await_whole().await?;
        }
        for (_, workload) in workloads {
            workload.read_back(patient).await?;
        }
        cluster.map_or(Ok(()), Cluster::all_go_on)
    }
}

/// The end of a run in a few lines.
fn summary(report: &Report) -> String {
    let mut lines = vec![String::new()];
    for workload in &report.workloads {
        let name = &workload.name;
        lines.push(format!(
            "  {name:<12}{:<10}{:>9} operations  {}",
            word(workload.verdict),
            workload.operations,
            workload.sentence
        ));
    }
    let table = check::report::table(report);
    if !table.is_empty() {
        lines.extend([String::new(), table]);
    }
    let mut recoveries: Vec<u64> = report.faults.iter().filter_map(|fault| fault.recovery_ms).collect();
    recoveries.sort_unstable();
    if let (Some(worst), Some(median)) = (recoveries.last(), recoveries.get(recoveries.len() / 2)) {
        let faults = judge::counted(report.faults.len(), "fault");
        lines.push(format!("  {faults}; every partition served again after {median} ms (median), {worst} ms (worst)"));
    }
    lines.push(String::new());
    lines.push(format!("{}: {}", word(report.verdict), report.sentence));
    lines.push(format!("again: {}\n", report.command));
    lines.join("\n")
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Held => "held",
        Verdict::Violated => "VIOLATED",
        Verdict::Undecided => "UNDECIDED",
        Verdict::FaultsDidNotLand => "NO FAULT",
        Verdict::LoadTooLow => "LOW LOAD",
    }
}
