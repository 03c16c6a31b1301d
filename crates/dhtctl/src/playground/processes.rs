//! The playground's children: started, watched, started again, ended.

use super::PlaygroundFlags;
use super::cluster_file::{ClusterFile, Process, Role};
use daemon::Failure;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

/// How long children may take to end by themselves.
const STOP_MAX: Duration = Duration::from_secs(5);
/// A process that lived for less than this is started again only after a pause.
const SHORT_LIFE: Duration = Duration::from_secs(1);
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How much of a log's end is read to find its last line.
const LOG_TAIL_BYTES: u64 = 4096;

/// A process that has ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) name: String,
    pub(super) pid: u32,
    status: Option<ExitStatus>,
    lived: Duration,
}

/// A running child. Its pipe keeps it alive: with --exit-with-parent it ends when the pipe does.
struct Running {
    pipe: ChildStdin,
    kill: mpsc::Sender<()>,
}

/// All children.
pub(super) struct Processes {
    cluster: ClusterFile,
    directory: PathBuf,
    peers: String,
    expect_nodes: u16,
    running: BTreeMap<String, Running>,
    ends: (mpsc::UnboundedSender<Ended>, mpsc::UnboundedReceiver<Ended>),
}

impl Processes {
    /// Starts every process of `cluster` and writes `cluster.json`.
    pub(super) fn start(cluster: ClusterFile, flags: &PlaygroundFlags, directory: &Path) -> Result<Processes, Failure> {
        let mut processes = Processes {
            peers: cluster.leaders().join(","),
            expect_nodes: flags.storage,
            directory: directory.to_owned(),
            running: BTreeMap::new(),
            ends: mpsc::unbounded_channel(),
            cluster,
        };
        for index in 0..processes.cluster.processes.len() {
            processes.spawn(index)?;
        }
        processes.cluster.write(directory)?;
        Ok(processes)
    }

    /// Who runs where, now.
    pub(super) fn cluster(&self) -> &ClusterFile {
        &self.cluster
    }

    /// The next process that ends.
    pub(super) async fn next_end(&mut self) -> Ended {
        // Not the channel's end: the other half is ours too.
        let ended = match self.ends.1.recv().await {
            Some(ended) => ended,
            None => std::future::pending().await,
        };
        self.running.remove(&ended.name);
        ended
    }

