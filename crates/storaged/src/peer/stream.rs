//! One stream with one peer: both sides greet, then batches go both ways until it ends.

use crate::peer::link::{Link, StreamNumber};
use crate::peer::{between, convert};
use crate::shard::{Input, Shards};
use futures::Stream;
use metrics::counter;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::Streaming;
use types::{Incarnation, PartitionId};
use wire::v1;

/// How long the other side may take to greet.
const GREETING_MAX: Duration = Duration::from_secs(2);

/// What the stream sends: whatever waits in the link's outbox.
pub(crate) struct Outbound {
    link: Arc<Link>,
    number: StreamNumber,
}

impl Outbound {
    /// Takes the place of whatever stream the link had.
    pub(crate) fn attach(link: Arc<Link>) -> Outbound {
        let number = link.attach();
        Outbound { link, number }
    }

    /// Which stream of its link it is.
    pub(crate) fn number(&self) -> StreamNumber {
        self.number
    }
}

impl Stream for Outbound {
    type Item = v1::PeerBatch;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::PeerBatch>> {
        self.link.poll_batch(self.number, context)
    }
}

/// [`Outbound`] as a service answers it.
pub(crate) struct OutboundAnswer(pub(crate) Outbound);

impl Stream for OutboundAnswer {
    type Item = Result<v1::PeerBatch, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(context).map(|batch| batch.map(Ok))
    }
}

/// The peer's greeting: which start of it this is.
///
/// # Errors
/// Why there is none, in one line.
pub(crate) async fn greeting(inbound: &mut Streaming<v1::PeerBatch>) -> Result<v1::PeerBatch, String> {
    match tokio::time::timeout(GREETING_MAX, inbound.message()).await {
        Err(_) => Err("no greeting in time".to_owned()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Ok(Ok(None)) => Err("it ended before its greeting".to_owned()),
        Ok(Ok(Some(batch))) => Ok(batch),
    }
}

/// Runs a stream whose peer has greeted with `from`, until it ends; says why it did. Shards hear when it is up.
pub(crate) async fn run(
    link: &Link,
    number: StreamNumber,
    from: Incarnation,
    mut inbound: Streaming<v1::PeerBatch>,
    shards: &Shards,
) -> String {
    if !link.open(number, from) {
        return "another stream took its place".to_owned();
    }
    let peer = link.peer();
    shards.broadcast(|| Input::Peer(peer)).await;
    let batches = counter!("storaged_peer_batches_total");
    loop {
        let batch = tokio::select! {
            batch = inbound.message() => batch,
            () = link.drained() => {
                shards.broadcast(|| Input::Peer(peer)).await;
                continue;
            }
        };
        match batch {
            Ok(Some(batch)) => {
                batches.increment(1);
                // P6.
                if let Err(why) = link.check(&batch, Some(from)) {
                    return format!("a batch does not match: {why}");
                }
                deliver(link, batch, shards).await;
            }
            Ok(None) => return "the peer ended it".to_owned(),
            Err(status) => return status.message().to_owned(),
        }
    }
}

async fn deliver(link: &Link, batch: v1::PeerBatch, shards: &Shards) {
    let from = link.peer();
    let mut by_shard: Vec<Vec<_>> = Vec::new();
    by_shard.resize_with(shards.count(), Vec::new);
    let mut between_by_shard: Vec<Vec<_>> = Vec::new();
    between_by_shard.resize_with(shards.count(), Vec::new);
    for message in batch.messages {
        if let Some(v1::peer_message::Body::BetweenPartitions(word)) = message.body {
            let partition = PartitionId(message.partition);
            match between::from_wire(word) {
                Ok(word) => between_by_shard[shards.index_of(partition)].push((partition, word)),
                Err(malformed) => tracing::warn!(%from, %malformed, "dropped a message"),
            }
            continue;
        }
        match convert::from_wire(message) {
            Ok((partition, message)) => by_shard[shards.index_of(partition)].push((partition, message)),
            // As if it had been lost.
            Err(malformed) => tracing::warn!(%from, %malformed, "dropped a message"),
        }
    }
    for (index, messages) in by_shard.into_iter().enumerate() {
        if !messages.is_empty() {
            shards.at(index).send(Input::Messages { from, messages }).await;
        }
    }
    for (index, messages) in between_by_shard.into_iter().enumerate() {
        if !messages.is_empty() {
            shards.at(index).send(Input::FromPartitions(messages)).await;
        }
    }
}
