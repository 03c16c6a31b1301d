//! Every engine does what [`engine::conformance`] asks.

use engine::{FaultyEngine, MemoryEngine, SledEngine, SledOptions};
use std::sync::{Mutex, PoisonError};

/// All stores of a process share sled's threads, which may wait for each other where many write at once: a server has one.
static ONE_STORE: Mutex<()> = Mutex::new(());

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
    let _alone = ONE_STORE.lock().unwrap_or_else(PoisonError::into_inner);
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
    let _alone = ONE_STORE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = tempfile::tempdir().unwrap();
    let mut number = 0;
    engine::conformance::check(|| {
        number += 1;
        let options = SledOptions { cache_bytes: 64 << 10 };
        SledEngine::open(&directory.path().join(number.to_string()), &options).unwrap()
    });
}
