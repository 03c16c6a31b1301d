//! Waiting until a playground serves, and showing each part as it comes up.

use super::cluster_file::{ClusterFile, Process, Role};
use crate::output::{self, counted};
use client::{Client, ClusterStatus, Leaders, Options};
use daemon::Failure;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How often a part that is not up yet is asked again.
const ASK_EVERY: Duration = Duration::from_millis(25);
/// A machine that is this slow has another problem.
const READY_MAX: Duration = Duration::from_secs(60);
/// Keys that are read at the end: most partitions' primaries are among those that answer.
const PROBES: usize = 16;

/// What is shown while a cluster comes up: one line per part, aligned.
pub(super) struct Screen {
    started: Instant,
    name_width: usize,
    address_width: usize,
}

impl Screen {
    pub(super) fn new(cluster: &ClusterFile, started: Instant) -> Screen {
        let width = |of: fn(&Process) -> &str| cluster.processes.iter().map(|p| of(p).len()).max().unwrap_or(0);
        Screen { started, name_width: width(|p| &p.name), address_width: width(|p| &p.grpc) }
    }

    fn part(&self, process: &Process, what: &str) -> Result<(), Failure> {
        output::line(&self.text(process.role.program(), &process.name, &process.grpc, what, self.started.elapsed()))
    }

    fn whole(&self, what: &str) -> Result<(), Failure> {
        output::line(&self.text("cluster", "", "", what, self.started.elapsed()))
    }

    fn text(&self, kind: &str, name: &str, address: &str, what: &str, after: Duration) -> String {
        format!(
            "  {kind:<10}  {name:<0$}  {address:<1$}  {what:<32}  {2:.1} s",
            self.name_width,
            self.address_width,
            after.as_secs_f64()
        )
    }
}

/// Resolves when the partition map is committed and every partition serves.
pub(super) async fn wait(cluster: &ClusterFile, screen: &Screen) -> Result<(), Failure> {
    match tokio::time::timeout(READY_MAX, stages(cluster, screen)).await {
        Ok(ready) => ready,
        Err(_) => Err(Failure::unavailable(format!(
            "the cluster was not ready within {} s; give a --data-dir and see the logs there",
            READY_MAX.as_secs()
        ))),
    }
}

async fn stages(cluster: &ClusterFile, screen: &Screen) -> Result<(), Failure> {
    let mut answering = JoinSet::new();
    for process in cluster.of(Role::Viewleader).cloned() {
        answering.spawn(async move {
            let leaders = Leaders::new(std::slice::from_ref(&process.grpc)).map_err(crate::failure::of)?;
            while leaders.view().await.is_err() {
                tokio::time::sleep(ASK_EVERY).await;
            }
            Ok::<Process, Failure>(process)
        });
    }
    while let Some(up) = answering.join_next().await {
        let process = up.map_err(|error| Failure::bug(format!("waiting for a viewleader: {error}")))??;
        screen.part(&process, "answers")?;
    }
    let leaders = Leaders::new(&cluster.leaders()).map_err(crate::failure::of)?;
    let mut shown = BTreeSet::new();
    let status = loop {
        if let Ok(status) = leaders.status().await {
            show_registered(cluster, &status, &mut shown, screen)?;
            if status.has_map && status.not_serving.is_empty() && status.without_quorum.is_empty() {
                break status;
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    };
    let options = Options { timeout: READY_MAX };
    let client = Client::connect(&cluster.leaders(), options).await.map_err(crate::failure::of)?;
    for probe in 0..PROBES {
        client.get(format!("probe-{probe}")).await.map_err(crate::failure::of)?;
    }
    let (partitions, replicas) = (status.partition_count as usize, status.replication as usize);
    let replicas = counted(replicas.min(status.nodes.len()), "replica");
    screen.whole(&format!("{}, {replicas} each", counted(partitions, "partition")))
}

/// One line for each node that has registered since the last look.
fn show_registered(
    cluster: &ClusterFile,
    status: &ClusterStatus,
    shown: &mut BTreeSet<String>,
    screen: &Screen,
) -> Result<(), Failure> {
    for process in cluster.of(Role::Storaged) {
        let node = status.nodes.iter().find(|node| node.info.address == process.grpc && node.info.alive);
        if let Some(node) = node.filter(|_| shown.insert(process.name.clone())) {
            screen.part(process, &format!("registered as {}", node.info.id))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against lines that don't stand under each other.
    #[test]
    fn lines_are_aligned() {
        let process = |name: &str, grpc: &str| Process {
            name: name.to_owned(),
            role: Role::Storaged,
            pid: 1,
            grpc: grpc.to_owned(),
            http: String::new(),
            data_dir: Default::default(),
        };
        let cluster = ClusterFile { processes: vec![process("s1", "127.0.0.1:38000"), process("s10", "127.0.0.1:9")] };
        let screen = Screen::new(&cluster, Instant::now());
        let line = |p: &Process| screen.text("storaged", &p.name, &p.grpc, "up", Duration::from_millis(420));
        let lines: Vec<String> = cluster.processes.iter().map(line).collect();
        assert_eq!(lines[0], format!("  storaged    s1   127.0.0.1:38000  up{}  0.4 s", " ".repeat(30)));
        assert_eq!(lines[0].len(), lines[1].len());
    }
}
