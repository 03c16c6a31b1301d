//! What every engine must do, as one function that any engine's tests call.
//!
//! Each check gets an empty engine and names the fault it looks for. Crashes are not here: what survives one differs by
//! engine, and is tested beside each.

use crate::{ApplyBatch, Engine, EngineError, Keyspace, KeyspaceStatistics, NAME_BYTES_MAX, VersionedChange};
use bytes::Bytes;
use std::fmt::Debug;
use types::{EntryId, Generation, PartitionId, Record, RecordKey, RecordKind, Seq, Term};

const A: Keyspace = keyspace(1, 1);
/// The same partition's next life.
const A2: Keyspace = keyspace(1, 2);
/// The neighbour, byte for byte.
const B: Keyspace = keyspace(2, 1);
const LAST: Keyspace = keyspace(u32::MAX, u64::MAX);

/// Value lengths around the places where an engine may cut.
const LENGTHS: [usize; 11] = [
    0,
    1,
    (16 << 10) - 1,
    16 << 10,
    (16 << 10) + 1,
    (32 << 10) - 1,
    32 << 10,
    (32 << 10) + 1,
    100_000,
    (1 << 20) - 1,
    1 << 20,
];

/// Runs every check, each on an engine of its own.
///
/// # Panics
/// Where an engine does not conform; the message says in what.
pub fn check<E: Engine>(mut make: impl FnMut() -> E) {
    empty(&make());
    puts_and_deletes(&make());
    applied_moves_with_its_batch(&make());
    the_last_change_of_a_record_wins(&make());
    values_of_every_length(&make());
    long_by_short_by_long(&make());
    awkward_names(&make());
    pages(&make());
    generations_are_apart(&make());
    kinds_are_apart(&make());
    limits(&make());
    counts(&make());
    readers_see_whole_batches(&make());
}

const fn keyspace(partition: u32, generation: u64) -> Keyspace {
    Keyspace { partition: PartitionId(partition), generation: Generation(generation) }
}

fn id(seq: u64) -> EntryId {
    EntryId { term: Term(1), seq: Seq(seq) }
}

fn put(name: impl Into<Bytes>, value: impl Into<Bytes>, seq: u64) -> VersionedChange {
    VersionedChange { key: RecordKey::user(name.into()), value: Some(value.into()), seq: Seq(seq) }
}

fn delete(name: impl Into<Bytes>, seq: u64) -> VersionedChange {
    VersionedChange { key: RecordKey::user(name.into()), value: None, seq: Seq(seq) }
}

fn batch(keyspace: Keyspace, through: u64, changes: Vec<VersionedChange>) -> ApplyBatch {
    ApplyBatch { keyspace, through: id(through), changes }
}

fn apply(engine: &impl Engine, keyspace: Keyspace, through: u64, changes: Vec<VersionedChange>) {
    done(engine.apply(&[batch(keyspace, through, changes)]), "apply");
}

fn done<T>(result: Result<T, EngineError>, what: &str) -> T {
    result.unwrap_or_else(|error| panic!("{what} failed: {error}"))
}

fn read(engine: &impl Engine, keyspace: Keyspace, name: &[u8]) -> Option<Record> {
    done(engine.get(keyspace, &RecordKey::user(Bytes::copy_from_slice(name))), "get")
}

fn page(
    engine: &impl Engine,
    keyspace: Keyspace,
    after: Option<&[u8]>,
    records: usize,
    bytes: usize,
) -> Vec<(Bytes, Record)> {
    done(engine.scan(keyspace, RecordKind::User, after, records, bytes), "scan")
}

fn names(page: &[(Bytes, Record)]) -> Vec<&[u8]> {
    page.iter().map(|(name, _)| &name[..]).collect()
}

/// A value that differs in every part from one of another seed.
fn value(length: usize, seed: u64) -> Bytes {
    (0..length as u64).map(|at| (at.wrapping_mul(seed | 1) >> 3) as u8 ^ (at >> 14) as u8 ^ seed as u8).collect()
}

