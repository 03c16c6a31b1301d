//! Switching bugs on, one at a time, and running what is to catch them.

use crate::{Bug, Catcher};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The environment's word for the rule that is broken.
const VARIABLE: &str = "RINGLEADER_MUTANT";
/// Seeds that a bug may take to show.
const SEEDS_MAX: u32 = 3_000;
/// A catcher that takes longer hangs, and has caught nothing. Far more than any takes on a machine that is busy otherwise.
const CATCHER_TIME_MAX: Duration = Duration::from_secs(3600);

/// The programs that catch.
pub struct Programs {
    /// By crate and target.
    tests: BTreeMap<(String, String), (PathBuf, PathBuf)>,
    sim: PathBuf,
    model: PathBuf,
}

/// How a catcher fared.
#[derive(Clone, Debug)]
pub struct Caught {
    /// What it noticed; `None`: nothing.
    pub noticed: Option<Noticed>,
    /// How long it took.
    pub took: Duration,
}

/// What a catcher noticed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Noticed {
    /// The seed, or how many states; empty for tests.
    pub after: String,
    /// What is broken: an invariant, a property, or the tests that failed.
    pub what: String,
}

impl fmt::Display for Caught {
    /// After how much it was noticed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        match &self.noticed {
            None => write!(f, "NOT CAUGHT within {seconds:.1} s"),
            Some(Noticed { after, .. }) if after.is_empty() => write!(f, "{seconds:.1} s"),
            Some(Noticed { after, .. }) => write!(f, "{after}, {seconds:.1} s"),
        }
    }
}

impl Programs {
    /// Builds those that catch these bugs.
    ///
    /// # Errors
    /// Where cargo fails; it has said why.
    pub fn build(bugs: &[&Bug]) -> Result<Programs> {
        let mut programs = Programs { tests: BTreeMap::new(), sim: PathBuf::new(), model: PathBuf::new() };
        // Of each of them: `model/mutants` would be that of a dependency, for `model` tests itself with it.
        for artifact in cargo(&["build", "-p", "sim", "-p", "model", "--bins", "--features", "mutants"])? {
            match artifact.target.as_str() {
                "sim" => programs.sim = artifact.executable,
                "model" => programs.model = artifact.executable,
                _ => {}
            }
        }
        let catchers = bugs.iter().flat_map(|bug| bug.caught_by);
        let tested: BTreeSet<&str> = catchers.filter_map(Catcher::package).collect();
        if tested.is_empty() {
            return Ok(programs);
        }
        let mut arguments = vec!["test", "--no-run"];
        tested.iter().for_each(|package| arguments.extend(["-p", package]));
        for Artifact { package, target, executable, directory } in cargo(&arguments)? {
            programs.tests.insert((package, target), (executable, directory));
        }
        Ok(programs)
    }

    /// Runs one catcher with the bug switched on, or with none.
    ///
    /// # Errors
    /// Where it can't be run.
    pub fn run(&self, bug: Option<&Bug>, catcher: Catcher) -> Result<Caught> {
        let mut command = match catcher {
            Catcher::Seeds(scenario) => {
                let mut command = Command::new(&self.sim);
                // One after another: then the seed that is named is the first one.
                command.args(["--jobs", "1", "--seeds", &format!("0..{SEEDS_MAX}")]);
                scenario.iter().for_each(|scenario| {
                    command.args(["--scenario", scenario]);
                });
                command
            }
            Catcher::World(world) => {
                let mut command = Command::new(&self.model);
                command.args(["--world", world]);
                if let Some(rule) = bug.and_then(|bug| bug.name.strip_prefix("replcore::")) {
                    command.args(["--mutant", rule]);
                }
                command
            }
            Catcher::Test { package, target, filter } => {
                let program = self.tests.get(&(package.to_owned(), target.to_owned()));
                let (executable, directory) = program.with_context(|| format!("{package} has no tests {target}"))?;
                let mut command = Command::new(executable);
                command.current_dir(directory).arg(filter);
                command
            }
        };
        match bug {
            Some(bug) => command.env(VARIABLE, bug.name),
            None => command.env_remove(VARIABLE),
        };
        // What a broken rule fails with is no regression.
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true");
        let began = Instant::now();
        let ended = run_within(command, CATCHER_TIME_MAX).with_context(|| format!("cannot run {catcher}"))?;
        let took = began.elapsed();
        let Some((status, text)) = ended else { return Ok(Caught { noticed: None, took }) };
        if status.success() {
            if let Catcher::Test { .. } = catcher {
                ensure!(!text.contains("running 0 tests"), "{catcher}: there is no such test");
            }
            return Ok(Caught { noticed: None, took });
        }
        let noticed = said(catcher, &text).with_context(|| format!("{catcher} ended with {status}:\n{text}"))?;
        Ok(Caught { noticed: Some(noticed), took })
    }
}

