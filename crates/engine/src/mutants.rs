//! This crate's rules that can be switched off by hand; see `tests/catalogue`.

types::mutants! {
    "engine",
    /// `applied` is not written with the changes that it counts.
    P1Applied,
    /// `applied` may fall.
    P1Backwards,
    /// A record is served whatever its checksum.
    P3Checksum,
    /// A deletion takes every generation of the partition.
    P5Generations,
}
