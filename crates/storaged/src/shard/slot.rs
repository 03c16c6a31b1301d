//! One partition's place in its shard: the replica, and what the shard remembers of it between bursts.

use crate::shard::retention::Retention;
use bytes::Bytes;
use engine::{Engine, EngineError, Keyspace};
use replcore::{Replica, State, StateDamaged};
use std::cell::RefCell;
use types::{Generation, NodeId, PartitionId, Record, RecordKey, RecordKind, Seq, Term};

/// A replica and what its shard remembers of it.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The replica.
    pub(crate) replica: Replica,
    /// It was told the configuration of the shard's present view.
    pub(crate) seen_view: bool,
    /// In the burst's list of replicas to flush.
    pub(crate) touched: bool,
    /// In the shard's list of replicas that get ticks.
    pub(crate) ticking: bool,
    /// In the shard's list of replicas whose state lags behind.
    pub(crate) lagging: bool,
    /// What was last counted of the replica's unapplied bytes.
    pub(crate) unapplied_bytes: usize,
    /// What the state held when the last drain was answered: the next checkpoint covers it.
    pub(crate) drained: (Generation, Seq),
    /// Where the log holds its entries.
    pub(crate) retention: Retention,
    /// The term it serves in, as reported.
    pub(crate) serving: Option<Term>,
    /// What was last reported of its followers: those behind, and the learner that is full.
    pub(crate) told: (Vec<NodeId>, Option<NodeId>),
}

impl Slot {
    /// A slot for a replica with entries where `retention` says.
    pub(crate) fn new(replica: Replica, retention: Retention) -> Slot {
        Slot {
            replica,
            seen_view: false,
            touched: false,
            ticking: false,
            lagging: false,
            unapplied_bytes: 0,
            drained: (Generation(0), Seq(0)),
            retention,
            serving: None,
            told: (Vec::new(), None),
        }
    }
}

/// The applied state of one partition, as its replica reads it in the middle of a step.
///
/// Damage of the partition is the replica's business (P3). Any other failure is the whole store's: the replica is told
/// "damaged" because it must be told something, and the shard drops the step and ends the node.
pub(crate) struct PartitionState<'a> {
    engine: &'a dyn Engine,
    partition: PartitionId,
    failure: RefCell<Option<EngineError>>,
}

impl<'a> PartitionState<'a> {
    /// The state of `partition` in `engine`.
    pub(crate) fn new(engine: &'a dyn Engine, partition: PartitionId) -> PartitionState<'a> {
        PartitionState { engine, partition, failure: RefCell::new(None) }
    }

    /// The failure of the whole store that a read ran into, if one did.
    pub(crate) fn failure(self) -> Option<EngineError> {
        self.failure.into_inner()
    }
}

/// Hidden records read at a time when a term begins: nobody else is served meanwhile.
const LIST_RECORDS: usize = 1024;
const LIST_BYTES: usize = 1 << 20;

impl PartitionState<'_> {
    fn failed(&self, error: EngineError) -> StateDamaged {
        if matches!(error, EngineError::Corrupt { keyspace: Some(_), .. }) {
            tracing::error!(%error, "the state is damaged");
        } else {
            *self.failure.borrow_mut() = Some(error);
        }
        StateDamaged
    }
}

impl State for PartitionState<'_> {
    fn get(&self, generation: Generation, key: &RecordKey) -> Result<Option<Record>, StateDamaged> {
        let keyspace = Keyspace { partition: self.partition, generation };
        self.engine.get(keyspace, key).map_err(|error| self.failed(error))
    }

    fn list(&self, generation: Generation, kind: RecordKind) -> Result<Vec<(Bytes, Record)>, StateDamaged> {
        let keyspace = Keyspace { partition: self.partition, generation };
        let mut listed: Vec<(Bytes, Record)> = Vec::new();
        loop {
            let after = listed.last().map(|(name, _)| name.clone());
            let page = self.engine.scan(keyspace, kind, after.as_deref(), LIST_RECORDS, LIST_BYTES);
            let page = page.map_err(|error| self.failed(error))?;
            if page.is_empty() {
                return Ok(listed);
            }
            listed.extend(page);
        }
    }
}
