//! The thread that reads pages of the state for clients' scans.
//!
//! Away from the shards, because a page takes the store a while, and away from the filler, because that one is throttled.
//! Pages that wait are bounded by the requests that shards have open.
//!
//! A page is read at one instant: the store's `applied` is the same before and after. The applier gives a partition
//! something every few seconds at most, so what has to be read again is rare.

use crate::error::Error;
use crate::fatal::Fatal;
use crate::shard::Completion;
use bytes::Bytes;
use engine::{Engine, EngineError, Keyspace};
use replcore::Token;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use tokio::sync::mpsc::UnboundedSender;
use types::{PageQuery, Record, RecordKey, Seq};

/// One page to read.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Of which generation of which partition.
    pub(crate) keyspace: Keyspace,
    /// For whom.
    pub(crate) token: Token,
    /// Which records.
    pub(crate) query: PageQuery,
}

/// What was read.
#[derive(Debug)]
struct Scanned {
    applied: Seq,
    records: Vec<(Bytes, Record)>,
    ended: bool,
}

/// How shards reach the thread. The last clone's end ends it.
#[derive(Clone, Debug)]
pub(crate) struct Scanner {
    scans: mpsc::Sender<(Scan, UnboundedSender<Completion>)>,
}

impl Scanner {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::System`] where the system starts none.
    pub(crate) fn spawn(engine: Arc<dyn Engine>, fatal: Arc<Fatal>) -> Result<(Scanner, JoinHandle<()>), Error> {
        let (scans, queue) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("scanner".to_owned())
            .spawn(move || {
                if let Err(error) = work(engine.as_ref(), &queue) {
                    fatal.end(error.into());
                }
            })
            .map_err(|error| Error::System { action: "start a thread", reason: error.to_string() })?;
        Ok((Scanner { scans }, thread))
    }

    /// Reads a page; `done` hears of it.
    pub(crate) fn read(&self, scan: Scan, done: UnboundedSender<Completion>) {
        // The thread goes only after a failure that ends the node.
        let _ended = self.scans.send((scan, done));
    }
}

fn work(engine: &dyn Engine, queue: &mpsc::Receiver<(Scan, UnboundedSender<Completion>)>) -> Result<(), EngineError> {
    while let Ok((scan, done)) = queue.recv() {
        let Scan { keyspace, token, query } = scan;
        let partition = keyspace.partition;
        let completion = match read(engine, keyspace, &query) {
            Ok(Scanned { applied, records, ended }) => {
                metrics::counter!("storaged_scanned_records_total").increment(records.len() as u64);
                Completion::Scanned { partition, token, applied, records, ended }
            }
            Err(EngineError::Corrupt { keyspace: Some(damaged), what }) => {
                tracing::error!(%damaged, what, "the state is damaged");
                Completion::Damaged(partition)
            }
            Err(error) => return Err(error),
        };
        // A shard goes only when the node ends.
        let _ended = done.send(completion);
    }
    Ok(())
}

/// Reads until nothing was applied meanwhile.
fn read(engine: &dyn Engine, keyspace: Keyspace, query: &PageQuery) -> Result<Scanned, EngineError> {
    loop {
        let applied = engine.applied(keyspace)?;
        let (records, ended) = read_once(engine, keyspace, query)?;
        if engine.applied(keyspace)? == applied {
            return Ok(Scanned { applied: applied.seq, records, ended });
        }
    }
}

fn read_once(
    engine: &dyn Engine,
    keyspace: Keyspace,
    query: &PageQuery,
) -> Result<(Vec<(Bytes, Record)>, bool), EngineError> {
    let PageQuery { kind, prefix, after, records_max, bytes_max, .. } = query;
    let mut records = Vec::new();
    let after = if after < prefix {
        // The prefix itself is the first name that begins with it.
        let key = RecordKey { kind: *kind, name: prefix.clone() };
        records.extend(engine.get(keyspace, &key)?.map(|record| (key.name, record)));
        prefix
    } else {
        after
    };
    let after = (!after.is_empty()).then_some(&after[..]);
    let page = engine.scan(keyspace, *kind, after, *records_max, *bytes_max)?;
    let bytes: usize = page.iter().map(|(name, record)| name.len() + record.value.len()).sum();
    let mut ended = page.len() < *records_max && bytes < *bytes_max;
    for (name, record) in page {
        if !name.starts_with(prefix) {
            ended = true;
            break;
        }
        records.push((name, record));
    }
    Ok((records, ended))
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{ApplyBatch, MemoryEngine, VersionedChange};
    use types::{EntryId, Generation, PartitionId, RecordKind, Term};

    const KEYSPACE: Keyspace = Keyspace { partition: PartitionId(1), generation: Generation(1) };

    fn query(prefix: &'static str, after: &'static str, records_max: usize) -> PageQuery {
        PageQuery {
            kind: RecordKind::User,
            prefix: Bytes::from_static(prefix.as_bytes()),
            after: Bytes::from_static(after.as_bytes()),
            records_max,
            bytes_max: 1000,
            names_only: false,
        }
    }

    fn engine_with(names: &[&'static str]) -> MemoryEngine {
        let engine = MemoryEngine::new();
        let changes = names.iter().map(|name| VersionedChange {
            key: RecordKey::user(Bytes::from_static(name.as_bytes())),
            value: Some(Bytes::from_static(b"v")),
            seq: Seq(1),
        });
        let through = EntryId { term: Term(1), seq: Seq(1) };
        engine.apply(&[ApplyBatch { keyspace: KEYSPACE, through, changes: changes.collect() }]).unwrap();
        engine
    }

    /// Guards against a prefix that misses the name equal to it, goes on past its end, or does not know that it ended.
    #[test]
    fn a_prefix_is_read_whole_and_nothing_else() {
        let engine = engine_with(&["a", "aa", "ab", "b", "ba\u{7f}", "bb", "c"]);
        let names = |query: PageQuery| {
            let scanned = read(&engine, KEYSPACE, &query).unwrap();
            let names: Vec<_> = scanned.records.into_iter().map(|(name, _)| name).collect();
            (names, scanned.ended)
        };
        assert_eq!(names(query("a", "", 9)), (vec!["a".into(), "aa".into(), "ab".into()], true));
        assert_eq!(names(query("a", "a", 9)), (vec!["aa".into(), "ab".into()], true));
        assert_eq!(names(query("b", "a", 9)), (vec!["b".into(), "ba\u{7f}".into(), "bb".into()], true));
        assert_eq!(names(query("c", "", 9)), (vec!["c".into()], true));
        assert_eq!(names(query("", "", 2)), (vec!["a".into(), "aa".into()], false));
        assert_eq!(names(query("", "c", 2)), (vec![], true));
        assert_eq!(names(query("d", "", 2)), (vec![], true));
    }
}
