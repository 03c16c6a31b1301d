//! The way to one peer: an outbox that every shard writes to and the stream of the moment empties.
//!
//! Everything that waits leaves as one batch. While no stream is up, and beyond [`OUTBOX_BYTES_MAX`], messages are
//! dropped: replicas send again what is not answered, and are told when it makes sense to do so at once, by a new
//! [`Era`].

use crate::peer::convert::wire_bytes;
use bytes::Bytes;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;
use types::{Incarnation, NodeId};
use wire::v1;

/// What may wait for one peer.
const OUTBOX_BYTES_MAX: usize = 64 << 20;
/// A batch is closed once it has this many bytes.
const BATCH_BYTES: usize = 2 << 20;

/// Counts the times after which what was sent before may be lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Era(u64);

/// Names one stream of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StreamNumber(u64);

/// This node as every batch names it (P6).
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    /// The cluster's 16 bytes.
    pub(crate) cluster: Bytes,
    /// This node.
    pub(crate) node: NodeId,
    /// This start of it.
    pub(crate) incarnation: Incarnation,
}

/// The way to one peer.
#[derive(Debug)]
pub(crate) struct Link {
    peer: NodeId,
    sender: Sender,
    state: Mutex<State>,
    drained: Notify,
}

#[derive(Debug, Default)]
struct State {
    streams: u64,
    eras: u64,
    up: bool,
    /// The peer's start that the present stream is with; 0 while it is not known.
    incarnation: Incarnation,
    greet: bool,
    messages: Vec<v1::PeerMessage>,
    bytes: usize,
    /// Something was dropped since the outbox was last empty.
    overflowed: bool,
    /// The present stream, waiting for something to send.
    writer: Option<Waker>,
}

