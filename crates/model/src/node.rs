//! A storage node: its replica while a process runs, and its disk.

use crate::state::hash_of;
use bytes::Bytes;
use replcore::{MalformedRecord, PersistIndex, PersistRecord, Recovery, Replica, Settings, State, StateDamaged};
use std::sync::Arc;
use types::{EntryId, Epoch, Generation, Incarnation, NodeId, PartitionId, Record, RecordKey, RecordKind, Term, View};

/// A storage node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// The partition whose replica it has.
    pub partition: PartitionId,
    /// Its start count.
    pub incarnation: Incarnation,
    /// The process, while there is one.
    pub replica: Option<Replica>,
    /// What is synced.
    pub durable: Recovery,
    /// What is written and not synced.
    pub pending: Vec<(PersistIndex, PersistRecord)>,
    /// The newest view that it has, on disk (P5).
    pub view: Option<Arc<View>>,
    /// The highest term that it has told others it promised.
    pub told: Term,
    pub(crate) hash: u64,
}

/// The state lags behind for ever: everything is read from the overlay in front of it.
pub(crate) struct EmptyState;

impl State for EmptyState {
    fn get(&self, _: Generation, _: &RecordKey) -> Result<Option<Record>, StateDamaged> {
        Ok(None)
    }

    fn list(&self, _: Generation, _: RecordKind) -> Result<Vec<(Bytes, Record)>, StateDamaged> {
        Ok(Vec::new())
    }
}

impl Node {
    /// A node that has just registered for the first time.
    pub(crate) fn new(id: NodeId, partition: PartitionId, accepted_at: Epoch) -> Node {
        let mut node = Node {
            id,
            partition,
            incarnation: Incarnation(1),
            replica: None,
            durable: Recovery::default(),
            pending: Vec::new(),
            view: None,
            told: Term(0),
            hash: 0,
        };
        node.start(accepted_at).expect("an empty disk can be read");
        node
    }

    /// A process begins with what is on disk.
    pub(crate) fn start(&mut self, accepted_at: Epoch) -> Result<(), MalformedRecord> {
        // Bounds that are never reached, so that what can happen depends on the protocol alone.
        let recovered = self.durable.clone().finish(EntryId::ZERO, Vec::new())?;
        self.replica = Some(Replica::new(self.id, self.partition, accepted_at, Settings::default(), recovered)?);
        Ok(())
    }

    /// The process ends; of what is not synced the first `kept` records are there all the same.
    pub(crate) fn crash(&mut self, kept: usize) -> Result<(), MalformedRecord> {
        self.replica = None;
        self.sync(kept)?;
        self.pending.clear();
        Ok(())
    }

    /// The first `count` records that wait are synced: the last one's number.
    pub(crate) fn sync(&mut self, count: usize) -> Result<Option<PersistIndex>, MalformedRecord> {
        let mut last = None;
        for (index, record) in self.pending.drain(..count) {
            self.durable.replay(record)?;
            last = Some(index);
        }
        Ok(last)
    }

    /// The start of `peer` that this node would address.
    pub(crate) fn known_incarnation(&self, peer: NodeId) -> Option<Incarnation> {
        Some(self.view.as_ref()?.nodes.get(&peer)?.incarnation)
    }

    /// As of the last [`Node::rehash`].
    pub(crate) fn fingerprint(&self) -> u64 {
        self.hash
    }

    pub(crate) fn rehash(&mut self) {
        let view = self.view.as_ref().map(|view| {
            let incarnations: Vec<Incarnation> = view.nodes.values().map(|info| info.incarnation).collect();
            (view.epoch, incarnations)
        });
        let pending: Vec<&PersistRecord> = self.pending.iter().map(|(_, record)| record).collect();
        self.hash = hash_of(&(self.incarnation, &self.replica, &self.durable, pending, view, self.told));
    }
}
