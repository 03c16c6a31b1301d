//! What shows only from within: single steps of a deletion, and damage below sled.

use super::*;
use crate::VersionedChange;
use types::{Generation, PartitionId, Seq, Term};

const GOING: Keyspace = keyspace(1, 1);
const STAYING: Keyspace = keyspace(1, 2);

const fn keyspace(partition: u32, generation: u64) -> Keyspace {
    Keyspace { partition: PartitionId(partition), generation: Generation(generation) }
}

fn open(directory: &Path) -> SledEngine {
    SledEngine::open(directory, &SledOptions::default()).unwrap()
}

fn key(number: u64) -> RecordKey {
    RecordKey::user(Bytes::from(format!("key {number}")))
}

fn batch(keyspace: Keyspace, records: u64) -> ApplyBatch {
    let changes = (0..records).map(|number| VersionedChange {
        key: key(number),
        value: Some(Bytes::from(vec![number as u8; 20_000 * (number as usize % 2)])),
        seq: Seq(number),
    });
    ApplyBatch { keyspace, through: EntryId { term: Term(1), seq: Seq(records) }, changes: changes.collect() }
}

/// Guards against a deletion that serves what is left of a keyspace, is forgotten by a restart, or can't be finished.
#[test]
fn a_deletion_is_resumed_after_any_step() {
    let directory = tempfile::tempdir().unwrap();
    let mut engine = open(directory.path());
    engine.apply(&[batch(GOING, 600), batch(STAYING, 40)]).unwrap();
    let mut steps = 0;
    while !engine.delete_step(GOING).unwrap() {
        steps += 1;
        drop(engine);
        engine = open(directory.path());
        assert_eq!(engine.keyspaces().unwrap(), [GOING, STAYING]);
        assert_eq!(engine.applied(GOING).unwrap(), EntryId::ZERO);
        assert_eq!(engine.get(GOING, &key(599)).unwrap(), None);
        assert_eq!(engine.scan(GOING, RecordKind::User, None, 10, 1000).unwrap(), []);
        assert!(!engine.statistics().keyspaces.contains_key(&GOING));
        assert!(matches!(engine.apply(&[batch(GOING, 601)]), Err(EngineError::Deleting { keyspace: GOING })));
    }
    assert!(steps > 3, "{steps} steps: too few to say anything");
    assert_eq!(engine.keyspaces().unwrap(), [STAYING]);
    assert_eq!(engine.scan(STAYING, RecordKind::User, None, 100, usize::MAX).unwrap().len(), 40);
    assert!(engine.db.scan_prefix(layout::keyspace_prefix(GOING)).next().is_none(), "something was left behind");
}

/// Guards against damage in one keyspace that is served, or that takes others out of service (P3).
#[test]
fn a_damaged_record_concerns_its_keyspace_only() {
    let directory = tempfile::tempdir().unwrap();
    let engine = open(directory.path());
    engine.apply(&[batch(GOING, 4), batch(STAYING, 4)]).unwrap();
    let damage = |stored_key: Vec<u8>| {
        let mut stored = engine.db.get(&stored_key).unwrap().unwrap().to_vec();
        *stored.last_mut().unwrap() ^= 1;
        engine.db.insert(stored_key, stored).unwrap();
    };
    damage(layout::record_key(GOING, &key(2)));
    damage(layout::chunk_key(GOING, RecordKind::User, b"key 3", 1));
    let corrupt = |result: Result<(), EngineError>| match result {
        Err(EngineError::Corrupt { keyspace: Some(GOING), what }) => what,
        other => panic!("not reported as damage of {GOING}: {other:?}"),
    };
    assert!(corrupt(engine.get(GOING, &key(2)).map(|_| ())).contains("key 2"));
    assert!(corrupt(engine.get(GOING, &key(3)).map(|_| ())).contains("key 3"));
    corrupt(engine.scan(GOING, RecordKind::User, None, 10, usize::MAX).map(|_| ()));
    // A batch that meets the damage is refused whole, and the next one is not.
    corrupt(engine.apply(&[batch(STAYING, 5), batch(GOING, 5)]));
    assert_eq!(engine.applied(STAYING).unwrap().seq, Seq(4));
    engine.apply(&[batch(STAYING, 5)]).unwrap();
    assert!(engine.get(GOING, &key(1)).unwrap().is_some());
    engine.delete(GOING).unwrap();
    assert_eq!(engine.keyspaces().unwrap(), [STAYING]);
}

/// Guards against records whose header is lost and that pass for a keyspace at its beginning.
#[test]
fn records_without_a_header_are_damage() {
    let directory = tempfile::tempdir().unwrap();
    let engine = open(directory.path());
    engine.apply(&[batch(GOING, 4)]).unwrap();
    engine.db.remove(layout::headers_key(0, 0)).unwrap();
    drop(engine);
    let engine = open(directory.path());
    assert!(matches!(engine.applied(GOING), Err(EngineError::Corrupt { keyspace: Some(GOING), .. })));
    assert!(matches!(engine.apply(&[batch(GOING, 5)]), Err(EngineError::Corrupt { keyspace: Some(GOING), .. })));
    engine.delete(GOING).unwrap();
    assert_eq!(engine.keyspaces().unwrap(), []);
}
