//! Settings: every long flag `--some-name` has the environment twin `DHT_SOME_NAME` and the TOML twin `some_name`.
//!
//! A program declares a clap struct with plain `#[arg(long)]` flags and flattens [`CommonFlags`] into it; the twins are
//! added here, so that none is forgotten. A flag beats the environment, the environment beats the file, the file beats
//! the default. A file is a flat table; a key that is no flag is an error, because a setting that silently does nothing
//! is worse than a process that does not start.

use crate::Error;
use crate::exit::{Exit, Failure};
use crate::logging::LogFormat;
use clap::{ArgAction, Command, CommandFactory, Parser};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Flags that every server has.
#[derive(Clone, Debug, clap::Args)]
pub struct CommonFlags {
    /// TOML file with settings: flags in snake_case; flags and DHT_… variables win over it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to log, as RUST_LOG has it (info, debug, storaged=trace,…).
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Allow addresses that other machines can reach, without TLS.
    #[arg(long)]
    pub insecure: bool,
    /// End when standard input ends: a parent that holds a pipe to it takes this process with it.
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

impl CommonFlags {
    /// Starts logging as the flags say.
    ///
    /// # Errors
    /// [`Error::LogFilter`].
    pub fn init_logging(&self) -> Result<(), Error> {
        crate::logging::init(self.log.as_deref(), self.log_format)
    }
}

/// The settings of program `P` from its arguments (the program's name first), the environment and the file.
///
/// # Errors
/// A [`Failure`] to end the process with. After --help and --version, which have been printed, it is [`Exit::Done`]
/// without a message.
pub fn parse<P: Parser>(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<P, Failure> {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let mut command = with_environment_twins(P::command());
    if let Some(file) = settings_file(&command, &arguments) {
        command = with_file_defaults(command, &file)?;
    }
    let matches = command.try_get_matches_from_mut(&arguments).map_err(|error| stop(&error))?;
    P::from_arg_matches(&matches).map_err(|error| stop(&error.format(&mut command)))
}

/// A value parser for durations such as `10s` or `500ms`.
///
/// # Errors
/// One line for a person.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 500ms, 10s or 5m"))
}

/// A value parser for sizes such as `64MiB`, in bytes.
///
/// # Errors
/// One line for a person.
pub fn size_bytes(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|error| format!("{error}; write it as 4096, 512KiB or 64MiB"))
}

fn stop(error: &clap::Error) -> Failure {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    match error.kind() {
        DisplayHelp | DisplayVersion => match error.print() {
            Ok(()) => Failure::new(Exit::Done, ""),
            Err(error) => Failure::new(Exit::Unavailable, format!("cannot print: {error}")),
        },
        DisplayHelpOnMissingArgumentOrSubcommand => match error.print() {
            Ok(()) => Failure::usage(""),
            Err(error) => Failure::new(Exit::Unavailable, format!("cannot print: {error}")),
        },
        _ => {
            // clap's text begins "error: " and ends with usage lines; the first paragraph is the error.
            let text = error.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let paragraph = text.split("\n\nUsage:").next().unwrap_or(text);
            let paragraph = paragraph.split("\n\nFor more information").next().unwrap_or(paragraph);
            Failure::usage(format!("{}; --help lists the flags", crate::exit::one_line(paragraph)))
        }
    }
}

/// `--some-name` gets `DHT_SOME_NAME`, unless it names a variable itself.
fn with_environment_twins(command: Command) -> Command {
    command.mut_args(|arg| match arg.get_long() {
        Some(long) if arg.get_env().is_none() => {
            let variable = format!("DHT_{}", long.to_uppercase().replace('-', "_"));
            // A switch's variable is often set to 1.
            let arg = match arg.get_action() {
                ArgAction::SetTrue => arg.value_parser(clap::builder::BoolishValueParser::new()),
                _ => arg,
            };
            arg.env(variable)
        }
        _ => arg,
    })
}

/// The file that --config or DHT_CONFIG names, before anything else is known to be right.
fn settings_file(command: &Command, arguments: &[OsString]) -> Option<PathBuf> {
    if !command.get_arguments().any(|arg| arg.get_id() == "config") {
        return None;
    }
    let lenient = command.clone().ignore_errors(true).disable_help_flag(true).disable_version_flag(true);
    let matches = lenient.try_get_matches_from(arguments).ok()?;
    matches.get_one::<PathBuf>("config").cloned()
}

fn with_file_defaults(mut command: Command, path: &Path) -> Result<Command, Error> {
    let text =
        std::fs::read_to_string(path).map_err(|source| Error::SettingsUnreadable { path: path.to_owned(), source })?;
    let malformed = |reason: String| Error::SettingsMalformed { path: path.to_owned(), reason };
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| malformed(crate::exit::one_line(&error.to_string())))?;
    let known: Vec<(String, clap::Id)> = command
        .get_arguments()
        .filter(|arg| arg.get_id() != "config")
        .filter_map(|arg| Some((arg.get_long()?.replace('-', "_"), arg.get_id().clone())))
        .collect();
    for (key, value) in table {
        let Some((_, id)) = known.iter().find(|(name, _)| *name == key) else {
            let hint = nearest(&key, known.iter().map(|(name, _)| name.as_str()));
            return Err(Error::SettingsUnknownKey { path: path.to_owned(), key, hint });
        };
        let values = values_of(&key, &value).map_err(malformed)?;
        // A lower precedence than the environment, and no longer required: what a default is.
        command = command.mut_arg(id, |arg| arg.required(false).default_values(values));
    }
    Ok(command)
}

