//! Leases, locks and fencing against real processes: holders that are stopped, leaders that die, commands that must end.

use anyhow::{Context, Result, ensure};
use client::{Claimed, Client, Coordination, Error, Lease, Options};
use e2e::playground::{await_condition, dhtctl, signal};
use e2e::storage_node::StorageNode;
use e2e::{Playground, Role, load::await_health};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use types::{Condition, Fence, FencingToken};

const NOT_FOUND: i32 = 1;
const UNAVAILABLE: i32 = 3;
const DENIED: i32 = 5;
const PATIENCE: Duration = Duration::from_secs(30);

fn coordination(playground: &Playground) -> Result<Coordination> {
    Ok(Coordination::new(&playground.leaders()?, PATIENCE)?)
}

fn command(leaders: &[String], line: &str) -> Command {
    let mut command = Command::new(dhtctl());
    command.args(line.split_whitespace()).env("DHT_LEADERS", leaders.join(",")).stdin(Stdio::null());
    command
}

fn run(leaders: &[String], line: &str, code: i32) -> Result<Output> {
    let output = command(leaders, line).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "dhtctl {line}: {:?}, expected {code}: {said}", output.status);
    Ok(output)
}

fn json(leaders: &[String], line: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&run(leaders, &format!("{line} --output json"), 0)?.stdout)?)
}

/// Address of the viewleader that leads, if one does, and its Raft term.
fn leader(leaders: &[String]) -> Result<Option<(String, u64)>> {
    let output = command(leaders, "leaders --output json").output()?;
    let members: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let leads = members.as_array().and_then(|all| all.iter().find(|member| member["role"] == "leader"));
    Ok(leads.and_then(|member| Some((member["address"].as_str()?.to_owned(), member["raft_term"].as_u64()?))))
}

fn await_leader(leaders: &[String]) -> Result<(String, u64)> {
    let mut found = None;
    await_condition("somebody leads", || {
        found = leader(leaders)?;
        Ok(found.is_some())
    })?;
    found.context("just found")
}

/// A process of the test's own, and what it tells. Ends with the test.
struct Holder {
    name: String,
    child: Child,
    told: Arc<Mutex<Vec<String>>>,
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            // It is gone either way.
            let _status = self.child.wait();
        }
    }
}

impl Holder {
    fn start(leaders: &[String], name: &str, keys: &str) -> Result<Holder> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lock-holder"))
            .args([&leaders.join(","), "jobs", name, "1000", keys])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let (told, lines) = (Arc::new(Mutex::new(Vec::new())), child.stdout.take().context("stdout is piped")?);
        let telling = told.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                telling.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(line);
            }
        });
        Ok(Holder { name: name.to_owned(), child, told })
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn signal(&self, name: &str) -> Result<()> {
        signal(i32::try_from(self.child.id())?, name)
    }

    /// The newest token that it has written with.
    fn newest(&self) -> Option<u64> {
        let told = self.told();
        let last = told.iter().rev().find(|line| line.starts_with("wrote"))?;
        last.rsplit(' ').next()?.parse().ok()
    }
}

