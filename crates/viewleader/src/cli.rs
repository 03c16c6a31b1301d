//! The command line: flags, and nothing else.

use crate::{ClusterSettings, Config};
use clap::Parser;
use daemon::settings::{duration, parse};
use daemon::{CommonFlags, Exit, Failure, main_with, shutdown};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use types::PartitionCount;
use types::limits::{EXPECTED_NODES_DEFAULT, PARTITIONS_DEFAULT, REPLICATION_DEFAULT};

/// One member of the group that agrees on who replicates what.
#[derive(Debug, Parser)]
#[command(name = "viewleader", version)]
struct Flags {
    #[command(flatten)]
    common: CommonFlags,
    /// Shown by status; --advertise unless given.
    #[arg(long)]
    name: Option<String>,
    /// This process's own directory; created where it is missing.
    #[arg(long, value_name = "DIR", default_value = "viewleader-data")]
    data_dir: PathBuf,
    /// Where gRPC listens.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:39000")]
    listen: String,
    /// Where others reach it; --listen unless given.
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// The members of a new group (1, 3 or 5), the same list on each; --advertise alone unless given.
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    peers: Vec<String>,
    /// Members of a running group, for a new one with an empty --data-dir: any of them is asked to admit it.
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    join: Vec<String>,
    /// Where the admin HTTP server listens.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:39080")]
    http: String,
    /// Partitions of a new cluster: a power of two up to 65536.
    #[arg(long, default_value_t = PARTITIONS_DEFAULT)]
    partitions: u32,
    /// Replicas per partition of a new cluster.
    #[arg(long, default_value_t = REPLICATION_DEFAULT)]
    replication: u8,
    /// Storage nodes that must register before a new cluster's first partition map.
    #[arg(long, default_value_t = EXPECTED_NODES_DEFAULT)]
    expect_nodes: u32,
    /// Silence after which a storage node counts as dead.
    #[arg(long, value_parser = duration, default_value = "1500ms")]
    node_timeout: Duration,
    /// How long a storage node may be dead before its replicas are rebuilt elsewhere; `dhtctl cluster set` overrides it.
    #[arg(long, value_parser = duration, default_value = "10m")]
    replace_after: Duration,
}

impl Flags {
    fn config(self) -> Result<Config, Failure> {
        let advertise = self.advertise.unwrap_or_else(|| self.listen.clone());
        let partitions = PartitionCount::try_from(self.partitions)
            .map_err(|why| Failure::usage(format!("--partitions {}: {why}", self.partitions)))?;
        Ok(Config {
            name: self.name.unwrap_or_else(|| advertise.clone()),
            data_dir: self.data_dir,
            listen: self.listen,
            peers: self.peers,
            join: self.join,
            advertise,
            http: Some(self.http),
            insecure: self.common.insecure,
            cluster: ClusterSettings { partitions, replication: self.replication, expect_nodes: self.expect_nodes },
            node_timeout: self.node_timeout,
            replace_after: self.replace_after,
        })
    }
}

async fn start(arguments: impl IntoIterator<Item = OsString>) -> Result<Exit, Failure> {
    let flags: Flags = parse(arguments)?;
    init_logging(&flags.common)?;
    let exit_with_parent = flags.common.exit_with_parent;
    let config = flags.config()?;
    let stopped = async move {
        match shutdown::requested(exit_with_parent).await {
            Ok(reason) => tracing::info!(?reason, "stopping"),
            Err(error) => tracing::error!(%error, "can't catch signals; stopping"),
        }
    };
    match crate::run(config, stopped).await {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(Failure::new(error.exit(), error.to_string())),
    }
}

/// openraft's own words are for those who ask for them: it tells every step of an election, and every message that a
/// member which is down does not answer. What matters of it is logged or returned as this library's own.
fn init_logging(common: &CommonFlags) -> Result<(), Failure> {
    let asked = common.log.is_some() || std::env::var_os("RUST_LOG").is_some();
    let filter = if asked { common.log.as_deref() } else { Some("info,openraft=off") };
    Ok(daemon::logging::init(filter, common.log_format)?)
}

/// The whole program: reads the settings, runs until it is told to stop, and says how it ended.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    main_with("viewleader", start(arguments))
}