fn same<T: PartialEq + Debug>(found: &T, expected: &T, what: &str) {
    assert!(found == expected, "{what}: {}", shortened(&format!("found {found:?}, expected {expected:?}")));
}

fn shortened(text: &str) -> String {
    text.chars().take(500).collect()
}

/// What does not exist reads as empty, and deleting it does nothing.
fn empty(engine: &impl Engine) {
    same(&read(engine, A, b"k"), &None, "a record of no keyspace");
    same(&done(engine.applied(A), "applied"), &EntryId::ZERO, "applied of no keyspace");
    same(&page(engine, A, None, 10, 1000), &vec![], "a page of no keyspace");
    same(&done(engine.keyspaces(), "keyspaces"), &vec![], "keyspaces");
    done(engine.delete(A), "delete");
    done(engine.apply(&[]), "apply of nothing");
    done(engine.checkpoint(), "checkpoint");
    assert!(engine.statistics().keyspaces.is_empty(), "statistics of nothing");
}

/// A record is what the last change made it, with the seq of that change.
fn puts_and_deletes(engine: &impl Engine) {
    apply(engine, A, 1, vec![put("k", "one", 1), put("l", "", 1)]);
    same(&read(engine, A, b"k"), &Some(Record { seq: Seq(1), value: "one".into() }), "a put");
    same(&read(engine, A, b"l"), &Some(Record { seq: Seq(1), value: Bytes::new() }), "an empty value is a value");
    apply(engine, A, 2, vec![put("k", "one", 2)]);
    same(&read(engine, A, b"k"), &Some(Record { seq: Seq(2), value: "one".into() }), "the same value, a new version");
    apply(engine, A, 3, vec![delete("k", 3), delete("never there", 3)]);
    same(&read(engine, A, b"k"), &None, "a delete");
    apply(engine, A, 4, vec![put("k", "again", 4)]);
    same(&read(engine, A, b"k"), &Some(Record { seq: Seq(4), value: "again".into() }), "a put after a delete");
}

/// P1: `applied` moves with its batch, never backwards, and a refused call does nothing to any keyspace.
fn applied_moves_with_its_batch(engine: &impl Engine) {
    done(engine.apply(&[batch(A, 3, vec![put("k", "v", 3)]), batch(B, 8, vec![])]), "apply");
    same(&done(engine.applied(A), "applied"), &id(3), "applied of the first keyspace");
    same(&done(engine.applied(B), "applied"), &id(8), "applied of a batch without changes");
    same(&done(engine.keyspaces(), "keyspaces"), &vec![A, B], "keyspaces");
    apply(engine, A, 3, vec![]);
    let refused = engine.apply(&[batch(B, 9, vec![put("x", "y", 9)]), batch(A, 2, vec![])]);
    assert!(matches!(refused, Err(EngineError::Backwards { keyspace: A, .. })), "backwards: {refused:?}");
    same(&done(engine.applied(B), "applied"), &id(8), "applied after a refused call");
    same(&read(engine, B, b"x"), &None, "a change of a refused call");
    let refused = engine.apply(&[batch(A, 5, vec![]), batch(A, 4, vec![])]);
    assert!(matches!(refused, Err(EngineError::Backwards { .. })), "backwards within a call: {refused:?}");
    let higher_term = EntryId { term: Term(2), seq: Seq(1) };
    done(engine.apply(&[ApplyBatch { keyspace: A, through: higher_term, changes: vec![] }]), "apply");
    same(&done(engine.applied(A), "applied"), &higher_term, "terms count before seqs");
}

