//! Storage nodes join, leave and die while data moves, as real processes, under load: nothing acknowledged is lost, and
//! no client hears more than "try again".

use anyhow::{Context, Result, ensure};
use client::{Client, Configure, Leaders, Operation, Options};
use e2e::playground::Playground;
use e2e::storage_node::StorageNode;
use e2e::{Load, Role, insist, load};
use futures::stream::{self, StreamExt, TryStreamExt};
use std::time::Duration;
use types::{Condition, Duty, Epoch, NodeId};

/// Logs turn over many times while a test runs, so that nodes are filled by snapshots.
const SMALL_SEGMENTS: &[(&str, &str)] = &[("DHT_SEGMENT_SIZE", "512KiB")];
/// Keys that lie there while everything moves. `MEMBERS_KEYS` asks for others: 100000 in the long run.
const KEYS: u64 = 5_000;

fn keys() -> u64 {
    std::env::var("MEMBERS_KEYS").ok().and_then(|keys| keys.parse().ok()).unwrap_or(KEYS)
}

fn key(number: u64) -> String {
    format!("lying-{number}")
}

async fn put_keys(client: &Client) -> Result<()> {
    let put = |number| async move { client.put(key(number), format!("value {number}"), Condition::None).await };
    stream::iter((0..keys()).map(put)).buffer_unordered(64).try_for_each(|_| async { Ok(()) }).await?;
    Ok(())
}

async fn check_keys(client: &Client) -> Result<()> {
    let get = |number| async move {
        let found = client.get(key(number)).await?;
        let expected = format!("value {number}");
        ensure!(found.is_some_and(|found| found.value == expected), "{} is lost", key(number));
        Ok(())
    };
    stream::iter((0..keys()).map(get)).buffer_unordered(64).try_collect::<Vec<_>>().await?;
    Ok(())
}

