//! The command line: `storaged --leaders HOST:PORT,…` is all a node needs.

use crate::config::{self, Config};
use crate::run;
use daemon::{CommonFlags, Exit, Failure, settings, shutdown};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// A storage node: keeps keys, and replicates each partition to a quorum.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "storaged", version)]
pub struct Flags {
    /// The viewleaders' addresses.
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', required = true)]
    pub leaders: Vec<String>,
    /// This node's own directory; created where it is missing.
    #[arg(long, value_name = "DIR", default_value = "storaged-data")]
    pub data_dir: PathBuf,
    /// Where gRPC listens.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:38000")]
    pub listen: String,
    /// Where others reach it, if that is not where it listens.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Where HTTP listens: /kvs, /livez, /readyz, /metrics, /version.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:13800")]
    pub http: String,
    /// Replicas of one partition go to distinct zones where zones allow.
    #[arg(long, default_value = "")]
    pub zone: String,
    /// Share of the partitions relative to other nodes.
    #[arg(long, default_value_t = 100)]
    pub weight: u32,
    /// Event loops; by default half of the cores.
    #[arg(long)]
    pub shards: Option<usize>,
    /// Committed changes that may wait in memory for the store.
    #[arg(long, value_name = "SIZE", value_parser = settings::size_bytes, default_value = "32MiB")]
    pub unapplied_max: u64,
    /// The size of a segment of the write-ahead log.
    #[arg(long, value_name = "SIZE", value_parser = settings::size_bytes, default_value = "64MiB")]
    pub segment_size: u64,
    /// Flags that every server has.
    #[command(flatten)]
    pub common: CommonFlags,
}

impl Flags {
    fn shards(&self) -> usize {
        self.shards.unwrap_or_else(config::default_shards)
    }

    fn config(&self) -> Config {
        Config {
            listen: self.listen.clone(),
            advertise: self.advertise.clone(),
            http: self.http.clone(),
            zone: self.zone.clone(),
            weight: self.weight,
            shards: self.shards(),
            unapplied_bytes_max: self.unapplied_max,
            segment_bytes: self.segment_size,
            insecure: self.common.insecure,
            ..Config::new(self.leaders.clone(), self.data_dir.clone())
        }
    }
}

/// The whole program: reads the settings, runs until it is told to stop, and says how it ended.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let flags = settings::parse::<Flags>(arguments);
    // A thread for each shard: a shard that shares its thread with the connections it serves wakes nobody.
    let threads = flags.as_ref().ok().map(Flags::shards);
    daemon::main_on("storaged", threads, async {
        let flags = flags?;
        flags.common.init_logging()?;
        let config = flags.config();
        config.validate()?;
        let exit_with_parent = flags.common.exit_with_parent;
        let stop = async move {
            match shutdown::requested(exit_with_parent).await {
                Ok(reason) => tracing::info!(?reason, "stopping"),
                Err(error) => tracing::error!(%error, "cannot listen for signals; stopping"),
            }
        };
        run(config, stop).await.map_err(Failure::from)?;
        Ok(Exit::Done)
    })
}
