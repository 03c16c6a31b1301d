//! What one viewleader is told, and whether it makes sense.

use crate::Error;
use std::path::PathBuf;
use std::time::Duration;
use types::PartitionCount;
use types::limits::REPLICATION_MAX;

/// Most members of a group.
pub(crate) const MEMBERS_MAX: usize = 7;

/// One viewleader's settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// For people: shown by status.
    pub name: String,
    /// This process's own directory; created where it is missing.
    pub data_dir: PathBuf,
    /// Where gRPC listens, `host:port`.
    pub listen: String,
    /// Where others reach it: one of `peers`, where there are any.
    pub advertise: String,
    /// The addresses that a new group begins with, the same list on each, in any order; empty: this member alone, or
    /// what the directory says.
    pub peers: Vec<String>,
    /// Members of the group that a new directory asks to be admitted to; excludes `peers`.
    pub join: Vec<String>,
    /// Where the admin HTTP server listens; `None`: nowhere.
    pub http: Option<String>,
    /// Whether addresses that other machines reach are allowed without TLS.
    pub insecure: bool,
    /// What the cluster keeps for ever; read once, at its bootstrap.
    pub cluster: ClusterSettings,
    /// Silence after which a storage node counts as dead.
    pub node_timeout: Duration,
    /// How long a storage node may be dead before its replicas are rebuilt elsewhere, unless an operator set it.
    pub replace_after: Duration,
}

/// Settings that all members share: the first committed ones win.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClusterSettings {
    /// Partitions.
    pub partitions: PartitionCount,
    /// Replicas per partition.
    pub replication: u8,
    /// Storage nodes that must register before the first partition map.
    pub expect_nodes: u32,
}

impl Config {
    /// Sorts the peers and checks what can be checked without touching anything.
    ///
    /// # Errors
    /// [`Error::Setting`], with the flag to change.
    pub fn validated(mut self) -> Result<Config, Error> {
        let wrong = |what: String| Err(Error::Setting(what));
        self.peers.sort();
        if let Some(twice) = self.peers.windows(2).find(|pair| pair[0] == pair[1]) {
            return wrong(format!("--peers names {} twice; name every member once", twice[0]));
        }
        let founders = self.peers.len();
        if founders > 0 && (founders.is_multiple_of(2) || founders > MEMBERS_MAX) {
            return wrong(format!("--peers names {} members; a group has 1, 3, 5 or {MEMBERS_MAX}", self.peers.len()));
        }
        let malformed = |address: &&String| {
            address.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
        };
        for (flag, list) in [("--peers", &self.peers), ("--join", &self.join)] {
            if let Some(address) = list.iter().find(malformed) {
                return wrong(format!("{flag} has {address:?}, which is no HOST:PORT"));
            }
        }
        if malformed(&&self.advertise) {
            return wrong(format!("--advertise {:?} is no HOST:PORT", self.advertise));
        }
        if !self.peers.is_empty() && !self.join.is_empty() {
            return wrong("--peers begins a new group, --join enters one that is there; give one of them".into());
        }
        if !self.peers.is_empty() && !self.peers.contains(&self.advertise) {
            return wrong(format!(
                "--advertise {} is not in --peers {}; add it there, the same list on every member",
                self.advertise,
                self.peers.join(",")
            ));
        }
        if self.cluster.replication == 0 || self.cluster.replication > REPLICATION_MAX {
            return wrong(format!("--replication is 1 to {REPLICATION_MAX}"));
        }
        if self.cluster.expect_nodes == 0 || self.cluster.expect_nodes as usize > viewcore::state::NODES_MAX {
            return wrong(format!("--expect-nodes is 1 to {}", viewcore::state::NODES_MAX));
        }
        if self.node_timeout < Duration::from_millis(100) {
            return wrong("--node-timeout is at least 100ms".into());
        }
        if self.replace_after < Duration::from_secs(1) {
            return wrong("--replace-after is at least 1s: a node that restarts is not gone".into());
        }
        Ok(self)
    }
}
