//! The command line. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    dhtctl::main(std::env::args_os().collect())
}
