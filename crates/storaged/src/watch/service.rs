//! The stream behind `Kv.Watch`: takes a client's subscriptions on, and lets the queue out.

use crate::gate::{Gate, Node};
use crate::shard::Input;
use crate::watch::feeds::{Wanted, refuse};
use crate::watch::watcher::{Filter, Watcher};
use futures::Stream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tonic::{Status, Streaming};
use types::{ClusterId, ErrorCode, PartitionId, Seq};
use wire::v1;

/// How often a client hears how far it is, and that the node is alive.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// A client's watched changes, as batches.
pub(crate) struct Parts {
    watcher: Arc<Watcher>,
    node: Arc<Node>,
}

/// Begins to watch what the first message says.
///
/// # Errors
/// A status where there is no such message, it is for another cluster, or the node is not ready.
pub(crate) async fn begin(gate: &Arc<Gate>, mut requests: Streaming<v1::WatchRequest>) -> Result<Parts, Status> {
    let Some(node) = gate.node().filter(|_| !gate.is_stopping()) else {
        return Err(Status::unavailable("this node is not accepted by a viewleader, or is stopping; ask another"));
    };
    let first = requests.message().await?.ok_or_else(|| Status::invalid_argument("the first message is missing"))?;
    let cluster = wire::convert::cluster_from_wire(&first.cluster);
    let cluster = cluster.map_err(|malformed| Status::invalid_argument(malformed.to_string()))?;
    if cluster != ClusterId::NONE && cluster != node.me.cluster {
        return Err(Status::failed_precondition(format!("this node is of cluster {}", node.me.cluster)));
    }
    let filter = match &first.filter {
        Some(v1::watch_request::Filter::Key(key)) => {
            wire::convert::check_key(key).map_err(|malformed| Status::invalid_argument(malformed.to_string()))?;
            Filter::Key(key.clone())
        }
        Some(v1::watch_request::Filter::Prefix(prefix)) => Filter::Prefix(prefix.clone()),
        None => Filter::Prefix(Default::default()),
    };
    let watcher = Arc::new(Watcher::new(filter));
    tokio::spawn(serve(node.clone(), watcher.clone(), first, requests));
    Ok(Parts { watcher, node: node.clone() })
}

/// Hands subscriptions to their shards, and wakes them when there is room, until the client has gone.
async fn serve(
    node: Arc<Node>,
    watcher: Arc<Watcher>,
    first: v1::WatchRequest,
    mut requests: Streaming<v1::WatchRequest>,
) {
    let mut progress = tokio::time::interval(PROGRESS_EVERY);
    progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
    subscribe(&node, &watcher, first).await;
    loop {
        tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => subscribe(&node, &watcher, request).await,
                // The client wants no more: nor does it want what it has asked for.
                Ok(None) | Err(_) => break,
            },
            () = watcher.room() => node.shards.broadcast(|| Input::WatchRoom(watcher.clone())).await,
            _ = progress.tick() => {
                node.shards.broadcast(|| Input::WatchProgress(watcher.clone())).await;
                watcher.beat();
            }
        }
        if watcher.is_gone() {
            break;
        }
    }
    watcher.finish();
    // Shards forget it now.
    watcher.hang_up();
    node.shards.broadcast(|| Input::WatchProgress(watcher.clone())).await;
}

async fn subscribe(node: &Node, watcher: &Arc<Watcher>, request: v1::WatchRequest) {
    let count = node.view.borrow().partition_count.get();
    let mut by_shard = vec![Vec::new(); node.shards.count()];
    for v1::Subscription { number, partition, after } in request.subscriptions {
        let wanted = Wanted { number, partition: PartitionId(partition), after: Seq(after) };
        if partition < count {
            by_shard[node.shards.index_of(wanted.partition)].push(wanted);
        } else {
            refuse(watcher, wanted, ErrorCode::Invalid, "there is no such partition");
        }
    }
    for (index, wanted) in by_shard.into_iter().enumerate().filter(|(_, wanted)| !wanted.is_empty()) {
        node.shards.at(index).send(Input::Watch { watcher: watcher.clone(), wanted }).await;
    }
}

impl Stream for Parts {
    type Item = Result<v1::WatchBatch, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.watcher.poll_parts(context).map(|parts| {
            let epoch = self.node.view.borrow().epoch.0;
            parts.map(|parts| Ok(v1::WatchBatch { epoch, parts }))
        })
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.watcher.hang_up();
    }
}