fn values_of(key: &str, value: &toml::Value) -> Result<Vec<String>, String> {
    match value {
        toml::Value::String(text) => Ok(vec![text.clone()]),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => Ok(vec![value.to_string()]),
        toml::Value::Array(items) => {
            let nested = items.iter().map(|item| values_of(key, item)).collect::<Result<Vec<_>, _>>()?;
            Ok(nested.concat())
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => {
            Err(format!("`{key}` must be a text, a number, true, false or a list of them"))
        }
    }
}

fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    let best = known.map(|name| (edit_distance(key, name), name)).min();
    match best {
        Some((distance, name)) if distance <= key.len().max(name.len()) / 2 => format!("did you mean `{name}`?"),
        _ => "--help lists the flags that may stand there in snake_case".to_owned(),
    }
}

/// Levenshtein's distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The clap command of `P` as [`parse`] sees it, for help pages and completions.
pub fn command_of<P: CommandFactory>() -> Command {
    with_environment_twins(P::command())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "thing", version)]
    struct Thing {
        #[command(flatten)]
        common: CommonFlags,
        #[arg(long, value_delimiter = ',', required = true)]
        leaders: Vec<String>,
        #[arg(long, value_parser = duration, default_value = "10s", env = "THING_TEST_PAUSE")]
        pause: Duration,
        #[arg(long, value_parser = size_bytes, default_value = "64MiB")]
        segment_bytes: u64,
    }

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("thing.toml");
        std::fs::write(&path, text).unwrap();
        (directory, path.display().to_string())
    }

    fn parsed(arguments: &[&str]) -> Result<Thing, Failure> {
        parse(std::iter::once(&"thing").chain(arguments))
    }

    /// Guards against a file that beats a flag, or a default that beats the file.
    #[test]
    fn flags_beat_the_file_and_the_file_beats_the_default() {
        let (_kept, path) =
            file("leaders = [\"a:1\", \"b:2\"]\nsegment_bytes = \"1MiB\"\npause = \"2s\"\ninsecure = true\n");
        let thing = parsed(&["--config", &path, "--pause", "3s"]).unwrap();
        assert_eq!(thing.leaders, ["a:1", "b:2"]);
        assert_eq!(thing.segment_bytes, 1 << 20);
        assert_eq!(thing.pause, Duration::from_secs(3));
        assert!(thing.common.insecure);
        let thing = parsed(&["--config", &path, "--leaders=c:3"]).unwrap();
        assert_eq!((thing.leaders, thing.pause), (vec!["c:3".to_owned()], Duration::from_secs(2)));
    }

    /// Guards against a misspelt setting that silently does nothing.
    #[test]
    fn an_unknown_key_is_named_with_the_nearest() {
        let (_kept, path) = file("leader = \"a:1\"\n");
        let failure = parsed(&["--config", &path]).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("`leader`"), "{failure}");
        assert!(failure.message.contains("did you mean `leaders`?"), "{failure}");
    }

    /// Guards against errors of more than one line, and against nested tables that are ignored.
    #[test]
    fn what_is_wrong_with_a_file_is_one_line() {
        for text in ["leaders = ", "[leaders]\na = 1\n", "pause = \"soon\"\nleaders = \"a:1\"\n"] {
            let (_kept, path) = file(text);
            let failure = parsed(&["--config", &path]).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{text}");
            assert_eq!(failure.message.lines().count(), 1, "{failure}");
        }
        assert_eq!(parsed(&["--config", "/nowhere/at/all"]).unwrap_err().exit, Exit::Usage);
    }

    /// Guards against a flag that was given no environment twin.
    #[test]
    fn every_flag_has_an_environment_twin() {
        for arg in command_of::<Thing>().get_arguments() {
            let long = arg.get_long().unwrap();
            let variable = arg.get_env().unwrap_or_else(|| panic!("--{long} has none"));
            let expected = format!("DHT_{}", long.to_uppercase().replace('-', "_"));
            assert!(variable == "THING_TEST_PAUSE" || variable == expected.as_str(), "{variable:?}");
        }
    }

    /// Guards against clap's several lines on stderr, and against a missing flag that is not named.
    #[test]
    fn usage_errors_are_one_line() {
        let failure = parsed(&[]).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("--leaders") && !failure.message.contains('\n'), "{failure}");
        let failure = parsed(&["--leaders=a:1", "--pause", "soon"]).unwrap_err();
        assert!(failure.message.contains("--pause") && !failure.message.contains('\n'), "{failure}");
    }
}
