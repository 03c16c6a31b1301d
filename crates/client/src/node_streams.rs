//! The streams of all nodes, by address, and what they have in common: the cluster's id, the newest epoch that any of
//! them named, and one sweep for everybody's deadlines instead of a timer per request.

use crate::error::{Unanswered, UnansweredCause};
use crate::node_stream::NodeStream;
use crate::slots::Reply;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use types::{ClusterId, Epoch};
use wire::v1;

/// How late a deadline may be noticed.
const SWEEP_EVERY: Duration = Duration::from_millis(10);

/// One stream per node, made when first needed. Cheap to clone; the last clone's end closes all.
///
/// The routing client stands on it, and so can a node that forwards. Must be made within a tokio runtime.
#[derive(Clone, Debug)]
pub struct NodeStreams {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    ties: Arc<Ties>,
    streams: Arc<Mutex<Streams>>,
    sweeper: JoinHandle<()>,
}

type Streams = BTreeMap<String, Arc<NodeStream>>;

/// What streams share.
#[derive(Debug)]
pub(crate) struct Ties {
    pub(crate) runtime: tokio::runtime::Handle,
    cluster: OnceLock<Bytes>,
    newest_epoch: AtomicU64,
    news: Notify,
    sweeper_rests: AtomicBool,
    sweeper: Notify,
}

impl Ties {
    /// The cluster's id for a batch; empty while it is not known.
    pub(crate) fn cluster(&self) -> Bytes {
        self.cluster.get().cloned().unwrap_or_default()
    }

    /// A node's view is at this epoch.
    pub(crate) fn heard_of(&self, epoch: u64) {
        if epoch > self.newest_epoch.load(Ordering::Relaxed) {
            self.newest_epoch.fetch_max(epoch, Ordering::Relaxed);
            self.news.notify_one();
        }
    }

    pub(crate) fn wake_sweeper(&self) {
        if self.sweeper_rests.load(Ordering::SeqCst) && self.sweeper_rests.swap(false, Ordering::SeqCst) {
            self.sweeper.notify_one();
        }
    }
}

/// A request on its way; resolves to the answer. Dropping it does not call the request back.
#[derive(Debug)]
pub struct Sent {
    reply: oneshot::Receiver<Reply>,
    address: String,
}

impl Sent {
    /// Waits for the answer.
    ///
    /// # Errors
    /// [`Unanswered`]; it says whether the node may have received the request.
    pub async fn answer(self) -> Result<v1::Response, Unanswered> {
        let address = self.address;
        self.reply.await.unwrap_or_else(|_| {
            let why = "the client is shutting down".to_owned();
            Err(Unanswered { address, cause: UnansweredCause::Broken, may_have_arrived: true, why })
        })
    }
}

impl Default for NodeStreams {
    fn default() -> Self {
        NodeStreams::new()
    }
}

impl NodeStreams {
    /// No streams yet.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new() -> NodeStreams {
        let runtime = tokio::runtime::Handle::current();
        let ties = Arc::new(Ties {
            runtime,
            cluster: OnceLock::new(),
            newest_epoch: AtomicU64::new(0),
            news: Notify::new(),
            sweeper_rests: AtomicBool::new(false),
            sweeper: Notify::new(),
        });
        let streams = Arc::new(Mutex::new(Streams::new()));
        let sweeper = tokio::spawn(sweep(ties.clone(), streams.clone()));
        NodeStreams { inner: Arc::new(Inner { ties, streams, sweeper }) }
    }

    /// The id that requests carry from now on; the first one given stays.
    pub fn set_cluster(&self, cluster: ClusterId) {
        if cluster != ClusterId::NONE {
            self.inner.ties.cluster.get_or_init(|| wire::convert::cluster_to_wire(cluster));
        }
    }

    /// Sends a request once to the node at `address`, at most `patience` long: no routing, no retry. The request's
    /// number is replaced by one of the stream's own.
    pub fn send(&self, address: &str, request: v1::Request, patience: Duration) -> Sent {
        let stream = self.stream(address);
        let reply = stream.push(request, None, Instant::now() + patience);
        Sent { reply, address: address.to_owned() }
    }

    /// Closes the streams to addresses that `keep` does not want.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        lock(&self.inner.streams).retain(|address, _| keep(address));
    }

    pub(crate) fn stream(&self, address: &str) -> Arc<NodeStream> {
        let mut streams = lock(&self.inner.streams);
        if let Some(stream) = streams.get(address) {
            return stream.clone();
        }
        let stream = Arc::new(NodeStream::new(address.to_owned(), self.inner.ties.clone()));
        streams.insert(address.to_owned(), stream.clone());
        stream
    }

    /// The newest epoch that any node named.
    pub(crate) fn newest_epoch(&self) -> Epoch {
        Epoch(self.inner.ties.newest_epoch.load(Ordering::Relaxed))
    }

    pub(crate) fn heard_of(&self, epoch: u64) {
        self.inner.ties.heard_of(epoch);
    }

    /// Resolves when a node has named a newer epoch than any before.
    pub(crate) async fn news(&self) {
        self.inner.ties.news.notified().await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.sweeper.abort();
    }
}

fn lock(streams: &Mutex<Streams>) -> std::sync::MutexGuard<'_, Streams> {
    streams.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks after deadlines while anybody waits, and rests otherwise.
async fn sweep(ties: Arc<Ties>, streams: Arc<Mutex<Streams>>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        if anybody_waits(&streams) {
            continue;
        }
        ties.sweeper_rests.store(true, Ordering::SeqCst);
        // Somebody may have come between the look and the rest, and seen no rest.
        if anybody_waits(&streams) {
            ties.sweeper_rests.store(false, Ordering::SeqCst);
            continue;
        }
        ties.sweeper.notified().await;
    }
}

fn anybody_waits(streams: &Mutex<Streams>) -> bool {
    let now = Instant::now();
    let streams: Vec<Arc<NodeStream>> = lock(streams).values().cloned().collect();
    streams.iter().fold(false, |anybody, stream| stream.sweep(now) | anybody)
}