    /// Whether no process is left.
    pub(super) fn all_ended(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts a process that has ended again: same ports, same directory.
    pub(super) async fn revive(&mut self, ended: &Ended) -> Result<Process, Failure> {
        if ended.lived < SHORT_LIFE {
            tokio::time::sleep(RESTART_PAUSE).await;
        }
        let found = self.cluster.processes.iter().position(|process| process.name == ended.name);
        let index = found.ok_or_else(|| Failure::bug(format!("{} is not in the cluster", ended.name)))?;
        self.spawn(index)?;
        self.cluster.write(&self.directory)?;
        Ok(self.cluster.processes[index].clone())
    }

    /// How a process ended, in words.
    pub(super) fn why(&self, ended: &Ended) -> String {
        match ended.status {
            None => "ended; nobody knows how".to_owned(),
            Some(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => format!("was killed by signal {signal}"),
                (None, Some(0)) => "ended".to_owned(),
                (None, code) => {
                    let code = code.map_or("an unknown code".to_owned(), |code| format!("code {code}"));
                    format!("ended with {code}: {}", self.last_words(&ended.name))
                }
            },
        }
    }

    /// The failure of a playground one of whose processes ended before all was ready.
    pub(super) fn ended_early(&self, ended: &Ended) -> Failure {
        Failure::unavailable(format!("{} {} before the cluster was ready", ended.name, self.why(ended)))
    }

    /// Ends every child: asks by closing the pipes, then insists.
    pub(super) async fn stop(mut self) {
        let mut kills = Vec::new();
        for (name, running) in std::mem::take(&mut self.running) {
            drop(running.pipe);
            kills.push((name, running.kill));
        }
        let deadline = tokio::time::Instant::now() + STOP_MAX;
        while !kills.is_empty() {
            match tokio::time::timeout_at(deadline, self.ends.1.recv()).await {
                Ok(Some(ended)) => kills.retain(|(name, _)| *name != ended.name),
                _ => break,
            }
        }
        for (name, kill) in &kills {
            super::say(&format!("{name} did not end within {} s: killed", STOP_MAX.as_secs()));
            // Fails only if it has ended meanwhile.
            let _ended = kill.send(()).await;
        }
        while !kills.is_empty() {
            match self.ends.1.recv().await {
                Some(ended) => kills.retain(|(name, _)| *name != ended.name),
                None => break,
            }
        }
    }

    fn spawn(&mut self, index: usize) -> Result<(), Failure> {
        let process = &self.cluster.processes[index];
        let cannot = |error: std::io::Error| {
            Failure::unavailable(format!("cannot start {}: {error}; check the limits of this account", process.name))
        };
        let log = self.log(&process.name);
        let log = OpenOptions::new().create(true).append(true).open(&log).map_err(|error| {
            Failure::unavailable(format!("cannot write {}: {error}; check the disk", log.display()))
        })?;
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command
            .arg(process.role.program())
            .args(self.arguments(process))
            // A settings file is for one process, not for six.
            .env_remove("DHT_CONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            // Ctrl-C is for the playground: it ends its children itself.
            .process_group(0);
        let mut child = command.spawn().map_err(cannot)?;
        let (Some(pid), Some(pipe)) = (child.id(), child.stdin.take()) else {
            return Err(Failure::bug(format!("{} has no pid or no pipe right after its start", process.name)));
        };
        let (kill, killed) = mpsc::channel(1);
        tokio::spawn(watch(child, process.name.clone(), pid, killed, self.ends.0.clone()));
        self.running.insert(process.name.clone(), Running { pipe, kill });
        self.cluster.processes[index].pid = pid;
        Ok(())
    }

    fn arguments(&self, process: &Process) -> Vec<String> {
        let mut arguments = vec![
            "--exit-with-parent".to_owned(),
            format!("--data-dir={}", process.data_dir.display()),
            format!("--listen={}", process.grpc),
            format!("--advertise={}", process.grpc),
            format!("--http={}", process.http),
        ];
        match process.role {
            Role::Viewleader => arguments.extend([
                format!("--name={}", process.name),
                format!("--peers={}", self.peers),
                format!("--expect-nodes={}", self.expect_nodes),
            ]),
            Role::Storaged => arguments.push(format!("--leaders={}", self.peers)),
        }
        arguments
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    /// The last line of a process's log: on its way out it says why there.
    fn last_words(&self, name: &str) -> String {
        let path = self.log(name);
        match last_line(&path) {
            Ok(line) if !line.is_empty() => line,
            _ => format!("see {}", path.display()),
        }
    }
}

/// Waits for a child's end, or brings it about.
async fn watch(
    mut child: Child,
    name: String,
    pid: u32,
    mut killed: mpsc::Receiver<()>,
    ends: mpsc::UnboundedSender<Ended>,
) {
    let started = Instant::now();
    let status = tokio::select! {
        status = child.wait() => status,
        Some(()) = killed.recv() => {
            // Fails only if it has ended meanwhile: then the wait says how.
            let _ended = child.start_kill();
            child.wait().await
        }
    };
    let ended = Ended { name, pid, status: status.ok(), lived: started.elapsed() };
    // Nobody listens when the playground is gone.
    let _gone = ends.send(ended);
}

fn last_line(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).lines().last().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against an error message that quotes the middle of a log, or fails on a long one.
    #[test]
    fn the_last_line_of_a_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v1.log");
        std::fs::write(&path, format!("{}\nwhy it ended\n", "x".repeat(100_000))).unwrap();
        assert_eq!(last_line(&path).unwrap(), "why it ended");
        std::fs::write(&path, "").unwrap();
        assert_eq!(last_line(&path).unwrap(), "");
    }
}
