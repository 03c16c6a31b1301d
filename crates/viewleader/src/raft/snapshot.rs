//! The last snapshot: one small file, and its content in memory, ready to be sent.
//!
//! Invariants: the file is written beside its place, synced and renamed, so that a crash leaves the old one or the new
//! one; a newer snapshot is never replaced by an older one; a damaged file is an error, never "no snapshot", because
//! the log before it is gone.

use super::codec::{self, CodecError};
use super::roster::MemberNode;
use super::{GroupTypes, StorageError};
use crate::Error;
use crate::identity::MemberId;
use daemon::DataDirectory;
use openraft::storage::{Snapshot, SnapshotMeta};
use openraft::{AnyError, StorageIOError};
use serde::{Deserialize, Serialize};
use std::io::Cursor;
use std::sync::Arc;
use tokio::sync::Mutex;
use viewcore::{ClusterState, Coordination};

const FILE: &str = "snapshot";

pub(super) type Meta = SnapshotMeta<u64, MemberNode>;

/// What the file holds.
#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    meta: Meta,
    /// A [`Content`], encoded: what travels to other members.
    data: Vec<u8>,
}

/// What a snapshot is of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) state: ClusterState,
    /// The highest member id that was ever given.
    pub(super) members_minted: MemberId,
    pub(super) coordination: Coordination,
}

/// As it was before there were leases.
#[derive(Deserialize)]
struct WithoutCoordination {
    state: ClusterState,
    members_minted: MemberId,
}

impl Content {
    /// Reads what a snapshot holds; one from before members could change holds the state alone, and its membership then
    /// names every id that was given; one from before there were leases holds none.
    pub(super) fn decode(data: &[u8]) -> Result<Content, CodecError> {
        let coordination = Coordination::default;
        let without_coordination = |_| {
            let older: WithoutCoordination = codec::decode(data)?;
            let WithoutCoordination { state, members_minted } = older;
            Ok(Content { state, members_minted, coordination: coordination() })
        };
        let without_members = |_: CodecError| {
            let state = codec::decode(data)?;
            Ok(Content { state, members_minted: 0, coordination: coordination() })
        };
        codec::decode(data).or_else(without_coordination).or_else(without_members)
    }
}

/// The last snapshot of one member. Clones share it.
#[derive(Clone)]
pub(super) struct Snapshots {
    directory: Arc<DataDirectory>,
    /// Held while writing: the builder and an installation can run at the same time.
    last: Arc<Mutex<Option<Stored>>>,
}

impl Snapshots {
    /// Reads the last snapshot, and what it holds.
    pub(super) fn open(directory: Arc<DataDirectory>) -> Result<(Snapshots, Option<(Meta, Content)>), Error> {
        let damaged =
            |error: CodecError| Error::Snapshot { path: directory.path().join(FILE), reason: error.to_string() };
        let stored: Option<Stored> = match directory.read_small(FILE)? {
            None => None,
            Some(bytes) => Some(codec::decode(&bytes).map_err(damaged)?),
        };
        let content = match &stored {
            None => None,
            Some(stored) => Some((stored.meta.clone(), Content::decode(&stored.data).map_err(damaged)?)),
        };
        Ok((Snapshots { directory, last: Arc::new(Mutex::new(stored)) }, content))
    }

    /// The error for a snapshot that can't be what it should.
    pub(super) fn unusable(&self, reason: String) -> Error {
        Error::Snapshot { path: self.directory.path().join(FILE), reason }
    }

    /// Makes this the last snapshot, durably, unless there is a newer one.
    pub(super) async fn store(&self, meta: Meta, data: Vec<u8>) -> Result<(), StorageError> {
        let signature = meta.signature();
        let failed = move |error: AnyError| StorageError::from(StorageIOError::write_snapshot(Some(signature), error));
        let mut last = self.last.lock().await;
        if last.as_ref().is_some_and(|last| last.meta.last_log_id > meta.last_log_id) {
            return Ok(());
        }
        let stored = Stored { meta, data };
        let bytes = match codec::encode(&stored) {
            Ok(bytes) => bytes,
            Err(error) => return Err(failed(AnyError::new(&error))),
        };
        let directory = self.directory.clone();
        match tokio::task::spawn_blocking(move || directory.write_small(FILE, &bytes)).await {
            Ok(Ok(())) => {
                *last = Some(stored);
                Ok(())
            }
            Ok(Err(error)) => Err(failed(AnyError::new(&error))),
            Err(error) => Err(failed(AnyError::new(&error))),
        }
    }

    /// The last snapshot, as openraft hands it around.
    pub(super) async fn last(&self) -> Option<Snapshot<GroupTypes>> {
        let last = self.last.lock().await;
        last.as_ref()
            .map(|last| Snapshot { meta: last.meta.clone(), snapshot: Box::new(Cursor::new(last.data.clone())) })
    }
}
