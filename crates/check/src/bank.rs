//! A bank: transfers move money and make none; every read of all accounts has the same sum.
//!
//! Exact for the sum and for each account alone. Whether one choice of the unknown transfers explains all accounts and
//! all reads together is left out: the append workload asks that, with histories that tell.

use crate::bounds::{Addition, Bounds};
use crate::report::PieceOperation;
use crate::{Anomaly, Outcome};
use std::collections::BTreeMap;

/// An account as a read saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// What is on it.
    pub balance: i64,
    /// Ids of transfers that it carries as having happened; any part of them, empty if the workload writes none.
    pub transfers: Vec<u64>,
}

/// What was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Move money.
    Transfer {
        /// Names this transfer; unique.
        id: u64,
        /// The account that pays.
        from: u64,
        /// The account that is paid.
        to: u64,
        /// How much.
        amount: i64,
    },
    /// Read all accounts at once; this was there. Without meaning unless the outcome is `Done`.
    Read(BTreeMap<u64, Account>),
}

/// One transaction. Instants are microseconds of one clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// Who asked, for people.
    pub client: u64,
    /// When it was called.
    pub called_at: u64,
    /// When it was answered; `None` where no answer came.
    pub answered_at: Option<u64>,
    /// What was asked.
    pub action: Action,
    /// How it ended.
    pub outcome: Outcome,
}

/// What can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// A read whose sum is not that of the beginning, or that lacks an account.
    Sum,
    /// A transfer that was refused and yet seen.
    RefusedButVisible,
    /// A transfer that is seen and that nobody asked for.
    Invented,
    /// A balance that no choice of the transfers possible by then explains.
    Balance,
}

/// Holds every read against the accounts at the beginning and the transfers. Returns at most one anomaly per read.
pub fn check(at_begin: &BTreeMap<u64, i64>, history: &[Transaction]) -> Vec<Anomaly<Kind>> {
    let bank = Bank::new(at_begin, history);
    history.iter().filter_map(|read| bank.judge(read)).collect()
}

struct Bank<'a> {
    /// What is there in all, from beginning to end.
    total: i128,
    at_begin: &'a BTreeMap<u64, i64>,
    by_account: BTreeMap<u64, Bounds>,
    by_id: BTreeMap<u64, &'a Transaction>,
    /// Refused transfers, by the account and by what they would have changed there.
    refused: BTreeMap<(u64, i128), &'a Transaction>,
}

impl<'a> Bank<'a> {
    fn new(at_begin: &'a BTreeMap<u64, i64>, history: &'a [Transaction]) -> Bank<'a> {
        let mut additions: BTreeMap<u64, Vec<Addition>> = at_begin.keys().map(|id| (*id, Vec::new())).collect();
        let (mut by_id, mut refused) = (BTreeMap::new(), BTreeMap::new());
        for transaction in history {
            let Action::Transfer { id, from, to, amount } = transaction.action else { continue };
            let Transaction { called_at, answered_at, outcome, .. } = *transaction;
            by_id.insert(id, transaction);
            for (account, amount) in [(from, amount.saturating_neg()), (to, amount)] {
                additions.entry(account).or_default().push(Addition { called_at, answered_at, outcome, amount });
                if outcome == Outcome::NotDone {
                    refused.insert((account, i128::from(amount)), transaction);
                }
            }
        }
        Bank {
            total: at_begin.values().map(|balance| i128::from(*balance)).sum(),
            at_begin,
            by_account: additions.into_iter().map(|(id, of)| (id, Bounds::new(of.into_iter()))).collect(),
            by_id,
            refused,
        }
    }

    fn judge(&self, read: &Transaction) -> Option<Anomaly<Kind>> {
        let Action::Read(accounts) = &read.action else { return None };
        let answered_at = read.outcome.done_by(read.called_at, read.answered_at)?;
        let client = read.client;
        let shown = |other: Option<&Transaction>| -> Vec<_> { [read].into_iter().chain(other).map(drawn).collect() };

        for transfer in accounts.values().flat_map(|account| &account.transfers) {
            match self.by_id.get(transfer) {
                None => {
                    let sentence = format!("client {client} saw transfer {transfer}, which nobody asked for");
                    return Some(Anomaly::new(Kind::Invented, sentence, shown(None)));
                }
                Some(asked) if asked.outcome == Outcome::NotDone => {
                    let sentence = format!("client {client} saw transfer {transfer}, which was answered as not done");
                    return Some(Anomaly::new(Kind::RefusedButVisible, sentence, shown(Some(asked))));
                }
                Some(asked) if asked.called_at > answered_at => {
                    let sentence = format!("client {client} saw transfer {transfer} before it was asked for");
                    return Some(Anomaly::new(Kind::Invented, sentence, shown(Some(asked))));
                }
                Some(_) => {}
            }
        }
        if let Some(missing) = self.at_begin.keys().find(|id| !accounts.contains_key(id)) {
            let sentence = format!("client {client} read all accounts, and account {missing} was not there");
            return Some(Anomaly::new(Kind::Sum, sentence, shown(None)));
        }
        for (id, account) in accounts {
            let before = i128::from(self.at_begin.get(id).copied().unwrap_or(0));
            let (low, high) =
                self.by_account.get(id).map_or((0, 0), |bounds| bounds.between(read.called_at, answered_at));
            let (low, high, balance) = (before + low, before + high, i128::from(account.balance));
            if balance >= low && balance <= high {
                continue;
            }
            let excess = if balance < low { balance - low } else { balance - high };
            let refused = self.refused.get(&(*id, excess)).filter(|refused| refused.called_at <= answered_at);
            let (kind, why) = match refused {
                Some(_) => (Kind::RefusedButVisible, ", as if a transfer answered as not done had been done"),
                None if self.sum(accounts) != self.total => break,
                None => (Kind::Balance, ""),
            };
            let sentence =
                format!("client {client} read {balance} on account {id}, and only {low} to {high} was possible{why}");
            return Some(Anomaly::new(kind, sentence, shown(refused.copied())));
        }
        let sum = self.sum(accounts);
        (sum != self.total).then(|| {
            let total = self.total;
            let sentence = format!("client {client} read accounts that sum to {sum}, where there is {total} in all");
            let during = |other: &&Transaction| {
                let is_transfer = matches!(other.action, Action::Transfer { .. });
                let ends = other.answered_at.unwrap_or(u64::MAX);
                is_transfer && other.called_at <= answered_at && ends >= read.called_at
            };
            let overlapping = self.by_id.values().copied().filter(during).take(8);
            Anomaly::new(Kind::Sum, sentence, [read].into_iter().chain(overlapping).map(drawn))
        })
    }

    fn sum(&self, accounts: &BTreeMap<u64, Account>) -> i128 {
        accounts.values().map(|account| i128::from(account.balance)).sum()
    }
}

