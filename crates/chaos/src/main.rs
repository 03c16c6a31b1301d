//! The command line. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    chaos::main(std::env::args_os().collect())
}
