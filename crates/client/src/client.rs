//! The client itself: what a program calls.

use crate::attempts::{Answer, Attempts};
use crate::clock::Clock;
use crate::error::Error;
use crate::leaders::Leaders;
use crate::mutants::{Mutant, on};
use crate::node_streams::NodeStreams;
use crate::outcome::{DeleteOutcome, Found, PutOutcome, Route};
use crate::status::ClusterStatus;
use crate::views::Views;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use types::{
    Condition, ErrorCode, Fence, FencingToken, LeaseId, Lifetime, Mutation, MutationKind, Page, PageQuery, PartitionId,
    Position, RequestId, Stamp, View,
};
use wire::convert::{Operation, check_key, check_value};

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a request is tried before its caller hears that it was not done, or that its outcome is unknown.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options { timeout: Duration::from_secs(10) }
    }
}

/// Nobody waits for longer; times beyond can't be added to a clock's.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A connection to a cluster. Cheap to clone; clones share view, streams and request numbers.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    leaders: Leaders,
    views: Arc<Views>,
    options: Options,
    /// Random: names this client in its request ids (P28).
    id: u64,
    requests: AtomicU64,
    clock: Clock,
    /// Ends with the last clone.
    _watchers: JoinSet<()>,
}

impl Client {
    /// Gets the view from the first viewleader that answers, and keeps it up to date from then on.
    ///
    /// # Errors
    /// [`Error::Usage`], [`Error::NoViewleader`], [`Error::NotAViewleader`], [`Error::ViewleaderUnavailable`].
    pub async fn connect(leaders: &[String], mut options: Options) -> Result<Client, Error> {
        options.timeout = options.timeout.min(TIMEOUT_MAX);
        let leaders = Leaders::new(leaders)?;
        let view = tokio::time::timeout(options.timeout, leaders.view()).await.unwrap_or_else(|_| {
            let why = format!("no answer within {} s", options.timeout.as_secs_f64());
            Err(Error::NoViewleader { addresses: leaders.addresses(), why })
        })?;
        let views = Arc::new(Views::new(leaders.clone(), NodeStreams::new(), view));
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(|error| Error::Usage(format!("the system has no random numbers: {error}")))?;
        let watchers = Views::watch(&views);
        let inner = Inner {
            leaders,
            views,
            options,
            id: u64::from_ne_bytes(id),
            requests: AtomicU64::new(0),
            clock: Clock::default(),
            _watchers: watchers,
        };
        Ok(Client { inner: Arc::new(inner) })
    }

    /// The value of a key; linearizable.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::NotBootstrapped`], [`Error::NotDone`].
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Found>, Error> {
        let key = key.into();
        check_key(&key).map_err(|error| Error::Invalid(error.to_string()))?;
        match self.attempt(Operation::Get(key)).await? {
            Answer::Found(found) => Ok(Some(found)),
            Answer::NotFound => Ok(None),
            other => Err(contradiction(&other)),
        }
    }

