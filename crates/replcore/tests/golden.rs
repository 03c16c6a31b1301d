//! The golden scripts: what the core does, as text that a person can read and judge.
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p replcore --test golden` writes the traces anew; read what changed before you keep
//! it. What `scripts/` holds, and which rule each script stands for, is in README.md beside this file.

mod bench;

use bench::Bench;

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        $(
            /// Guards against any change in what the core does here that nobody meant.
            #[test]
            fn $name() -> std::io::Result<()> {
                goldenscript::run(&mut Bench::default(), concat!("tests/scripts/", stringify!($name)))
            }
        )*
    };
}

scripts![write];
