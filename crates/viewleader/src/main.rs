//! The viewleader's process.

fn main() -> std::process::ExitCode {
    viewleader::cli::main(std::env::args_os())
}
