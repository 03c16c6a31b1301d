//! The viewleaders themselves change, as real processes, under load: nobody who uses the cluster has to know.

use anyhow::{Context, Result, ensure};
use client::{Client, Options};
use e2e::playground::{await_condition, dhtctl};
use e2e::{Load, Playground, Role, free_address, insist};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const DENIED: i32 = 5;

/// A viewleader of the test's own. Ends with the test.
struct Member {
    child: Child,
    address: String,
    log: PathBuf,
}

impl Drop for Member {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            // It is gone either way.
            let _status = self.child.wait();
        }
    }
}

impl Member {
    /// Starts one at `address` that asks `join` to be admitted.
    fn start(address: &str, join: &str, data_dir: &Path) -> Result<Member> {
        let log = data_dir.with_extension("log");
        let child = Command::new(dhtctl())
            .args(["viewleader", "--listen", address, "--http", "127.0.0.1:0", "--join", join, "--data-dir"])
            .arg(data_dir)
            .stdin(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()?;
        Ok(Member { child, address: address.to_owned(), log })
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// `dhtctl leaders …` about the group of which `leader` is one.
fn leaders(leader: &str, arguments: &[&str]) -> Result<Value> {
    let mut command = Command::new(dhtctl());
    command.arg("leaders").args(arguments).args(["--output", "json"]).env("DHT_LEADERS", leader).stdin(Stdio::null());
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Waits until exactly these are members, and all of them vote; answers the leader's address.
fn await_voting(asked: &str, ids: &[u64]) -> Result<String> {
    let mut leading = None;
    await_condition(&format!("members {ids:?} vote"), || {
        // Between two leaders there is no answer.
        let Ok(Value::Array(members)) = leaders(asked, &[]) else { return Ok(false) };
        let found: Vec<u64> = members.iter().filter_map(|member| member["id"].as_u64()).collect();
        let vote = |member: &Value| member["role"] == "leader" || member["role"] == "follower";
        let leader = members.iter().find(|member| member["role"] == "leader");
        leading = leader.and_then(|member| member["address"].as_str()).map(str::to_owned);
        Ok(found == ids && members.iter().all(vote) && leading.is_some())
    })?;
    leading.context("just found")
}

/// Guards against a group that can't outlive the members it began with, or that storage nodes and clients lose sight of:
/// they know the first one only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_group_outlives_its_founder() -> Result<()> {
    let playground = Playground::start(&["--leaders", "1"], &[])?;
    let result = change_everybody(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn change_everybody(playground: &Playground) -> Result<()> {
    let founder = playground.of(Role::Viewleader)?.remove(0);
    let directory = tempfile::tempdir()?;
    let client = Client::connect(std::slice::from_ref(&founder.grpc), Options::default()).await?;
    let mut load = Load::start(&client, 8);
    load.progress(200).await?;

    let second = Member::start(&free_address()?, &founder.grpc, &directory.path().join("second"))?;
    await_voting(&founder.grpc, &[1, 2]).with_context(|| second.said())?;
    let third = Member::start(&free_address()?, &second.address, &directory.path().join("third"))?;
    await_voting(&founder.grpc, &[1, 2, 3]).with_context(|| third.said())?;

    // The founder, its directory too, is lost, and returns with an empty one.
    playground.kill(&founder)?;
    await_condition("another one leads", || Ok(leaders(&third.address, &[]).is_ok()))?;
    let wiped = Member::start(&founder.grpc, &third.address, &directory.path().join("wiped"))?;
    let leader = await_voting(&second.address, &[2, 3, 4]).with_context(|| wiped.said())?;

    // The leader is taken out, and ends with a line.
    let mut members = [second, third, wiped];
    let place = members.iter().position(|member| member.address == leader).context("the leader is one of them")?;
    leaders(&members[(place + 1) % 3].address, &["remove", &leader])?;
    let gone = &mut members[place];
    await_condition("the removed leader has ended", || Ok(gone.child.try_wait()?.is_some()))?;
    let (status, said) = (gone.child.wait()?, gone.said());
    ensure!(status.code() == Some(DENIED), "{status:?}: {said}");
    ensure!(said.lines().last().is_some_and(|line| line.contains("was removed from this group")), "{said}");
    let rest: Vec<u64> = (2..=4).filter(|id| *id != place as u64 + 2).collect();
    await_voting(&members[(place + 1) % 3].address, &rest)?;

    // Storage nodes have found those who are left: without them, nobody would take over from a dead one.
    let victim = playground.of(Role::Storaged)?.remove(0);
    playground.kill(&victim)?;
    load.progress(500).await.context("after the death of a storage node")?;
    let left = members[(place + 1) % 3].address.clone();
    let survivors = Client::connect(&[left], Options::default()).await?;
    let status = insist(|| survivors.status()).await?;
    let heard = |node: &&client::NodeStatus| node.heartbeat_age_ms.is_some();
    ensure!(status.nodes.iter().filter(heard).count() >= 2, "the nodes have not found the new viewleaders: {status:?}");
    ensure!(status.without_quorum.is_empty() && status.has_map, "{status:?}");
    load.stop_and_check(&client).await?;
    Ok(())
}
