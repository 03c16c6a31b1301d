//! Transactions: several keys at once, all or nothing.
//!
//! [`Client::transaction`] builds one; [`Client::transact`] takes one that is built. Those that only read and span
//! partitions take no locks: every key is read twice, and if nothing has changed in between, what was read is what there
//! was at the instant between the two ([`Client::read_together`]). If keys change too quickly for that they take locks
//! after all. [`Client::update`] is for what one must first read and then compute.
//!
//! A conflict with another transaction is tried again, as the same request, until its time is up: then it is *not done*.

use crate::attempts::Answer;
use crate::client::{Client, contradiction};
use crate::error::Error;
use crate::outcome::{CollectedKey, Found, Transacted};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use types::{
    Condition, ErrorCode, Fence, FencingToken, NodeId, OperationResult, PartitionId, Record, Seq, Term, Transaction,
    TransactionOperation, TransactionOutcome,
};
use wire::convert::Operation;

/// How often keys are read together, without locks, before a transaction with locks reads them.
const READS_MAX: usize = 5;
/// The pause after an update that others were faster than, growing to the longest; the real one is drawn from it.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// A transaction in the making. Steps belong to the branch that is done if every condition holds, until
/// [`TransactionBuilder::otherwise`] begins the other one.
#[derive(Clone, Debug)]
#[must_use = "a transaction does nothing until it is committed"]
pub struct TransactionBuilder<'a> {
    client: &'a Client,
    transaction: Transaction,
    otherwise: bool,
}

impl TransactionBuilder<'_> {
    /// The key must have this value.
    pub fn if_value(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.condition(key, Condition::Value(value.into()))
    }

    /// The key must have a value of this version.
    pub fn if_version(self, key: impl Into<Bytes>, version: Seq) -> Self {
        self.condition(key, Condition::Version(version))
    }

    /// The key must have no value.
    pub fn if_absent(self, key: impl Into<Bytes>) -> Self {
        self.condition(key, Condition::Absent)
    }

    /// The key must have a value.
    pub fn if_present(self, key: impl Into<Bytes>) -> Self {
        self.condition(key, Condition::Present)
    }

    fn condition(mut self, key: impl Into<Bytes>, condition: Condition) -> Self {
        self.transaction.conditions.push((key.into(), condition));
        self
    }

    /// The lock that the caller believes to hold: refused where a newer grant of it was used.
    pub fn fence(mut self, name: impl Into<Bytes>, token: FencingToken) -> Self {
        self.transaction.fence = Some(Fence { name: name.into(), token });
        self
    }

    /// Gives a key a value.
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.step(TransactionOperation::Put { key: key.into(), value: value.into() })
    }

    /// Takes a key's value away.
    pub fn delete(self, key: impl Into<Bytes>) -> Self {
        self.step(TransactionOperation::Delete { key: key.into() })
    }

    /// Reads a key's value as of before the transaction.
    pub fn get(self, key: impl Into<Bytes>) -> Self {
        self.step(TransactionOperation::Get { key: key.into() })
    }

    /// The steps that follow are done if a condition does not hold.
    pub fn otherwise(mut self) -> Self {
        self.otherwise = true;
        self
    }

    fn step(mut self, step: TransactionOperation) -> Self {
        let branch = if self.otherwise { &mut self.transaction.otherwise } else { &mut self.transaction.then };
        branch.push(step);
        self
    }

    /// What was built.
    pub fn build(self) -> Transaction {
        self.transaction
    }

    /// Does it.
    ///
    /// # Errors
    /// As [`Client::transact`].
    pub async fn commit(self) -> Result<Transacted, Error> {
        self.client.transact(self.transaction).await
    }
}

