//! P3: whatever happens to sled's files, what is read is what was written, or an error.

#![allow(clippy::unwrap_used)]

mod shared;

use bytes::Bytes;
use engine::{ApplyBatch, Engine, EngineError, Keyspace, SledEngine, SledOptions, VersionedChange};
use shared::{copy, files};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use types::{EntryId, Generation, PartitionId, Record, RecordKey, RecordKind, Seq, Term};

const KEYSPACES: [Keyspace; 2] = [
    Keyspace { partition: PartitionId(1), generation: Generation(1) },
    Keyspace { partition: PartitionId(2), generation: Generation(5) },
];

type Model = BTreeMap<(Keyspace, Bytes), Record>;

fn open(directory: &Path) -> Result<SledEngine, EngineError> {
    SledEngine::open(directory, &SledOptions { cache_bytes: 1 << 20 })
}

fn id(seq: u64) -> EntryId {
    EntryId { term: Term(1), seq: Seq(seq) }
}

/// One batch for each keyspace: some short values, a long one now and then, a delete.
fn write(engine: &SledEngine, model: &mut Model, seq: u64) {
    let batches = KEYSPACES.map(|keyspace| {
        let mut changes: Vec<_> = (0..8)
            .map(|number| {
                let name = Bytes::from(format!("key {}", (seq * 7 + number * 13) % 60));
                let length = if (seq + number).is_multiple_of(31) { 50_000 } else { 100 + (seq as usize % 300) };
                (name, Some(Bytes::from(vec![(seq ^ number) as u8; length])))
            })
            .collect();
        changes.push((Bytes::from(format!("key {}", seq * 3 % 60)), None));
        for (name, value) in &changes {
            let place = (keyspace, name.clone());
            match value {
                Some(value) => model.insert(place, Record { seq: Seq(seq), value: value.clone() }),
                None => model.remove(&place),
            };
        }
        let changes = changes.into_iter().map(|(name, value)| VersionedChange {
            key: RecordKey::user(name),
            value,
            seq: Seq(seq),
        });
        ApplyBatch { keyspace, through: id(seq), changes: changes.collect() }
    });
    engine.apply(&batches).unwrap();
}

/// Records that stay where they are: in segments from before the snapshot.
fn write_once(engine: &SledEngine, model: &mut Model) {
    let keyspace = KEYSPACES[0];
    let records = (0..500).map(|number| {
        let length = if number % 50 == 0 { 40_000 } else { 3_000 };
        (Bytes::from(format!("old {number}")), Record { seq: Seq(0), value: vec![number as u8; length].into() })
    });
    let changes = records
        .inspect(|(name, record)| assert!(model.insert((keyspace, name.clone()), record.clone()).is_none()))
        .map(|(name, record)| VersionedChange { key: RecordKey::user(name), value: Some(record.value), seq: Seq(0) });
    engine.apply(&[ApplyBatch { keyspace, through: id(0), changes: changes.collect() }]).unwrap();
}

/// What a damaged store did.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Refused,
    ReadError,
    AllRight,
}

/// Opens the store and compares all it gives with the model.
fn look(directory: &Path, model: &Model, seq: u64) -> Result<Seen, String> {
    let engine = match open(directory) {
        Ok(engine) => engine,
        Err(EngineError::Corrupt { .. } | EngineError::Version { .. }) => return Ok(Seen::Refused),
        Err(other) => return Err(format!("refused for another reason: {other}")),
    };
    let mut seen = Seen::AllRight;
    for keyspace in KEYSPACES {
        match engine.applied(keyspace) {
            Ok(applied) if applied == id(seq) => {}
            Ok(applied) => return Err(format!("{keyspace} has applied {applied:?}")),
            Err(EngineError::Corrupt { .. }) => seen = Seen::ReadError,
            Err(other) => return Err(other.to_string()),
        }
        let names = (0..60).map(|number| format!("key {number}")).chain((0..500).map(|number| format!("old {number}")));
        for name in names.map(Bytes::from) {
            match engine.get(keyspace, &RecordKey::user(name.clone())) {
                Ok(found) if found.as_ref() == model.get(&(keyspace, name.clone())) => {}
                Ok(_) => return Err(format!("{keyspace} {name:?} is wrong")),
                Err(EngineError::Corrupt { .. }) => seen = Seen::ReadError,
                Err(other) => return Err(other.to_string()),
            }
        }
        match engine.scan(keyspace, RecordKind::User, None, 1000, usize::MAX) {
            Ok(page) => {
                let expected = model.iter().filter(|((of, _), _)| *of == keyspace);
                if !page.iter().map(|(n, r)| (n, r)).eq(expected.map(|((_, name), record)| (name, record))) {
                    return Err(format!("a scan of {keyspace} is wrong"));
                }
            }
            Err(EngineError::Corrupt { .. }) => seen = Seen::ReadError,
            Err(other) => return Err(other.to_string()),
        }
    }
    Ok(seen)
}

/// A store with a snapshot, several segments of log behind it, and a checkpoint at its end; copied as it lies on disk
/// while it is open.
fn store(directory: &Path) -> (PathBuf, Model, u64) {
    let (first, original) = (directory.join("first"), directory.join("original"));
    let mut model = Model::new();
    let engine = open(&first).unwrap();
    write_once(&engine, &mut model);
    (1..=150).for_each(|seq| write(&engine, &mut model, seq));
    drop(engine);
    let engine = open(&first).unwrap();
    (151..=400).for_each(|seq| write(&engine, &mut model, seq));
    engine.checkpoint().unwrap();
    copy(&first, &original);
    (original, model, 400)
}

/// Guards against damage that goes unnoticed: sled itself drops the rest of a segment whose log it can't read.
#[test]
fn a_flipped_bit_is_noticed_or_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let (original, model, seq) = store(directory.path());
    let tried = directory.path().join("tried");
    let flips: usize = std::env::var("FLIPS").ok().and_then(|n| n.parse().ok()).unwrap_or(25);
    let mut counts = [0; 3];
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut draw = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for file in files(&original) {
        let relative = file.strip_prefix(&original).unwrap();
        let bytes = fs::metadata(&file).unwrap().len();
        if bytes == 0 {
            continue;
        }
        for _ in 0..flips {
            copy(&original, &tried);
            let (at, bit) = (draw(bytes), draw(8));
            let mut content = fs::read(&file).unwrap();
            content[at as usize] ^= 1 << bit;
            fs::write(tried.join(relative), content).unwrap();
            let what = format!("{} byte {at} bit {bit}", relative.display());
            let seen = std::panic::catch_unwind(|| look(&tried, &model, seq));
            match seen {
                Ok(Ok(seen)) => counts[seen as usize] += 1,
                Ok(Err(wrong)) => panic!("{what}: {wrong}"),
                Err(_) => panic!("{what}: a panic"),
            }
        }
        println!("{}: refused, read error, all right: {counts:?}", relative.display());
    }
}
