//! `completion`: a script that teaches a shell the commands and flags.

use crate::cli::Cli;
use crate::output;
use clap::Args;
use clap_complete::Shell;
use daemon::{Exit, Failure};

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct CompletionFlags {
    /// Which shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn print(flags: &CompletionFlags) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut daemon::settings::command_of::<Cli>(), "dhtctl", &mut script);
    output::write(&script)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    /// Guards against a shell whose generator panics on our flags.
    #[test]
    fn every_shell_has_a_script() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut daemon::settings::command_of::<Cli>(), "dhtctl", &mut script);
            assert!(String::from_utf8(script).unwrap().contains("query_servers"), "{shell}");
        }
    }
}