/// Within one call the last change of a record wins, also across its batches.
fn the_last_change_of_a_record_wins(engine: &impl Engine) {
    let long = value(50_000, 1);
    apply(engine, A, 3, vec![put("k", "1", 1), delete("k", 2), put("k", "3", 3), put("l", "1", 1), delete("l", 2)]);
    same(&read(engine, A, b"k"), &Some(Record { seq: Seq(3), value: "3".into() }), "put, delete, put");
    same(&read(engine, A, b"l"), &None, "put, delete");
    done(engine.apply(&[batch(A, 4, vec![put("k", long, 4)]), batch(A, 5, vec![put("k", "5", 5)])]), "apply");
    same(&read(engine, A, b"k"), &Some(Record { seq: Seq(5), value: "5".into() }), "two batches of a keyspace");
    same(&done(engine.applied(A), "applied"), &id(5), "applied of the later batch");
    same(&engine.statistics().keyspaces.get(&A).map(|counts| counts.user_records), &Some(1), "records");
}

/// Values come back whole, whatever their length.
fn values_of_every_length(engine: &impl Engine) {
    let at = |index: usize| (index as u64 + 1, format!("key {index}"));
    for (index, length) in LENGTHS.into_iter().enumerate() {
        let (seq, name) = at(index);
        apply(engine, A, seq, vec![put(name, value(length, seq), seq)]);
    }
    for (index, length) in LENGTHS.into_iter().enumerate() {
        let (seq, name) = at(index);
        let expected = Some(Record { seq: Seq(seq), value: value(length, seq) });
        same(&read(engine, A, name.as_bytes()), &expected, &format!("a value of {length} bytes"));
    }
    same(&page(engine, A, None, 100, usize::MAX).len(), &LENGTHS.len(), "a scan over long values");
}

/// Nothing of a longer value shows through a shorter one, nor the other way round, nor after a delete.
fn long_by_short_by_long(engine: &impl Engine) {
    let mut seq = 0;
    for first in [0, 20_000, 40_000, 200_000] {
        for second in [Some(10), Some(20_000), Some(40_000), Some(200_001), None] {
            for third in [Some(5), Some(33_000), Some(1 << 20)] {
                for length in [Some(first), second, third] {
                    seq += 1;
                    let change = match length {
                        Some(length) => put("k", value(length, seq), seq),
                        None => delete("k", seq),
                    };
                    apply(engine, A, seq, vec![change]);
                    let expected = length.map(|length| Record { seq: Seq(seq), value: value(length, seq) });
                    same(&read(engine, A, b"k"), &expected, &format!("{first}, {second:?}, {third:?}"));
                }
            }
        }
    }
    let whole = page(engine, A, None, 10, usize::MAX);
    same(&names(&whole), &vec![&b"k"[..]], "a scan shows records only");
}

/// Names may hold any byte, be empty, be prefixes of each other, and be as long as the limit.
fn awkward_names(engine: &impl Engine) {
    let longest = vec![0xff; NAME_BYTES_MAX];
    let long = vec![0; NAME_BYTES_MAX - 1];
    let mut all: Vec<&[u8]> = vec![
        b"",
        b"\0",
        b"\0\0",
        b"\0\0\0\0\0",
        b"\0\xff",
        b"\x01",
        b"a",
        b"a\0",
        b"a\0\0\0\0",
        b"a\0\0\0\x01",
        b"a\0\xff",
        b"a\x01",
        b"aa",
        b"a\xff",
        b"a\xff\xff",
        b"b",
        b"\xfe\xff",
        b"\xff",
        b"\xff\0",
        b"\xff\xff\xff\xff\xff\xff",
    ];
    all.extend([&long[..], &longest[..]]);
    // Every second value is long, so that parts of values lie beside names that look like them.
    let written = |index: usize| value(if index.is_multiple_of(2) { 40_000 } else { 3 }, index as u64);
    let changes =
        all.iter().enumerate().map(|(index, name)| put(name.to_vec(), written(index), index as u64)).collect();
    apply(engine, A, 100, changes);
    for (index, name) in all.iter().enumerate() {
        let expected = Some(Record { seq: Seq(index as u64), value: written(index) });
        same(&read(engine, A, name), &expected, &format!("the name {}", name.escape_ascii()));
    }
    let mut sorted = all.clone();
    sorted.sort_unstable();
    same(&names(&page(engine, A, None, 100, usize::MAX)), &sorted, "the order of names");
    for (index, name) in sorted.iter().enumerate() {
        let rest = page(engine, A, Some(name), 100, usize::MAX);
        same(&names(&rest), &sorted[index + 1..].to_vec(), &format!("names after {}", name.escape_ascii()));
    }
    for index in (0..all.len()).step_by(2) {
        apply(engine, A, 101, vec![delete(all[index].to_vec(), 101)]);
    }
    for (index, name) in all.iter().enumerate() {
        same(&read(engine, A, name).is_some(), &(index % 2 == 1), "a delete takes its own record only");
    }
}

