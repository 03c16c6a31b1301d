//! Switching bugs on, one at a time, and running what is to catch them.

use crate::{Bug, Catcher};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The environment's word for the rule that is broken.
const VARIABLE: &str = "RINGLEADER_MUTANT";
/// Seeds that a bug may take to show.
const SEEDS_MAX: u32 = 3_000;

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
    /// What noticed, and after how much; `None`: nothing did.
    pub by: Option<String>,
    /// How long it took.
    pub took: Duration,
}

impl Programs {
    /// Builds those that catch these bugs.
    ///
    /// # Errors
    /// Where cargo fails; it has said why.
    pub fn build(bugs: &[&Bug]) -> Result<Programs> {
        let mut programs = Programs { tests: BTreeMap::new(), sim: PathBuf::new(), model: PathBuf::new() };
        let features = "sim/mutants,model/mutants";
        for artifact in cargo(&["build", "-p", "sim", "-p", "model", "--bins", "--features", features])? {
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
            let target = if target == package { "lib".to_owned() } else { target };
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
                command.args(["--seeds", &format!("0..{SEEDS_MAX}")]);
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
        let began = Instant::now();
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {catcher}"))?;
        let took = began.elapsed();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            if let Catcher::Test { .. } = catcher {
                ensure!(!text.contains("running 0 tests"), "{catcher}: there is no such test");
            }
            return Ok(Caught { by: None, took });
        }
        let by = said(catcher, &text).with_context(|| format!("{catcher} ended with {}:\n{text}", output.status))?;
        Ok(Caught { by: Some(by), took })
    }
}

/// What a catcher that noticed something said. `None`: it failed for another reason.
fn said(catcher: Catcher, text: &str) -> Option<String> {
    match catcher {
        Catcher::Seeds(_) => {
            let line = text.lines().find(|line| line.starts_with("seed "))?;
            let mut words = line.split_whitespace();
            let seed = words.nth(1)?;
            let broke = line.split(" broke ").nth(1).and_then(|what| what.split(':').next());
            Some(format!("seed {seed}: {}", broke.unwrap_or("an assertion of the core")))
        }
        Catcher::World(world) => {
            let broken = text.lines().find_map(|line| line.trim().strip_prefix("broken: "))?.split(':').next()?;
            let counted = text.lines().find(|line| line.starts_with(world))?;
            Some(format!("{} states: {broken}", counted.split_whitespace().nth(1)?))
        }
        Catcher::Test { .. } => {
            let failed = |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
            let failed: Vec<String> = text.lines().filter_map(failed).collect();
            (!failed.is_empty()).then(|| failed.join(", "))
        }
    }
}

struct Artifact {
    package: String,
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
        let (Some(executable), Some(target)) = (text(&message["executable"]), text(&message["target"]["name"])) else {
            continue;
        };
        let manifest = PathBuf::from(text(&message["manifest_path"]).context("an artifact has a manifest")?);
        let directory = manifest.parent().context("a manifest lies in a directory")?.to_owned();
        // A crate has the name of its directory, and a library's tests that of their crate.
        let package = directory.file_name().context("a directory has a name")?.to_string_lossy().into_owned();
        artifacts.push(Artifact { package, target, executable: executable.into(), directory });
    }
    Ok(artifacts)
}
