//! This crate's rules that can be switched off by hand; see `tests/catalogue`.

types::mutants! {
    "viewleader",
    /// A vote is given before it is on disk.
    VoteUnsynced,
    /// Entries are acknowledged before they are on disk.
    EntriesUnsynced,
    /// Who hears no leader stands for election without asking first whether anybody would vote for it.
    ElectionUnasked,
    /// The vote goes with the entries that are purged.
    VotePurged,
    /// A member starts without the vote that it gave.
    VoteForgotten,
    /// A snapshot is made without the leases and locks.
    LeasesLeftOut,
    /// Who believes to lead answers for the group without asking whether it still does.
    ReadUnconfirmed,
}
