//! One client's stream of watched changes: what it wants, and what waits to leave.

use bytes::Bytes;
use futures::task::AtomicWaker;
use replcore::Changed;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::Notify;
use wire::v1;

/// What may wait for one client, about: one part more.
pub(crate) const QUEUE_BYTES_MAX: usize = 1 << 20;
/// A batch is closed once it has this many bytes.
const BATCH_BYTES: usize = 256 << 10;
/// What a part and a change take beside keys and values, at most about.
const OVERHEAD_BYTES: usize = 32;

/// Which keys are watched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Filter {
    /// One.
    Key(Bytes),
    /// All that begin with this.
    Prefix(Bytes),
}

/// What became of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Push {
    /// It will leave.
    Taken,
    /// There is no room; whoever pushed hears of it when there is.
    Full,
    /// The client has gone.
    Gone,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Watcher {
    filter: Filter,
    state: Mutex<State>,
    writer: AtomicWaker,
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    parts: Vec<v1::WatchPart>,
    bytes: usize,
    /// Somebody was told that there is no room.
    refused: bool,
    /// Even an empty batch is to leave.
    beat: bool,
    /// Nothing more comes.
    finished: bool,
    /// Nobody takes parts any more.
    gone: bool,
}

impl Watcher {
    pub(crate) fn new(filter: Filter) -> Watcher {
        Watcher { filter, state: Mutex::default(), writer: AtomicWaker::new(), room: Notify::new() }
    }

    /// Which keys it wants.
    pub(crate) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Whether it wants this key.
    pub(crate) fn wants(&self, key: &[u8]) -> bool {
        match &self.filter {
            Filter::Key(watched) => key == watched,
            Filter::Prefix(prefix) => key.starts_with(prefix),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a part in, if there is room; the end of a subscription always has some.
    pub(crate) fn push(&self, part: v1::WatchPart) -> Push {
        let mut state = self.lock();
        if state.gone {
            return Push::Gone;
        }
        if state.bytes >= QUEUE_BYTES_MAX && part.end.is_none() {
            state.refused = true;
            return Push::Full;
        }
        state.bytes += part_bytes(&part);
        state.parts.push(part);
        drop(state);
        self.writer.wake();
        Push::Taken
    }

    /// Lets the client know that the node is alive.
    pub(crate) fn beat(&self) {
        self.lock().beat = true;
        self.writer.wake();
    }

    /// Nothing more comes.
    pub(crate) fn finish(&self) {
        self.lock().finished = true;
        self.writer.wake();
    }

    /// The client has gone.
    pub(crate) fn hang_up(&self) {
        let mut state = self.lock();
        *state = State { gone: true, ..State::default() };
        drop(state);
        self.room.notify_one();
    }

    /// Whether [`Watcher::hang_up`] was called.
    pub(crate) fn is_gone(&self) -> bool {
        self.lock().gone
    }

    /// Resolves when there is room again after somebody was refused, and when the client has gone.
    pub(crate) async fn room(&self) {
        self.room.notified().await;
    }

    /// What waits, or `None` when nothing more comes.
    pub(crate) fn poll_parts(&self, context: &mut Context<'_>) -> Poll<Option<Vec<v1::WatchPart>>> {
        // Registered first: a part that comes after the look wakes us.
        self.writer.register(context.waker());
        let mut state = self.lock();
        if state.parts.is_empty() && !std::mem::take(&mut state.beat) {
            return if state.gone || state.finished { Poll::Ready(None) } else { Poll::Pending };
        }
        let mut bytes = 0;
        let fitting = state.parts.iter().take_while(|part| {
            let before = bytes;
            bytes += part_bytes(part);
            before < BATCH_BYTES
        });
        let count = fitting.count();
        let batch: Vec<_> = state.parts.drain(..count).collect();
        state.bytes -= batch.iter().map(part_bytes).sum::<usize>();
        state.beat = false;
        if state.refused && state.bytes < QUEUE_BYTES_MAX / 2 {
            state.refused = false;
            self.room.notify_one();
        }
        Poll::Ready(Some(batch))
    }
}

fn part_bytes(part: &v1::WatchPart) -> usize {
    let change =
        |change: &v1::WatchedChange| OVERHEAD_BYTES + change.key.len() + change.value.as_ref().map_or(0, Bytes::len);
    OVERHEAD_BYTES + part.changes.iter().map(change).sum::<usize>()
}

/// As it travels.
pub(crate) fn to_wire(change: &Changed) -> v1::WatchedChange {
    v1::WatchedChange { key: change.key.clone(), version: change.seq.0, value: change.value.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::poll_fn;
    use std::sync::Arc;

    fn part(through: u64, bytes: usize) -> v1::WatchPart {
        let change = v1::WatchedChange { value: Some(Bytes::from(vec![0; bytes])), ..Default::default() };
        v1::WatchPart { through, changes: vec![change], ..Default::default() }
    }

    /// Guards against a client that does not read and makes the node hold everything, and against a watcher that is
    /// never told that there is room again.
    #[tokio::test]
    async fn a_full_queue_refuses_until_it_was_read() {
        let watcher = Arc::new(Watcher::new(Filter::Prefix(Bytes::new())));
        let mut pushed = 0;
        while watcher.push(part(pushed, 100 << 10)) == Push::Taken {
            pushed += 1;
        }
        assert!((10..=11).contains(&pushed), "{pushed}");
        let end = v1::WatchPart { end: Some(v1::watch_part::End::Compacted(7)), ..Default::default() };
        assert_eq!(watcher.push(end), Push::Taken, "a last word always finds room");
        let room = tokio::spawn({
            let watcher = watcher.clone();
            async move { watcher.room().await }
        });
        let mut taken = Vec::new();
        while taken.len() < pushed as usize + 1 {
            taken.extend(poll_fn(|context| watcher.poll_parts(context)).await.unwrap());
        }
        room.await.unwrap();
        assert!(taken.iter().take(pushed as usize).map(|part| part.through).eq(0..pushed), "in order");
        assert_eq!(watcher.push(part(0, 1)), Push::Taken);
        watcher.hang_up();
        assert_eq!(watcher.push(part(0, 1)), Push::Gone);
        assert_eq!(poll_fn(|context| watcher.poll_parts(context)).await, None);
    }
}
