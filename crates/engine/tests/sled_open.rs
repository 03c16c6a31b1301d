//! What the engine on sled does with the directory it is given.

#![allow(clippy::unwrap_used)]

mod shared;

use bytes::Bytes;
use engine::{ApplyBatch, Engine, EngineError, Keyspace, SledEngine, SledOptions, VersionedChange, quarantine};
use shared::{copy, files};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use types::{EntryId, Generation, PartitionId, Record, RecordKey, Seq, Term};

const KEYSPACE: Keyspace = Keyspace { partition: PartitionId(1), generation: Generation(1) };

fn open(directory: &Path) -> Result<SledEngine, EngineError> {
    SledEngine::open(directory, &SledOptions::default())
}

fn write(engine: &SledEngine, seq: u64) {
    let change = VersionedChange { key: key(), value: Some(Bytes::from(vec![seq as u8; 20_000])), seq: Seq(seq) };
    let through = EntryId { term: Term(1), seq: Seq(seq) };
    engine.apply(&[ApplyBatch { keyspace: KEYSPACE, through, changes: vec![change] }]).unwrap();
}

fn key() -> RecordKey {
    RecordKey::user(Bytes::from_static(b"key"))
}

fn is_through(engine: &SledEngine, seq: u64) -> bool {
    let expected = Record { seq: Seq(seq), value: Bytes::from(vec![seq as u8; 20_000]) };
    engine.applied(KEYSPACE).unwrap().seq == Seq(seq) && engine.get(KEYSPACE, &key()).unwrap() == Some(expected)
}

fn corrupt(directory: &Path) -> String {
    match open(directory) {
        Err(error @ EngineError::Corrupt { keyspace: None, .. }) => error.to_string(),
        other => panic!("not refused as corrupt: {other:?}"),
    }
}

/// A store that is checkpointed at entry 2 and closed.
fn store(directory: &Path) -> PathBuf {
    let path = directory.join("store");
    let engine = open(&path).unwrap();
    write(&engine, 1);
    drop(engine);
    let engine = open(&path).unwrap();
    write(&engine, 2);
    engine.checkpoint().unwrap();
    path
}

/// Guards against two processes, or two engines of one, that write the same files.
#[test]
fn a_directory_has_one_owner() {
    let directory = tempfile::tempdir().unwrap();
    let engine = open(directory.path()).unwrap();
    let refused = open(directory.path());
    assert!(matches!(&refused, Err(EngineError::InUse { .. })), "{refused:?}");
    assert!(matches!(quarantine(directory.path()), Err(EngineError::InUse { .. })));
    drop(engine);
    open(directory.path()).unwrap();
}

/// Guards against a store of another version that is read as if it were ours, or harmed.
#[test]
fn an_unknown_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let known = fs::read_to_string(store.join("format")).unwrap();
    fs::write(store.join("format"), "ringleader engine sled 2\n").unwrap();
    let refused = open(&store).unwrap_err();
    assert!(matches!(refused, EngineError::Version { .. }), "{refused}");
    assert!(refused.to_string().contains("sled 2"), "{refused}");
    fs::write(store.join("format"), known).unwrap();
    assert!(is_through(&open(&store).unwrap(), 2));
}

/// Guards against a crash while a snapshot was written after which sled refuses every start.
#[test]
fn an_unfinished_snapshot_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    for content in [&b""[..], b"0123456789", b"something longer, and no snapshot"] {
        fs::write(store.join("sled/snap.7FFFFFFFFFFFFFFF.generating"), content).unwrap();
        let engine = open(&store).unwrap();
        assert!(is_through(&engine, 2));
    }
}

