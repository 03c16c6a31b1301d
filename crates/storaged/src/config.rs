//! What one storage node is told, and whether it makes sense.

use crate::error::Error;
use crate::grpc;
use std::path::PathBuf;

/// Most shards of a node.
const SHARDS_MAX: usize = 256;

/// One storage node's settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The viewleaders' addresses, in any order.
    pub leaders: Vec<String>,
    /// This node's own directory; created where it is missing.
    pub data_dir: PathBuf,
    /// Where gRPC listens, `host:port`; port 0 lets the system choose.
    pub listen: String,
    /// Where others reach it; `None`: where it listens.
    pub advertise: Option<String>,
    /// Where HTTP listens, `host:port`.
    pub http: String,
    /// Replicas of one partition go to distinct zones where zones allow.
    pub zone: String,
    /// Share of the partitions relative to other nodes; 100 is usual.
    pub weight: u32,
    /// Event loops.
    pub shards: usize,
    /// Committed changes that may wait in memory for the store, in bytes.
    pub unapplied_bytes_max: u64,
    /// The size of a segment of the write-ahead log, in bytes.
    pub segment_bytes: u64,
    /// Whether addresses that other machines reach are allowed without TLS.
    pub insecure: bool,
}

impl Config {
    /// A node of its own directory and viewleaders, everything else as usual.
    pub fn new(leaders: Vec<String>, data_dir: PathBuf) -> Config {
        Config {
            leaders,
            data_dir,
            listen: "127.0.0.1:38000".to_owned(),
            advertise: None,
            http: "127.0.0.1:13800".to_owned(),
            zone: String::new(),
            weight: 100,
            shards: default_shards(),
            unapplied_bytes_max: 32 << 20,
            segment_bytes: 64 << 20,
            insecure: false,
        }
    }

    /// Checks what can be checked without touching anything.
    ///
    /// # Errors
    /// [`Error::BadAddress`], [`Error::BadSetting`].
    pub fn validate(&self) -> Result<(), Error> {
        if self.leaders.is_empty() {
            return Err(Error::BadSetting("--leaders is empty; give the viewleaders' addresses, A,B,C".to_owned()));
        }
        let leaders = self.leaders.iter().map(|address| ("--leaders", address));
        for (flag, address) in leaders.chain(self.advertise.iter().map(|address| ("--advertise", address))) {
            if !grpc::is_address(address) {
                return Err(Error::BadAddress { flag, address: address.clone() });
            }
        }
        if self.weight == 0 {
            return Err(Error::BadSetting("--weight is 0; give 1 or more (drain a node to empty it)".to_owned()));
        }
        if self.shards == 0 || self.shards > SHARDS_MAX {
            return Err(Error::BadSetting(format!("--shards is {}; give 1 to {SHARDS_MAX}", self.shards)));
        }
        Ok(())
    }
}

/// Half of this machine's cores: the other half is for the log, the store and whoever else is there.
pub(crate) fn default_shards() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / 2).clamp(1, SHARDS_MAX)
}
