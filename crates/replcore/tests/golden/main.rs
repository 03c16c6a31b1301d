//! The golden scripts: what the core does, as text that a person can read and judge.
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p replcore --test golden` writes the traces anew; read what changed before you keep
//! it. What `scripts/` holds, and which rule each script stands for, is in `tests/README.md`.

mod bench;
mod broken;

use bench::Bench;

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        /// Each script's name and content.
        pub(crate) const SCRIPTS: &[(&str, &str)] =
            &[$((stringify!($name), include_str!(concat!("../scripts/", stringify!($name))))),*];

        $(
            /// Guards against any change in what the core does here that nobody meant.
            #[test]
            fn $name() -> std::io::Result<()> {
                goldenscript::run(&mut Bench::default(), concat!("tests/scripts/", stringify!($name)))
            }
        )*
    };
}

scripts![
    bounds,
    damage,
    expiry,
    fence,
    forget,
    held,
    learner,
    mismatch,
    read,
    restart,
    retry,
    rule_02,
    rule_04,
    rule_05,
    rule_07,
    rule_09,
    rule_14,
    rule_16,
    rule_23,
    scan,
    scenario_01,
    scenario_02,
    scenario_03,
    scenario_04,
    scenario_05,
    scenario_06,
    scenario_07,
    scenario_08_commits,
    scenario_08_late,
    scenario_08_locks,
    scenario_08_moves,
    scenario_09,
    scenario_10,
    scenario_11,
    scenario_12,
    scenario_13,
    scenario_14,
    scenario_16,
    snapshot,
    snapshot_late,
    snapshot_parts,
    taken_back,
    takeover,
    takeover_streams,
    takeover_conflict,
    transaction,
    transaction_fence,
    transaction_waits,
    watch,
    write,
];
