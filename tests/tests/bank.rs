//! Money moves between accounts on different nodes while nodes die, stand still, join and leave: the sum never differs,
//! and nothing that was refused is ever seen.
//!
//! Thirty seconds unless `BANK_SECONDS` says otherwise; ten minutes in the long run.

#![allow(clippy::print_stderr, reason = "whoever runs it for ten minutes wants to know what was done in them")]

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use client::{Client, Configure, Error, Found, Leaders, Operation, Options};
use e2e::playground::{Playground, signal};
use e2e::storage_node::StorageNode;
use e2e::{Role, insist, load};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use types::{Condition, Duty, Transaction, TransactionOperation};

const ACCOUNTS: u64 = 100;
const CLIENTS: u64 = 64;
const EACH: i64 = 1_000;
/// Logs turn over many times while a test runs.
const SMALL_SEGMENTS: &[(&str, &str)] = &[("DHT_SEGMENT_SIZE", "2MiB")];

fn lasts() -> Duration {
    let seconds = std::env::var("BANK_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(30))
}

fn account(number: u64) -> Bytes {
    Bytes::from(format!("account-{number}"))
}

/// An account holds its balance and the transfer that wrote it.
fn holding(balance: i64, transfer: u64) -> Bytes {
    Bytes::from(format!("{balance} {transfer}"))
}

fn held(found: Option<&Found>) -> Result<(i64, u64)> {
    let text = std::str::from_utf8(&found.context("an account is gone")?.value)?;
    let (balance, transfer) = text.split_once(' ').context("an account holds something else")?;
    Ok((balance.parse()?, transfer.parse()?))
}

/// What all clients share.
#[derive(Default)]
struct Bank {
    stop: AtomicBool,
    transfers: AtomicU64,
    done: AtomicU64,
    unknown: AtomicU64,
    audits: AtomicU64,
    /// Transfers that were told to be not done.
    refused: Mutex<BTreeSet<u64>>,
    /// Transfers whose writes somebody has read.
    seen: Mutex<BTreeSet<u64>>,
}

impl Bank {
    fn see(&self, transfer: u64) {
        self.seen.lock().expect("nobody panics under the lock").insert(transfer);
    }

    fn refuse(&self, transfer: u64) {
        self.refused.lock().expect("nobody panics under the lock").insert(transfer);
    }
}

fn xorshift(mut x: u64) -> u64 {
    x ^= x << 13;
    x ^= x >> 7;
    x ^ x << 17
}

async fn teller(client: Client, bank: Arc<Bank>, number: u64) -> Result<()> {
    let mut random = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while !bank.stop.load(Ordering::Relaxed) {
        random = xorshift(random);
        let (from, to) = ((random >> 8) % ACCOUNTS, (random >> 32) % ACCOUNTS);
        if from == to {
            continue;
        }
        let keys = [account(from), account(to)];
        let found = match client.read_together(&keys).await {
            Ok(found) => found,
            Err(Error::NotDone { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let (has, writer) = held(found[0].as_ref())?;
        bank.see(writer);
        let (had, writer) = held(found[1].as_ref())?;
        bank.see(writer);
        let amount = (random % 50) as i64;
        if has < amount {
            continue;
        }
        let transfer = bank.transfers.fetch_add(1, Ordering::Relaxed) + 1;
        let unchanged = keys
            .iter()
            .zip(&found)
            .filter_map(|(key, found)| Some((key.clone(), Condition::Version(found.as_ref()?.version))));
        let [from, to] = keys.clone();
        let transaction = Transaction {
            conditions: unchanged.collect(),
            then: vec![
                TransactionOperation::Put { key: from, value: holding(has - amount, transfer) },
                TransactionOperation::Put { key: to, value: holding(had + amount, transfer) },
            ],
            ..Transaction::default()
        };
        match client.transact(transaction).await {
            Ok(transacted) if transacted.succeeded => drop(bank.done.fetch_add(1, Ordering::Relaxed)),
            Ok(_) | Err(Error::NotDone { .. }) => bank.refuse(transfer),
            Err(Error::Unknown { .. }) => drop(bank.unknown.fetch_add(1, Ordering::Relaxed)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The sum of all accounts, as of one instant; `None`: not answered in time.
async fn audit(client: &Client, bank: &Bank) -> Result<Option<i64>> {
    let accounts: Vec<Bytes> = (0..ACCOUNTS).map(account).collect();
    match client.read_together(&accounts).await {
        Ok(found) => {
            let mut sum = 0;
            for found in &found {
                let (balance, transfer) = held(found.as_ref())?;
                bank.see(transfer);
                sum += balance;
            }
            Ok(Some(sum))
        }
        Err(Error::NotDone { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn auditor(client: Client, bank: Arc<Bank>) -> Result<()> {
    while !bank.stop.load(Ordering::Relaxed) {
        if let Some(sum) = audit(&client, &bank).await? {
            ensure!(sum == ACCOUNTS as i64 * EACH, "the accounts hold {sum}");
            bank.audits.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Guards against half a transfer that anybody can see, a transfer that is done twice, and one that is both refused and
/// done; through kills of either role, nodes that stand still, and data that moves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sum_never_differs() -> Result<()> {
    let playground = Playground::start(&["--restart"], SMALL_SEGMENTS)?;
    let result = transfer(&playground).await;
    result.with_context(|| playground.log_tails())
}

async fn transfer(playground: &Playground) -> Result<()> {
    let addresses = playground.leaders()?;
    let client = Client::connect(&addresses, Options::default()).await?;
    let leaders = Leaders::new(&addresses)?;
    let configure = Operation::Configure(Configure { moves_per_node: Some(8), ..Configure::default() });
    insist(|| leaders.operate(&configure)).await?;
    for number in 0..ACCOUNTS {
        client.put(account(number), holding(EACH, 0), Condition::None).await?;
    }
    let bank = Arc::new(Bank::default());
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(teller(client.clone(), bank.clone(), number));
    }
    for _ in 0..2 {
        clients.spawn(auditor(client.clone(), bank.clone()));
    }
    let until = Instant::now() + lasts();
    let disturbed = disturb(playground, &addresses, &leaders, &client, until);
    // A guest that is there at the end stays: if it went, nobody would take its place for ten minutes.
    let _guest = tokio::select! {
        disturbed = disturbed => disturbed?,
        Some(ended) = clients.join_next() => {
            ended??;
            bail!("a client has ended early");
        }
    };
    bank.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    load::await_health(&client).await?;
    let sum = audit(&client, &bank).await?.context("nobody disturbs this audit")?;
    ensure!(sum == ACCOUNTS as i64 * EACH, "at the end the accounts hold {sum}");
    let (seen, refused) = (bank.seen.lock().expect("all have ended"), bank.refused.lock().expect("all have ended"));
    if let Some(both) = seen.intersection(&refused).next() {
        bail!("transfer {both} was refused, and its writes were read");
    }
    let (done, audits) = (bank.done.load(Ordering::Relaxed), bank.audits.load(Ordering::Relaxed));
    ensure!(done > 0 && audits > 0, "{done} transfers were done, and {audits} audits: nothing was shown");
    eprintln!(
        "{done} transfers done, {} refused, {} unknown; {audits} audits",
        refused.len(),
        bank.unknown.load(Ordering::Relaxed)
    );
    Ok(())
}

/// Kills, pauses and moves, one after the other, until the time is over; the guest that is there at the end.
async fn disturb(
    playground: &Playground,
    addresses: &[String],
    leaders: &Leaders,
    client: &Client,
    until: Instant,
) -> Result<Option<StorageNode>> {
    let mut guest: Option<StorageNode> = None;
    for round in 0usize.. {
        if Instant::now() >= until {
            break;
        }
        let role = if round % 5 == 4 { Role::Viewleader } else { Role::Storaged };
        let candidates = playground.of(role)?;
        let victim = &candidates[round % candidates.len()];
        match round % 4 {
            0 | 2 => {
                playground.kill(victim)?;
                playground.await_restart(victim)?;
            }
            1 => {
                signal(victim.pid, "STOP")?;
                tokio::time::sleep(Duration::from_millis(1_500)).await;
                signal(victim.pid, "CONT")?;
            }
            _ => match guest.take() {
                None => {
                    let directory = playground.directory().join(format!("guest-{round}"));
                    guest = Some(StorageNode::start(addresses, directory, SMALL_SEGMENTS)?);
                }
                Some(node) => {
                    let status = node.registered(leaders).await?;
                    let drain = Operation::SetDuty { node: status.info.id, duty: Duty::Draining };
                    // A busy machine may be without a leader for a moment; and who was just killed and is back is counted as
                    // dead for one, so that nobody may leave.
                    let until = Instant::now() + Duration::from_secs(60);
                    while let Err(error) = leaders.operate(&drain).await {
                        let passes = matches!(
                            error,
                            Error::NoViewleader { .. } | Error::ViewleaderUnavailable { .. } | Error::NotDone { .. }
                        );
                        ensure!(passes && Instant::now() < until, "{error}");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    // Then it dies, wherever that finds it; the next one is new.
                    load::await_health(client).await.with_context(|| format!("after the drain in round {round}"))?;
                    drop(node);
                }
            },
        }
        // One fault at a time: the next may need everybody.
        load::await_health(client).await.with_context(|| format!("after disturbance {round}"))?;
    }
    Ok(guest)
}
