//! The state machine: [`ClusterState`], published after every step. It lives in memory; a restart begins with the last
//! snapshot, and the log from there.

use super::board::Board;
use super::codec;
use super::roster::Roster;
use super::snapshot::{Content, Meta, Snapshots};
use super::{Entry, GroupTypes, LogId, Membership, StorageError};
use crate::Error;
use crate::identity::MemberId;
use crate::mutants::{Mutant, on};
use daemon::DataDirectory;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{AnyError, EntryPayload, StorageIOError, StoredMembership};
use std::io::Cursor;
use std::sync::Arc;
use tokio::sync::watch;
use viewcore::{ClusterState, Command, Coordination, Outcome};

/// One member's state machine.
pub(super) struct Machine {
    state: ClusterState,
    applied: Option<LogId>,
    membership: Membership,
    published: watch::Sender<Arc<ClusterState>>,
    roster: watch::Sender<Arc<Roster>>,
    board: Board,
    snapshots: Snapshots,
}

impl Machine {
    /// Begins with the snapshot in `directory`, or empty if there never was one.
    pub(super) fn open(directory: Arc<DataDirectory>) -> Result<Machine, Error> {
        let (snapshots, last) = Snapshots::open(directory)?;
        let (meta, Content { state, members_minted, coordination }) = last.unwrap_or_default();
        Ok(Machine {
            published: watch::Sender::new(Arc::new(state.clone())),
            roster: watch::Sender::new(Arc::new(Roster::new(&meta.last_membership, members_minted))),
            board: Board::new(coordination),
            state,
            applied: meta.last_log_id,
            membership: meta.last_membership,
            snapshots,
        })
    }

    /// Whether the log, purged up to `purged_index`, goes on where the snapshot ends.
    ///
    /// # Errors
    /// [`Error::Snapshot`]: what was purged is in no snapshot.
    pub(super) fn check_continues(&self, purged_index: Option<u64>) -> Result<(), Error> {
        if purged_index <= self.applied.map(|id| id.index) {
            return Ok(());
        }
        let reason = format!("it is missing or old: the log begins after entry {}", purged_index.unwrap_or_default());
        Err(self.snapshots.unusable(reason))
    }

    /// The state after every step: always the newest, whoever is slow.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.published.subscribe()
    }

    /// Leases and locks after every step.
    pub(super) fn board(&self) -> Board {
        self.board.clone()
    }

    /// The members after every change of them.
    pub(super) fn watch_roster(&self) -> watch::Receiver<Arc<Roster>> {
        self.roster.subscribe()
    }

    fn set_membership(&mut self, membership: Membership, minted: MemberId) {
        self.roster.send_replace(Arc::new(Roster::new(&membership, minted)));
        self.membership = membership;
    }

    fn minted(&self) -> MemberId {
        self.roster.borrow().minted
    }

    fn publish(&self) {
        metrics::gauge!("viewleader_epoch").set(self.state.epoch().0 as f64);
        self.published.send_if_modified(|published| {
            let changed = **published != self.state;
            if changed {
                *published = Arc::new(self.state.clone());
            }
            changed
        });
    }
}

impl RaftStateMachine<GroupTypes> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Option<Outcome>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut outcomes = Vec::new();
        for entry in entries {
            self.applied = Some(entry.log_id);
            outcomes.push(match entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Normal(Command::Coordinate(requests)) => Some(self.board.apply(&self.state, &requests)),
                EntryPayload::Normal(command) => Some(self.state.apply(&command)),
                EntryPayload::Membership(membership) => {
                    self.set_membership(StoredMembership::new(Some(entry.log_id), membership), self.minted());
                    None
                }
            });
        }
        // Before the proposers hear of it, so that they find it in what is published.
        self.publish();
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let (term, index) = self.applied.map_or((0, 0), |id| (id.leader_id.term, id.index));
        let meta = Meta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: format!("{term}-{index}"),
        };
        let left_out = on(Mutant::LeasesLeftOut);
        let coordination = if left_out { Coordination::default() } else { self.board.read().clone() };
        let content = Content { state: self.state.clone(), members_minted: self.minted(), coordination };
        Builder { meta, content, snapshots: self.snapshots.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Box<Cursor<Vec<u8>>>) -> Result<(), StorageError> {
        let data = snapshot.into_inner();
        let content = Content::decode(&data).map_err(|error| {
            StorageError::from(StorageIOError::read_snapshot(Some(meta.signature()), AnyError::new(&error)))
        })?;
        self.snapshots.store(meta.clone(), data).await?;
        self.state = content.state;
        self.applied = meta.last_log_id;
        self.set_membership(meta.last_membership.clone(), content.members_minted);
        self.board.replace(content.coordination);
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<GroupTypes>>, StorageError> {
        Ok(self.snapshots.last().await)
    }
}

/// Makes a snapshot of the state at one moment, while the machine goes on.
pub(super) struct Builder {
    meta: Meta,
    content: Content,
    snapshots: Snapshots,
}

impl RaftSnapshotBuilder<GroupTypes> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<GroupTypes>, StorageError> {
        let data = codec::encode(&self.content).map_err(|error| {
            StorageError::from(StorageIOError::write_snapshot(Some(self.meta.signature()), AnyError::new(&error)))
        })?;
        self.snapshots.store(self.meta.clone(), data.clone()).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(Cursor::new(data)) })
    }
}
