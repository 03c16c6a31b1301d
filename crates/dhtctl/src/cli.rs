//! What can be said on the command line.

use crate::bench::BenchFlags;
use crate::cluster::{PartitionsFlags, RouteFlags};
use crate::completion::CompletionFlags;
use crate::hold::{ElectFlags, LockFlags};
use crate::keys::{DelrFlags, GetrFlags, SetrFlags};
use crate::leaders::LeadersFlags;
use crate::lease::LeaseAction;
use crate::locks::{LockGetFlags, LockReleaseFlags, ObserveFlags};
use crate::node::NodeAction;
use crate::output::Format;
use crate::playground::PlaygroundFlags;
use crate::rebalance::RebalanceAction;
use crate::recover::RecoverFlags;
use crate::scan::ScanFlags;
use crate::settings::ClusterAction;
use crate::txn::TxnFlags;
use crate::watch::WatchFlags;
use clap::{Args, Parser, Subcommand};
use client::{Client, Options};
use daemon::Failure;
use std::path::PathBuf;
use std::time::Duration;

/// Asks and changes a Ringleader cluster.
#[derive(Debug, Parser)]
#[command(
    name = "dhtctl",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 not found or a condition was false, 2 usage, 3 unavailable, 4 outcome unknown, \
                  5 denied, 70 a bug."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Clone, Debug, Args)]
pub(crate) struct Globals {
    /// Viewleaders to ask; any of them answers.
    // Not global in clap's sense: within `playground` the name means a number.
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', default_value = "127.0.0.1:39000")]
    leaders: Vec<String>,
    /// How results look.
    #[arg(long, value_enum, global = true, default_value_t)]
    pub(crate) output: Format,
    /// How long a request is tried.
    #[arg(long, value_name = "TIME", global = true, value_parser = daemon::settings::duration, default_value = "10s")]
    pub(crate) timeout: Duration,
    /// TOML file with leaders, output and timeout; flags and DHT_… variables win over it.
    #[arg(long, value_name = "FILE", env = "DHT_CTL_CONFIG")]
    config: Option<PathBuf>,
}

/// `--leaders` after the command's name.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ClusterFlags {
    /// Viewleaders to ask; any of them answers. [env: DHT_LEADERS, default: 127.0.0.1:39000]
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    leaders: Option<Vec<String>>,
}

impl Globals {
    /// The viewleaders to ask: what was said last wins.
    pub(crate) fn leaders<'a>(&'a self, flags: &'a ClusterFlags) -> &'a [String] {
        flags.leaders.as_deref().unwrap_or(&self.leaders)
    }

    /// A client of the cluster.
    pub(crate) async fn connect(&self, flags: &ClusterFlags) -> Result<Client, Failure> {
        let options = Options { timeout: self.timeout };
        Client::connect(self.leaders(flags), options).await.map_err(crate::failure::of)
    }
}

#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
pub(crate) enum Command {
    /// Give a key a value.
    Setr(SetrFlags),
    /// Print a key's value.
    Getr(GetrFlags),
    /// Take a key's value away.
    Delr(DelrFlags),
    /// Change several keys at once, all or nothing, if conditions hold.
    Txn(TxnFlags),
    /// Print all keys, or those with a prefix, in order.
    Scan(ScanFlags),
    /// Print changes of a key, of keys with a prefix, or of the view, as they come.
    Watch(WatchFlags),
    /// Print the view's epoch and its storage nodes.
    QueryServers(ClusterFlags),
    /// Print how the cluster is: viewleaders, storage nodes, partitions that lack something.
    Status(ClusterFlags),
    /// Print the viewleaders, or take one out of their group.
    Leaders(LeadersFlags),
    /// Print the storage nodes, with what each holds.
    Nodes(ClusterFlags),
    /// Let a storage node leave, rest or return, or change its share.
    #[command(subcommand)]
    Node(NodeAction),
    /// Print or change the settings of the whole cluster.
    #[command(subcommand)]
    Cluster(ClusterAction),
    /// Print what moves or would move between storage nodes; pause, resume or abort it.
    #[command(subcommand)]
    Rebalance(RebalanceAction),
    /// Let partitions that lost their majority go on with what is left of them.
    Recover(RecoverFlags),
    /// Take a lock for a client, which holds it until it is released.
    LockGet(LockGetFlags),
    /// Give a lock back.
    LockRelease(LockReleaseFlags),
    /// Print who holds which lock.
    Locks(ClusterFlags),
    /// Run a command while holding a lock; it is ended where the lock is lost.
    Lock(LockFlags),
    /// Be a candidate, and stay elected, or run a command meanwhile.
    Elect(ElectFlags),
    /// Print who holds a lock or is elected, now and whenever that changes.
    Observe(ObserveFlags),
    /// Grant, keep alive, end and list leases.
    #[command(subcommand)]
    Lease(LeaseAction),
    /// Print who replicates each partition.
    Partitions(PartitionsFlags),
    /// Print where a key lives.
    Route(RouteFlags),
    /// Measure throughput, latency, and the longest time without a success.
    Bench(BenchFlags),
    /// Start a whole cluster on this machine, to play with.
    Playground(PlaygroundFlags),
    /// Print a completion script for a shell.
    Completion(CompletionFlags),
}

#[cfg(test)]
mod tests {
    use super::*;
    use daemon::Exit;

    fn parse(line: &str) -> Result<Cli, Failure> {
        daemon::settings::parse(line.split_whitespace())
    }

