//! The node's write-ahead log: what its records are, and who may write them.
//!
//! A record begins with a tag: 0 for one partition's ([`PersistRecord`]), 1 for a whole view (P5). All partitions share
//! the log, so one fsync serves everything that waits (P2).

use prost::Message as _;
use replcore::PersistRecord;
use tokio::sync::{oneshot, watch};
use types::{PartitionId, View};
use wal::{Records, SegmentNumber, Writer};
use wire::v1;

/// The record is one partition's.
pub(crate) const TAG_PARTITION: u8 = 0;
/// The record is a whole view.
pub(crate) const TAG_VIEW: u8 = 1;

/// What happens once a submission is on disk; gets the segment with its first record. Dropped if the log fails.
pub(crate) type Done = Box<dyn FnOnce(SegmentNumber) + Send>;

/// Where shards and the keeper of views write. The node's is a [`WalJournal`].
pub(crate) trait Journal: Send + Sync {
    /// Appends the records; calls `done` from another thread, in the order of submission, once they are durable.
    fn submit(&self, records: Records, done: Done);
}

/// The log's writer, and which segment it has reached.
pub(crate) struct WalJournal {
    writer: Writer,
    reached: watch::Sender<SegmentNumber>,
}

impl WalJournal {
    /// A journal on this writer.
    pub(crate) fn new(writer: Writer) -> WalJournal {
        let reached = watch::Sender::new(writer.counters().current_segment);
        WalJournal { writer, reached }
    }

    /// The segment that submissions have reached.
    pub(crate) fn reached(&self) -> watch::Receiver<SegmentNumber> {
        self.reached.subscribe()
    }

    /// The writer itself.
    pub(crate) fn writer(&self) -> &Writer {
        &self.writer
    }
}

impl Journal for WalJournal {
    fn submit(&self, records: Records, done: Done) {
        let reached = self.reached.clone();
        self.writer.submit(records, move |segment| {
            reached.send_if_modified(|newest| {
                let newer = segment > *newest;
                *newest = segment.max(*newest);
                newer
            });
            done(segment);
        });
    }
}

/// Adds one partition's record.
pub(crate) fn push_partition(records: &mut Records, partition: PartitionId, record: &PersistRecord) {
    records.push_with(|out| {
        out.push(TAG_PARTITION);
        record.encode(partition, out);
    });
}

/// Writes a view; resolves to its segment once it is on disk (P5), or to nothing if the log failed.
pub(crate) async fn write_view(journal: &dyn Journal, view: &View) -> Option<SegmentNumber> {
    let mut records = Records::new();
    records.push_with(|out| {
        out.push(TAG_VIEW);
        out.extend_from_slice(&v1::View::from(view).encode_to_vec());
    });
    let (done, written) = oneshot::channel();
    let tell = move |segment| {
        // Who asked may have gone: then nobody needs to know.
        let _gone = done.send(segment);
    };
    journal.submit(records, Box::new(tell));
    written.await.ok()
}
