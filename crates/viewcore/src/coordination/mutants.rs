//! Rules of leases and locks switched off one at a time, to show that a test notices when one is missing.
//!
//! Only with the feature `mutants`, and only on the thread that asks for it, or in a process whose environment does. Without
//! the feature every question here is answered "no" when the program is built, and nothing is left of it.

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
    /// An expiry ends a lease whatever renewal it saw.
    P21Renewal,
    /// A new leader counts leases from before its election.
    P21Election,
    /// Anybody's release frees a lock.
    ReleaseByAnybody,
    /// After a restore tokens go on from those that are held.
    TokensRestored,
    /// A claim that was given up, or released, is made again by a copy that comes late.
    LateClaim,
    /// A lock goes to who came last.
    Unfair,
    /// A lease that ends leaves its locks held.
    LeaseEnds,
}

#[cfg(feature = "mutants")]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Mutant>> = std::cell::Cell::new(from_environment());
}

/// What the environment breaks on every thread that breaks nothing else: `RINGLEADER_MUTANT=viewcore::coordination::Unfair`.
#[cfg(feature = "mutants")]
fn from_environment() -> Option<Mutant> {
    let text = std::env::var("RINGLEADER_MUTANT").ok()?;
    let name = text.strip_prefix("viewcore::coordination::")?;
    Mutant::ALL.iter().copied().find(|mutant| format!("{mutant:?}") == name)
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
