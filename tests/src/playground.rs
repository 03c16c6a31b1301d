//! A cluster of real processes, started by `dhtctl playground`, with SIGKILL at hand.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What a process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A member of the viewleader group.
    Viewleader,
    /// A storage node.
    Storaged,
}

/// A line of `cluster.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Process {
    /// As the playground calls it.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Its process id at the moment.
    pub pid: i32,
    /// Its gRPC address.
    pub grpc: String,
    /// Its HTTP address.
    pub http: String,
    /// Its data directory.
    pub data_dir: PathBuf,
}

#[derive(Deserialize)]
struct ClusterFile {
    processes: Vec<Process>,
}

/// A running playground. Dropping it ends everything it started.
#[derive(Debug)]
pub struct Playground {
    child: Child,
    directory: tempfile::TempDir,
}

/// The `dhtctl` that was built with the program that runs this.
///
/// # Panics
/// Where it is not there and can't be built.
pub fn dhtctl() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| find().unwrap_or_else(|error| panic!("no dhtctl: {error:#}")))
}

const DHTCTL: &str = "dhtctl-under-test";

fn find() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let directory = here.parent().context("a program is in a directory")?;
    // target/PROFILE/deps/a-test: Cargo has built it before the test.
    if let (true, Some(profile)) = (directory.ends_with("deps"), directory.parent()) {
        return Ok(profile.join(DHTCTL));
    }
    // target/PROFILE/a-program: Cargo has built only that.
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked", "-p", "e2e", "--bin", DHTCTL, "--target-dir"]);
    cargo.arg(directory.parent().context("no directory above the profile's")?);
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    ensure!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status()?.success(), "cargo build failed");
    Ok(directory.join(DHTCTL))
}

impl Playground {
    /// Starts a cluster and waits until it says that it is ready. `arguments` go to `dhtctl playground`, `variables`
    /// into the environment of all processes.
    ///
    /// # Errors
    /// Where it does not become ready; with what it printed.
    pub fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Playground> {
        let directory = tempfile::tempdir()?;
        let mut child = Command::new(dhtctl())
            .args(["playground", "--data-dir"])
            .arg(directory.path())
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut printed = String::new();
        let mut output = BufReader::new(child.stdout.take().context("stdout is piped")?);
        // The two lines to paste come last: once they are there, everything serves.
        while !printed.contains("setr") {
            if output.read_line(&mut printed)? == 0 {
                child.stderr.take().context("stderr is piped")?.read_to_string(&mut printed)?;
                bail!("the playground ended before it was ready:\n{printed}");
            }
        }
        // Nobody reads on: keep the pipes from filling up.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        let mut errors = child.stderr.take().context("stderr is piped")?;
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
        Ok(Playground { child, directory })
    }

    /// Where its data and logs are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its processes as of now.
    ///
    /// # Errors
    /// Where `cluster.json` can't be read.
    pub fn processes(&self) -> Result<Vec<Process>> {
        let path = self.directory.path().join("cluster.json");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_str::<ClusterFile>(&text)?.processes)
    }

    /// Those of one role.
    ///
    /// # Errors
    /// As [`Playground::processes`].
    pub fn of(&self, role: Role) -> Result<Vec<Process>> {
        Ok(self.processes()?.into_iter().filter(|p| p.role == role).collect())
    }

    /// The viewleaders' addresses.
    ///
    /// # Errors
    /// As [`Playground::processes`].
    pub fn leaders(&self) -> Result<Vec<String>> {
        Ok(self.of(Role::Viewleader)?.into_iter().map(|p| p.grpc).collect())
    }

    /// SIGKILL, and waits until the kernel has taken the process down.
    ///
    /// # Errors
    /// Where there is no such process, or it does not go.
    pub fn kill(&self, process: &Process) -> Result<()> {
        signal(process.pid, "KILL")?;
        await_condition("the killed process is gone", || Ok(!alive(process.pid)))
    }

    /// Waits until a playground with `--restart` has started `killed` again.
    ///
    /// # Errors
    /// Where it does not within half a minute.
    pub fn await_restart(&self, killed: &Process) -> Result<Process> {
        let mut found = None;
        await_condition("the killed process is started again", || {
            found = self.processes()?.into_iter().find(|p| p.name == killed.name && p.pid != killed.pid);
            Ok(found.is_some())
        })?;
        found.context("just found")
    }

    /// The last lines of each process's log, for a failing test's message.
    pub fn log_tails(&self) -> String {
        let mut tails = String::new();
        for process in self.processes().unwrap_or_default() {
            let log = std::fs::read_to_string(self.directory.path().join(format!("{}.log", process.name)));
            let log = log.unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(15).collect();
            tails.push_str(&format!("--- {}\n", process.name));
            lines.iter().rev().for_each(|line| tails.push_str(&format!("{line}\n")));
        }
        tails
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).unwrap_or_default();
        if signal(pid, "TERM").is_err() || self.child.wait().is_err() {
            // Its children end with it.
            drop(self.child.kill());
        }
    }
}

/// Sends a signal by its name, through `kill(1)`.
///
/// # Errors
/// Where there is no such process.
pub fn signal(pid: i32, name: &str) -> Result<()> {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status()?;
    ensure!(status.success(), "kill -{name} {pid} failed");
    Ok(())
}

/// Whether a process runs; one that nobody has waited for yet does not.
fn alive(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}

/// Polls until `condition` holds; what has no event to wait for.
///
/// # Errors
/// After half a minute, or where `condition` fails.
pub fn await_condition(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition()? {
        ensure!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    Ok(())
}