impl Link {
    /// A link without a stream.
    pub(crate) fn new(peer: NodeId, sender: Sender) -> Link {
        Link { peer, sender, state: Mutex::default(), drained: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom it leads to.
    pub(crate) fn peer(&self) -> NodeId {
        self.peer
    }

    /// Takes messages, and drops them where they can't leave. Leaves `messages` empty.
    pub(crate) fn send(&self, messages: &mut Vec<v1::PeerMessage>) {
        let writer = {
            let mut state = self.lock();
            if !state.up {
                messages.clear();
                return;
            }
            let bytes: usize = messages.iter().map(wire_bytes).sum();
            if state.bytes > 0 && state.bytes + bytes > OUTBOX_BYTES_MAX {
                messages.clear();
                state.overflowed = true;
                return;
            }
            state.bytes += bytes;
            state.messages.append(messages);
            state.writer.take()
        };
        wake(writer);
    }

    /// A stream is about to be up: it greets, and nothing else leaves before [`Link::open`].
    pub(crate) fn attach(&self) -> StreamNumber {
        let mut state = self.lock();
        state.streams += 1;
        state.up = false;
        state.incarnation = Incarnation(0);
        state.greet = true;
        state.messages.clear();
        state.bytes = 0;
        state.overflowed = false;
        let number = StreamNumber(state.streams);
        // The stream before this one ends.
        let writer = state.writer.take();
        drop(state);
        wake(writer);
        number
    }

    /// The stream is up, with this start of the peer. False if another stream has taken its place.
    pub(crate) fn open(&self, stream: StreamNumber, incarnation: Incarnation) -> bool {
        let mut state = self.lock();
        if state.streams != stream.0 {
            return false;
        }
        state.up = true;
        state.eras += 1;
        state.incarnation = incarnation;
        true
    }

    /// The stream is over. False if another one had taken its place.
    pub(crate) fn detach(&self, stream: StreamNumber) -> bool {
        let mut state = self.lock();
        if state.streams != stream.0 {
            return false;
        }
        state.streams += 1;
        state.up = false;
        state.messages = Vec::new();
        state.bytes = 0;
        let writer = state.writer.take();
        drop(state);
        wake(writer);
        true
    }

    /// Ends whatever stream there is.
    pub(crate) fn close(&self) {
        let stream = StreamNumber(self.lock().streams);
        self.detach(stream);
    }

    /// The present era, or `None` while no stream is up.
    pub(crate) fn era(&self) -> Option<Era> {
        let state = self.lock();
        state.up.then_some(Era(state.eras))
    }

    /// Resolves when an outbox that had overflowed is empty again: a new era has begun.
    pub(crate) async fn drained(&self) {
        self.drained.notified().await;
    }

    /// What `stream` sends next, or `None` when it is over.
    pub(crate) fn poll_batch(&self, stream: StreamNumber, context: &mut Context<'_>) -> Poll<Option<v1::PeerBatch>> {
        let mut state = self.lock();
        if state.streams != stream.0 {
            return Poll::Ready(None);
        }
        if std::mem::take(&mut state.greet) {
            return Poll::Ready(Some(self.batch(Incarnation(0), Vec::new())));
        }
        if state.messages.is_empty() {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut bytes = 0;
        let fitting = state.messages.iter().take_while(|message| {
            let before = bytes;
            bytes += wire_bytes(message);
            before < BATCH_BYTES
        });
        let count = fitting.count();
        let messages = if count == state.messages.len() {
            state.bytes = 0;
            if std::mem::take(&mut state.overflowed) {
                state.eras += 1;
                self.drained.notify_one();
            }
            // The next batch is likely of the same size.
            std::mem::replace(&mut state.messages, Vec::with_capacity(count.min(256)))
        } else {
            let messages: Vec<_> = state.messages.drain(..count).collect();
            state.bytes -= messages.iter().map(wire_bytes).sum::<usize>();
            messages
        };
        let incarnation = state.incarnation;
        Poll::Ready(Some(self.batch(incarnation, messages)))
    }

    fn batch(&self, to_incarnation: Incarnation, messages: Vec<v1::PeerMessage>) -> v1::PeerBatch {
        v1::PeerBatch {
            cluster: self.sender.cluster.clone(),
            from_node: self.sender.node.0,
            from_incarnation: self.sender.incarnation.0,
            to_node: self.peer.0,
            to_incarnation: to_incarnation.0,
            messages,
        }
    }

    /// P6: whether a batch is from the peer's start `from` to this start of this node. A greeting names no start of
    /// the receiver's.
    ///
    /// # Errors
    /// What does not match, in one line.
    pub(crate) fn check(&self, batch: &v1::PeerBatch, from: Option<Incarnation>) -> Result<(), String> {
        let Sender { cluster, node, incarnation } = &self.sender;
        if batch.cluster != cluster {
            return Err("it is for another cluster".to_owned());
        }
        if batch.from_node != self.peer.0 || batch.to_node != node.0 {
            return Err(format!("it is from n{} to n{}", batch.from_node, batch.to_node));
        }
        let greets = batch.to_incarnation == 0 && batch.messages.is_empty();
        if batch.to_incarnation != incarnation.0 && !greets {
            return Err(format!("it is for start {} of this node, this is {}", batch.to_incarnation, incarnation.0));
        }
        if let Some(from) = from
            && batch.from_incarnation != from.0
        {
            return Err(format!("it is from start {} of {}, not {}", batch.from_incarnation, self.peer, from.0));
        }
        Ok(())
    }
}

fn wake(writer: Option<Waker>) {
    if let Some(writer) = writer {
        writer.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::poll_fn;
    use wire::v1::peer_message::Body;

    fn link() -> Link {
        Link::new(
            NodeId(2),
            Sender { cluster: Bytes::from_static(&[7; 16]), node: NodeId(1), incarnation: Incarnation(4) },
        )
    }

    fn message(partition: u32, payload_bytes: usize) -> v1::PeerMessage {
        let entries = vec![v1::LogEntry { term: 1, payload: Bytes::from(vec![0; payload_bytes]) }];
        let body = Body::Prepare(v1::Prepare { entries, ..Default::default() });
        v1::PeerMessage { partition, term: 1, body: Some(body) }
    }

    async fn next(link: &Link, stream: StreamNumber) -> Option<v1::PeerBatch> {
        poll_fn(|context| link.poll_batch(stream, context)).await
    }

    /// Guards against messages that leave before both ends know each other's start (P6).
    #[tokio::test]
    async fn a_stream_greets_before_anything_else() {
        let link = link();
        link.send(&mut vec![message(1, 1)]);
        let stream = link.attach();
        link.send(&mut vec![message(2, 1)]);
        let greeting = next(&link, stream).await.unwrap();
        assert_eq!((greeting.to_incarnation, greeting.messages.len()), (0, 0));
        assert!(link.open(stream, Incarnation(9)));
        link.send(&mut vec![message(3, 1)]);
        link.send(&mut vec![message(4, 1)]);
        let batch = next(&link, stream).await.unwrap();
        assert_eq!((batch.from_incarnation, batch.to_incarnation), (4, 9));
        assert_eq!(batch.messages.iter().map(|m| m.partition).collect::<Vec<_>>(), [3, 4]);
    }

    /// Guards against an old stream that takes messages meant for the new one, or takes it down with itself.
    #[tokio::test]
    async fn a_new_stream_takes_the_place_of_the_old() {
        let link = link();
        let old = link.attach();
        link.open(old, Incarnation(1));
        let first_era = link.era();
        let new = link.attach();
        assert!(!link.open(old, Incarnation(1)));
        assert!(link.open(new, Incarnation(2)));
        assert_ne!(link.era(), first_era);
        assert_eq!(next(&link, old).await, None);
        assert!(!link.detach(old));
        assert!(link.era().is_some());
        assert!(link.detach(new));
        assert_eq!(link.era(), None);
    }

    /// Guards against an outbox that grows without bound, and against replicas that are never told to send again.
    #[tokio::test]
    async fn an_outbox_that_overflowed_begins_a_new_era() {
        let link = link();
        let stream = link.attach();
        link.open(stream, Incarnation(1));
        next(&link, stream).await.unwrap();
        let era = link.era();
        for _ in 0..4 {
            link.send(&mut vec![message(1, OUTBOX_BYTES_MAX / 3)]);
        }
        assert_eq!(next(&link, stream).await.unwrap().messages.len(), 1);
        assert_eq!(link.era(), era, "something is still waiting");
        assert_eq!(next(&link, stream).await.unwrap().messages.len(), 1);
        link.drained().await;
        assert_ne!(link.era(), era);
    }

    /// Guards against a batch for another cluster, node or start that reaches a replica (P6).
    #[test]
    fn what_does_not_match_is_refused() {
        let link = link();
        let good = v1::PeerBatch {
            cluster: Bytes::from_static(&[7; 16]),
            from_node: 2,
            from_incarnation: 5,
            to_node: 1,
            to_incarnation: 4,
            messages: vec![message(1, 1)],
        };
        let from = Some(Incarnation(5));
        assert_eq!(link.check(&good, from), Ok(()));
        let spoilt: [fn(&mut v1::PeerBatch); 6] = [
            |b| b.cluster = Bytes::from_static(&[8; 16]),
            |b| b.from_node = 3,
            |b| b.from_incarnation = 4,
            |b| b.to_node = 3,
            |b| b.to_incarnation = 3,
            |b| b.to_incarnation = 0,
        ];
        for spoil in spoilt {
            let mut batch = good.clone();
            spoil(&mut batch);
            assert!(link.check(&batch, from).is_err(), "{batch:?}");
        }
    }
}
