//! The engine on sled against the one in memory: the same calls, the same answers, through restarts.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use engine::{ApplyBatch, Engine, EngineError, Keyspace, MemoryEngine, SledEngine, SledOptions, VersionedChange};
use proptest::collection::vec;
use proptest::prelude::*;
use types::{EntryId, Generation, PartitionId, RecordKey, RecordKind, Seq, Term};

#[derive(Clone, Debug)]
enum Call {
    Apply(Vec<ApplyBatch>),
    Delete(Keyspace),
    Checkpoint,
    Reopen,
    Scan { keyspace: Keyspace, after: Option<Bytes>, records: usize, bytes: usize },
}

fn keyspaces() -> impl Strategy<Value = Keyspace> {
    (0u32..3, 0u64..2).prop_map(|(partition, generation)| Keyspace {
        // Two in one block of headers, one in another.
        partition: PartitionId(partition * 15),
        generation: Generation(generation),
    })
}

/// Few names, many of them prefixes of others, so that calls meet.
fn names() -> impl Strategy<Value = Bytes> {
    vec(prop::sample::select(vec![0u8, 1, b'a', 0xff]), 0..4).prop_map(Bytes::from)
}

fn values() -> impl Strategy<Value = Bytes> {
    let lengths =
        prop_oneof![4 => 0usize..200, 1 => 16_380usize..16_390, 1 => 32_760usize..32_780, 1 => 0usize..100_000];
    (lengths, any::<u8>()).prop_map(|(length, fill)| Bytes::from(vec![fill; length]))
}

fn changes() -> impl Strategy<Value = VersionedChange> {
    let kinds = prop::sample::select(vec![RecordKind::User, RecordKind::User, RecordKind::Requests]);
    (kinds, names(), prop::option::weighted(0.8, values()), 0u64..100)
        .prop_map(|(kind, name, value, seq)| VersionedChange { key: RecordKey { kind, name }, value, seq: Seq(seq) })
}

fn calls() -> impl Strategy<Value = Call> {
    // Seqs that mostly rise: the engines must agree on what is refused, too.
    let batch = (keyspaces(), 0u64..6, vec(changes(), 0..8)).prop_map(|(keyspace, seq, changes)| ApplyBatch {
        keyspace,
        through: EntryId { term: Term(seq / 3), seq: Seq(seq) },
        changes,
    });
    let scan = (keyspaces(), prop::option::of(names()), 0usize..12, 0usize..50_000)
        .prop_map(|(keyspace, after, records, bytes)| Call::Scan { keyspace, after, records, bytes });
    prop_oneof![
        8 => vec(batch, 0..4).prop_map(Call::Apply),
        1 => keyspaces().prop_map(Call::Delete),
        1 => Just(Call::Checkpoint),
        1 => Just(Call::Reopen),
        3 => scan,
    ]
}

fn outcome<T: PartialEq>(result: Result<T, EngineError>) -> Result<T, std::mem::Discriminant<EngineError>> {
    result.map_err(|error| std::mem::discriminant(&error))
}

/// Everything an engine holds.
fn contents(engine: &dyn Engine) -> impl PartialEq + std::fmt::Debug {
    let keyspaces = engine.keyspaces().unwrap();
    let of = |keyspace: Keyspace| {
        let records = [RecordKind::User, RecordKind::Requests]
            .map(|kind| engine.scan(keyspace, kind, None, usize::MAX, usize::MAX).unwrap());
        (keyspace, engine.applied(keyspace).unwrap(), records)
    };
    (keyspaces.into_iter().map(of).collect::<Vec<_>>(), engine.statistics().keyspaces)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Guards against every answer of sled's engine that a map would not give.
    #[test]
    fn sled_does_what_a_map_does(calls in vec(calls(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        let open = || SledEngine::open(directory.path(), &SledOptions { cache_bytes: 256 << 10 }).unwrap();
        let mut sled = Some(open());
        let memory = MemoryEngine::new();
        for call in calls {
            if let Call::Reopen = call {
                // The old one must be gone before the new one is there.
                sled = None;
            }
            let sled = sled.get_or_insert_with(open);
            match call {
                Call::Apply(batches) => {
                    prop_assert_eq!(outcome(sled.apply(&batches)), outcome(memory.apply(&batches)));
                    for (keyspace, key) in batches.iter().flat_map(|b| b.changes.iter().map(|c| (b.keyspace, &c.key))) {
                        prop_assert_eq!(outcome(sled.get(keyspace, key)), outcome(memory.get(keyspace, key)));
                    }
                }
                Call::Delete(keyspace) => {
                    prop_assert_eq!(outcome(sled.delete(keyspace)), outcome(memory.delete(keyspace)));
                }
                Call::Checkpoint => {
                    prop_assert_eq!(outcome(sled.checkpoint()), outcome(memory.checkpoint()));
                }
                Call::Reopen => {
                    prop_assert_eq!(contents(sled), contents(&memory));
                }
                Call::Scan { keyspace, after, records, bytes } => {
                    let scan = |engine: &dyn Engine| {
                        outcome(engine.scan(keyspace, RecordKind::User, after.as_deref(), records, bytes))
                    };
                    prop_assert_eq!(scan(sled), scan(&memory));
                }
            }
        }
        let sled = sled.get_or_insert_with(open);
        prop_assert_eq!(contents(sled), contents(&memory));
    }
}
