//! One node's stream: everything that waits leaves as one batch, answers come in any order.
//!
//! There is no task per request. A caller puts its request into the outbox and a waiter into the slots, and wakes the
//! stream; the connection drains the outbox when it can send; the driver, one task per connection, hands answers out.
//! The connection is made when the first request comes, and again when one comes after it broke.
//!
//! Invariant: what was still in the outbox when a connection ended was never sent; of everything else nobody knows.

use crate::endpoint::{endpoint, root_cause, status_text};
use crate::error::{Unanswered, UnansweredCause};
use crate::node_streams::Ties;
use crate::slots::{Reply, Slots, Waiter};
use futures::Stream;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use types::limits::MESSAGE_BYTES_MAX;
use types::{Epoch, ErrorCode, PartitionId};
use wire::v1;
use wire::v1::kv_client::KvClient;

/// A batch is closed once it has this many bytes: the next request starts another.
const BATCH_BYTES: usize = 1 << 20;
/// What a request takes on the wire beside its key and value, at most about.
const REQUEST_OVERHEAD_BYTES: usize = 64;

/// The stream of one node. Dropping it ends the connection; who still waits hears that it broke.
#[derive(Debug)]
pub(crate) struct NodeStream {
    shared: Arc<Shared>,
    driver: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    address: String,
    ties: Arc<Ties>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts connections; the present one, or the last.
    connection: u64,
    /// A driver is running.
    up: bool,
    outbox: Vec<v1::Request>,
    slots: Slots,
    /// The connection, waiting for something to send.
    sender: Option<Waker>,
}

impl NodeStream {
    pub(crate) fn new(address: String, ties: Arc<Ties>) -> NodeStream {
        let shared = Arc::new(Shared { address, ties, state: Mutex::default() });
        NodeStream { shared, driver: Mutex::new(None) }
    }

    /// Puts a request into the outbox; its number is chosen here. Never blocks.
    pub(crate) fn push(
        &self,
        mut request: v1::Request,
        routed: Option<(PartitionId, Epoch)>,
        deadline: Instant,
    ) -> oneshot::Receiver<Reply> {
        let (reply, receiver) = oneshot::channel();
        let sender = {
            let mut state = self.shared.lock();
            request.number = state.slots.insert(Waiter { routed, deadline, reply });
            state.outbox.push(request);
            if !state.up {
                state.up = true;
                state.connection += 1;
                self.start(state.connection);
            }
            state.sender.take()
        };
        if let Some(sender) = sender {
            sender.wake();
        }
        self.shared.ties.wake_sweeper();
        receiver
    }

    fn start(&self, connection: u64) {
        let shared = self.shared.clone();
        let driver = self.shared.ties.runtime.spawn(async move {
            let why = match drive(&shared, connection).await {
                Ok(never) => match never {},
                Err(why) => why,
            };
            tracing::debug!(address = %shared.address, %why, "stream ended");
            shared.fail(&why);
        });
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(driver);
    }

    /// Gives up on every waiter whose time has come. Says whether anybody still waits.
    pub(crate) fn sweep(&self, now: Instant) -> bool {
        self.shared.give_up(UnansweredCause::TimedOut, "no answer in time", |waiter| waiter.deadline <= now)
    }

    /// Gives up on every waiter that an older view than `epoch` sent here, for a partition that is chosen.
    pub(crate) fn moved(&self, epoch: Epoch, chosen: impl Fn(PartitionId) -> bool) {
        self.shared.give_up(UnansweredCause::Moved, "another node serves it now", |waiter| {
            waiter.routed.is_some_and(|(partition, sent_at)| sent_at < epoch && chosen(partition))
        });
    }
}