    /// Gives a key a value, if the condition holds.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::NotBootstrapped`], [`Error::NotDone`], [`Error::Unknown`].
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        condition: Condition,
    ) -> Result<PutOutcome, Error> {
        self.put_kind(key.into(), MutationKind::Put(value.into()), condition, None).await
    }

    /// As [`Client::put`], by the holder of a lock: refused where a newer grant of it was used.
    ///
    /// # Errors
    /// Also [`Error::Fenced`].
    pub async fn put_fenced(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        condition: Condition,
        fence: Option<Fence>,
    ) -> Result<PutOutcome, Error> {
        self.put_kind(key.into(), MutationKind::Put(value.into()), condition, fence).await
    }

    /// Gives a key a value that is deleted once it has lived for so long, unless it is written again before. Never
    /// earlier; later where a primary fails meanwhile: the next one counts from its own beginning.
    ///
    /// # Errors
    /// As [`Client::put_fenced`].
    pub async fn put_expiring(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        ttl: Duration,
        condition: Condition,
        fence: Option<Fence>,
    ) -> Result<PutOutcome, Error> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        if ttl_ms == 0 {
            return Err(Error::Invalid("the time to live is shorter than a millisecond".to_owned()));
        }
        wire::convert::check_ttl(ttl_ms).map_err(|error| Error::Invalid(error.to_string()))?;
        let kind = MutationKind::PutExpiring { value: value.into(), lifetime: Lifetime::Milliseconds(ttl_ms) };
        self.put_kind(key.into(), kind, condition, fence).await
    }

    /// Gives a key a value that is deleted when this lease ends, unless it is written again before: never earlier, and
    /// within a moment of it once the storage nodes hear of it from the viewleaders. One bound to a lease that has ended
    /// already, or never was, is gone as soon as they say so.
    ///
    /// # Errors
    /// As [`Client::put_fenced`].
    pub async fn put_bound(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        lease: LeaseId,
        condition: Condition,
        fence: Option<Fence>,
    ) -> Result<PutOutcome, Error> {
        if lease == LeaseId(0) {
            return Err(Error::Invalid("leases are numbered from 1".to_owned()));
        }
        let kind = MutationKind::PutExpiring { value: value.into(), lifetime: Lifetime::Lease(lease) };
        self.put_kind(key.into(), kind, condition, fence).await
    }

    async fn put_kind(
        &self,
        key: Bytes,
        kind: MutationKind,
        condition: Condition,
        fence: Option<Fence>,
    ) -> Result<PutOutcome, Error> {
        check_value(kind.value().map_or(&[], |value| value)).map_err(|error| Error::Invalid(error.to_string()))?;
        match self.mutate(key, kind, condition, fence).await? {
            Answer::Written(written) => Ok(PutOutcome::Done(written)),
            Answer::ConditionFailed(version) => Ok(PutOutcome::ConditionFailed(version)),
            // What a condition that needs a value hears where there is none.
            Answer::NotFound => Ok(PutOutcome::ConditionFailed(None)),
            other => Err(contradiction(&other)),
        }
    }

    /// Takes a key's value away, if the condition holds.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::NotBootstrapped`], [`Error::NotDone`], [`Error::Unknown`].
    pub async fn delete(&self, key: impl Into<Bytes>, condition: Condition) -> Result<DeleteOutcome, Error> {
        self.delete_fenced(key, condition, None).await
    }

    /// As [`Client::delete`], by the holder of a lock: refused where a newer grant of it was used.
    ///
    /// # Errors
    /// Also [`Error::Fenced`].
    pub async fn delete_fenced(
        &self,
        key: impl Into<Bytes>,
        condition: Condition,
        fence: Option<Fence>,
    ) -> Result<DeleteOutcome, Error> {
        match self.mutate(key.into(), MutationKind::Delete, condition, fence).await? {
            Answer::Written(written) => Ok(DeleteOutcome::Done(written)),
            Answer::ConditionFailed(version) => Ok(DeleteOutcome::ConditionFailed(version)),
            Answer::NotFound => Ok(DeleteOutcome::NotFound),
            other => Err(contradiction(&other)),
        }
    }

    /// The view that requests are routed by now.
    pub fn view(&self) -> Arc<View> {
        self.inner.views.routes().view.clone()
    }

    /// Where a key lives, by the view of now.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::NotDone`] with [`ErrorCode::NotBootstrapped`] before the first map.
    pub fn route(&self, key: &[u8]) -> Result<Route, Error> {
        check_key(key).map_err(|error| Error::Invalid(error.to_string()))?;
        let view = self.view();
        let partition = view.partition_of(key);
        let configuration = view.configuration(partition).ok_or_else(|| Error::NotDone {
            code: ErrorCode::NotBootstrapped,
            message: "the cluster has no partition map yet".to_owned(),
        })?;
        let replica = |id: &types::NodeId| match view.nodes.get(id) {
            Some(node) => (*id, node.address.clone(), node.alive),
            None => (*id, String::new(), false),
        };
        let replicas = configuration.replicas.iter().map(replica).collect();
        Ok(Route { position: Position::of_key(key).to_string(), partition, term: configuration.term, replicas })
    }

    /// What the Raft leader of the viewleaders knows of the cluster.
    ///
    /// # Errors
    /// As [`Leaders::status`].
    pub async fn status(&self) -> Result<ClusterStatus, Error> {
        let timeout = self.inner.options.timeout;
        tokio::time::timeout(timeout, self.inner.leaders.status()).await.unwrap_or_else(|_| {
            let why = format!("no status within {} s", timeout.as_secs_f64());
            Err(Error::NoViewleader { addresses: self.inner.leaders.addresses(), why })
        })
    }

    async fn mutate(
        &self,
        key: Bytes,
        kind: MutationKind,
        condition: Condition,
        fence: Option<Fence>,
    ) -> Result<Answer, Error> {
        check_key(&key).map_err(|error| Error::Invalid(error.to_string()))?;
        let token = fence.as_ref().map_or(FencingToken(0), |fence| fence.token);
        let (id, stamp) = self.name();
        match self.attempt(Operation::Mutate(Mutation { key, kind, condition, fence }, id, stamp)).await? {
            Answer::Fenced(newest) => Err(Error::Fenced { token, newest }),
            answer => Ok(answer),
        }
    }

    /// P28: never the same twice.
    fn next_counter(&self) -> u64 {
        let step = u64::from(!on(Mutant::P28SameId));
        self.inner.requests.fetch_add(step, Ordering::Relaxed) + 1
    }

    /// One page of one partition.
    pub(crate) async fn page(&self, partition: PartitionId, query: PageQuery) -> Result<Page, Error> {
        match self.attempt(Operation::Scan(partition, query)).await? {
            Answer::Page(page) => Ok(page),
            other => Err(contradiction(&other)),
        }
    }

    pub(crate) fn views(&self) -> &Arc<Views> {
        &self.inner.views
    }

    pub(crate) fn leaders(&self) -> &Leaders {
        &self.inner.leaders
    }

    /// A name for a request that may change something.
    pub(crate) fn name(&self) -> (RequestId, Stamp) {
        (RequestId { client: self.inner.id, counter: self.next_counter() }, self.inner.clock.stamp())
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.inner.options.timeout
    }

    /// From 0 to 1.
    pub(crate) fn jitter(&self) -> f64 {
        self.inner.views.jitter()
    }

    pub(crate) async fn attempt(&self, operation: Operation) -> Result<Answer, Error> {
        let inner = &self.inner;
        let outcome = Attempts::new(&inner.views, operation, inner.options.timeout, &inner.clock).run().await;
        match outcome {
            Err(Error::NotDone { code: ErrorCode::NotBootstrapped, message }) => {
                // Who can say more is asked; who can't is no worse an answer.
                Err(match self.status().await {
                    Ok(status) if !status.has_map => Error::NotBootstrapped {
                        registered: u32::try_from(status.nodes.len()).unwrap_or(u32::MAX),
                        expected: status.expected_nodes,
                    },
                    _ => Error::NotDone { code: ErrorCode::NotBootstrapped, message },
                })
            }
            outcome => outcome,
        }
    }
}

/// A node answered a question that was not asked: its answer says nothing about this one.
pub(crate) fn contradiction(answer: &Answer) -> Error {
    Error::Unknown { message: format!("a node answered with {answer:?}, which is no answer to this") }
}
