//! What openraft relies on: its own suite, and what is left after a crash.

use super::log::LogStore;
use super::machine::Machine;
use super::{Entry, GroupTypes, LogId, StorageError, Vote};
use crate::Error;
use daemon::DataDirectory;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite, blank_ent, log_id};
use openraft::{CommittedLeaderId, EntryPayload};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use types::{ClusterId, PartitionCount};
use viewcore::{Bootstrap, Command};
use wal::testing::{SimFiles, Survival};

struct Builder;

impl StoreBuilder<GroupTypes, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError> {
        let directory = tempfile::tempdir().unwrap();
        let log = LogStore::open(wal::RealFiles, &directory.path().join("log"), true, |_| {}).unwrap();
        let machine = Machine::open(Arc::new(DataDirectory::open(directory.path()).unwrap())).unwrap();
        Ok((directory, log, machine))
    }
}

/// Guards against whatever openraft's authors have seen go wrong in log stores and state machines.
#[test]
fn openrafts_own_suite() {
    Suite::test_all(Builder).unwrap();
}

fn entries(term: u64, indexes: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    indexes.map(|index| blank_ent::<GroupTypes>(term, 1, index)).collect()
}

fn open(files: &SimFiles) -> LogStore {
    LogStore::open(files.clone(), Path::new("/log"), true, |error| panic!("{error}")).unwrap()
}

/// Waits until the segment after the first is ready: from then on nothing but what a test asks for is synced.
async fn wait_until_quiet(files: &SimFiles) {
    let files = files.clone();
    let next = Path::new("/log/000000000002.wal");
    tokio::task::spawn_blocking(move || files.wait_for_renamed(next)).await.unwrap();
}

async fn ids(log: &mut LogStore) -> Vec<LogId> {
    log.try_get_log_entries(0..).await.unwrap().into_iter().map(|entry| entry.log_id).collect()
}

/// Guards against a vote, an entry, a truncation or a purge that a crash takes back after it was acknowledged.
#[tokio::test]
async fn what_was_acknowledged_survives_a_crash() {
    for survival in [Survival::Nothing, Survival::Everything, Survival::Random(1), Survival::Random(2)] {
        let files = SimFiles::new();
        let mut log = open(&files);
        log.save_vote(&Vote::new(3, 1)).await.unwrap();
        log.blocking_append(entries(1, 0..=9)).await.unwrap();
        log.truncate(log_id(1, 1, 7)).await.unwrap();
        log.blocking_append(entries(3, 7..=12)).await.unwrap();
        log.save_committed(Some(log_id(3, 1, 8))).await.unwrap();
        log.purge(log_id(1, 1, 4)).await.unwrap();
        let before = ids(&mut log).await;

        let files = files.restart(survival);
        let mut log = open(&files);
        assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 1)));
        assert_eq!(ids(&mut log).await, before);
        assert_eq!(before.first(), Some(&log_id(1, 1, 5)));
        assert_eq!(before.last(), Some(&log_id(3, 1, 12)));
        assert_eq!(log.read_committed().await.unwrap(), Some(log_id(3, 1, 8)));
        let state = log.get_log_state().await.unwrap();
        assert_eq!(state.last_purged_log_id, Some(log_id(1, 1, 4)));
        assert_eq!(state.last_log_id, Some(log_id(3, 1, 12)));
    }
}

/// Guards P2: a vote that is answered before it is on disk could be given twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_vote_is_not_saved_before_its_sync_returns() {
    let files = SimFiles::new();
    let mut log = open(&files);
    log.save_vote(&Vote::new(1, 1)).await.unwrap();
    wait_until_quiet(&files).await;
    files.hold_syncs();
    let mut voting = log.clone();
    let vote = tokio::spawn(async move { voting.save_vote(&Vote::new(2, 2)).await });
    let waiting = files.clone();
    tokio::task::spawn_blocking(move || waiting.wait_for_held_sync()).await.unwrap();
    assert!(!vote.is_finished());
    let crashed = files.duplicate().restart(Survival::Nothing);
    assert_eq!(open(&crashed).read_vote().await.unwrap(), Some(Vote::new(1, 1)));
    files.release_syncs();
    vote.await.unwrap().unwrap();
    assert_eq!(open(&files.restart(Survival::Nothing)).read_vote().await.unwrap(), Some(Vote::new(2, 2)));
}

/// Guards P2: a failed sync after which votes or entries are acknowledged all the same.
#[tokio::test]
async fn nothing_is_acknowledged_after_a_failed_sync() {
    let files = SimFiles::new();
    let (failed, failure) = std::sync::mpsc::channel();
    let on_failure = move |error: wal::WalError| failed.send(error.to_string()).unwrap();
    let mut log = LogStore::open(files.clone(), Path::new("/log"), true, on_failure).unwrap();
    log.save_vote(&Vote::new(1, 1)).await.unwrap();
    wait_until_quiet(&files).await;
    files.fail(wal::testing::Operation::Sync, 0, std::io::ErrorKind::StorageFull);
    assert!(log.save_vote(&Vote::new(2, 1)).await.is_err());
    assert!(failure.recv().unwrap().contains("disk full"));
    assert!(log.save_vote(&Vote::new(2, 1)).await.is_err());
    assert!(log.blocking_append(entries(1, 0..=0)).await.is_err());
}