/// Pages keep to their limits, give at least one record, and together hold every record once.
fn pages(engine: &impl Engine) {
    let name = |index: u64| format!("{index:04}");
    apply(engine, A, 1, (0..500).map(|index| put(name(index), value(96, index), 1)).collect());
    same(&page(engine, A, None, 0, usize::MAX).len(), &0, "a page of no records");
    same(&page(engine, A, None, 7, usize::MAX).len(), &7, "a page limited in records");
    same(&page(engine, A, None, 100, 1000).len(), &10, "a page limited in bytes");
    same(&page(engine, A, None, 100, 0).len(), &1, "a page that a single record exceeds");
    let mut after: Option<Bytes> = None;
    let mut seen = Vec::new();
    loop {
        let next = page(engine, A, after.as_deref(), 33, 1500);
        let Some((last, _)) = next.last() else { break };
        after = Some(last.clone());
        seen.extend(next.iter().map(|(name, record)| (name.clone(), record.value.clone())));
    }
    let expected: Vec<_> = (0..500).map(|index| (Bytes::from(name(index)), value(96, index))).collect();
    same(&seen, &expected, "all pages together");
    same(&names(&page(engine, A, Some(b"0498x"), 10, 1000)), &vec![&b"0499"[..]], "after a name that is not there");
    same(&page(engine, A, Some(b"0499"), 10, 1000).len(), &0, "after the last name");
}

/// P5: a deletion takes one generation of one partition, and nothing of another.
fn generations_are_apart(engine: &impl Engine) {
    let all = [A, A2, B, LAST];
    for (index, keyspace) in all.into_iter().enumerate() {
        let seq = index as u64 + 1;
        let many = (0..700).map(|number| put(format!("{number}"), format!("{keyspace}"), seq));
        apply(engine, keyspace, seq, many.chain([put("long", value(100_000, seq), seq)]).collect());
    }
    same(&done(engine.keyspaces(), "keyspaces"), &all.to_vec(), "keyspaces");
    for (gone, keyspace) in all.into_iter().enumerate() {
        done(engine.delete(keyspace), "delete");
        same(&done(engine.keyspaces(), "keyspaces"), &all[gone + 1..].to_vec(), "keyspaces after a delete");
        same(&read(engine, keyspace, b"3"), &None, "a record of a deleted keyspace");
        same(&page(engine, keyspace, None, 10, 1000), &vec![], "a page of a deleted keyspace");
        same(&done(engine.applied(keyspace), "applied"), &EntryId::ZERO, "applied of a deleted keyspace");
        for (index, other) in all.into_iter().enumerate().skip(gone + 1) {
            let seq = index as u64 + 1;
            same(&done(engine.applied(other), "applied"), &id(seq), "applied of another keyspace");
            same(&page(engine, other, None, 1000, usize::MAX).len(), &701, "records of another keyspace");
            same(&read(engine, other, b"3").map(|r| r.value), &Some(format!("{other}").into()), "another's record");
            same(&read(engine, other, b"long").map(|r| r.value), &Some(value(100_000, seq)), "another's long record");
        }
    }
    apply(engine, A, 1, vec![put("k", "v", 1)]);
    same(&page(engine, A, None, 10, 1000).len(), &1, "nothing of an earlier life comes back");
}

