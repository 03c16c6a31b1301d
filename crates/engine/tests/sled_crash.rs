//! P1 across crashes: what a store holds when it is opened again is what was applied through some entry, whole, and not
//! behind the last checkpoint.

#![allow(clippy::unwrap_used)]

mod shared;

use bytes::Bytes;
use engine::{ApplyBatch, Engine, EngineError, Keyspace, SledEngine, SledOptions, VersionedChange};
use shared::copy;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use types::{EntryId, Generation, PartitionId, Record, RecordKey, RecordKind, Seq, Term};

const KEYSPACES: [Keyspace; 2] = [keyspace(1, 1), keyspace(9, 3)];

const fn keyspace(partition: u32, generation: u64) -> Keyspace {
    Keyspace { partition: PartitionId(partition), generation: Generation(generation) }
}

/// A generation that lives for ten entries and is then deleted.
fn short_lived(seq: u64) -> Keyspace {
    keyspace(4, seq / 10)
}

fn open(directory: &Path) -> Result<SledEngine, EngineError> {
    SledEngine::open(directory, &SledOptions { cache_bytes: 4 << 20 })
}

fn id(seq: u64) -> EntryId {
    EntryId { term: Term(1), seq: Seq(seq) }
}

/// The same numbers for the same seed, well mixed.
fn mixed(seed: u64) -> u64 {
    let mut number = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Entry `seq` of every keyspace's log: some twenty changes, long and short, puts and deletes.
fn batches(seq: u64) -> Vec<ApplyBatch> {
    let changes = |of: Keyspace| {
        let change = |number: u64| {
            let drawn = mixed(seq << 16 | u64::from(of.partition.0) << 8 | number);
            let length = match drawn % 40 {
                0 => 70_000,
                1 => 16 << 10,
                _ => drawn as usize >> 20 & 0x7ff,
            };
            let value = (drawn >> 40 & 7 != 0).then(|| Bytes::from(vec![drawn as u8; length]));
            let name = Bytes::from(format!("key {}", drawn >> 8 & 0x1ff));
            VersionedChange { key: RecordKey::user(name), value, seq: Seq(seq) }
        };
        (0..20).map(change).collect()
    };
    let keyspaces = KEYSPACES.into_iter().chain([short_lived(seq)]);
    keyspaces.map(|keyspace| ApplyBatch { keyspace, through: id(seq), changes: changes(keyspace) }).collect()
}

/// Applies entry `seq` as a server would, and deletes the generation that it ends.
fn step(engine: &SledEngine, seq: u64) {
    engine.apply(&batches(seq)).unwrap();
    if seq % 10 == 9 {
        engine.delete(short_lived(seq)).unwrap();
    }
}

/// Compares all that the store holds with what the entries make; how far they are applied.
fn verify(engine: &SledEngine) -> Result<u64, String> {
    compare(engine, true)
}

fn compare(engine: &SledEngine, deletions: bool) -> Result<u64, String> {
    let applied = engine.applied(KEYSPACES[0]).map_err(|e| e.to_string())?.seq.0;
    let mut expected: BTreeMap<Keyspace, BTreeMap<Bytes, Record>> = BTreeMap::new();
    for seq in 1..=applied {
        for batch in batches(seq) {
            let records = expected.entry(batch.keyspace).or_default();
            for change in batch.changes {
                match change.value {
                    Some(value) => records.insert(change.key.name, Record { seq: change.seq, value }),
                    None => records.remove(&change.key.name),
                };
            }
        }
        if deletions && seq % 10 == 9 && seq < applied {
            expected.remove(&short_lived(seq));
        }
    }
    // The last deletion may have begun, be over, or neither.
    let in_doubt = (deletions && applied % 10 == 9).then(|| short_lived(applied));
    for keyspace in engine.keyspaces().map_err(|e| e.to_string())? {
        if !expected.contains_key(&keyspace) {
            return Err(format!("applied {applied}: {keyspace} should not exist"));
        }
    }
    for (keyspace, records) in &expected {
        let page = engine.scan(*keyspace, RecordKind::User, None, usize::MAX, usize::MAX).map_err(|e| e.to_string())?;
        if page.is_empty() && in_doubt == Some(*keyspace) {
            continue;
        }
        let at = engine.applied(*keyspace).map_err(|e| e.to_string())?;
        if !page.iter().map(|(n, r)| (n, r)).eq(records) {
            return Err(format!("applied {applied}: {keyspace}, itself at {at:?}, holds something else"));
        }
        for (name, record) in records {
            let found = engine.get(*keyspace, &RecordKey::user(name.clone())).map_err(|e| e.to_string())?;
            if found.as_ref() != Some(record) {
                return Err(format!("applied {applied}: {keyspace} {name:?} is something else"));
            }
        }
        let counted = engine.statistics().keyspaces.get(keyspace).map(|counts| counts.user_records);
        if counted != Some(records.len() as u64) {
            return Err(format!("applied {applied}: {keyspace} counts {counted:?}, holds {}", records.len()));
        }
    }
    Ok(applied)
}

fn rounds(default: u64) -> u64 {
    std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(default)
}

/// Not a test: the process that the next one kills. Says what it has done, line by line.
#[test]
#[ignore = "runs for ever; started by a_killed_process_leaves_a_prefix"]
fn writes_until_killed() {
    let Some(directory) = std::env::var_os("ENGINE_CRASH_DIRECTORY") else { return };
    let engine = open(Path::new(&directory)).unwrap();
    let mut out = std::io::stdout();
    let applied = engine.applied(KEYSPACES[0]).unwrap().seq.0;
    if applied % 10 == 9 {
        engine.delete(short_lived(applied)).unwrap();
    }
    for seq in applied + 1.. {
        step(&engine, seq);
        writeln!(out, "applied {seq}").unwrap();
        if seq % 25 == 0 {
            engine.checkpoint().unwrap();
            writeln!(out, "durable {seq}").unwrap();
        }
    }
}

/// Guards against a batch that is half there after SIGKILL, a checkpoint that was none, and a store that does not open.
#[test]
fn a_killed_process_leaves_a_prefix() {
    let directory = tempfile::tempdir().unwrap();
    let mut durable = 0;
    for round in 0..rounds(6) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["writes_until_killed", "--exact", "--ignored", "--nocapture"])
            .env("ENGINE_CRASH_DIRECTORY", directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left = mixed(round) % 120;
        for line in lines.map_while(Result::ok) {
            if let Some(seq) = line.strip_prefix("durable ") {
                durable = seq.parse().unwrap();
            }
            left = left.saturating_sub(1);
            if left == 0 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let engine = open(directory.path()).unwrap_or_else(|error| panic!("round {round}: {error}"));
        let applied = verify(&engine).unwrap_or_else(|wrong| panic!("round {round}: {wrong}"));
        assert!(applied >= durable, "round {round}: applied {applied}, durable {durable}");
    }
}

/// Not a test: a process that may write files of a few megabytes only. Says what was durable before that was too little.
#[test]
#[ignore = "started by a_full_disk_ends_in_an_error_and_loses_nothing"]
fn writes_until_refused() {
    let Some(directory) = std::env::var_os("ENGINE_CRASH_DIRECTORY") else { return };
    let engine = open(Path::new(&directory)).unwrap();
    let mut out = std::io::stdout();
    let refused = (1..).find_map(|seq| {
        if let Err(error) = engine.apply(&batches(seq)) {
            return Some(error);
        }
        if seq % 5 == 0 {
            if let Err(error) = engine.checkpoint() {
                return Some(error);
            }
            writeln!(out, "durable {seq}").unwrap();
        }
        None
    });
    assert!(matches!(refused, Some(EngineError::Io { .. })), "{refused:?}");
    // P2: after that nothing is answered, and nothing tried again.
    assert!(matches!(engine.apply(&batches(1)), Err(EngineError::Io { .. })));
    assert!(matches!(engine.checkpoint(), Err(EngineError::Io { .. })));
    assert!(matches!(engine.applied(KEYSPACES[0]), Err(EngineError::Io { .. })));
    writeln!(out, "refused").unwrap();
}

/// Guards against a write that fails unnoticed, or that is waited for without end, and against a store that a full disk
/// leaves unreadable. The shell lets the write fail instead of ending the process.
#[test]
fn a_full_disk_ends_in_an_error_and_loses_nothing() {
    for blocks in [9_000, 14_000, 20_500] {
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new("sh")
            .args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args(["writes_until_refused", "--exact", "--ignored", "--nocapture"])
            .env("ENGINE_CRASH_DIRECTORY", directory.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("refused\n"), "{said} {}", String::from_utf8_lossy(&output.stderr));
        let durable = said.lines().filter_map(|line| line.strip_prefix("durable ")?.parse::<u64>().ok()).max();
        let engine = open(directory.path()).unwrap();
        let applied = compare(&engine, false).unwrap();
        assert!(applied >= durable.unwrap_or(0), "applied {applied}, durable {durable:?}");
    }
}

/// Guards against trust in what no sync made durable: of the file's blocks that changed after the checkpoint a power
/// failure keeps any.
#[test]
fn a_power_failure_leaves_a_prefix_or_is_noticed() {
    const BLOCK_BYTES: usize = 4096;
    let directory = tempfile::tempdir().unwrap();
    let [live, at_checkpoint, tried] = ["live", "checkpoint", "tried"].map(|name| directory.path().join(name));
    let engine = open(&live).unwrap();
    let mut seq = 0;
    let (mut refused, mut beyond) = (0, 0);
    for round in 0..rounds(6) {
        for _ in 0..40 {
            seq += 1;
            step(&engine, seq);
        }
        engine.checkpoint().unwrap();
        let durable = seq;
        copy(&live, &at_checkpoint);
        for _ in 0..mixed(round) % 60 {
            seq += 1;
            step(&engine, seq);
        }
        let before = fs::read(at_checkpoint.join("sled/db")).unwrap();
        let after = fs::read(live.join("sled/db")).unwrap();
        for choice in 0..8 {
            copy(&at_checkpoint, &tried);
            let file = File::options().write(true).open(tried.join("sled/db")).unwrap();
            let keep_of_eight = mixed(round << 8 | choice) % 9;
            for (index, block) in after.chunks(BLOCK_BYTES).enumerate() {
                let at = index * BLOCK_BYTES;
                if before.get(at..at + block.len()) != Some(block)
                    && mixed(round << 40 | choice << 32 | index as u64) % 8 < keep_of_eight
                {
                    file.write_all_at(block, at as u64).unwrap();
                }
            }
            match open(&tried) {
                Ok(engine) => {
                    let applied = verify(&engine).unwrap_or_else(|wrong| panic!("round {round} {choice}: {wrong}"));
                    assert!(applied >= durable, "round {round}: applied {applied}, durable {durable}");
                    beyond += applied - durable;
                }
                Err(EngineError::Corrupt { .. }) => refused += 1,
                Err(other) => panic!("round {round} {choice}: {other}"),
            }
        }
    }
    println!("refused {refused}, entries kept beyond checkpoints {beyond}");
}
