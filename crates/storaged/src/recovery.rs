//! What a start finds on disk: the log is replayed, and joined with the state that it ran ahead of (P1).

use crate::error::Error;
use crate::fatal::Fatal;
use crate::journal::{TAG_PARTITION, TAG_VIEW};
use crate::shard::retention::Retention;
use bytes::{Buf, Bytes};
use daemon::DataDirectory;
use engine::{Engine, EngineError, Keyspace, SledEngine, SledOptions};
use prost::Message as _;
use replcore::{Base, PersistRecord, Recovered, Recovery, Standing};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use types::{EntryId, PartitionId, RecordKind, Term, View};
use wal::{RealFiles, SegmentNumber, Wal, Writer};
use wire::v1;

/// Request records are read in pages of so many.
const PAGE_RECORDS: usize = 256;
/// And of about so many bytes.
const PAGE_BYTES: usize = 1 << 20;

/// What the log said.
#[derive(Default)]
pub(crate) struct Replayed {
    partitions: BTreeMap<PartitionId, (Recovery, Retention)>,
    /// The newest view (P5).
    pub(crate) view: Option<Arc<View>>,
}

/// One partition as it was.
pub(crate) struct Found {
    /// Which partition.
    pub(crate) partition: PartitionId,
    /// What its replica starts from.
    pub(crate) recovered: Recovered,
    /// Where the log holds its entries.
    pub(crate) retention: Retention,
    /// Log and state do not fit: the replica goes out of service (P3).
    pub(crate) damaged: bool,
}

impl Replayed {
    /// Takes the log's next record.
    ///
    /// # Errors
    /// What is wrong with it, in one line: then the node does not start.
    pub(crate) fn take(&mut self, segment: SegmentNumber, mut record: Bytes) -> Result<(), String> {
        if !record.has_remaining() {
            return Err("an empty record".to_owned());
        }
        match record.get_u8() {
            TAG_PARTITION => {
                // A copy: the record is a slice of its frame, and entries stay in memory.
                let record = Bytes::copy_from_slice(&record);
                let (partition, record) = PersistRecord::decode(record).map_err(|error| error.to_string())?;
                let (recovery, retention) = self.partitions.entry(partition).or_default();
                match &record {
                    PersistRecord::Append { entries, .. } => {
                        if let Some(last) = entries.last() {
                            retention.note(segment, last.id.seq);
                        }
                    }
                    PersistRecord::Reset(_) => *retention = Retention::default(),
                    PersistRecord::Base(_) | PersistRecord::Promise(_) => {}
                }
                recovery.replay(record).map_err(|error| format!("{partition}: {error}"))
            }
            TAG_VIEW => {
                let view = v1::View::decode(record).map_err(|error| format!("a view: {error}"))?;
                let view = View::try_from(view).map_err(|error| format!("a view: {error}"))?;
                if self.view.as_ref().is_none_or(|known| known.epoch < view.epoch) {
                    self.view = Some(Arc::new(view));
                }
                Ok(())
            }
            tag => Err(format!("a record with the unknown tag {tag}")),
        }
    }

    /// Whether there is a record of any partition.
    pub(crate) fn has_partitions(&self) -> bool {
        !self.partitions.is_empty()
    }

    /// The highest promise of any partition (P20).
    pub(crate) fn highest_promised(&self) -> Term {
        self.partitions.values().map(|(recovery, _)| recovery.base().promised).max().unwrap_or_default()
    }

    /// Joins each partition's log with its state.
    ///
    /// # Errors
    /// [`EngineError`] for failures of the whole store; a damaged partition is found damaged.
    pub(crate) fn join(self, engine: &dyn Engine) -> Result<Vec<Found>, EngineError> {
        let found = self.partitions.into_iter().map(|(partition, (recovery, retention))| {
            let base = *recovery.base();
            let keyspace = Keyspace { partition, generation: base.generation };
            let joined = match read_state(engine, keyspace) {
                Ok((applied, requests)) => recovery.finish(applied, requests).map_err(|error| error.to_string()),
                Err(EngineError::Corrupt { keyspace: Some(_), what }) => Err(what),
                Err(error) => return Err(error),
            };
            Ok(match joined {
                Ok(recovered) => Found { partition, recovered, retention, damaged: false },
                Err(what) => {
                    tracing::error!(%partition, what, "the partition's data here is damaged; it goes out of service");
                    let damaged = base.standing != Standing::None;
                    Found { partition, recovered: bare(base), retention, damaged }
                }
            })
        });
        found.collect()
    }
}

/// What is left of a replica whose data can't be trusted: its promise and its standing. It answers nothing (P3).
pub(crate) fn bare(base: Base) -> Recovered {
    let base = Base { committed: base.trim.seq, ..base };
    Recovered { applied: base.trim, base, ..Recovered::default() }
}

fn read_state(engine: &dyn Engine, keyspace: Keyspace) -> Result<(EntryId, Vec<(Bytes, Bytes)>), EngineError> {
    let applied = engine.applied(keyspace)?;
    let mut requests: Vec<(Bytes, Bytes)> = Vec::new();
    loop {
        let after = requests.last().map(|(name, _)| name.clone());
        let page = engine.scan(keyspace, RecordKind::Requests, after.as_deref(), PAGE_RECORDS, PAGE_BYTES)?;
        if page.is_empty() {
            return Ok((applied, requests));
        }
        requests.extend(page.into_iter().map(|(name, record)| (name, record.value)));
    }
}

/// Opens and replays the log. Its thread keeps the directory's lock for as long as it may write.
///
/// # Errors
/// [`Error::Wal`]; also where a record does not fit.
pub(crate) fn open_log(
    directory: &Arc<DataDirectory>,
    options: wal::Options,
    fatal: Arc<Fatal>,
) -> Result<(Replayed, Writer), Error> {
    let mut replayed = Replayed::default();
    let path = directory.path().join("wal");
    let log = Wal::open(RealFiles, &path, options, &mut |segment, record| replayed.take(segment, record))?;
    // P2: the first failed write or sync ends the node; nothing is acknowledged after it.
    let lock = directory.clone();
    let writer = Writer::spawn(log, move |error| {
        fatal.end(error.into());
        drop(lock);
    })?;
    Ok((replayed, writer))
}

/// Opens the store of applied state. A corrupt one is put aside and an empty one opened: what the log can't rebuild of
/// it goes out of service (P3).
///
/// # Errors
/// [`Error::Engine`].
pub(crate) fn open_engine(directory: &Path) -> Result<SledEngine, Error> {
    let options = SledOptions::default();
    match SledEngine::open(directory, &options) {
        Err(EngineError::Corrupt { what, .. }) => {
            let aside = engine::quarantine(directory)?;
            tracing::error!(what, aside = %aside.display(), "the store is corrupt; it was put aside");
            Ok(SledEngine::open(directory, &options)?)
        }
        opened => Ok(opened?),
    }
}