/// How a program ended and what it wrote; `None`: it did not end in time, and was killed.
fn run_within(mut command: Command, limit: Duration) -> Result<Option<(ExitStatus, String)>> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (wrote, written) = mpsc::channel();
    let read = |mut from: Box<dyn Read + Send>, wrote: mpsc::Sender<std::io::Result<Vec<u8>>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // Nobody listens any more once the program was killed.
            let _gone = wrote.send(from.read_to_end(&mut bytes).map(|_| bytes));
        });
    };
    read(Box::new(child.stdout.take().context("its output is a pipe")?), wrote.clone());
    read(Box::new(child.stderr.take().context("its errors are a pipe")?), wrote);
    let deadline = Instant::now() + limit;
    let mut text = String::new();
    for _ in 0..2 {
        match written.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes?)),
            Err(_) => {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
        }
    }
    Ok(Some((child.wait()?, text)))
}

/// What a catcher that noticed something said. `None`: it failed for another reason.
fn said(catcher: Catcher, text: &str) -> Option<Noticed> {
    match catcher {
        Catcher::Seeds(_) => {
            let line = text.lines().find(|line| line.starts_with("seed "))?;
            let seed = line.split_whitespace().nth(1)?;
            let broke = line.split(" broke ").nth(1).and_then(|what| what.split(':').next());
            let what = broke.unwrap_or("an assertion of the core").to_owned();
            Some(Noticed { after: format!("seed {seed}"), what })
        }
        Catcher::World(world) => {
            let what = text.lines().find_map(|line| line.trim().strip_prefix("broken: "))?.split(':').next()?;
            let counted = text.lines().find(|line| line.starts_with(world))?;
            let states = counted.split_whitespace().nth(1)?;
            Some(Noticed { after: format!("{states} states"), what: what.to_owned() })
        }
        Catcher::Test { .. } => {
            let failed = |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
            let failed: Vec<String> = text.lines().filter_map(failed).collect();
            (!failed.is_empty()).then(|| Noticed { after: String::new(), what: failed.join(", ") })
        }
    }
}

struct Artifact {
    package: String,
    /// `lib` for a library, else its name.
    target: String,
    executable: PathBuf,
    /// Where the package's manifest lies: tests run there.
    directory: PathBuf,
}

fn cargo(arguments: &[&str]) -> Result<Vec<Artifact>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).args(["--locked", "--message-format", "json-render-diagnostics"]);
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    let mut artifacts = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's messages are JSON")?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let (Some(executable), Some(name)) = (text(&message["executable"]), text(&message["target"]["name"])) else {
            continue;
        };
        let is_library = message["target"]["kind"].as_array().is_some_and(|kinds| kinds.contains(&"lib".into()));
        let target = if is_library { "lib".to_owned() } else { name };
        let manifest = PathBuf::from(text(&message["manifest_path"]).context("an artifact has a manifest")?);
        let directory = manifest.parent().context("a manifest lies in a directory")?.to_owned();
        // A crate has the name of its directory.
        let package = directory.file_name().context("a directory has a name")?.to_string_lossy().into_owned();
        artifacts.push(Artifact { package, target, executable: executable.into(), directory });
    }
    Ok(artifacts)
}
