//! Logs: to stderr, as text for people or JSON for machines.

use crate::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line each.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging for this process. `filter` is what --log said; without it RUST_LOG decides, else `info`.
///
/// A second call in one process (tests) changes nothing.
///
/// # Errors
/// [`Error::LogFilter`] for a filter that does not parse.
pub fn init(filter: Option<&str>, format: LogFormat) -> Result<(), Error> {
    let text = match filter {
        Some(filter) => filter.to_owned(),
        None => std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()),
    };
    let filter = EnvFilter::try_new(&text)
        .map_err(|error| Error::LogFilter { filter: text.clone(), reason: error.to_string() })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let outcome = match format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(colours).finish().try_init()
        }
        LogFormat::Json => builder.json().finish().try_init(),
    };
    if outcome.is_err() {
        tracing::debug!("logging had been started before");
    }
    Ok(())
}