/// Waits until everything has moved, is activated, and what is surplus is deleted.
async fn await_complete(leaders: &Leaders, what: &str) -> Result<()> {
    let mut last = String::new();
    for _ in 0..6_000 {
        match leaders.moves(None).await {
            Ok(moves) if moves.complete => return Ok(()),
            Ok(moves) => last = format!("{moves:?}"),
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("{what} does not become complete: {last:.2000}")
}

/// Waits until something has begun to move.
async fn await_moves(leaders: &Leaders) -> Result<()> {
    for _ in 0..1_500 {
        if leaders.moves(None).await.is_ok_and(|moves| moves.underway.iter().any(|moving| moving.filling)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anyhow::bail!("nothing moves")
}

async fn await_view_after(epoch: Epoch, client: &Client) -> Result<()> {
    for _ in 0..1_500 {
        if insist(|| client.status()).await?.epoch > epoch {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("the view is still that of {epoch}")
}

async fn partitions_of(leaders: &Leaders, node: NodeId) -> Result<u32> {
    let status = insist(|| leaders.status()).await?;
    let found = status.nodes.iter().find(|of| of.info.id == node);
    Ok(found.map_or(0, |of| of.partitions))
}

/// Guards against everything that the systems before gave up at: joins, departures and deaths in the middle of a
/// rebalancing, of the node that is being filled, of the primary that feeds it, and of the Raft leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_three_to_six_to_four_with_deaths() -> Result<()> {
    let playground = Playground::start(&["--restart"], SMALL_SEGMENTS)?;
    let result = grow_and_shrink(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn grow_and_shrink(playground: &Playground) -> Result<()> {
    let addresses = playground.leaders()?;
    let client = Client::connect(&addresses, Options::default()).await?;
    let leaders = Leaders::new(&addresses)?;
    put_keys(&client).await?;
    let mut load = Load::start(&client, 8);
    load.progress(500).await?;

    let mut joined = Vec::new();
    for name in ["s4", "s5", "s6"] {
        joined.push(StorageNode::start(&addresses, playground.directory().join(name), SMALL_SEGMENTS)?);
    }
    await_moves(&leaders).await?;
    // A node that is being filled.
    joined[0].registered(&leaders).await?;
    joined[0].kill()?;
    load.progress(200).await.context("after the death of a node that was being filled")?;
    joined[0].start_again()?;
    // A primary that feeds others: each of the first three does.
    let feeding = playground.of(Role::Storaged)?.remove(0);
    playground.kill(&feeding)?;
    load.progress(200).await.context("after the death of a node that was feeding others")?;
    playground.await_restart(&feeding)?;
    // Whoever leads the moves.
    let status = insist(|| leaders.status()).await?;
    // Only who leads answers.
    let leader = status.members.iter().find(|member| member.role == "leader").context("the leader answered")?;
    let leader = playground.of(Role::Viewleader)?.into_iter().find(|viewleader| viewleader.grpc == leader.address);
    let leader = leader.context("the leader is of the playground")?;
    playground.kill(&leader)?;
    load.progress(200).await.context("after the death of the Raft leader")?;
    playground.await_restart(&leader)?;
    load::await_health(&client).await?;
    await_complete(&leaders, "the growth to six nodes").await?;
    for node in &joined {
        let node = node.registered(&leaders).await?;
        ensure!(node.partitions == 128, "{} has {} of 768 replicas", node.info.id, node.partitions);
    }
    check_keys(&client).await?;

    let leaving = [joined[1].registered(&leaders).await?.info.id, joined[2].registered(&leaders).await?.info.id];
    for node in leaving {
        let drain = Operation::SetDuty { node, duty: Duty::Draining };
        insist(|| leaders.operate(&drain)).await?;
    }
    load.progress(500).await?;
    await_complete(&leaders, "the departure of two nodes").await?;
    for node in leaving {
        ensure!(partitions_of(&leaders, node).await? == 0, "{node} is drained and not empty");
    }
    joined.truncate(1);
    load.progress(500).await.context("after drained nodes have gone")?;
    check_keys(&client).await?;
    load.stop_and_check(&client).await?;
    Ok(())
}

/// Guards against a cluster that stays a replica short when a machine never comes back, and against one that rebuilds
/// everything because a machine was away for a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_lost_for_good_is_replaced() -> Result<()> {
    let playground = Playground::start(&[], SMALL_SEGMENTS)?;
    let result = lose_one(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn lose_one(playground: &Playground) -> Result<()> {
    let addresses = playground.leaders()?;
    let client = Client::connect(&addresses, Options::default()).await?;
    let leaders = Leaders::new(&addresses)?;
    put_keys(&client).await?;
    let mut spare = StorageNode::start(&addresses, playground.directory().join("s4"), SMALL_SEGMENTS)?;
    spare.registered(&leaders).await?;
    await_moves(&leaders).await?;
    await_complete(&leaders, "the join").await?;
    let epoch_before = insist(|| client.status()).await?.epoch;
    // Away for a moment: nothing is rebuilt.
    spare.kill()?;
    spare.start_again()?;
    await_view_after(epoch_before, &client).await.context("nobody noticed the absence")?;
    load::await_health(&client).await?;
    let moved = insist(|| leaders.moves(None)).await?;
    ensure!(moved.underway.is_empty() && moved.planned.is_empty(), "a short absence moved something: {moved:?}");
    // Gone for good.
    let configure = Operation::Configure(Configure { replace_after_ms: Some(1_000), ..Configure::default() });
    insist(|| leaders.operate(&configure)).await?;
    let lost = playground.of(Role::Storaged)?.remove(1);
    let lost_id = insist(|| leaders.status()).await?.nodes.into_iter().find(|node| node.info.address == lost.grpc);
    let lost_id = lost_id.context("it is known")?.info.id;
    playground.kill(&lost)?;
    await_moves(&leaders).await?;
    await_complete(&leaders, "the replacement").await?;
    ensure!(partitions_of(&leaders, lost_id).await? == 0, "{lost_id} still holds something");
    let status = insist(|| leaders.status()).await?;
    ensure!(status.under_replicated.is_empty(), "{:?} lack replicas", status.under_replicated);
    let remove = Operation::SetDuty { node: lost_id, duty: Duty::Removed };
    insist(|| leaders.operate(&remove)).await?;
    check_keys(&client).await?;
    // Three nodes for three replicas: none of them can go.
    let node = spare.registered(&leaders).await?.info.id;
    let refused = leaders.operate(&Operation::SetDuty { node, duty: Duty::Draining }).await;
    ensure!(refused.is_err(), "a departure that can't succeed began");
    Ok(())
}