impl Client {
    /// Begins to build a transaction.
    pub fn transaction(&self) -> TransactionBuilder<'_> {
        TransactionBuilder { client: self, transaction: Transaction::default(), otherwise: false }
    }

    /// Does a transaction: all of one branch, or nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it breaks a limit, [`Error::NotBootstrapped`]; [`Error::NotDone`], with
    /// [`ErrorCode::Conflict`] where others were in the way until the time was up; [`Error::Unknown`]; [`Error::Fenced`].
    pub async fn transact(&self, transaction: Transaction) -> Result<Transacted, Error> {
        transaction.check().map_err(|error| Error::Invalid(error.to_string()))?;
        let count = self.view().partition_count;
        let home = transaction.first_key().map(|key| count.partition_of(key));
        if transaction.is_read_only()
            && transaction.fence.is_none()
            && transaction.keys().any(|key| Some(count.partition_of(key)) != home)
            && let Some(outcome) = self.read_only(&transaction).await?
        {
            return Ok(outcome);
        }
        let token = transaction.fence.as_ref().map_or(FencingToken(0), |fence| fence.token);
        let (id, stamp) = self.name();
        match self.attempt(Operation::Transact(Box::new(transaction), id, stamp)).await? {
            Answer::Transacted(outcome) => Ok(outcome),
            Answer::Fenced(newest) => Err(Error::Fenced { token, newest }),
            other => Err(contradiction(&other)),
        }
    }

    /// Several keys as of one instant, in the order asked for; linearizable.
    ///
    /// # Errors
    /// As [`Client::transact`].
    pub async fn read_together(&self, keys: &[Bytes]) -> Result<Vec<Option<Found>>, Error> {
        let then = keys.iter().map(|key| TransactionOperation::Get { key: key.clone() }).collect();
        let outcome = self.transact(Transaction { then, ..Transaction::default() }).await?;
        let found = |result| match result {
            OperationResult::Found(record) => Some(Found { value: record.value, version: record.seq }),
            _ => None,
        };
        Ok(outcome.results.into_iter().map(found).collect())
    }

    /// Reads keys, lets `compute` say what is to be done about what they have, and does that if none of them has changed
    /// meanwhile; again and again, until it is done, `compute` wants nothing (`None`), or the time is up.
    ///
    /// # Errors
    /// As [`Client::transact`]; [`Error::NotDone`] with [`ErrorCode::Conflict`] where the keys changed every time.
    pub async fn update(
        &self,
        keys: &[Bytes],
        mut compute: impl FnMut(&[Option<Found>]) -> Option<Vec<TransactionOperation>>,
    ) -> Result<Option<Transacted>, Error> {
        let deadline = Instant::now() + self.timeout();
        let mut pause = PAUSE_MIN;
        let mut tries = 0u32;
        loop {
            let found = self.read_together(keys).await?;
            let Some(then) = compute(&found) else { return Ok(None) };
            let unchanged = |found: &Option<Found>| match found {
                Some(found) => Condition::Version(found.version),
                None => Condition::Absent,
            };
            let conditions = keys.iter().cloned().zip(found.iter().map(unchanged)).collect();
            let outcome = self.transact(Transaction { conditions, then, ..Transaction::default() }).await?;
            if outcome.succeeded {
                return Ok(Some(outcome));
            }
            tries += 1;
            if Instant::now() + pause >= deadline {
                let message =
                    format!("the keys changed each of the {tries} times that they were read; give it more time");
                return Err(Error::NotDone { code: ErrorCode::Conflict, message });
            }
            tokio::time::sleep(pause.mul_f64(self.jitter())).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Reads all keys twice; `None` if they change too quickly.
    async fn read_only(&self, transaction: &Transaction) -> Result<Option<Transacted>, Error> {
        let count = self.view().partition_count;
        let mut parts: BTreeMap<PartitionId, Vec<Bytes>> = BTreeMap::new();
        for key in transaction.keys() {
            let part = parts.entry(count.partition_of(key)).or_default();
            if !part.contains(key) {
                part.push(key.clone());
            }
        }
        let mut before: Option<Vec<Vec<CollectedKey>>> = None;
        for _ in 0..READS_MAX {
            let collect = parts.values().map(|keys| async move {
                match self.attempt(Operation::Collect(keys.clone())).await? {
                    Answer::Collected(found) if found.len() == keys.len() => Ok(found),
                    other => Err(contradiction(&other)),
                }
            });
            // Each of the second reads is asked for after each of the first was answered.
            let found = futures::future::try_join_all(collect).await?;
            let is_certain = |key: &CollectedKey| !matches!(key, CollectedKey::Absent(None));
            if before.as_ref() == Some(&found) && found.iter().flatten().all(is_certain) {
                let by_key = parts.values().flatten().zip(found.into_iter().flatten()).collect();
                return Ok(Some(judge(transaction, &by_key)));
            }
            before = Some(found);
        }
        Ok(None)
    }
}

/// What a transaction that only reads hears of keys that have this.
fn judge(transaction: &Transaction, found: &BTreeMap<&Bytes, CollectedKey>) -> Transacted {
    let found = |key: &Bytes| match found.get(key) {
        Some(CollectedKey::Found(found)) => Some(found),
        _ => None,
    };
    let holds = |(key, condition): &(Bytes, Condition)| match (condition, found(key)) {
        (Condition::None, _) => true,
        (Condition::Absent, found) => found.is_none(),
        (Condition::Present, found) => found.is_some(),
        (Condition::Version(version), found) => found.is_some_and(|found| found.version == *version),
        (Condition::Value(value), found) => found.is_some_and(|found| found.value == *value),
    };
    let succeeded = transaction.conditions.iter().all(holds);
    let branch = if succeeded { &transaction.then } else { &transaction.otherwise };
    let result = |step: &TransactionOperation| match found(step.key()) {
        Some(found) => OperationResult::Found(Record { seq: found.version, value: found.value.clone() }),
        None => OperationResult::NotFound,
    };
    Transacted {
        succeeded,
        results: branch.iter().map(result).collect(),
        durable_on: 0,
        term: Term(0),
        node: NodeId(0),
    }
}

/// Whether a transaction that was answered so has changed anything.
pub(crate) fn has_changed(outcome: &TransactionOutcome) -> bool {
    outcome
        .results
        .iter()
        .any(|result| matches!(result, OperationResult::Put { .. } | OperationResult::Deleted { existed: true }))
}
