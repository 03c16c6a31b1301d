//! This crate's rules that can be switched off by hand; see `tests/catalogue`.

types::mutants! {
    "client",
    /// Each attempt has an id of its own.
    P28NewId,
    /// Two requests share an id.
    P28SameId,
    /// A retry of what may have happened gets a new stamp.
    P28Restamped,
    /// A write that got no answer is called not done.
    P29TimeoutFailed,
    /// A retry's failed condition is believed, though the first attempt may have made it fail.
    P29Condition,
    /// A watch begins anew at the next primary, with what is committed there by then.
    WatchFromNow,
    /// A watch takes what does not go on at its cursor.
    WatchCursor,
    /// A change that the page at the beginning has is told again.
    WatchWindow,
}
