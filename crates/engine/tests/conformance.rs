//! Every engine does what [`engine::conformance`] asks.

use engine::{FaultyEngine, MemoryEngine, SledEngine, SledOptions};

#[test]
fn memory() {
    engine::conformance::check(MemoryEngine::new);
}

#[test]
fn faulty_while_it_does_not_fail() {
    engine::conformance::check(|| FaultyEngine::new(MemoryEngine::new()));
}

#[test]
fn sled() {
    let directory = tempfile::tempdir().unwrap();
    let mut number = 0;
    engine::conformance::check(|| {
        number += 1;
        SledEngine::open(&directory.path().join(number.to_string()), &SledOptions::default()).unwrap()
    });
}

/// Guards against faults that show only when pages are read back from disk.
#[test]
fn sled_almost_without_a_cache() {
    let directory = tempfile::tempdir().unwrap();
    let mut number = 0;
    engine::conformance::check(|| {
        number += 1;
        let options = SledOptions { cache_bytes: 64 << 10 };
        SledEngine::open(&directory.path().join(number.to_string()), &options).unwrap()
    });
}
