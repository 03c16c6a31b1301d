//! A storage node of a test's own, beside those of the playground: it joins, is killed, is started again.

use crate::playground::{dhtctl, signal};
use anyhow::{Context, Result};
use client::{Leaders, NodeStatus};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use types::Epoch;

/// A running storage node. Dropping it kills it.
#[derive(Debug)]
pub struct StorageNode {
    child: Child,
    /// Where others reach it.
    pub address: String,
    leaders: String,
    data_dir: PathBuf,
    variables: Vec<(String, String)>,
}

impl Drop for StorageNode {
    fn drop(&mut self) {
        self.end();
    }
}

impl StorageNode {
    /// Starts one in `data_dir`, with `variables` in its environment.
    ///
    /// # Errors
    /// Where the process can't be started.
    pub fn start(leaders: &[String], data_dir: PathBuf, variables: &[(&str, &str)]) -> Result<StorageNode> {
        let address = crate::free_address()?;
        let variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let leaders = leaders.join(",");
        let child = spawn(&leaders, &address, &data_dir, &variables)?;
        Ok(StorageNode { child, address, leaders, data_dir, variables })
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// Where there is no such process.
    pub fn kill(&mut self) -> Result<()> {
        signal(i32::try_from(self.child.id())?, "KILL")?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again where it was.
    ///
    /// # Errors
    /// Where the process can't be started.
    pub fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&self.leaders, &self.address, &self.data_dir, &self.variables)?;
        Ok(())
    }

    /// What the viewleaders know of it, once it has registered.
    ///
    /// # Errors
    /// Where that takes half a minute; with what it said.
    pub async fn registered(&self, leaders: &Leaders) -> Result<NodeStatus> {
        for _ in 0..1_500 {
            let status = crate::insist(|| leaders.status()).await?;
            // It has told which view it has on disk, and so knows who it is: one that is killed before that comes back as
            // another node.
            let it = |node: &NodeStatus| node.info.address == self.address && node.info.alive && node.epoch > Epoch(0);
            if let Some(node) = status.nodes.into_iter().find(it) {
                return Ok(node);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let said = std::fs::read_to_string(self.data_dir.with_extension("log")).unwrap_or_default();
        Err(anyhow::anyhow!("{} does not register:\n{said}", self.address))
    }

    fn end(&mut self) {
        if self.child.kill().is_ok() {
            // It is gone either way.
            let _status = self.child.wait();
        }
    }
}

fn spawn(leaders: &str, address: &str, data_dir: &PathBuf, variables: &[(String, String)]) -> Result<Child> {
    let log = data_dir.with_extension("log");
    let log = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
    let child = Command::new(dhtctl())
        .args(["storaged", "--leaders", leaders, "--listen", address, "--http", "127.0.0.1:0", "--data-dir"])
        .arg(data_dir)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()?;
    Ok(child)
}