impl Drop for NodeStream {
    fn drop(&mut self) {
        let driver = self.driver.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(driver) = driver {
            driver.abort();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unanswered(&self, cause: UnansweredCause, may_have_arrived: bool, why: &str) -> Unanswered {
        Unanswered { address: self.address.clone(), cause, may_have_arrived, why: why.to_owned() }
    }

    /// The connection is over: tells everybody who waits.
    fn fail(&self, why: &str) {
        let (unsent, sent) = {
            let mut state = self.lock();
            state.up = false;
            state.sender = None;
            let unsent: Vec<Waiter> = std::mem::take(&mut state.outbox)
                .iter()
                .filter_map(|request| state.slots.take(request.number))
                .collect();
            (unsent, state.slots.take_where(|_| true))
        };
        for waiter in unsent {
            let _gone = waiter.reply.send(Err(self.unanswered(UnansweredCause::Refused, false, why)));
        }
        for (_, waiter) in sent {
            let _gone = waiter.reply.send(Err(self.unanswered(UnansweredCause::Broken, true, why)));
        }
    }

    fn give_up(&self, cause: UnansweredCause, why: &str, chosen: impl FnMut(&Waiter) -> bool) -> bool {
        let (taken, anybody) = {
            let mut state = self.lock();
            let mut taken: BTreeMap<u64, (Waiter, bool)> =
                state.slots.take_where(chosen).into_iter().map(|(number, waiter)| (number, (waiter, true))).collect();
            if !taken.is_empty() {
                state.outbox.retain(|request| match taken.get_mut(&request.number) {
                    None => true,
                    Some((_, sent)) => {
                        *sent = false;
                        false
                    }
                });
            }
            (taken.into_values(), !state.slots.is_empty())
        };
        for (waiter, sent) in taken {
            let _gone = waiter.reply.send(Err(self.unanswered(cause, sent, why)));
        }
        anybody
    }

    fn deliver(&self, batch: v1::ResponseBatch, answered: &mut Vec<(Waiter, v1::Response)>) {
        if !batch.responses.iter().any(is_of_another_cluster) {
            self.ties.heard_of(batch.epoch);
        }
        {
            let mut state = self.lock();
            for response in batch.responses {
                // Nobody: it was given up.
                answered.extend(state.slots.take(response.number).map(|waiter| (waiter, response)));
            }
        }
        for (waiter, response) in answered.drain(..) {
            let _gone = waiter.reply.send(Ok(response));
        }
    }
}

/// Connects and hands answers out until the connection ends; says why it did.
async fn drive(shared: &Arc<Shared>, connection: u64) -> Result<std::convert::Infallible, String> {
    let channel = endpoint(&shared.address)?.connect().await.map_err(|error| root_cause(&error))?;
    let mut client = KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let outbound = Outbound { shared: shared.clone(), connection };
    let mut responses = client.stream(outbound).await.map_err(|status| status_text(&status))?.into_inner();
    let mut answered = Vec::new();
    loop {
        match responses.message().await {
            Ok(Some(batch)) => shared.deliver(batch, &mut answered),
            Ok(None) => return Err("the node ended the stream".to_owned()),
            Err(status) => return Err(status_text(&status)),
        }
    }
}

/// What the connection sends: the outbox, as it is when there is room.
#[derive(Debug)]
struct Outbound {
    shared: Arc<Shared>,
    connection: u64,
}

impl Stream for Outbound {
    type Item = v1::RequestBatch;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::RequestBatch>> {
        let mut state = self.shared.lock();
        if state.connection != self.connection || !state.up {
            return Poll::Ready(None);
        }
        if state.outbox.is_empty() {
            state.sender = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut bytes = 0;
        let fits = state.outbox.iter().take_while(|request| {
            let before = bytes;
            bytes += request_bytes(request);
            before < BATCH_BYTES
        });
        let count = fits.count();
        let requests = if count == state.outbox.len() {
            // The next batch is likely of the same size.
            std::mem::replace(&mut state.outbox, Vec::with_capacity(count))
        } else {
            state.outbox.drain(..count).collect()
        };
        Poll::Ready(Some(v1::RequestBatch { cluster: self.shared.ties.cluster(), requests }))
    }
}

/// The epoch in such an answer is not one of ours.
pub(crate) fn is_of_another_cluster(response: &v1::Response) -> bool {
    matches!(&response.result, Some(v1::response::Result::Error(error))
        if ErrorCode::from_number(error.code) == ErrorCode::WrongCluster)
}

fn request_bytes(request: &v1::Request) -> usize {
    use v1::request::Operation;
    let compared = |condition: &Option<v1::Condition>| match condition.as_ref().and_then(|c| c.condition.as_ref()) {
        Some(v1::condition::Condition::Value(value)) => value.len(),
        _ => 0,
    };
    REQUEST_OVERHEAD_BYTES
        + match &request.operation {
            None => 0,
            Some(Operation::Get(get)) => get.key.len(),
            Some(Operation::Collect(collect)) => collect.keys.iter().map(|key| key.len() + 4).sum(),
            Some(Operation::Transact(transact)) => {
                let condition = |one: &v1::KeyCondition| one.key.len() + compared(&one.condition) + 8;
                let step = |step: &v1::TransactionStep| match &step.step {
                    Some(v1::transaction_step::Step::Put(put)) => put.key.len() + put.value.len() + 8,
                    Some(v1::transaction_step::Step::Delete(key) | v1::transaction_step::Step::Get(key)) => {
                        key.len() + 8
                    }
                    None => 0,
                };
                let steps = transact.then.iter().chain(&transact.otherwise).map(step).sum::<usize>();
                steps + transact.conditions.iter().map(condition).sum::<usize>()
            }
            Some(Operation::Scan(scan)) => scan.prefix.len() + scan.after.len(),
            Some(Operation::Put(put)) => put.key.len() + put.value.len() + compared(&put.condition),
            Some(Operation::Delete(delete)) => delete.key.len() + compared(&delete.condition),
        }
}
