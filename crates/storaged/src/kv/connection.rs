//! A client's stream: what it has open, and the answers that wait to leave.
//!
//! Shards put answers in as they fall; the stream takes out everything that waits as one batch, when the transport has
//! room for it. A client that sends and does not read is not read from any more once it has [`OPEN_MAX`] requests or
//! [`OPEN_BYTES_MAX`] open, so what it can make this node hold is bounded.

use crate::kv::transactions;
use futures::task::AtomicWaker;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::Notify;
use wire::v1;

/// Requests that a client may have open on one stream before it is not read from.
pub(crate) const OPEN_MAX: usize = 16_384;
/// And how large they may be together.
const OPEN_BYTES_MAX: usize = 64 << 20;
/// A batch of answers is closed once it has this many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// What an answer takes beside its value, at most about.
const ANSWER_OVERHEAD_BYTES: usize = 48;

/// One stream's open requests and waiting answers.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    state: Mutex<State>,
    writer: AtomicWaker,
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    answers: Vec<v1::Response>,
    /// Requests taken on whose answers have not left.
    open: usize,
    /// Their bytes, about: what leaves is counted as if all were of one size.
    open_bytes: usize,
    /// The client sends nothing more.
    finishing: bool,
    /// Nobody takes answers any more.
    gone: bool,
}

impl State {
    fn is_full(&self) -> bool {
        self.open >= OPEN_MAX || self.open_bytes >= OPEN_BYTES_MAX
    }

    fn closed(&mut self, count: usize) {
        let left = self.open.saturating_sub(count);
        self.open_bytes = if left == 0 { 0 } else { self.open_bytes / self.open * left };
        self.open = left;
    }
}

impl Connection {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `count` requests of `bytes` together have been taken on: each gets exactly one answer.
    pub(crate) fn opened(&self, count: usize, bytes: usize) {
        let mut state = self.lock();
        state.open += count;
        state.open_bytes += bytes;
    }

    /// Puts an answer in. True: the caller must [`Connection::wake`] the stream, once, when it has no more to put in.
    #[must_use]
    pub(crate) fn answer(&self, response: v1::Response) -> bool {
        let mut state = self.lock();
        if state.gone {
            state.closed(1);
            return false;
        }
        state.answers.push(response);
        state.answers.len() == 1
    }

    /// Puts an answer in and wakes the stream.
    pub(crate) fn answer_now(&self, response: v1::Response) {
        if self.answer(response) {
            self.wake();
        }
    }

    /// Answers wait.
    pub(crate) fn wake(&self) {
        self.writer.wake();
    }

    /// The client sends nothing more: the stream ends when everything open is answered.
    pub(crate) fn finish(&self) {
        self.lock().finishing = true;
        self.wake();
    }

    /// The client takes no more answers.
    pub(crate) fn hang_up(&self) {
        let mut state = self.lock();
        state.gone = true;
        let waiting = std::mem::take(&mut state.answers).len();
        state.closed(waiting);
        drop(state);
        self.room.notify_one();
    }

    /// Whether [`Connection::hang_up`] was called.
    pub(crate) fn is_gone(&self) -> bool {
        self.lock().gone
    }

    /// Waits until the client may open more requests.
    pub(crate) async fn room(&self) {
        loop {
            {
                let state = self.lock();
                if !state.is_full() || state.gone {
                    return;
                }
            }
            self.room.notified().await;
        }
    }

    /// The answers that wait, or `None` when there will be no more.
    pub(crate) fn poll_answers(&self, context: &mut Context<'_>) -> Poll<Option<Vec<v1::Response>>> {
        // Registered first: an answer that comes after the look wakes us.
        self.writer.register(context.waker());
        let mut state = self.lock();
        if state.answers.is_empty() {
            let over = state.gone || (state.finishing && state.open == 0);
            return if over { Poll::Ready(None) } else { Poll::Pending };
        }
        let mut bytes = 0;
        let fitting = state.answers.iter().take_while(|answer| {
            let before = bytes;
            bytes += answer_bytes(answer);
            before < BATCH_BYTES
        });
        let count = fitting.count();
        let batch = if count == state.answers.len() {
            // The next batch is likely of the same size.
            std::mem::replace(&mut state.answers, Vec::with_capacity(count.min(256)))
        } else {
            state.answers.drain(..count).collect()
        };
        let was_full = state.is_full();
        state.closed(count);
        if was_full && !state.is_full() {
            self.room.notify_one();
        }
        Poll::Ready(Some(batch))
    }
}

fn answer_bytes(answer: &v1::Response) -> usize {
    let variable = match &answer.result {
        Some(v1::response::Result::Found(found)) => found.value.len(),
        Some(v1::response::Result::Page(page)) => {
            page.items.iter().map(|item| ANSWER_OVERHEAD_BYTES + item.key.len() + item.value.len()).sum()
        }
        Some(v1::response::Result::Error(error)) => error.message.len(),
        Some(result) => transactions::answer_bytes(result),
        None => 0,
    };
    ANSWER_OVERHEAD_BYTES + variable
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::future::poll_fn;
    use std::sync::Arc;

    fn found(number: u64, bytes: usize) -> v1::Response {
        let found = v1::Found { value: Bytes::from(vec![0; bytes]), version: 1 };
        v1::Response { number, result: Some(v1::response::Result::Found(found)), ..Default::default() }
    }

    /// Guards against a batch beyond what a message may be, and against answers that are lost where it is cut.
    #[tokio::test]
    async fn large_answers_leave_in_several_batches() {
        let connection = Connection::default();
        connection.opened(5, 0);
        for number in 0..5 {
            connection.answer_now(found(number, 700 << 10));
        }
        connection.finish();
        let mut numbers = Vec::new();
        while let Some(batch) = poll_fn(|context| connection.poll_answers(context)).await {
            assert!(batch.len() <= 2);
            numbers.extend(batch.into_iter().map(|answer| answer.number));
        }
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
    }

    /// Guards against a client that sends and never reads, and makes the node hold everything.
    #[tokio::test]
    async fn a_client_that_does_not_read_is_not_read_from() {
        let connection = Arc::new(Connection::default());
        connection.opened(OPEN_MAX, 0);
        let waiting = tokio::spawn({
            let connection = connection.clone();
            async move { connection.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        connection.answer_now(found(1, 1));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "an answer that has not left makes no room");
        assert!(poll_fn(|context| connection.poll_answers(context)).await.is_some());
        waiting.await.unwrap();
    }

    /// Guards against few large requests that pass where many small ones do not.
    #[tokio::test]
    async fn large_requests_count_by_their_bytes() {
        let connection = Connection::default();
        connection.opened(2, OPEN_BYTES_MAX);
        assert!(connection.lock().is_full());
        connection.answer_now(found(1, 1));
        assert!(poll_fn(|context| connection.poll_answers(context)).await.is_some());
        connection.room().await;
    }

    /// Guards against answers kept for a client that has gone, and a reader that waits for it for ever.
    #[tokio::test]
    async fn a_client_that_is_gone_holds_nothing() {
        let connection = Connection::default();
        connection.opened(OPEN_MAX + 1, 0);
        connection.hang_up();
        assert!(!connection.answer(found(1, 1)));
        connection.room().await;
        assert_eq!(poll_fn(|context| connection.poll_answers(context)).await, None);
    }
}