/// Guards against a write with an older token that is accepted after a newer one was used: holders are stopped for longer
/// than their lease and go on, while storage nodes and viewleaders die.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_slept_too_long_writes_nothing() -> Result<()> {
    let playground = Playground::start(&["--restart"], &[])?;
    let result = let_holders_sleep(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn let_holders_sleep(playground: &Playground) -> Result<()> {
    let leaders = playground.leaders()?;
    let client = Client::connect(&leaders, Options::default()).await?;
    let names = ["ann", "bob", "cid"];
    let holders = names.map(|name| Holder::start(&leaders, name, "k1,k2,k3,k4,k5"));
    let holders = holders.into_iter().collect::<Result<Vec<_>>>()?;
    for round in 0..6 {
        let mut asleep = None;
        await_condition("somebody holds the lock and writes", || {
            let newest = holders.iter().max_by_key(|holder| holder.newest());
            asleep = newest.filter(|holder| holder.newest().is_some_and(|token| token as usize > round));
            Ok(asleep.is_some())
        })?;
        let asleep = asleep.context("just found")?;
        let token = asleep.newest().context("it has written")?;
        asleep.signal("STOP")?;
        // Fences outlive whoever keeps them.
        let killed = match round % 3 {
            1 => Some(playground.of(Role::Storaged)?.remove(round % 2)),
            2 => Some(playground.of(Role::Viewleader)?.remove(round % 2)),
            _ => None,
        };
        if let Some(killed) = &killed {
            playground.kill(killed)?;
        }
        await_condition("another one has written since", || {
            Ok(holders.iter().any(|holder| holder.name != asleep.name && holder.newest() > Some(token)))
        })?;
        asleep.signal("CONT")?;
        await_condition("the one that slept hears that it is too late", || {
            Ok(asleep.told().contains(&format!("fenced {token}")))
        })?;
        if let Some(killed) = &killed {
            playground.await_restart(killed)?;
            await_health(&client).await?;
        }
    }
    // Versions are the order in which writes to a key were accepted.
    let mut writes: BTreeMap<String, BTreeMap<u64, u64>> = BTreeMap::new();
    for line in holders.iter().flat_map(Holder::told).filter(|line| line.starts_with("wrote")) {
        let [_, key, version, token] = line.split(' ').collect::<Vec<_>>()[..] else { anyhow::bail!("{line}") };
        let before = writes.entry(key.to_owned()).or_default().insert(version.parse()?, token.parse()?);
        ensure!(before.is_none(), "two writes of {key} have version {version}");
    }
    for (key, accepted) in writes {
        let tokens: Vec<u64> = accepted.values().copied().collect();
        ensure!(tokens.is_sorted(), "{key} was written with an older token after a newer one: {tokens:?}");
    }
    Ok(())
}

/// Guards against fences that stay behind when a partition moves to a node that got a snapshot, or are lost in a restart
/// of everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fences_move_with_their_partitions() -> Result<()> {
    let playground = Playground::start(&["--restart", "--leaders", "1"], &[("DHT_SEGMENT_SIZE", "512KiB")])?;
    let result = move_fences(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn move_fences(playground: &Playground) -> Result<()> {
    let leaders = playground.leaders()?;
    let client = Client::connect(&leaders, Options::default()).await?;
    let fence = |token| Some(Fence { name: "jobs".into(), token: FencingToken(token) });
    let keys: Vec<String> = (0..64).map(|key| format!("key-{key}")).collect();
    for key in &keys {
        client.put_fenced(key.clone(), "7", Condition::None, fence(7)).await?;
    }
    let directory = tempfile::tempdir()?;
    let _fourth = StorageNode::start(&leaders, directory.path().join("fourth"), &[])?;
    await_condition("the fourth node holds its share", || {
        let nodes = json(&leaders, "nodes")?;
        let holding = nodes.as_array().context("a list")?.iter().filter(|node| node["partitions"] != 0).count();
        Ok(holding == 4 && json(&leaders, "rebalance status")?["complete"] == true)
    })?;
    let leaving = playground.of(Role::Storaged)?.remove(0);
    run(&leaders, &format!("node drain {} --wait --timeout 60s", leaving.grpc), 0)?;
    for process in playground.of(Role::Storaged)? {
        signal(process.pid, "KILL")?;
        playground.await_restart(&process)?;
    }
    for key in &keys {
        let refused = client.put_fenced(key.clone(), "6", Condition::None, fence(6)).await;
        let newest = FencingToken(7);
        ensure!(refused == Err(Error::Fenced { token: FencingToken(6), newest }), "{key}: {refused:?}");
        let refused = client.delete_fenced(key.clone(), Condition::None, fence(6)).await;
        ensure!(refused == Err(Error::Fenced { token: FencingToken(6), newest }), "{key}: {refused:?}");
        client.put_fenced(key.clone(), "7", Condition::None, fence(7)).await?;
    }
    // The same on the command line: denied, in one line that says why.
    let refused = run(&leaders, "setr key-1 6 --fence jobs:6", DENIED)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(said.contains("token 7") && said.lines().count() == 1, "{said}");
    run(&leaders, "setr key-1 8 --fence jobs:8", 0)?;
    run(&leaders, "delr key-1 --fence jobs:7", DENIED)?;
    Ok(())
}

/// Guards P21: a lease that ends because of an election, or that a stopped leader ends when it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lease_is_lost_with_its_leader() -> Result<()> {
    let playground = Playground::start(&["--restart"], &[])?;
    let result = change_leaders(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn change_leaders(playground: &Playground) -> Result<()> {
    let leaders = playground.leaders()?;
    let coordination = coordination(playground)?;
    let mut leases: Vec<Lease> = Vec::new();
    for _ in 0..20 {
        leases.push(coordination.grant(Duration::from_secs(10)).await?);
    }
    let held = Claimed { client: "ann".to_owned(), bound: true, value: "here".into(), wait: None };
    let guard = coordination.lock("jobs", &leases[0], held).await?;
    let unkept = coordination.grant_unkept(Duration::from_secs(2)).await?;
    for stopped in [false, true] {
        let (address, term) = await_leader(&leaders)?;
        let old = playground.of(Role::Viewleader)?.into_iter().find(|member| member.grpc == address);
        let old = old.context("the leader is one of the playground's")?;
        if stopped {
            signal(old.pid, "STOP")?;
            let others: Vec<String> = leaders.iter().filter(|other| **other != address).cloned().collect();
            await_condition("another one leads", || Ok(leader(&others)?.is_some_and(|(_, newer)| newer > term)))?;
        } else {
            // Back in time, it leads again, and in the same term.
            playground.kill(&old)?;
            playground.await_restart(&old)?;
            await_leader(&leaders)?;
        }
        for lease in &leases {
            let status = coordination.lease(lease.id()).await?;
            ensure!(status.is_some() && lease.is_held(), "lease {} was lost with the leader", lease.id());
        }
        if stopped {
            signal(old.pid, "CONT")?;
        }
    }
    let lock = coordination.lock_status("jobs").await?.context("it is held")?;
    ensure!((lock.token, lock.client.as_str()) == (guard.token, "ann"), "{lock:?}");
    // What nobody renews is over some time, whoever leads.
    let began = std::time::Instant::now();
    while coordination.lease(unkept).await?.is_some() {
        ensure!(began.elapsed() < PATIENCE, "a lease that nobody renews lives on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for lease in &leases {
        ensure!(lease.is_held() && coordination.lease(lease.id()).await?.is_some(), "lease {} was lost", lease.id());
    }
    Ok(())
}

/// Guards against a queue that is not served in order, a place that outlives who waited, somebody else's release, and
/// codes that scripts can't tell apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_first_is_served_first() -> Result<()> {
    let playground = Playground::start(&[], &[])?;
    let result = stand_in_line(&playground);
    result.with_context(|| playground.log_tails())
}

fn stand_in_line(playground: &Playground) -> Result<()> {
    let leaders = playground.leaders()?;
    let first = json(&leaders, "lock_get jobs ann")?["token"].as_u64().context("a token")?;
    ensure!(json(&leaders, "lock_get jobs ann")?["token"] == first, "the same client is told the same again");
    run(&leaders, "lock_get jobs bob --try", NOT_FOUND)?;
    run(&leaders, "lock_get jobs bob --wait 100ms", NOT_FOUND)?;
    run(&leaders, "lock_release jobs bob", DENIED)?;
    run(&leaders, "lock_release nothing bob", NOT_FOUND)?;
    let mut waiting = Vec::new();
    for (place, client) in ["bob", "cid", "dan", "eve"].into_iter().enumerate() {
        let mut line = command(&leaders, &format!("lock_get jobs {client} --output raw"));
        waiting.push((client, line.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?));
        await_condition("it stands in line", || Ok(json(&leaders, "locks")?[0]["waiting_count"] == place + 1))?;
    }
    ensure!(json(&leaders, "locks")?[0]["waiting"] == serde_json::json!(["bob", "cid", "dan", "eve"]), "the line");
    // Who thinks better of it loses the place.
    let (_, mut gone) = waiting.remove(1);
    signal(i32::try_from(gone.id())?, "INT")?;
    ensure!(gone.wait()?.code() == Some(NOT_FOUND), "interrupted");
    await_condition("its place is gone", || Ok(json(&leaders, "locks")?[0]["waiting_count"] == 3))?;
    let mut holder = "ann";
    let mut token = first;
    for (client, child) in waiting {
        run(&leaders, &format!("lock_release jobs {holder}"), 0)?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{client}: {}", String::from_utf8_lossy(&output.stderr));
        let granted: u64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
        ensure!(granted > token, "{client} got token {granted} after {token}");
        ensure!(json(&leaders, "locks")?[0]["client"] == client, "{client} is told that it holds");
        (holder, token) = (client, granted);
    }
    run(&leaders, &format!("lock_release jobs {holder}"), 0)?;
    ensure!(json(&leaders, "locks")? == serde_json::json!([]), "nobody holds anything");
    Ok(())
}

/// Guards against a command that goes on without its lock, or is left behind when it must end; and against an exit code
/// that is not the command's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_ends_with_its_lock() -> Result<()> {
    let playground = Playground::start(&[], &[])?;
    let result = hold_while_running(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn hold_while_running(playground: &Playground) -> Result<()> {
    let leaders = playground.leaders()?;
    let coordination = coordination(playground)?;
    let shell = |line: &str, script: &str| {
        let mut command = command(&leaders, line);
        command.args(["--", "sh", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let output = shell("lock cron", "echo $DHT_LOCK_NAME $DHT_LOCK_TOKEN; exit 7").output()?;
    ensure!(output.status.code() == Some(7), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(said.starts_with("cron ") && said.trim().len() > 5, "{said}");
    ensure!(coordination.locks().await?.is_empty(), "it was given back at once");

    // The lease is taken away; then nobody can renew it. The command does not listen to SIGTERM, and has a child.
    for by_hand in [true, false] {
        let mut child =
            shell("lock cron --ttl 5s --grace 200ms", "trap '' TERM; sleep 1000 & echo $$ $!; wait").spawn()?;
        let mut pids = String::new();
        BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut pids)?;
        let pids = pids.split_whitespace().map(str::parse).collect::<Result<Vec<i32>, _>>()?;
        ensure!(pids.len() == 2, "{pids:?}");
        let lock = coordination.lock_status("cron").await?.context("it is held")?;
        let viewleaders = playground.of(Role::Viewleader)?;
        if by_hand {
            coordination.revoke(lock.lease.context("on a lease")?).await?;
        } else {
            viewleaders.iter().try_for_each(|member| signal(member.pid, "STOP"))?;
        }
        let output = child.wait_with_output()?;
        if !by_hand {
            viewleaders.iter().try_for_each(|member| signal(member.pid, "CONT"))?;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(UNAVAILABLE) && said.contains("cron is lost"), "{output:?}");
        await_condition("the command and its child are gone", || {
            Ok(pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()))
        })?;
    }
    Ok(())
}

/// Guards against an election that two win, observers that are told nothing, or of somebody who is not elected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observers_follow_an_election() -> Result<()> {
    let playground = Playground::start(&["--restart"], &[])?;
    let result = elect(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn elect(playground: &Playground) -> Result<()> {
    let coordination = coordination(playground)?;
    let mut observed = coordination.observe("boss").await?;
    ensure!(tokio::time::timeout(PATIENCE, observed.next()).await??.is_none(), "nobody is elected yet");
    let candidate =
        |value: &'static str| Claimed { client: value.to_owned(), bound: true, value: value.into(), wait: None };
    let first = coordination.grant(Duration::from_secs(10)).await?;
    coordination.lock("boss", &first, candidate("ann")).await?;
    let second = coordination.grant(Duration::from_secs(10)).await?;
    let waiting = tokio::spawn({
        let coordination = coordination.clone();
        async move {
            let guard = coordination.lock("boss", &second, candidate("bob")).await;
            (guard, second)
        }
    });
    let elected = tokio::time::timeout(PATIENCE, observed.next()).await??.context("somebody is elected")?;
    ensure!(elected.value == "ann", "{elected:?}");
    while coordination.lock_status("boss").await?.is_none_or(|lock| lock.waiting_count == 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The leader of the viewleaders goes; who waits and who observes go on with the next one.
    let (address, _) = await_leader(&playground.leaders()?)?;
    let old = playground.of(Role::Viewleader)?.into_iter().find(|member| member.grpc == address);
    playground.kill(&old.context("one of the playground's")?)?;
    first.revoke().await?;
    let next = tokio::time::timeout(PATIENCE, observed.next()).await??.context("somebody is elected")?;
    ensure!(next.value == "bob" && next.token > elected.token, "{next:?}");
    let (guard, _lease) = tokio::time::timeout(PATIENCE, waiting).await??;
    ensure!(guard?.token == next.token, "who is elected is told so");
    Ok(())
}
