//! `cluster.json`: who runs where, for scripts.

use daemon::Failure;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Its name within the playground's directory.
pub(crate) const NAME: &str = "cluster.json";

/// What a process is; the names are those of the programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Viewleader,
    Storaged,
}

impl Role {
    pub(crate) fn program(self) -> &'static str {
        match self {
            Role::Viewleader => "viewleader",
            Role::Storaged => "storaged",
        }
    }
}

/// One process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Its last process id; 0 before its first start.
    pub(crate) pid: u32,
    /// `host:port`.
    pub(crate) grpc: String,
    /// `host:port`.
    pub(crate) http: String,
    pub(crate) data_dir: PathBuf,
}

/// The file's content.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ClusterFile {
    pub(crate) processes: Vec<Process>,
}

impl ClusterFile {
    pub(crate) fn read(path: &Path) -> Result<ClusterFile, Failure> {
        let unusable = |why: String| Failure::usage(format!("cannot use {}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))
    }

    /// Replaces the file in `directory` as a whole.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Failure::bug(error.to_string()))?;
        Ok(daemon::directory::write_atomically(&directory.join(NAME), format!("{text}\n").as_bytes())?)
    }

    pub(crate) fn of(&self, role: Role) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(move |process| process.role == role)
    }

    pub(crate) fn count(&self, role: Role) -> usize {
        self.of(role).count()
    }

    /// The viewleaders' addresses.
    pub(crate) fn leaders(&self) -> Vec<String> {
        self.of(Role::Viewleader).map(|process| process.grpc.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against names that scripts don't find any more.
    #[test]
    fn the_format_stays() {
        let process = Process {
            name: "s1".into(),
            role: Role::Storaged,
            pid: 7,
            grpc: "127.0.0.1:38000".into(),
            http: "127.0.0.1:13800".into(),
            data_dir: "/data/s1".into(),
        };
        let directory = tempfile::tempdir().unwrap();
        let cluster = ClusterFile { processes: vec![process] };
        cluster.write(directory.path()).unwrap();
        let path = directory.path().join(NAME);
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({ "processes": [{
                "name": "s1", "role": "storaged", "pid": 7, "grpc": "127.0.0.1:38000", "http": "127.0.0.1:13800",
                "data_dir": "/data/s1",
            }] })
        );
        assert_eq!(ClusterFile::read(&path).unwrap(), cluster);
    }
}
