//! This library's errors: each reads as one line for the person who started the process.

use crate::exit::Exit;
use std::io;
use std::path::PathBuf;

/// What can keep a process from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings file can't be read.
    #[error("cannot read the settings file {}: {source}; check --config", path.display())]
    SettingsUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The settings file is not a flat TOML table.
    #[error("cannot use the settings file {}: {reason}", path.display())]
    SettingsMalformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, in one line.
        reason: String,
    },
    /// The settings file has a key that is no flag.
    #[error("cannot use the settings file {}: unknown key `{key}`; {hint}", path.display())]
    SettingsUnknownKey {
        /// The file.
        path: PathBuf,
        /// The key as it stands there.
        key: String,
        /// The nearest known one, or all.
        hint: String,
    },
    /// The log filter does not parse.
    #[error("cannot use the log filter `{filter}`: {reason}; try info, or debug,h2=warn")]
    LogFilter {
        /// As given.
        filter: String,
        /// Why not.
        reason: String,
    },
    /// Another process has the data directory.
    #[error("cannot use the data directory {}: in use by another process{}; stop it or choose another --data-dir", path.display(), pid_text(*pid))]
    DirectoryInUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds the lock, where it wrote its id.
        pid: Option<u32>,
    },
    /// A file or directory could not be made, read or written.
    #[error("cannot {action} {}: {source}; {}", path.display(), io_advice(source))]
    Io {
        /// A verb: "create", "write", …
        action: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A small file's checksum or header is wrong: damage, never an absent file.
    #[error("cannot use {}: {reason}; restore it from a copy, or start with an empty --data-dir", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// An address that does not parse or resolve.
    #[error("cannot listen on {address}: {reason}; give {flag} as host:port")]
    BadAddress {
        /// As given.
        address: String,
        /// The flag that gave it.
        flag: &'static str,
        /// Why not.
        reason: String,
    },
    /// The port is taken.
    #[error(
        "cannot listen on {address}: port {port} is in use; stop the process that has it or choose another with {flag}"
    )]
    PortInUse {
        /// The address.
        address: String,
        /// Its port.
        port: u16,
        /// The flag that gave it.
        flag: &'static str,
    },
    /// The system refuses to listen for another reason.
    #[error("cannot listen on {address}: {source}; check {flag}")]
    Listen {
        /// The address.
        address: String,
        /// The flag that gave it.
        flag: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Other machines would reach an unencrypted port.
    #[error(
        "refusing to listen on {address} without TLS: other machines could reach it; use a loopback address for {flag}, or say --insecure"
    )]
    NotLoopback {
        /// The address.
        address: String,
        /// The flag that gave it.
        flag: &'static str,
    },
    /// The metrics recorder could not be installed.
    #[error("cannot install the metrics recorder: {0}")]
    Metrics(String),
}

impl Error {
    /// The exit code of a process that ends with this error.
    pub fn exit(&self) -> Exit {
        match self {
            Error::SettingsUnreadable { .. }
            | Error::SettingsMalformed { .. }
            | Error::SettingsUnknownKey { .. }
            | Error::LogFilter { .. }
            | Error::BadAddress { .. }
            | Error::NotLoopback { .. } => Exit::Usage,
            Error::DirectoryInUse { .. }
            | Error::Io { .. }
            | Error::Corrupt { .. }
            | Error::PortInUse { .. }
            | Error::Listen { .. } => Exit::Unavailable,
            Error::Metrics(_) => Exit::Bug,
        }
    }
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

fn io_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space, then start again",
        io::ErrorKind::PermissionDenied => "check who owns it",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "a file is in the way: choose another --data-dir"
        }
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only: choose another --data-dir",
        _ => "check the disk",
    }
}
