//! `dhtctl` as the tests start it. A program of this package, because Cargo builds a package's own programs before its
//! tests, with the features that everything else here has.

use std::process::ExitCode;

fn main() -> ExitCode {
    dhtctl::main(std::env::args_os().collect())
}
