//! Watches, scans and keys that expire, against real processes that die: nothing missing, nothing twice, nothing early.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use client::{Client, Coordination, Error, Options, PutOutcome, ScanOptions, Watch, WatchEvent, WatchFrom, WatchWhat};
use e2e::playground::Playground;
use e2e::storage_node::StorageNode;
use e2e::{Role, load};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use types::{Condition, Seq};

/// Changes made while primaries die and a node joins. `WATCH_CHANGES` asks for others: 50000 in the long run.
const CHANGES: u64 = 5_000;
const WRITERS: u64 = 16;
/// Keys of each writer.
const SLOTS: u64 = 20;
/// A watch that hears nothing for so long is broken.
const SILENCE_MAX: Duration = Duration::from_secs(30);

fn changes() -> u64 {
    std::env::var("WATCH_CHANGES").ok().and_then(|changes| changes.parse().ok()).unwrap_or(CHANGES)
}

/// By key and version, what was written; `None` deleted it.
type Log = BTreeMap<(Bytes, Seq), Option<Bytes>>;

/// What a writer knows: what was acknowledged, and values whose fate it does not know.
#[derive(Default)]
struct Written {
    acknowledged: Log,
    unknown: Vec<Bytes>,
}

/// Writes until `made` counts `total` changes of all writers.
async fn write(client: Client, writer: u64, made: Arc<AtomicU64>, total: u64) -> Result<Written> {
    let mut written = Written::default();
    for turn in 0.. {
        if made.load(Ordering::Relaxed) >= total {
            break;
        }
        let key = Bytes::from(format!("w-{writer}-{}", turn % SLOTS));
        if turn % 11 == 10 {
            match client.delete(key.clone(), Condition::None).await {
                Ok(client::DeleteOutcome::Done(done)) => {
                    written.acknowledged.insert((key, done.version), None);
                    made.fetch_add(1, Ordering::Relaxed);
                }
                Ok(_) | Err(Error::NotDone { .. } | Error::Unknown { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            continue;
        }
        let value = Bytes::from(format!("{writer}.{turn}"));
        match client.put(key.clone(), value.clone(), Condition::None).await {
            Ok(PutOutcome::Done(done)) => {
                written.acknowledged.insert((key, done.version), Some(value));
                made.fetch_add(1, Ordering::Relaxed);
            }
            Ok(PutOutcome::ConditionFailed(_)) => bail!("there was no condition"),
            Err(Error::NotDone { .. }) => {}
            Err(Error::Unknown { .. }) => written.unknown.push(value),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(written)
}

struct Writers {
    made: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Result<Written>>>,
}

impl Writers {
    fn start(client: &Client, total: u64) -> Writers {
        let made = Arc::new(AtomicU64::new(0));
        let tasks = (0..WRITERS).map(|writer| tokio::spawn(write(client.clone(), writer, made.clone(), total)));
        Writers { tasks: tasks.collect(), made }
    }

    /// Waits until so many changes are made.
    async fn reach(&self, count: u64) -> Result<()> {
        let began = Instant::now();
        while self.made.load(Ordering::Relaxed) < count {
            ensure!(began.elapsed() < Duration::from_secs(120), "the writers have stopped");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn finish(self) -> Result<Written> {
        let mut all = Written::default();
        for task in self.tasks {
            let written = task.await??;
            all.acknowledged.extend(written.acknowledged);
            all.unknown.extend(written.unknown);
        }
        Ok(all)
    }
}

/// What a watch told.
#[derive(Default)]
struct Seen {
    changes: Log,
    /// By key, the last that was told of it.
    last: BTreeMap<Bytes, (Seq, Option<Bytes>)>,
}

async fn next(watch: &mut Watch) -> Result<WatchEvent> {
    Ok(tokio::time::timeout(SILENCE_MAX, watch.next()).await.context("the watch is silent")??)
}

async fn watching(watch: &mut Watch) -> Result<()> {
    while next(watch).await? != WatchEvent::Watching {}
    Ok(())
}

/// Everything acknowledged was seen, once, as it was written; and what else was seen had an unknown outcome.
fn check(seen: &Seen, written: &Written) -> Result<()> {
    for (change, value) in &written.acknowledged {
        let told = seen.changes.get(change).with_context(|| format!("{change:?} is missing"))?;
        ensure!(told == value, "{change:?} is {value:?}, and was seen as {told:?}");
    }
    for (change, value) in &seen.changes {
        let known = written.acknowledged.contains_key(change)
            || value.as_ref().is_none_or(|value| written.unknown.contains(value));
        ensure!(known, "{change:?} {value:?} was seen, and nobody wrote it");
    }
    Ok(())
}

/// Guards against a change that a watcher misses or sees twice because a primary died, another took over, data moved, or
/// a stream was opened anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_once_through_two_takeovers_and_a_join() -> Result<()> {
    let playground = Playground::start(&["--restart"], &[("DHT_SEGMENT_SIZE", "512KiB")])?;
    let result = watch_all(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn watch_all(playground: &Playground) -> Result<()> {
    let addresses = playground.leaders()?;
    let client = Client::connect(&addresses, Options::default()).await?;
    let watcher = Client::connect(&addresses, Options::default()).await?;
    let mut watch = watcher.watch(WatchWhat::Prefix("w-".into()), WatchFrom::Now)?;
    watching(&mut watch).await?;
    let mut one = watcher.watch(WatchWhat::Key("w-3-7".into()), WatchFrom::Now)?;
    watching(&mut one).await?;
    let total = changes();
    let writers = Writers::start(&client, total);
    let seeing = tokio::spawn(see_until(watch, total));

    writers.reach(total / 5).await?;
    for index in 0..2 {
        let primary = playground.of(Role::Storaged)?.remove(index);
        playground.kill(&primary)?;
        writers.reach(total * (2 + index as u64) / 5).await.context("after the death of a primary")?;
        playground.await_restart(&primary)?;
        load::await_health(&client).await?;
    }
    let _fourth = StorageNode::start(&addresses, playground.directory().join("s4"), &[])?;
    let written = writers.finish().await?;
    // What was acknowledged is told: wait for each, not for a time.
    let wanted = Arc::new(written);
    let seen = seeing.await?.context("the watch of a prefix")?;
    let seen = see_the_rest(seen, &wanted).await?;
    check(&seen, &wanted)?;
    ensure!(seen.changes.len() as u64 >= total, "only {} changes were seen", seen.changes.len());

    let of_one = wanted.acknowledged.iter().filter(|((key, _), _)| key == "w-3-7");
    for ((_, version), value) in of_one {
        loop {
            let WatchEvent::Changed { value: told, version: at, .. } = next(&mut one).await? else { continue };
            ensure!(at <= *version, "{version} of the one key is missing");
            if at == *version {
                ensure!(told == *value, "{version} of the one key differs");
                break;
            }
        }
    }
    Ok(())
}

/// A watch and what it has told.
struct Seeing {
    watch: Watch,
    seen: Seen,
}

/// Sees `count` changes: as many as were acknowledged, or almost.
async fn see_until(watch: Watch, count: u64) -> Result<Seeing> {
    let mut seeing = Seeing { watch, seen: Seen::default() };
    while (seeing.seen.changes.len() as u64) < count {
        seeing.step().await?;
    }
    Ok(seeing)
}

async fn see_the_rest(mut seeing: Seeing, written: &Written) -> Result<Seen> {
    while !written.acknowledged.keys().all(|change| seeing.seen.changes.contains_key(change)) {
        seeing.step().await.context("something acknowledged was not told")?;
    }
    Ok(seeing.seen)
}

impl Seeing {
    async fn step(&mut self) -> Result<()> {
        let (key, value, version) = match next(&mut self.watch).await? {
            WatchEvent::Changed { key, value, version } => {
                self.seen.changes.insert((key.clone(), version), value.clone());
                (key, value, version)
            }
            WatchEvent::Present { key, value, version } => (key, Some(value), version),
            WatchEvent::Restarted { partition } => bail!("the history of {partition} was not kept"),
            WatchEvent::Watching => return Ok(()),
        };
        let before = self.seen.last.insert(key.clone(), (version, value));
        ensure!(before.as_ref().is_none_or(|(before, _)| *before < version), "{key:?}: {version} after {before:?}");
        Ok(())
    }
}

/// Guards against a beginning that loses what changes while it is read, or tells it twice, and a cursor that is not where
/// its watch was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_and_then_every_change() -> Result<()> {
    let playground = Playground::start(&["--leaders", "1"], &[])?;
    let result = begin_with_current(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn begin_with_current(playground: &Playground) -> Result<()> {
    let client = Client::connect(&playground.leaders()?, Options::default()).await?;
    let writers = Writers::start(&client, 4_000);
    writers.reach(1_000).await?;
    let watch = client.watch(WatchWhat::Prefix("w-".into()), WatchFrom::Current)?;
    let mut seeing = Seeing { watch, seen: Seen::default() };
    let written = writers.finish().await?;
    let mut expected: BTreeMap<Bytes, (Seq, Option<Bytes>)> = BTreeMap::new();
    for ((key, version), value) in &written.acknowledged {
        expected.insert(key.clone(), (*version, value.clone()));
    }
    // A key that was deleted before it was read is never told of.
    let told = |seen: &Seen| {
        expected.iter().all(|(key, last)| match seen.last.get(key) {
            Some(told) => told == last,
            None => last.1.is_none(),
        })
    };
    while !told(&seeing.seen) {
        seeing.step().await.context("a key's last value was not told")?;
    }

    // From a cursor on: what came between two watches, and nothing else.
    let mut first = client.watch(WatchWhat::Prefix("c-".into()), WatchFrom::Now)?;
    watching(&mut first).await?;
    client.put("c-1", "a", Condition::None).await?;
    ensure!(matches!(next(&mut first).await?, WatchEvent::Changed { .. }), "the first change is told");
    let cursor = first.cursor().clone();
    drop(first);
    client.put("c-1", "b", Condition::None).await?;
    client.put("c-2", "c", Condition::None).await?;
    let mut second = client.watch(WatchWhat::Prefix("c-".into()), WatchFrom::After(cursor))?;
    let mut told = Vec::new();
    while told.len() < 2 {
        if let WatchEvent::Changed { key, value, .. } = next(&mut second).await? {
            told.push((key, value));
        }
    }
    told.sort();
    let set = |key: &'static str, value: &'static str| (Bytes::from(key), Some(Bytes::from(value)));
    ensure!(told == [set("c-1", "b"), set("c-2", "c")], "after the cursor came {told:?}");
    Ok(())
}

/// Guards against a scan that misses or doubles a key, gives them in another order, or is stopped by a death.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_sees_everything_in_order() -> Result<()> {
    let playground = Playground::start(&[], &[])?;
    let result = scan(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn scan(playground: &Playground) -> Result<()> {
    let client = Client::connect(&playground.leaders()?, Options::default()).await?;
    let keys = 2_000;
    let name = |number: u64| format!("scanned-{number:06}");
    let mut puts = Vec::new();
    for number in 0..keys {
        let (client, key) = (client.clone(), name(number));
        puts.push(tokio::spawn(async move { client.put(key, vec![b'v'; 100], Condition::None).await }));
    }
    for put in puts {
        put.await??;
    }
    client.put("other", "x", Condition::None).await?;
    client.put("scanned-large", vec![b'l'; 900 << 10], Condition::None).await?;
    client.delete(name(7), Condition::None).await?;
    // Small pages: many requests for each partition.
    let options = ScanOptions { prefix: "scanned-".into(), memory_bytes_max: 1, ..ScanOptions::default() };
    let mut scan = client.scan(options);
    let mut found = Vec::new();
    while let Some(item) = scan.next().await? {
        if found.len() == 500 {
            let primary = playground.of(Role::Storaged)?.remove(0);
            playground.kill(&primary)?;
        }
        ensure!(item.value.len() == if item.key == "scanned-large" { 900 << 10 } else { 100 }, "{:?} is cut", item.key);
        found.push(String::from_utf8(item.key.to_vec())?);
    }
    let mut expected: Vec<String> = (0..keys).filter(|number| *number != 7).map(name).collect();
    expected.push("scanned-large".to_owned());
    ensure!(found == expected, "{} keys of {}, or in another order", found.len(), expected.len());
    let mut first = client.scan(ScanOptions { limit: Some(3), keys_only: true, ..ScanOptions::default() });
    let mut count = 0;
    while let Some(item) = first.next().await? {
        ensure!(item.value.is_empty(), "only keys were asked for");
        count += 1;
    }
    ensure!(count == 3, "{count} keys of 3");
    Ok(())
}

/// Guards against a key that goes too early, never, only for some, or although it was written again; also when its primary
/// dies meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_expires_once_and_never_early() -> Result<()> {
    let playground = Playground::start(&["--restart"], &[])?;
    let result = expire(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn expire(playground: &Playground) -> Result<()> {
    let client = Client::connect(&playground.leaders()?, Options::default()).await?;
    let mut watch = client.watch(WatchWhat::Prefix("t-".into()), WatchFrom::Now)?;
    watching(&mut watch).await?;
    let ttl = Duration::from_millis(1_500);
    let keys: Vec<String> = (0..60).map(|number| format!("t-{number}")).collect();
    let mut acknowledged = BTreeMap::new();
    client.put_expiring("t-stays", "x", Duration::from_millis(300), Condition::None, None).await?;
    client.put("t-stays", "y", Condition::None).await?;
    for key in &keys {
        let sent = Instant::now();
        client.put_expiring(key.clone(), "value", ttl, Condition::None, None).await?;
        acknowledged.insert(Bytes::from(key.clone()), sent);
    }
    let primary = playground.of(Role::Storaged)?.remove(0);
    playground.kill(&primary)?;
    while !acknowledged.is_empty() {
        let WatchEvent::Changed { key, value: None, .. } = next(&mut watch).await? else { continue };
        let sent = acknowledged.remove(&key).with_context(|| format!("{key:?} is deleted twice, or never lived"))?;
        ensure!(sent.elapsed() >= ttl, "{key:?} lived for {:?} of {ttl:?}", sent.elapsed());
        ensure!(client.get(key.clone()).await?.is_none(), "{key:?} was told to be gone, and is there");
    }
    ensure!(client.get("t-stays").await?.is_some_and(|found| found.value == "y"), "it was written again");
    Ok(())
}

/// Guards against a key that goes before its lease ends, stays after that, goes although it was written again, or is
/// forgotten by the primary that takes over, or by the leader of the viewleaders that does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_key_goes_with_its_lease() -> Result<()> {
    let playground = Playground::start(&["--restart"], &[])?;
    let result = end_leases(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn end_leases(playground: &Playground) -> Result<()> {
    let leaders = playground.leaders()?;
    let client = Client::connect(&leaders, Options::default()).await?;
    let coordination = Coordination::new(&leaders, SILENCE_MAX)?;
    let mut watch = client.watch(WatchWhat::Prefix("b-".into()), WatchFrom::Now)?;
    watching(&mut watch).await?;
    // Long enough for a busy machine to keep it alive.
    let kept_for = Duration::from_secs(5);
    let (kept, since) = (coordination.grant(kept_for).await?, Instant::now());
    let (revoked, expires) = (
        coordination.grant_unkept(Duration::from_secs(600)).await?,
        coordination.grant_unkept(Duration::from_secs(2)).await?,
    );
    let put = async |key: String, lease| client.put_bound(key, "x", lease, Condition::None, None).await;
    for number in 0..20 {
        put(format!("b-kept-{number}"), kept.id()).await?;
        put(format!("b-revoked-{number}"), revoked).await?;
        put(format!("b-expires-{number}"), expires).await?;
    }
    put("b-freed".to_owned(), revoked).await?;
    client.put("b-freed", "y", Condition::None).await?;
    put("b-moved".to_owned(), revoked).await?;
    put("b-moved".to_owned(), kept.id()).await?;
    // Nobody who knows of a binding in memory alone may be needed.
    let (primary, leader) = (playground.of(Role::Storaged)?.remove(0), playground.of(Role::Viewleader)?.remove(0));
    playground.kill(&primary)?;
    playground.kill(&leader)?;
    ensure!(coordination.revoke(revoked).await?, "nobody else ends it");
    let mut gone = 0;
    while gone < 40 {
        let WatchEvent::Changed { key, value: None, .. } = next(&mut watch).await? else { continue };
        ensure!(key.starts_with(b"b-revoked-") || key.starts_with(b"b-expires-"), "{key:?} went, though it is not to");
        ensure!(client.get(key.clone()).await?.is_none(), "{key:?} was told to be gone, and is there");
        gone += 1;
    }
    // What is bound to a lease that has ended goes at once; and nothing that was told of it is told again.
    put("b-late".to_owned(), revoked).await?;
    while !matches!(next(&mut watch).await?, WatchEvent::Changed { key, value: None, .. } if key == "b-late") {}
    tokio::time::sleep(kept_for.saturating_sub(since.elapsed())).await;
    for number in 0..20 {
        ensure!(client.get(format!("b-kept-{number}")).await?.is_some(), "its lease is kept alive");
    }
    ensure!(client.get("b-moved").await?.is_some(), "it is bound to another lease by now");
    ensure!(client.get("b-freed").await?.is_some_and(|found| found.value == "y"), "it was written again");
    Ok(())
}
