//! Money moves between accounts in transactions, and others read all accounts at once: no money appears or is lost, and
//! no transfer that was answered as not done is ever seen.

use super::record::{Outcome, timed};
use super::{Seat, Workload, never_read_back};
use crate::error::Error;
use bytes::Bytes;
use check::bank::{Account, Action, Transaction};
use check::report::WorkloadResult;
use client::{Client, Found};
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const ACCOUNTS: u64 = 12;
/// What is on an account that nobody has written yet.
const AT_BEGIN: i64 = 1_000;
const AMOUNT_MAX: u64 = 50;
/// One question of so many reads all accounts.
const READS_ONE_IN: usize = 3;

struct Bank {
    prefix: String,
    transfers: AtomicU64,
    history: Mutex<Vec<Transaction>>,
    /// All accounts in the end, once they have been read.
    at_end: Mutex<Option<BTreeMap<u64, Account>>>,
}

pub(super) fn make(prefix: &str) -> Arc<dyn Workload> {
    Arc::new(Bank {
        prefix: prefix.to_owned(),
        transfers: AtomicU64::new(0),
        history: Mutex::default(),
        at_end: Mutex::default(),
    })
}

impl Workload for Bank {
    fn client(self: Arc<Self>, mut seat: Seat) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            while seat.next().await {
                match seat.random.below(READS_ONE_IN) {
                    0 => self.read_all(&seat).await,
                    _ => self.transfer(&mut seat).await,
                }
            }
        })
    }

    fn read_back<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let found = client.read_together(&self.all()).await?;
            *self.at_end.lock().unwrap_or_else(PoisonError::into_inner) = Some(accounts(&found));
            Ok(())
        })
    }

    fn verdict(&self, name: &str) -> WorkloadResult {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let at_end = self.at_end.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(at_end) = at_end else {
            return never_read_back(name, history.len());
        };
        let operations = history.len() as u64;
        history.push(Transaction {
            client: u64::MAX,
            called_at: u64::MAX - 1,
            answered_at: Some(u64::MAX),
            action: Action::Read(at_end),
            outcome: check::Outcome::Done,
        });
        let at_begin = (0..ACCOUNTS).map(|account| (account, AT_BEGIN)).collect();
        WorkloadResult::judged(name, operations, &check::bank::check(&at_begin, &history))
    }

    fn effects(&self) -> usize {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let is_done = |transaction: &&Transaction| transaction.outcome == check::Outcome::Done;
        history.iter().filter(is_done).filter(|it| matches!(it.action, Action::Transfer { .. })).count()
    }
}

impl Bank {
    fn keys(&self) -> Vec<String> {
        (0..ACCOUNTS).map(|account| self.key(account)).collect()
    }

    fn key(&self, account: u64) -> String {
        format!("{}account-{account}", self.prefix)
    }

    fn all(&self) -> Vec<Bytes> {
        self.keys().into_iter().map(Bytes::from).collect()
    }

    async fn read_all(&self, seat: &Seat) {
        let read = timed(seat, seat.client.read_together(&self.all())).await;
        // A read that was not answered says nothing.
        let Outcome::Done(found) = &read.outcome else { return };
        self.write_down(Transaction {
            client: seat.number,
            called_at: read.called_us,
            answered_at: Some(read.answered_us),
            action: Action::Read(accounts(found)),
            outcome: check::Outcome::Done,
        });
    }

    /// Reads two accounts, and moves money from one to the other if nobody has changed them since.
    async fn transfer(&self, seat: &mut Seat) {
        let from = seat.random.below(ACCOUNTS as usize) as u64;
        let to = (from + 1 + seat.random.below(ACCOUNTS as usize - 1) as u64) % ACCOUNTS;
        let amount = 1 + seat.random.below(AMOUNT_MAX as usize) as i64;
        let keys = [Bytes::from(self.key(from)), Bytes::from(self.key(to))];
        let read = timed(seat, seat.client.read_together(&keys)).await;
        let Outcome::Done(found) = read.outcome else { return };
        let id = 1 + self.transfers.fetch_add(1, Ordering::Relaxed);
        let mut transaction = seat.client.transaction();
        for ((key, found), change) in keys.into_iter().zip(&found).zip([-amount, amount]) {
            let balance = account(found.as_ref()).balance.saturating_add(change);
            transaction = match found {
                Some(found) => transaction.if_version(key.clone(), found.version),
                None => transaction.if_absent(key.clone()),
            };
            transaction = transaction.put(key, format!("{balance} {id}"));
        }
        let committed = timed(seat, transaction.commit()).await;
        let outcome = match &committed.outcome {
            Outcome::Done(transacted) if !transacted.succeeded => check::Outcome::NotDone,
            outcome => outcome.checked(),
        };
        self.write_down(Transaction {
            client: seat.number,
            called_at: committed.called_us,
            answered_at: committed.answered_at(),
            action: Action::Transfer { id, from, to, amount },
            outcome,
        });
    }

    fn write_down(&self, transaction: Transaction) {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).push(transaction);
    }
}

fn accounts(found: &[Option<Found>]) -> BTreeMap<u64, Account> {
    (0..).zip(found.iter().map(|found| account(found.as_ref()))).collect()
}

/// An account holds its balance and the transfer that wrote it; what holds something else holds what no account can.
fn account(found: Option<&Found>) -> Account {
    let Some(found) = found else {
        return Account { balance: AT_BEGIN, transfers: Vec::new() };
    };
    let read = std::str::from_utf8(&found.value).ok().and_then(|text| {
        let (balance, transfer) = text.split_once(' ')?;
        Some(Account { balance: balance.parse().ok()?, transfers: vec![transfer.parse().ok()?] })
    });
    read.unwrap_or(Account { balance: i64::MIN, transfers: Vec::new() })
}
