//! This crate's rules that can be switched off by hand; see `tests/catalogue`.

types::mutants! {
    "viewleader",
    /// A vote is given before it is on disk.
    VoteUnsynced,
    /// Entries are acknowledged before they are on disk.
    EntriesUnsynced,
    /// The vote goes with the entries that are purged.
    VotePurged,
}
