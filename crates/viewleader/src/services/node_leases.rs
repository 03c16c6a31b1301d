//! Which of the leases that a node's keys live as long as have ended.
//!
//! Told from the applied state of this member, which may be behind: that a lease has ended is true for good, wherever it is
//! known. Of one that this member has never heard of it asks the group first.

use crate::raft::Group;
use std::collections::BTreeSet;
use types::LeaseId;
use viewcore::coordination::Leases;
use wire::v1;

/// Those of one session.
#[derive(Debug, Default)]
pub(super) struct NodeLeases {
    /// Alive when last looked at.
    alive: BTreeSet<LeaseId>,
    /// Never heard of here, and nobody could be asked: looked at again.
    strange: BTreeSet<LeaseId>,
    /// As many had ended when last looked at.
    ended_count: u64,
}

impl NodeLeases {
    /// The node tells of more of them: which ones have ended, of all.
    pub(super) async fn look(&mut self, group: &Group, told: impl Iterator<Item = LeaseId>) -> Option<v1::LeasesEnded> {
        let mut told: BTreeSet<LeaseId> = told.chain(std::mem::take(&mut self.strange)).collect();
        let is_strange = |leases: &Leases, lease: &LeaseId| !leases.has_ended(*lease) && leases.get(*lease).is_none();
        let any_strange = told.iter().any(|lease| is_strange(group.board().read().leases(), lease));
        // A member that leads no more can't say.
        let is_current = any_strange && group.read_barrier().await.is_ok();
        let board = group.board().read();
        let leases = board.leases();
        let has_ended = |lease: &LeaseId| leases.has_ended(*lease) || is_current && is_strange(leases, lease);
        let mut ended: Vec<u64> = told.extract_if(.., |lease| has_ended(lease)).map(|lease| lease.0).collect();
        if std::mem::replace(&mut self.ended_count, leases.ended_count()) != leases.ended_count() {
            ended.extend(self.alive.extract_if(.., |lease| leases.has_ended(*lease)).map(|lease| lease.0));
        }
        self.strange = told.extract_if(.., |lease| is_strange(leases, lease)).collect();
        self.alive.append(&mut told);
        (!ended.is_empty()).then_some(v1::LeasesEnded { leases: ended })
    }
}