    /// Guards against flags that clap only finds wrong when somebody uses them.
    #[test]
    fn the_command_line_is_consistent() {
        daemon::settings::command_of::<Cli>().debug_assert();
    }

    /// Guards against `--leaders` meaning a number where it is a list, and the other way round.
    #[test]
    fn leaders_is_a_list_but_for_the_playground() {
        let Cli { globals, command } = parse("dhtctl --leaders a:1,b:2 query_servers").unwrap();
        let Command::QueryServers(flags) = command else { panic!("{command:?}") };
        assert_eq!(globals.leaders(&flags), ["a:1", "b:2"]);
        let Cli { globals, command } = parse("dhtctl --leaders a:1 status --leaders c:3 --output json").unwrap();
        let Command::Status(flags) = command else { panic!("{command:?}") };
        assert_eq!(globals.leaders(&flags), ["c:3"]);
        assert_eq!(globals.output, Format::Json);
        let Command::Playground(flags) = parse("dhtctl playground --leaders 5 --storage 4").unwrap().command else {
            panic!("not the playground")
        };
        assert_eq!((flags.leaders, flags.storage), (5, 4));
    }

    /// Guards against operators' commands that don't take what the manual writes.
    #[test]
    fn operators_commands() {
        for line in [
            "dhtctl node drain n3 --dry-run",
            "dhtctl node drain 127.0.0.1:38000 --wait --leaders a:1",
            "dhtctl node remove 3",
            "dhtctl node cordon n3",
            "dhtctl node uncordon n3",
            "dhtctl node weight n3 200",
            "dhtctl cluster show --output json",
            "dhtctl cluster set replication 5 --leaders a:1",
            "dhtctl cluster set replace-after 10m",
            "dhtctl cluster set rebalance-rate 64MiB",
            "dhtctl cluster set rebalance-rate 0",
            "dhtctl cluster set moves-per-node 4",
            "dhtctl rebalance plan",
            "dhtctl rebalance plan --weight n3=50",
            "dhtctl rebalance status --watch",
            "dhtctl rebalance abort",
            "dhtctl recover --partition 3 p4 --partition 5 --yes --on n1 --on n2",
        ] {
            if let Err(failure) = parse(line) {
                panic!("{line}: {failure}");
            }
        }
    }

    /// Guards against commands of leases and locks that don't take what the manual writes.
    #[test]
    fn leases_and_locks() {
        for line in [
            "dhtctl lock_get jobs ann",
            "dhtctl lock_get jobs ann --ttl 30s --wait 5s --output json",
            "dhtctl lock_get jobs ann --try --leaders a:1",
            "dhtctl lock_release jobs ann",
            "dhtctl locks",
            "dhtctl lock jobs -- make all",
            "dhtctl lock jobs --ttl 30s --grace 1s --client ann --try -- sh -c true",
            "dhtctl elect boss host:1",
            "dhtctl elect boss host:1 --ttl 5s -- serve --port 1",
            "dhtctl observe boss --once",
            "dhtctl lease grant 30s",
            "dhtctl lease keep-alive l7",
            "dhtctl lease keep-alive 7 --once",
            "dhtctl lease revoke l7",
            "dhtctl lease ttl l7",
            "dhtctl lease list --output json",
            "dhtctl setr key value --fence jobs:7",
            "dhtctl setr key value --lease l7 --if-absent",
            "dhtctl delr key --fence a:b:7",
        ] {
            if let Err(failure) = parse(line) {
                panic!("{line}: {failure}");
            }
        }
    }

    /// Guards against usage errors that come with another code, or in several lines.
    #[test]
    fn usage_errors_are_one_line_and_exit_with_two() {
        for line in [
            "dhtctl setr",
            "dhtctl setr key",
            "dhtctl setr key value --if-absent --if-version 3",
            "dhtctl setr key value --value-file f",
            "dhtctl setr key value --if-version x",
            "dhtctl getr",
            "dhtctl frobnicate",
            "dhtctl watch",
            "dhtctl watch key --prefix p",
            "dhtctl watch --prefix p --from 3",
            "dhtctl watch key --from 3 --with-current",
            "dhtctl watch --view --with-current",
            "dhtctl scan key",
            "dhtctl setr key value --ttl soon",
            "dhtctl setr key value --ttl 3s --lease l7",
            "dhtctl setr key value --lease jobs",
            "dhtctl status --timeout soon",
            "dhtctl status --output xml",
            "dhtctl bench put --clients 0",
            "dhtctl bench push",
            "dhtctl leaders remove",
            "dhtctl leaders add x:1",
            "dhtctl node drain",
            "dhtctl node drain n0",
            "dhtctl node drain bob",
            "dhtctl node weight n1",
            "dhtctl node weight n1 0",
            "dhtctl cluster set replication 0",
            "dhtctl cluster set replication 10",
            "dhtctl cluster set replace-after soon",
            "dhtctl cluster set rebalance-rate fast",
            "dhtctl rebalance plan --drain n1 --remove n2",
            "dhtctl rebalance plan --weight n1",
            "dhtctl recover --partition many",
            "dhtctl lock jobs",
            "dhtctl lock_get jobs",
            "dhtctl lock_get jobs ann --try --wait 1s",
            "dhtctl lease ttl jobs",
            "dhtctl setr key value --fence jobs",
            "dhtctl setr key value --fence jobs:0",
            "dhtctl playground --leaders 2",
            "dhtctl playground --storage 0",
        ] {
            let failure = parse(line).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{line}: {failure}");
            assert!(!failure.message.is_empty() && !failure.message.contains('\n'), "{line}: {failure}");
        }
    }
}