fn drawn(transaction: &Transaction) -> PieceOperation {
    let outcome = transaction.outcome.word();
    let text = match &transaction.action {
        Action::Transfer { id, from, to, amount } => format!("transfer {id}: {amount} from {from} to {to} → {outcome}"),
        Action::Read(accounts) if transaction.outcome == Outcome::Done => {
            let mut balances: Vec<_> =
                accounts.iter().take(8).map(|(id, account)| format!("{id}: {}", account.balance)).collect();
            if accounts.len() > balances.len() {
                balances.push(format!("{} more", accounts.len() - balances.len()));
            }
            format!("read all → {}", balances.join(", "))
        }
        Action::Read(_) => format!("read all → {outcome}"),
    };
    PieceOperation {
        client: transaction.client,
        began_us: transaction.called_at,
        ended_us: transaction.answered_at,
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(id: u64, called_at: u64, from: u64, to: u64, amount: i64, outcome: Outcome) -> Transaction {
        let answered_at = (outcome != Outcome::Unknown).then_some(called_at + 5);
        Transaction { client: 1, called_at, answered_at, action: Action::Transfer { id, from, to, amount }, outcome }
    }

    fn read(called_at: u64, balances: &[i64], transfers: &[u64]) -> Transaction {
        let account = |balance: &i64| Account { balance: *balance, transfers: transfers.to_vec() };
        let accounts = (1..).zip(balances.iter().map(account)).collect();
        let answered_at = Some(called_at + 5);
        Transaction { client: 2, called_at, answered_at, action: Action::Read(accounts), outcome: Outcome::Done }
    }

    /// Two accounts with 10 each; 3 moved from the first to the second; 4 refused; nobody knows of 1 moved back.
    fn kinds(read: Transaction) -> Vec<Kind> {
        let history = [
            transfer(1, 0, 1, 2, 3, Outcome::Done),
            transfer(2, 10, 1, 2, 4, Outcome::NotDone),
            transfer(3, 20, 2, 1, 1, Outcome::Unknown),
            read,
        ];
        check(&BTreeMap::from([(1, 10), (2, 10)]), &history).into_iter().map(|anomaly| anomaly.kind).collect()
    }

    /// Guards against a checker that rejects what is right.
    #[test]
    fn what_is_possible_is_accepted() {
        assert_eq!(kinds(read(2, &[10, 10], &[])), [], "while the first transfer is under way");
        assert_eq!(kinds(read(2, &[7, 13], &[1])), []);
        assert_eq!(kinds(read(30, &[7, 13], &[1])), []);
        assert_eq!(kinds(read(30, &[8, 12], &[1, 3])), []);
    }

    /// Guards against each anomaly passing unseen.
    #[test]
    fn each_anomaly_is_caught() {
        assert_eq!(kinds(read(2, &[7, 10], &[])), [Kind::Sum], "half a transfer");
        assert_eq!(kinds(read(30, &[7, 12], &[])), [Kind::Sum], "half an unknown transfer");
        assert_eq!(kinds(read(30, &[7], &[])), [Kind::Sum], "an account is gone");
        assert_eq!(kinds(read(30, &[10, 10], &[])), [Kind::Balance], "an acknowledged transfer is lost");
        assert_eq!(kinds(read(10, &[8, 12], &[])), [Kind::Balance], "seen before it was asked for");
        assert_eq!(kinds(read(10, &[7, 13], &[3])), [Kind::Invented], "seen before it was asked for, by its id");
        assert_eq!(kinds(read(30, &[7, 13], &[2])), [Kind::RefusedButVisible]);
        assert_eq!(kinds(read(30, &[3, 17], &[])), [Kind::RefusedButVisible], "by the balance alone");
        assert_eq!(kinds(read(30, &[7, 13], &[9])), [Kind::Invented]);
    }
}
