//! Rules of the protocol switched off one at a time, to show that a test notices when one is missing.
//!
//! Only with the feature `mutants`, and only on the thread that asks for it. Without the feature every question here is
//! answered "no" when the program is built, and nothing is left of it. `tests/README.md` says which test catches which.

macro_rules! mutants {
    ($($(#[doc = $what:literal])+ $name:ident,)+) => {
        /// One rule that is broken by hand.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mutant {
            $($(#[doc = $what])+ $name,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Mutant] = &[$(Mutant::$name),+];

            /// What it does.
            pub fn what(self) -> &'static str {
                match self {
                    $(Mutant::$name => concat!($($what),+).trim_ascii(),)+
                }
            }
        }
    };
}

mutants! {
    /// `Prepared` leaves before the entries are on disk.
    P2Log,
    /// `Sealed` leaves before the promise is on disk.
    P2Promise,
    /// The primary counts its own vote before its entries are on disk.
    P2OwnVote,
    /// A replica that is out of service gets an empty record from any later view that names it.
    P3,
    /// No promise outlives the record, and a node without a record takes part like any other.
    P4Promise,
    /// A node without a record takes part like any other.
    P4Answers,
    /// A removed node promises the epoch of the view that removed it, not the term of its configuration.
    P4Epoch,
    /// A view older than the promise removes the record.
    P5Old,
    /// The prior of a configuration gives nobody a record.
    P5Prior,
    /// Data goes before the configuration that does not name the node is activated.
    P5Activated,
    /// A lower term than the promised one is obeyed.
    P7Promise,
    /// Entries are taken whatever the entry before them.
    P7Prev,
    /// A message that ends before the log does truncates it.
    P7Shorter,
    /// A primary ignores its own promise.
    P8,
    /// An entry commits with any one vote.
    P9Majority,
    /// Entries commit by counting while there is a prior.
    P9Prior,
    /// A learner's vote counts.
    P9Learner,
    /// The state is given what the own log does not have on disk.
    P9Durable,
    /// `committed` is not limited to the entries of the message.
    P10,
    /// An idle primary tells what is committed, and not what everybody has.
    P10Held,
    /// A term is taken over again by a start that has no memory of it.
    P11,
    /// Conditions are judged against what is committed, not against everything appended.
    P12Judged,
    /// An answer that changes nothing does not wait until what it saw is committed.
    P12Answered,
    /// A replica seals without raising its promise.
    P13,
    /// A takeover needs no majority of seals.
    P14,
    /// A takeover collects from the new members, not from those of the prior configuration.
    P14Prior,
    /// The longest log wins a takeover, not the one of the latest term.
    P15Longest,
    /// A takeover keeps the own log, whatever others sealed.
    P15Kept,
    /// `committed` of a `Sealed` is used before the log is adopted.
    P15Early,
    /// A fetch is answered whatever was promised since, with whatever the log is now.
    P15Fetch,
    /// Entries of earlier terms commit by counting, before the term's own empty entry.
    P16,
    /// A primary takes its own report for the activation.
    P16Activation,
    /// A read joins a round that was sent before it arrived.
    P17Round,
    /// Any `Prepared` that arrives confirms the reads that wait.
    P17Prepared,
    /// A read sees what is appended and not committed.
    P17Uncommitted,
    /// A page of the state is completed with an overlay that lacks what the state did not have when it was read.
    ScanStale,
    /// A page is read without a round.
    ScanRound,
    /// A watcher is shown what is appended and not committed.
    WatchUncommitted,
    /// A watcher goes on one entry too late.
    WatchLate,
    /// A watcher goes on one entry too early.
    WatchEarly,
    /// A watcher goes on where the log begins, whatever is missing before.
    WatchTrimmed,
    /// A key whose time was over is deleted though it was written again since.
    ExpiryVersion,
    /// A key's time begins before its put is committed.
    ExpiryEarly,
    /// A key is gone for readers once its end is proposed, and may come back.
    ExpirySeen,
    /// Who takes over does not ask which keys expire.
    ExpiryTakeover,
    /// A snapshot's swap drops the log beyond it.
    P23Beyond,
    /// A snapshot of what is committed here already is installed.
    P23Committed,
    /// A snapshot is swapped in before its last part is installed.
    P23Early,
    /// A late answer to a snapshot's part begins the snapshot anew.
    P23Late,
    /// A retried request is carried out again.
    P28Retry,
    /// A participant's locks bind only once their entry is committed.
    P22Append,
    /// Readers do not look at locks.
    P22Reads,
    /// A page shows keys that are locked.
    P22Scan,
    /// A newer fencing token is used while writes with an older one are under way.
    FenceHeld,
    /// A vote counts for whatever attempt has the same number in the present term.
    P24,
    /// A participant says yes before its locks are committed.
    P25Early,
    /// A participant locks what another attempt has locked.
    P25Locks,
    /// Participants hear of a decision before it is committed.
    P26Early,
    /// A participant acknowledges before what it was to write is committed.
    P26Done,
    /// A decision is carried out whatever was prepared.
    P26Named,
    /// A transaction that only reads lets its participants go before what it saw is committed.
    P26Reads,
    /// A home answers for attempts of terms that it does not know.
    P27,
    /// A home calls an attempt aborted that it may still decide.
    P27Open,
    /// A new primary begins without the locks of its participants' attempts.
    P16Locks,
    /// A request whose time is forgotten is carried out.
    P28Stamp,
    /// A write with an older token than the newest is carried out.
    FenceOlder,
    /// Tokens are judged against what is committed, not against everything appended.
    FenceAppended,
    /// Who takes over knows no token that was used before.
    FenceTakeover,
    /// A snapshot leaves the tokens out.
    FenceSnapshot,
    /// A deposed primary calls what it had sent *not done*.
    P29,
}

#[cfg(feature = "mutants")]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Mutant>> = std::cell::Cell::new(from_environment());
}

/// What the environment breaks on every thread that breaks nothing else: `RINGLEADER_MUTANT=replcore::P8`.
#[cfg(feature = "mutants")]
fn from_environment() -> Option<Mutant> {
    static BROKEN: std::sync::OnceLock<Option<Mutant>> = std::sync::OnceLock::new();
    *BROKEN.get_or_init(|| {
        let text = std::env::var("RINGLEADER_MUTANT").ok()?;
        let name = text.strip_prefix("replcore::")?;
        Mutant::ALL.iter().copied().find(|mutant| format!("{mutant:?}") == name)
    })
}

/// Breaks one rule, or none, on this thread.
#[cfg(feature = "mutants")]
pub fn set(mutant: Option<Mutant>) {
    BROKEN.set(mutant);
}

/// Whether this rule is broken.
#[cfg(feature = "mutants")]
pub(crate) fn on(mutant: Mutant) -> bool {
    BROKEN.get() == Some(mutant)
}

/// Whether this rule is broken: never.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn on(_: Mutant) -> bool {
    false
}