/// Guards against a file whose loss sled takes for a new, empty store.
#[test]
fn a_missing_file_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let (store, tried) = (store(directory.path()), directory.path().join("tried"));
    let mut tried_files = 0;
    for file in files(&store) {
        let name = file.strip_prefix(&store).unwrap();
        if name == Path::new("lock") {
            continue;
        }
        copy(&store, &tried);
        fs::remove_file(tried.join(name)).unwrap();
        let message = corrupt(&tried);
        assert!(message.contains("quarantine"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        tried_files += 1;
    }
    assert_eq!(tried_files, 5, "format, checkpoint, conf, db and a snapshot");
}

/// Guards against a shortened file that passes for a log that ends there, or that makes sled panic.
#[test]
fn a_shortened_file_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let (store, tried) = (store(directory.path()), directory.path().join("tried"));
    let whole = fs::metadata(store.join("sled/db")).unwrap().len();
    let mut refused = 0;
    for length in (0..120).map(|part| whole * part / 120) {
        copy(&store, &tried);
        File::options().write(true).open(tried.join("sled/db")).unwrap().set_len(length).unwrap();
        match open(&tried) {
            // What sled had not used yet may go.
            Ok(engine) => assert!(is_through(&engine, 2), "{length} of {whole} bytes"),
            Err(EngineError::Corrupt { .. }) => refused += 1,
            Err(other) => panic!("{length} of {whole} bytes: {other}"),
        }
    }
    assert!(refused > 0);
}

/// Guards against a crash during the first start that every later start stumbles over.
#[test]
fn an_interrupted_creation_is_begun_again() {
    let directory = tempfile::tempdir().unwrap();
    let (store, tried) = (store(directory.path()), directory.path().join("tried"));
    let creating = "ringleader engine sled 1 creating\n";
    // Whatever of sled's files was there by then, whole or not.
    for cut in 0..4 {
        copy(&store, &tried);
        fs::write(tried.join("format"), creating).unwrap();
        if cut == 1 {
            fs::write(tried.join("sled/conf"), b"segment_size: 20").unwrap();
        }
        if cut == 2 {
            fs::write(tried.join("checkpoint"), b"").unwrap();
        }
        if cut == 3 {
            fs::remove_dir_all(tried.join("sled")).unwrap();
        }
        let engine = open(&tried).unwrap();
        assert_eq!(engine.keyspaces().unwrap(), [], "nothing was stored before it was complete");
        write(&engine, 5);
        engine.checkpoint().unwrap();
        drop(engine);
        assert!(is_through(&open(&tried).unwrap(), 5));
    }
}

/// Guards against a quarantine that loses what it was to keep, or that stands in the way of the next.
#[test]
fn a_quarantined_store_is_out_of_the_way_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let aside = quarantine(&store).unwrap();
    assert!(aside != store && !store.exists());
    let engine = open(&store).unwrap();
    assert_eq!(engine.keyspaces().unwrap(), []);
    drop(engine);
    let second = quarantine(&store).unwrap();
    assert!(second != aside && second.exists());
    assert!(is_through(&open(&aside).unwrap(), 2), "what was put aside is as it was");
    assert!(matches!(quarantine(&store), Err(EngineError::Io { .. })), "there is nothing left to put aside");
}

/// Guards against values, pages or index nodes that sled puts into files of their own, which it never fsyncs.
#[test]
fn sled_writes_no_blobs() {
    let directory = tempfile::tempdir().unwrap();
    let engine = open(directory.path()).unwrap();
    // The longest names, so that index nodes are as large as they get; values of every kind of length.
    for seq in 1..=60u64 {
        let changes = (0..60u64).map(|number| {
            let mut name = vec![b'n'; engine::NAME_BYTES_MAX];
            let place = (seq * 60 + number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            name[..8].copy_from_slice(&place.to_be_bytes());
            let length = [10, 16 << 10, 16 << 10, 40_000][(place >> 60 & 3) as usize];
            let value = Some(Bytes::from(vec![seq as u8; length]));
            VersionedChange { key: RecordKey::user(name.into()), value, seq: Seq(seq) }
        });
        let through = EntryId { term: Term(1), seq: Seq(seq) };
        let batch = ApplyBatch { keyspace: KEYSPACE, through, changes: changes.collect() };
        engine.apply(std::slice::from_ref(&batch)).unwrap();
        assert_eq!(fs::read_dir(directory.path().join("sled/blobs")).unwrap().count(), 0, "after entry {seq}");
    }
}
