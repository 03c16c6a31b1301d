//! A watch's stream with one node.

use crate::endpoint::{endpoint, root_cause, status_text};
use futures::stream::StreamExt;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use types::limits::MESSAGE_BYTES_MAX;
use wire::v1;
use wire::v1::kv_client::KvClient;

/// A node says something every second, or it stands still.
const SILENCE_MAX: Duration = Duration::from_secs(4);

/// What a stream tells the follower.
#[derive(Debug)]
pub(super) enum Heard {
    /// A batch.
    Batch {
        /// Of which stream.
        stream: u64,
        /// The batch.
        batch: v1::WatchBatch,
    },
    /// It is over.
    Ended {
        /// Which stream.
        stream: u64,
        /// In words.
        why: String,
    },
}

/// One stream. Dropping it ends it.
#[derive(Debug)]
pub(super) struct NodeWatch {
    pub(super) stream: u64,
    /// Without a bound: there is never more in it than a subscription for each partition.
    requests: mpsc::UnboundedSender<v1::WatchRequest>,
    task: JoinHandle<()>,
}

impl NodeWatch {
    /// Connects to `address`, and begins with `first`.
    pub(super) fn open(stream: u64, address: String, first: v1::WatchRequest, heard: mpsc::Sender<Heard>) -> NodeWatch {
        let (requests, queue) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let why = match drive(stream, &address, first, queue, &heard).await {
                Ok(never) => match never {},
                Err(why) => why,
            };
            // The follower has gone: then nobody wants to know.
            let _gone = heard.send(Heard::Ended { stream, why }).await;
        });
        NodeWatch { stream, requests, task }
    }

    /// Asks for more partitions.
    pub(super) fn ask(&self, request: v1::WatchRequest) {
        // The stream is over: the follower hears of it next.
        let _over = self.requests.send(request);
    }
}

impl Drop for NodeWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn drive(
    stream: u64,
    address: &str,
    first: v1::WatchRequest,
    queue: mpsc::UnboundedReceiver<v1::WatchRequest>,
    heard: &mpsc::Sender<Heard>,
) -> Result<Infallible, String> {
    let channel = endpoint(address)?.connect().await.map_err(|error| root_cause(&error))?;
    let mut client = KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let requests = futures::stream::iter([first]).chain(UnboundedReceiverStream::new(queue));
    let silent = |_| format!("{address} has been silent for {} s", SILENCE_MAX.as_secs());
    let call = tokio::time::timeout(SILENCE_MAX, client.watch(requests)).await.map_err(silent)?;
    let mut batches = call.map_err(|status| status_text(&status))?.into_inner();
    loop {
        let message = tokio::time::timeout(SILENCE_MAX, batches.message()).await.map_err(silent)?;
        match message {
            Ok(Some(batch)) => heard.send(Heard::Batch { stream, batch }).await.map_err(|_| "given up".to_owned())?,
            Ok(None) => return Err("the node ended the stream".to_owned()),
            Err(status) => return Err(status_text(&status)),
        }
    }
}
