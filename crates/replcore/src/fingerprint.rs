//! Hashing what holds hash tables, whatever the order in which those were filled.
//!
//! A replica's hash stands for everything that decides what it does next: who explores worlds to the end
//! (`crates/model`) knows by it where it has been. What is left out of a hash follows from what is in it.

use rustc_hash::FxHashMap;
use std::hash::{Hash, Hasher};

/// Hashes a table's entries in the order of its keys.
pub(crate) fn hash_table<K: Hash + Ord, V: Hash, H: Hasher>(table: &FxHashMap<K, V>, hasher: &mut H) {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries.hash(hasher);
}