/// A hidden record is not a user's, though both have one name; neither is scanned for the other.
fn kinds_are_apart(engine: &impl Engine) {
    let hidden = RecordKey { kind: RecordKind::Requests, name: "k".into() };
    let change = VersionedChange { key: hidden.clone(), value: Some(value(70_000, 9)), seq: Seq(2) };
    apply(engine, A, 2, vec![put("k", "user's", 1), change]);
    same(&read(engine, A, b"k").map(|r| r.value), &Some("user's".into()), "the user's record");
    same(&done(engine.get(A, &hidden), "get").map(|r| r.value), &Some(value(70_000, 9)), "the hidden record");
    same(&page(engine, A, None, 10, 1000).len(), &1, "users' records");
    let found = done(engine.scan(A, RecordKind::Requests, None, 10, 1000), "scan");
    same(&names(&found), &vec![&b"k"[..]], "hidden records");
    apply(engine, A, 3, vec![delete("k", 3)]);
    same(&done(engine.get(A, &hidden), "get").is_some(), &true, "the hidden record after the user's is gone");
}

/// What is over a limit is refused, and the rest of the call with it.
fn limits(engine: &impl Engine) {
    let refused = engine.apply(&[batch(A, 1, vec![put("k", "v", 1), put(vec![0; NAME_BYTES_MAX + 1], "", 1)])]);
    assert!(matches!(refused, Err(EngineError::TooLarge { keyspace: A, .. })), "a long name: {refused:?}");
    let too_long = Bytes::from(vec![0; crate::VALUE_BYTES_MAX + 1]);
    let refused = engine.apply(&[batch(A, 1, vec![put("k", too_long, 1)])]);
    assert!(matches!(refused, Err(EngineError::TooLarge { keyspace: A, .. })), "a long value: {refused:?}");
    same(&done(engine.keyspaces(), "keyspaces"), &vec![], "keyspaces after refused calls");
    same(&read(engine, A, &vec![b'k'; NAME_BYTES_MAX * 100]), &None, "a get of a name that can't be stored");
}

/// Counts are exact: users' records only, rewrites once, and none of what is deleted.
fn counts(engine: &impl Engine) {
    let hidden = RecordKey { kind: RecordKind::Requests, name: "hidden".into() };
    let hidden = VersionedChange { key: hidden, value: Some("v".into()), seq: Seq(1) };
    apply(engine, A, 1, vec![put("a", "123", 1), put("bb", value(40_000, 1), 1), hidden]);
    let counted = || engine.statistics().keyspaces.get(&A).copied();
    same(&counted(), &Some(KeyspaceStatistics { user_records: 2, user_bytes: 40_006 }), "puts");
    apply(engine, A, 2, vec![put("a", "1", 2), delete("bb", 2), delete("bb", 2), delete("cc", 2)]);
    same(&counted(), &Some(KeyspaceStatistics { user_records: 1, user_bytes: 2 }), "a rewrite and deletes");
    done(engine.delete(A), "delete");
    same(&counted(), &None, "a deleted keyspace");
}

/// P1: a reader sees a call's changes all or not at all, and never parts of two values.
fn readers_see_whole_batches(engine: &impl Engine) {
    const ROUNDS: u64 = 60;
    let lengths = [10, 70_000, 17_000];
    let write = |seq: u64| {
        let length = lengths[(seq % 3) as usize];
        apply(engine, A, seq, vec![put("first", value(length, seq), seq), put("second", value(length, seq), seq)]);
    };
    write(1);
    std::thread::scope(|scope| {
        scope.spawn(|| (2..=ROUNDS).for_each(write));
        let mut last = Seq(0);
        while last < Seq(ROUNDS) {
            let both = page(engine, A, None, 10, usize::MAX);
            same(&both.len(), &2, "records in a page");
            same(&both[0].1, &both[1].1, "two records that always change together");
            let Some(one) = read(engine, A, b"first") else { panic!("a record that is always there is not") };
            assert!(one.seq >= both[0].1.seq && both[0].1.seq >= last, "a reader went back in time");
            let length = lengths[(one.seq.0 % 3) as usize];
            same(&one.value, &value(length, one.seq.0), "a value read while it is rewritten");
            last = one.seq;
        }
    });
}