/// Guards against a disk that fills up because purged entries are never let go, and against a vote that goes with them.
#[tokio::test]
async fn purging_lets_go_of_segments_but_not_of_the_vote() {
    let files = SimFiles::new();
    let mut log = open(&files);
    log.save_vote(&Vote::new(7, 1)).await.unwrap();
    let segments = |files: &SimFiles| files.paths().len();
    let mut most = 0;
    for round in 0..40u64 {
        // Half a mebibyte per entry.
        let large = (0..2).map(|n| {
            let placements = vec![(types::PartitionId(0), vec![types::NodeId(u64::MAX); 50_000])];
            let change =
                viewcore::Change { placements, ..viewcore::Change::new(types::Epoch(0), viewcore::Cause::Balance) };
            let log_id = LogId::new(CommittedLeaderId::new(7, 1), round * 2 + n);
            Entry { log_id, payload: EntryPayload::Normal(Command::Change(change)) }
        });
        log.blocking_append(large.collect::<Vec<_>>()).await.unwrap();
        log.purge(log_id(7, 1, round * 2)).await.unwrap();
        most = most.max(segments(&files));
    }
    assert!(most <= 10, "{most} files");
    drop(log);
    let mut log = open(&files.restart(Survival::Everything));
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(7, 1)));
    assert_eq!(ids(&mut log).await, [log_id(7, 1, 79)]);
}

async fn machine_with_snapshot(path: &Path) {
    let mut machine = Machine::open(Arc::new(DataDirectory::open(path).unwrap())).unwrap();
    let bootstrap = Bootstrap {
        cluster: ClusterId(7),
        partition_count: PartitionCount::new(4).unwrap(),
        replication: 3,
        expected_nodes: 3,
    };
    let payload = EntryPayload::Normal(Command::Bootstrap(bootstrap));
    machine.apply([Entry { log_id: log_id(1, 1, 5), payload }]).await.unwrap();
    machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
}

/// Guards against a damaged snapshot that is used, or taken for none: the log before it is gone.
#[tokio::test]
async fn a_damaged_snapshot_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    machine_with_snapshot(directory.path()).await;
    let reopen = || Machine::open(Arc::new(DataDirectory::open(directory.path()).unwrap()));
    let mut machine = reopen().unwrap();
    assert_eq!(machine.watch().borrow().cluster(), ClusterId(7));
    assert_eq!(machine.applied_state().await.unwrap().0, Some(log_id(1, 1, 5)));
    drop(machine);

    let path = directory.path().join("snapshot");
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&path, flipped).unwrap();
        assert!(reopen().is_err(), "byte {at} flipped");
    }
    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(reopen().is_err(), "cut to {length}");
    }
}

/// Guards against a snapshot that was lost, or brought back from an older copy, while the log before it was purged.
#[tokio::test]
async fn a_log_that_begins_after_the_snapshot_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    machine_with_snapshot(directory.path()).await;
    let open = || Machine::open(Arc::new(DataDirectory::open(directory.path()).unwrap())).unwrap();
    open().check_continues(None).unwrap();
    open().check_continues(Some(5)).unwrap();
    assert!(matches!(open().check_continues(Some(6)), Err(Error::Snapshot { .. })));
    std::fs::remove_file(directory.path().join("snapshot")).unwrap();
    let error = open().check_continues(Some(0)).unwrap_err().to_string();
    assert!(error.contains("snapshot") && error.contains("restore"), "{error}");
}

/// Guards against a group that can't start any more because its snapshot is from before there were leases, and against
/// leases or tokens that a snapshot loses.
#[tokio::test]
async fn snapshots_have_leases_and_older_ones_have_none() {
    use super::codec::encode;
    use super::snapshot::Content;
    let directory = tempfile::tempdir().unwrap();
    machine_with_snapshot(directory.path()).await;
    let mut machine = Machine::open(Arc::new(DataDirectory::open(directory.path()).unwrap())).unwrap();
    let state = machine.watch().borrow().as_ref().clone();
    let older = Content::decode(&encode(&(&state, 7u64)).unwrap()).unwrap();
    assert_eq!((older.state, older.members_minted), (state, 7));
    assert!(older.coordination.leases().is_empty());

    let request = types::RequestId { client: 1, counter: 1 };
    let command = Command::Coordinate(vec![viewcore::coordination::Request::Grant { request, ttl_ms: 5_000 }]);
    machine.apply([Entry { log_id: log_id(1, 1, 6), payload: EntryPayload::Normal(command) }]).await.unwrap();
    let applied = machine.board().read().clone();
    assert_eq!(applied.leases().len(), 1);
    machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    drop(machine);
    let machine = Machine::open(Arc::new(DataDirectory::open(directory.path()).unwrap())).unwrap();
    assert_eq!(*machine.board().read(), applied);
}

/// Guards against an older snapshot that replaces a newer one: both may be written at the same time.
#[tokio::test]
async fn a_newer_snapshot_stays() {
    let directory = tempfile::tempdir().unwrap();
    let mut machine = Machine::open(Arc::new(DataDirectory::open(directory.path()).unwrap())).unwrap();
    machine.apply(entries(1, 0..=3)).await.unwrap();
    let mut older = machine.get_snapshot_builder().await;
    machine.apply(entries(1, 4..=6)).await.unwrap();
    machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    older.build_snapshot().await.unwrap();
    let kept = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(kept.meta.last_log_id, Some(log_id(1, 1, 6)));
}
