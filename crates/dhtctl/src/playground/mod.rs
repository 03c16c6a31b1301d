//! `playground`: a whole cluster on this machine, of real processes.
//!
//! Every process gets its own data directory and log under one directory, which also holds `cluster.json` for scripts.
//! A directory that has held a playground before continues with the same addresses and data. Each child holds one end
//! of a pipe whose other end is here: when this process ends, however it does, the pipes close and the children end too.

pub(crate) mod cluster_file;
mod ports;
mod processes;
mod ready;

use crate::output;
use clap::Args;
use cluster_file::{ClusterFile, Role};
use daemon::{DataDirectory, Exit, Failure};
use ports::Reservation;
use processes::{Ended, Processes};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Clone, Debug, Args)]
pub(crate) struct PlaygroundFlags {
    /// How many viewleaders: 1, 3 or 5.
    #[arg(long = "leaders", id = "viewleaders", value_name = "N", default_value_t = 3, value_parser = odd_count)]
    pub(crate) leaders: u16,
    /// How many storage nodes.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) storage: u16,
    /// Where data, logs and cluster.json go; a temporary directory, removed at the end, unless given.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// First of the ports to use; without it the usual ones are, or the next free ones.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1024..=64_000))]
    port_base: Option<u16>,
    /// Start again what dies.
    #[arg(long)]
    restart: bool,
}

fn odd_count(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(count @ (1 | 3 | 5)) => Ok(count),
        _ => Err("a group of viewleaders has 1, 3 or 5 members".to_owned()),
    }
}

pub(crate) async fn run(flags: &PlaygroundFlags) -> Result<Exit, Failure> {
    let started = Instant::now();
    let stop = daemon::shutdown::requested(false);
    tokio::pin!(stop);
    // Signals are caught from the first poll on: before there is anything that a Ctrl-C would leave behind.
    if let Ok(Err(error)) = tokio::time::timeout(Duration::ZERO, &mut stop).await {
        return Err(cannot_catch_signals(&error));
    }
    let temporary = match flags.data_dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("ringleader-").tempdir().map_err(|error| {
            Failure::unavailable(format!("cannot make a temporary directory: {error}; give one with --data-dir"))
        })?),
    };
    let path = flags.data_dir.as_deref().or(temporary.as_ref().map(|kept| kept.path())).unwrap_or(Path::new("."));
    let path = std::path::absolute(path).map_err(|error| {
        Failure::unavailable(format!("cannot use {}: {error}; choose another --data-dir", path.display()))
    })?;
    let directory = DataDirectory::open(&path)?;
    let (cluster, _ports) = plan(flags, &path)?;
    let mut processes = Processes::start(cluster, flags, &path)?;
    let outcome = tokio::select! {
        outcome = serve(&mut processes, flags, started) => outcome,
        stopped = &mut stop => match stopped {
            Ok(_asked) => Ok(Exit::Done),
            Err(error) => Err(cannot_catch_signals(&error)),
        },
    };
    processes.stop().await;
    drop(directory);
    outcome
}

fn cannot_catch_signals(error: &std::io::Error) -> Failure {
    Failure::unavailable(format!("cannot catch signals: {error}; check the limits of this account"))
}

/// Brings everything up, says how to use it, and looks after it from then on.
async fn serve(processes: &mut Processes, flags: &PlaygroundFlags, started: Instant) -> Result<Exit, Failure> {
    let cluster = processes.cluster().clone();
    let screen = ready::Screen::new(&cluster, started);
    tokio::select! {
        up = ready::wait(&cluster, &screen) => up?,
        ended = processes.next_end() => return Err(processes.ended_early(&ended)),
    }
    output::line(&paste(&cluster))?;
    loop {
        let ended = processes.next_end().await;
        say_ended(processes, &ended);
        if flags.restart {
            let revived = processes.revive(&ended).await?;
            say(&format!("{} started again (pid {})", revived.name, revived.pid));
        } else if processes.all_ended() {
            return Err(Failure::unavailable("nothing is left running; start the playground again"));
        }
    }
}

fn say_ended(processes: &Processes, ended: &Ended) {
    say(&format!("{} (pid {}) {}", ended.name, ended.pid, processes.why(ended)));
}

/// A line for whoever watches; nobody has to.
fn say(text: &str) {
    use std::io::Write;
    let _unread = writeln!(std::io::stderr(), "{text}");
}

/// The two lines to paste.
fn paste(cluster: &ClusterFile) -> String {
    let program = std::env::args_os().next().map_or("dhtctl".into(), |name| name.to_string_lossy().into_owned());
    format!("\nexport DHT_LEADERS={}\n{program} setr hello world", cluster.leaders().join(","))
}

/// The cluster that the directory holds, or a new one on free ports.
fn plan(flags: &PlaygroundFlags, directory: &Path) -> Result<(ClusterFile, Reservation), Failure> {
    let file = directory.join(cluster_file::NAME);
    if !file.exists() {
        return ports::choose(flags, directory);
    }
    let mut cluster = ClusterFile::read(&file)?;
    let (leaders, storage) = (cluster.count(Role::Viewleader), cluster.count(Role::Storaged));
    if (leaders, storage) != (usize::from(flags.leaders), usize::from(flags.storage)) {
        return Err(Failure::usage(format!(
            "{} holds a playground of {leaders} viewleaders and {storage} storage nodes; say --leaders {leaders} \
             --storage {storage}, or choose another --data-dir",
            directory.display()
        )));
    }
    // The directory may have been moved since.
    for process in &mut cluster.processes {
        process.data_dir = directory.join(&process.name);
    }
    let ports = ports::reserve(&cluster)?;
    Ok((cluster, ports))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster_file::Process;

    fn flags(leaders: u16) -> PlaygroundFlags {
        PlaygroundFlags { leaders, storage: 1, data_dir: None, port_base: None, restart: false }
    }

    fn cluster(directory: &Path) -> ClusterFile {
        let mut ports = 1..;
        let mut process = |name: &str, role| Process {
            name: name.to_owned(),
            role,
            pid: 0,
            // A network of this machine's own, where nobody listens.
            grpc: format!("127.77.0.1:{}", 40_000 + ports.next().unwrap_or(0)),
            http: format!("127.77.0.1:{}", 40_000 + ports.next().unwrap_or(0)),
            data_dir: directory.join(name),
        };
        ClusterFile { processes: vec![process("v1", Role::Viewleader), process("s1", Role::Storaged)] }
    }

    /// Guards against a directory whose viewleaders are started as members of another group.
    #[test]
    fn a_directory_keeps_its_cluster() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        cluster(elsewhere.path()).write(directory.path()).unwrap();
        let failure = plan(&flags(3), directory.path()).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("--leaders 1 --storage 1"), "{failure}");
        assert_eq!(plan(&flags(1), directory.path()).unwrap().0, cluster(directory.path()));
    }

    /// Guards against two lines that don't work when pasted.
    #[test]
    fn the_lines_to_paste() {
        let text = paste(&cluster(Path::new("d")));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "export DHT_LEADERS=127.77.0.1:40001");
        assert!(lines[2].ends_with(" setr hello world"), "{text}");
    }
}
