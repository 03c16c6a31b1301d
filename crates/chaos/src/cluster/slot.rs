//! A place in the cluster where a process runs: its name, addresses and files, which outlive every process there.

use crate::proxy::Station;
use faults::Control;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What runs in a slot; the names are those of the programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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

/// A place for a process.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// `v1`, `s1`, …
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Where it listens, and where others call it.
    pub(crate) station: Station,
    pub(crate) http: SocketAddr,
    pub(crate) data_dir: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) control: Control,
}

impl Slot {
    pub(crate) fn new(name: String, role: Role, station: Station, root: &Path) -> Slot {
        Slot {
            role,
            http: SocketAddr::new(station.address.ip(), HTTP_PORT),
            station,
            data_dir: root.join(&name),
            log: root.join(format!("{name}.log")),
            control: Control::new(root.join(format!("{name}.faults"))),
            name,
        }
    }

    /// What others know it by.
    pub(crate) fn address(&self) -> String {
        self.station.gate.to_string()
    }

    /// The program's arguments, but for those of its role.
    pub(super) fn arguments(&self) -> Vec<String> {
        vec![
            self.role.program().to_owned(),
            "--exit-with-parent".to_owned(),
            "--insecure".to_owned(),
            format!("--data-dir={}", self.data_dir.display()),
            format!("--listen={}", self.station.address),
            format!("--advertise={}", self.address()),
            format!("--http={}", self.http),
        ]
    }
}

const HTTP_PORT: u16 = 7080;
