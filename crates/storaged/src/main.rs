//! The storage node's process.

fn main() -> std::process::ExitCode {
    storaged::cli::main(std::env::args_os())
}
