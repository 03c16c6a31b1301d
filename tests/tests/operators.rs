//! What operators type, against real processes: a node joins, one leaves, and a refusal says why before anything starts.

use anyhow::{Context, Result, ensure};
use client::{Client, Options};
use e2e::playground::{await_condition, dhtctl};
use e2e::{Playground, Process, Role};
use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use types::Condition;

const USAGE: i32 = 2;
const DENIED: i32 = 5;
const KEYS: usize = 200;

/// A storage node of the test's own. Ends with the test.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            // It is gone either way.
            let _status = self.0.wait();
        }
    }
}

impl Node {
    fn start(leaders: &str, data_dir: &Path) -> Result<Node> {
        let mut command = Command::new(dhtctl());
        command.args(["storaged", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--leaders", leaders]);
        command.arg("--data-dir").arg(data_dir).stdin(Stdio::null());
        Ok(Node(command.stderr(File::create(data_dir.with_extension("log"))?).spawn()?))
    }
}

/// `dhtctl` about one cluster.
struct Operator {
    leaders: String,
}

impl Operator {
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(dhtctl());
        command.args(line.split_whitespace()).env("DHT_LEADERS", &self.leaders).stdin(Stdio::null());
        command
    }

    fn json(&self, line: &str) -> Result<Value> {
        let output = self.command(line).args(["--output", "json"]).output()?;
        ensure!(output.status.success(), "dhtctl {line}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Ends with `code`, and one line that has all of `words`.
    fn refused(&self, line: &str, code: i32, words: &[&str]) -> Result<()> {
        let output = self.command(line).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let context = format!("dhtctl {line}: {:?}: {said}", output.status);
        ensure!(output.status.code() == Some(code), "expected code {code} of {context}");
        ensure!(output.stdout.is_empty() && said.lines().count() == 1, "one line is expected of {context}");
        for word in words {
            ensure!(said.contains(word), "{word:?} is missing in {context}");
        }
        Ok(())
    }

    fn node_at(&self, address: &str) -> Result<Option<Value>> {
        let nodes = self.json("nodes")?;
        let at = nodes.as_array().context("a list")?.iter().find(|node| node["address"] == address);
        Ok(at.cloned())
    }

    fn await_complete(&self, nodes: usize) -> Result<()> {
        await_condition(&format!("{nodes} nodes hold their share, and nothing is left over"), || {
            let holding =
                self.json("nodes")?.as_array().context("a list")?.iter().filter(|node| node["partitions"] != 0).count();
            Ok(holding == nodes && self.json("rebalance status")?["complete"] == true)
        })
    }
}

/// Guards against a departure that loses something or is said to be over before it is, a dry run that does something or
/// promises something else, and a request that can't succeed and is begun all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_comes_and_another_leaves() -> Result<()> {
    let playground = Playground::start(&["--leaders", "1"], &[])?;
    let result = come_and_go(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn come_and_go(playground: &Playground) -> Result<()> {
    let leaders = playground.leaders()?;
    let operator = Operator { leaders: leaders.join(",") };
    let client = Client::connect(&leaders, Options::default()).await?;
    for key in 0..KEYS {
        client.put(format!("key-{key}"), vec![key as u8; 100], Condition::None).await?;
    }
    let leaving: Process = playground.of(Role::Storaged)?.remove(0);

    // Three replicas need three nodes.
    operator.refused(
        &format!("node drain {}", leaving.grpc),
        DENIED,
        &["can't leave", "start another storage node"],
    )?;
    operator.refused(&format!("rebalance plan --drain {}", leaving.grpc), DENIED, &["can't leave"])?;
    operator.refused(&format!("node remove {}", leaving.grpc), DENIED, &["is alive", "drain it first"])?;
    operator.refused("cluster set replication 5", DENIED, &["5 replicas need 5 storage nodes"])?;
    operator.refused("node cordon n99", DENIED, &["no node n99"])?;
    operator.refused("node cordon nowhere:1", USAGE, &["nowhere:1"])?;
    ensure!(operator.json("rebalance status")?["complete"] == true, "a refusal has begun something");

    let directory = tempfile::tempdir()?;
    let _fourth = Node::start(&operator.leaders, &directory.path().join("fourth"))?;
    operator.await_complete(4)?;

    let plan = operator.json(&format!("node drain {} --dry-run", leaving.grpc))?;
    ensure!(plan["moves"] == 192 && plan["tolerates_then"] == 1, "{plan}");
    ensure!(operator.json("rebalance status")?["planned"] == Value::Array(vec![]), "a dry run has begun something");

    let drained = operator.json(&format!("node drain {} --wait", leaving.grpc))?;
    ensure!(drained["holds"] == 0, "{drained}");
    let empty = operator.node_at(&leaving.grpc)?.context("it still runs")?;
    ensure!(empty["partitions"] == 0 && empty["duty"] == "draining", "{empty}");
    operator.await_complete(3)?;
    playground.kill(&leaving)?;
    await_condition("the drained node is forgotten", || Ok(operator.node_at(&leaving.grpc)?.is_none()))?;

    for key in 0..KEYS {
        let found = client.get(format!("key-{key}")).await?;
        ensure!(found.is_some_and(|found| found.value == vec![key as u8; 100]), "key-{key} is gone");
    }
    ensure!(operator.json("recover")?["recovered"] == Value::Array(vec![]), "nothing was lost");
    operator.refused("recover --partition 256", USAGE, &["p256", "256 partitions"])?;
    Ok(())
}

/// Guards against a recovery that asks nobody, that goes on without saying what is lost, or that loses what it said is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_majority_is_given_up_by_hand_only() -> Result<()> {
    let playground = Playground::start(&["--leaders", "1"], &[])?;
    let result = recover(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn recover(playground: &Playground) -> Result<()> {
    let leaders = playground.leaders()?;
    let operator = Operator { leaders: leaders.join(",") };
    let client = Client::connect(&leaders, Options::default()).await?;
    let [first, second, _third] = <[Process; 3]>::try_from(playground.of(Role::Storaged)?)
        .map_err(|found| anyhow::anyhow!("three storage nodes, not {}", found.len()))?;
    client.put("before", "value", Condition::None).await?;
    playground.kill(&first)?;
    playground.kill(&second)?;
    await_condition("all partitions are without a majority", || {
        let stranded = operator.json("rebalance status")?["without_majority"].as_array().map(Vec::len);
        Ok(stranded == Some(256))
    })?;

    let unconfirmed = operator.command("recover").output()?;
    let said = String::from_utf8_lossy(&unconfirmed.stderr);
    ensure!(unconfirmed.status.code() == Some(USAGE), "nobody is there to confirm: {said}");
    for word in ["may be lost", "recover 256 partitions", "--yes"] {
        ensure!(said.contains(word), "{word:?} is missing in {said}");
    }
    let snapshot = operator.command("rebalance status").output()?;
    let snapshot = String::from_utf8_lossy(&snapshot.stdout);
    ensure!(!snapshot.contains("Complete") && snapshot.contains("dhtctl recover"), "{snapshot}");
    let one = operator.json("recover --partition p7 --yes")?;
    ensure!(one["recovered"].as_array().map(Vec::len) == Some(1) && one["recovered"][0]["partition"] == 7, "{one}");
    let all = operator.json("recover --yes")?;
    ensure!(all["recovered"].as_array().map(Vec::len) == Some(255), "{all}");
    ensure!(operator.json("recover")?["recovered"] == Value::Array(vec![]), "everything was recovered");
    let found = client.get("before").await?;
    ensure!(found.is_some_and(|found| found.value == "value"), "the survivor had it");
    client.put("after", "value", Condition::None).await?;
    Ok(())
}
