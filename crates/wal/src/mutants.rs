//! This crate's rules that can be switched off by hand; see `tests/catalogue`.

types::mutants! {
    "wal",
    /// A record is acknowledged before its sync.
    UnsyncedAcknowledged,
    /// A failed sync is tried once more, and believed.
    SyncRetried,
    /// After a failure the log goes on.
    FailureForgotten,
    /// What the page cache shows at start counts as on disk.
    CacheBelieved,
    /// Damage in the middle is cut like a torn tail.
    DamageCut,
    /// A frame is delivered whatever its checksum.
    ChecksumIgnored,
    /// A new file's name is not synced.
    DirectoryUnsynced,
    /// Segments go before what releases them is on disk.
    ReleasedEarly,
}
