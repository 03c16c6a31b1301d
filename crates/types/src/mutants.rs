//! Rules switched off one at a time, to show that a test notices when one is missing.
//!
//! A crate that names its rules with [`mutants!`](crate::mutants!) gets a function `on(Mutant::…) -> bool` to ask at the
//! line that keeps each of them. With that crate's feature `mutants` the environment says which rule is broken, for the
//! life of the process: `RINGLEADER_MUTANT=wal::SyncRetried`. Without the feature every question is answered "no" when the
//! program is built, and nothing is left of it; no server is ever built with it. `tests/catalogue` has all of them.

/// Names a crate's rules that can be switched off: `mutants! { "wal", /// What it does. \n Name, … }`.
#[macro_export]
macro_rules! mutants {
    ($package:literal, $($(#[doc = $what:literal])+ $name:ident,)+) => {
        /// One rule that is broken by hand.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Mutant {
            $($(#[doc = $what])+ $name,)+
        }

        /// Whether this rule is broken.
        #[cfg(feature = "mutants")]
        pub(crate) fn on(mutant: Mutant) -> bool {
            static BROKEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
            let broken = BROKEN.get_or_init(|| std::env::var("RINGLEADER_MUTANT").ok());
            let name = broken.as_deref().and_then(|broken| broken.strip_prefix(concat!($package, "::")));
            name == Some(match mutant {
                $(Mutant::$name => stringify!($name),)+
            })
        }

        /// Whether this rule is broken: never.
        #[cfg(not(feature = "mutants"))]
        pub(crate) const fn on(_: Mutant) -> bool {
            false
        }
    };
}
