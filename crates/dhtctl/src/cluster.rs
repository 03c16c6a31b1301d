//! `query_servers`, `status`, `nodes`, `partitions`, `route`: what the cluster looks like.

use crate::cli::{ClusterFlags, Globals};
use crate::failure;
use crate::leaders::member_json;
use crate::output::{self, Format, counted};
use clap::Args;
use client::{ClusterStatus, Leaders, Moves, NodeStatus, Route};
use daemon::{Exit, Failure};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use types::{Duty, NodeId, NodeInfo, PartitionId, View};

#[derive(Clone, Debug, Args)]
pub(crate) struct PartitionsFlags {
    /// Only those that lack something.
    #[arg(long)]
    lacking: bool,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RouteFlags {
    /// 1 to 1024 bytes.
    key: OsString,
    #[command(flatten)]
    cluster: ClusterFlags,
}

/// How many partitions a line names before it says how many more there are.
const NAMED_MAX: usize = 8;

pub(crate) async fn query_servers(globals: &Globals, flags: &ClusterFlags) -> Result<Exit, Failure> {
    let view = leaders(globals, flags)?.view().await.map_err(failure::of)?;
    print(
        globals.output,
        || servers_text(&view),
        || servers_json(&view),
        || view.nodes.values().filter(|node| node.alive).map(|node| node.address.clone()).collect(),
    )
}

pub(crate) async fn status(globals: &Globals, flags: &ClusterFlags) -> Result<Exit, Failure> {
    let leaders = leaders(globals, flags)?;
    let (status, moves) = within(globals, async { tokio::try_join!(leaders.status(), leaders.moves(None)) }).await?;
    print(globals.output, || status_text(&status, &moves), || status_json(&status, &moves), || vec![health(&status)])?;
    // Scripts learn from the code whether every key can be written.
    Ok(if status.has_map && status.without_quorum.is_empty() { Exit::Done } else { Exit::Unavailable })
}

pub(crate) async fn nodes(globals: &Globals, flags: &ClusterFlags) -> Result<Exit, Failure> {
    let status = ask_status(globals, flags).await?;
    print(
        globals.output,
        || nodes_text(&status.nodes),
        || status.nodes.iter().map(node_json).collect(),
        || status.nodes.iter().map(|node| node.info.address.clone()).collect(),
    )
}

pub(crate) async fn partitions(globals: &Globals, flags: &PartitionsFlags) -> Result<Exit, Failure> {
    let leaders = leaders(globals, &flags.cluster)?;
    let view = leaders.view().await.map_err(failure::of)?;
    let status = leaders.status().await.map_err(failure::of)?;
    let rows = partition_rows(&view, &status, flags.lacking);
    print(
        globals.output,
        || partitions_text(&rows),
        || rows.iter().map(PartitionRow::json).collect(),
        || rows.iter().map(|row| row.partition.0.to_string()).collect(),
    )
}

pub(crate) async fn route(globals: &Globals, flags: &RouteFlags) -> Result<Exit, Failure> {
    let client = globals.connect(&flags.cluster).await?;
    let route = client.route(flags.key.as_bytes()).map_err(failure::of)?;
    let key = flags.key.as_bytes();
    print(
        globals.output,
        || route_text(key, &route),
        || route_json(key, &route),
        || route.replicas.iter().map(|(_, address, _)| address.clone()).collect(),
    )
}

fn leaders(globals: &Globals, flags: &ClusterFlags) -> Result<Leaders, Failure> {
    Leaders::new(globals.leaders(flags)).map_err(failure::of)
}

pub(crate) async fn ask_status(globals: &Globals, flags: &ClusterFlags) -> Result<ClusterStatus, Failure> {
    ask_status_of(globals, &leaders(globals, flags)?).await
}

pub(crate) async fn ask_status_of(globals: &Globals, leaders: &Leaders) -> Result<ClusterStatus, Failure> {
    within(globals, leaders.status()).await
}

/// What the viewleaders answer within --timeout.
pub(crate) async fn within<T>(
    globals: &Globals,
    answer: impl Future<Output = Result<T, client::Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(globals.timeout, answer).await {
        Ok(answer) => answer.map_err(failure::of),
        Err(_) => Err(Failure::unavailable("the viewleaders did not answer in time; try a longer --timeout")),
    }
}

pub(crate) fn print(
    format: Format,
    text: impl FnOnce() -> String,
    json: impl FnOnce() -> Value,
    raw: impl FnOnce() -> Vec<String>,
) -> Result<Exit, Failure> {
    match format {
        Format::Table => output::line(&text())?,
        Format::Json => output::write_json(&json())?,
        Format::Raw => raw().iter().try_for_each(|line| output::line(line))?,
    }
    Ok(Exit::Done)
}

fn state(alive: bool) -> &'static str {
    if alive { "alive" } else { "dead" }
}

/// What is to be known of a node before it is relied on.
fn node_state(node: &NodeInfo) -> String {
    match node.duty {
        Duty::Active => state(node.alive).to_owned(),
        duty => format!("{}, {}", state(node.alive), duty_word(duty)),
    }
}

/// A duty as people say it.
pub(crate) fn duty_word(duty: Duty) -> &'static str {
    match duty {
        Duty::Active => "active",
        Duty::Cordoned => "cordoned",
        Duty::Draining => "draining",
        Duty::Removed => "removed",
    }
}

fn servers_text(view: &View) -> String {
    let row = |node: &NodeInfo| vec![node.id.to_string(), node.address.clone(), node_state(node)];
    let rows: Vec<_> = view.nodes.values().map(row).collect();
    format!("epoch {}\n\n{}", view.epoch.0, output::table(&["node", "address", "state"], &rows))
}

fn servers_json(view: &View) -> Value {
    let server = |node: &NodeInfo| json!({ "node": node.id.0, "address": node.address, "http_address": node.http_address, "alive": node.alive });
    let servers: Vec<Value> = view.nodes.values().map(server).collect();
    json!({ "epoch": view.epoch.0, "servers": servers })
}

/// One word for the whole.
fn health(status: &ClusterStatus) -> String {
    let word = if !status.has_map {
        "waiting"
    } else if !status.without_quorum.is_empty() {
        "unavailable"
    } else if !status.under_replicated.is_empty() {
        "under-replicated"
    } else if !status.not_serving.is_empty() {
        "settling"
    } else {
        "healthy"
    };
    word.to_owned()
}

fn status_text(status: &ClusterStatus, moves: &Moves) -> String {
    let members: Vec<_> = status
        .members
        .iter()
        .map(|m| {
            let (term, applied) = (m.raft_term.0.to_string(), m.last_applied.to_string());
            vec![m.name.clone(), m.address.clone(), m.role.clone(), term, applied]
        })
        .collect();
    let mut text = format!(
        "cluster {}, epoch {}: {}\n\nviewleaders\n{}\n\nstorage nodes\n{}\n\npartitions\n{}",
        status.cluster,
        status.epoch.0,
        health(status),
        output::table(&["name", "address", "role", "term", "applied"], &members),
        nodes_text(&status.nodes),
        partitions_summary(status, moves),
    );
    if !status.alarms.is_empty() {
        text.push_str("\n\nalarms");
        status.alarms.iter().for_each(|alarm| text.push_str(&format!("\n  {alarm}")));
    }
    text
}

fn nodes_text(nodes: &[NodeStatus]) -> String {
    let row = |node: &NodeStatus| {
        vec![
            node.info.id.to_string(),
            node.info.address.clone(),
            if node.info.zone.is_empty() { "–".to_owned() } else { node.info.zone.clone() },
            node_state(&node.info),
            node.heartbeat_age_ms.map_or("–".to_owned(), |age| format!("{age} ms")),
            node.partitions.to_string(),
            node.primaries.to_string(),
            node.keys.to_string(),
            bytesize::ByteSize(node.bytes).to_string(),
            node.epoch.0.to_string(),
        ]
    };
    if nodes.is_empty() {
        return "  none has registered; start storaged --leaders HOST:PORT,…".to_owned();
    }
    let rows: Vec<_> = nodes.iter().map(row).collect();
    output::table(
        &["node", "address", "zone", "state", "heartbeat", "partitions", "primaries", "keys", "bytes", "epoch"],
        &rows,
    )
}

fn partitions_summary(status: &ClusterStatus, moves: &Moves) -> String {
    if !status.has_map {
        let (have, want) = (status.nodes.len(), status.expected_nodes);
        return format!("  no map yet: {have} of {want} storage nodes have registered");
    }
    let mut lines = vec![format!("  {}, {} each", counted(status.partition_count as usize, "partition"), {
        counted(status.replication as usize, "replica")
    })];
    for (what, list) in [
        ("WITHOUT QUORUM", &status.without_quorum),
        ("not serving", &status.not_serving),
        ("UNDER-REPLICATED", &status.under_replicated),
    ] {
        if !list.is_empty() {
            lines.push(format!("  {what}: {} ({})", list.len(), named(list)));
        }
    }
    if lines.len() == 1 {
        lines.push("  all serve, all are fully replicated".to_owned());
    }
    lines.extend(moving_line(moves));
    lines.join("\n")
}

/// How much moves, if anything does.
fn moving_line(moves: &Moves) -> Option<String> {
    let (underway, planned) = (moves.underway.len(), moves.planned.len());
    if underway + planned == 0 {
        return None;
    }
    let blocked = moves.underway.iter().filter(|moving| moving.blocked.is_some()).count();
    let blocked = if blocked == 0 { String::new() } else { format!(", {blocked} of them BLOCKED") };
    let paused = if moves.paused { ", PAUSED" } else { "" };
    Some(format!("  moving: {underway} under way{blocked}, {planned} to begin{paused} (dhtctl rebalance status)"))
}

/// `p1, p2, p3 and 14 more`.
pub(crate) fn named(partitions: &[PartitionId]) -> String {
    let names: Vec<String> = partitions.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = partitions.len().saturating_sub(NAMED_MAX);
    if more == 0 { names.join(", ") } else { format!("{} and {more} more", names.join(", ")) }
}

fn status_json(status: &ClusterStatus, moves: &Moves) -> Value {
    let members: Vec<Value> = status.members.iter().map(member_json).collect();
    let numbers = |list: &[PartitionId]| list.iter().map(|p| p.0).collect::<Vec<_>>();
    json!({
        "cluster": status.cluster.to_string(),
        "epoch": status.epoch.0,
        "health": health(status),
        "leaders": members,
        "nodes": status.nodes.iter().map(node_json).collect::<Vec<_>>(),
        "partition_count": status.partition_count,
        "replication": status.replication,
        "expected_nodes": status.expected_nodes,
        "has_map": status.has_map,
        "without_quorum": numbers(&status.without_quorum),
        "not_serving": numbers(&status.not_serving),
        "under_replicated": numbers(&status.under_replicated),
        "moves": {
            "underway": moves.underway.len(), "planned": moves.planned.len(),
            "paused": moves.paused, "complete": moves.complete,
        },
        "alarms": status.alarms,
    })
}

fn node_json(node: &NodeStatus) -> Value {
    json!({
        "node": node.info.id.0,
        "address": node.info.address,
        "http_address": node.info.http_address,
        "zone": node.info.zone,
        "weight": node.info.weight,
        "alive": node.info.alive,
        "duty": duty_word(node.info.duty),
        "heartbeat_age_ms": node.heartbeat_age_ms,
        "partitions": node.partitions,
        "primaries": node.primaries,
        "keys": node.keys,
        "bytes": node.bytes,
        "epoch": node.epoch.0,
    })
}

/// A partition with what it lacks.
#[derive(Debug)]
struct PartitionRow {
    partition: PartitionId,
    term: u64,
    replicas: Vec<NodeId>,
    lacks: Vec<&'static str>,
}

impl PartitionRow {
    fn json(&self) -> Value {
        json!({
            "partition": self.partition.0,
            "term": self.term,
            "replicas": self.replicas.iter().map(|node| node.0).collect::<Vec<_>>(),
            "lacks": self.lacks,
        })
    }
}

fn partition_rows(view: &View, status: &ClusterStatus, lacking: bool) -> Vec<PartitionRow> {
    let marked =
        [("quorum", &status.without_quorum), ("service", &status.not_serving), ("replicas", &status.under_replicated)]
            .map(|(what, list)| (what, list.iter().copied().collect::<BTreeSet<_>>()));
    let rows = view.partition_count.ids().zip(&view.configurations).map(|(partition, configuration)| PartitionRow {
        partition,
        term: configuration.term.0,
        replicas: configuration.replicas.clone(),
        lacks: marked.iter().filter(|(_, set)| set.contains(&partition)).map(|(what, _)| *what).collect(),
    });
    rows.filter(|row| !lacking || !row.lacks.is_empty()).collect()
}

fn partitions_text(rows: &[PartitionRow]) -> String {
    let nodes = |list: &[NodeId]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            let primary = row.replicas.first().map_or("–".to_owned(), ToString::to_string);
            let others = nodes(row.replicas.get(1..).unwrap_or_default());
            let lacks = if row.lacks.is_empty() { "–".to_owned() } else { row.lacks.join(", ") };
            vec![row.partition.to_string(), row.term.to_string(), primary, others, lacks]
        })
        .collect();
    output::table(&["partition", "term", "primary", "other replicas", "lacks"], &cells)
}

fn route_text(key: &[u8], route: &Route) -> String {
    let rows: Vec<_> = route
        .replicas
        .iter()
        .enumerate()
        .map(|(turn, (node, address, alive))| {
            let role = if turn == 0 { "primary" } else { "replica" };
            vec![role.to_owned(), node.to_string(), address.clone(), state(*alive).to_owned()]
        })
        .collect();
    format!(
        "{} is at {} of the ring, partition {}, term {}\n\n{}",
        output::text_bytes(key),
        route.position,
        route.partition,
        route.term.0,
        output::table(&["role", "node", "address", "state"], &rows)
    )
}

fn route_json(key: &[u8], route: &Route) -> Value {
    let replica =
        |(node, address, alive): &(NodeId, String, bool)| json!({ "node": node.0, "address": address, "alive": alive });
    json!({
        "key": output::json_bytes(key),
        "position": route.position,
        "partition": route.partition.0,
        "term": route.term.0,
        "replicas": route.replicas.iter().map(replica).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::MemberStatus;
    use std::sync::Arc;
    use types::{ClusterId, Configuration, Epoch, Incarnation, PartitionCount, Term};

    fn node(id: u64, alive: bool) -> NodeInfo {
        NodeInfo {
            id: NodeId(id),
            address: format!("127.0.0.1:3800{id}"),
            http_address: format!("127.0.0.1:1380{id}"),
            zone: String::new(),
            weight: 100,
            incarnation: Incarnation(1),
            accepted_at: Epoch(1),
            alive,
            duty: Duty::Active,
        }
    }

    fn view() -> View {
        let mut view = View::new(ClusterId(0xabc), PartitionCount::new(2).unwrap(), 2);
        view.epoch = Epoch(12);
        view.nodes = [node(1, true), node(2, false)].map(|node| (node.id, node)).into();
        let configuration = |nodes: &[u64]| {
            let replicas = nodes.iter().map(|id| NodeId(*id)).collect();
            Arc::new(Configuration { term: Term(9), replicas, ..Default::default() })
        };
        view.configurations = vec![configuration(&[1, 2]), configuration(&[2, 1])];
        view
    }

    fn status() -> ClusterStatus {
        let node_status = |info| NodeStatus {
            info,
            heartbeat_age_ms: Some(40),
            partitions: 2,
            primaries: 1,
            keys: 1200,
            bytes: 3 << 20,
            epoch: Epoch(12),
        };
        let member = MemberStatus {
            id: 1,
            name: "v1".into(),
            address: "127.0.0.1:39000".into(),
            role: "leader".into(),
            raft_term: Term(3),
            last_applied: 17,
        };
        ClusterStatus {
            cluster: ClusterId(0xabc),
            epoch: Epoch(12),
            members: vec![member],
            nodes: vec![
                node_status(node(1, true)),
                NodeStatus { heartbeat_age_ms: None, ..node_status(node(2, false)) },
            ],
            partition_count: 2,
            replication: 2,
            expected_nodes: 2,
            has_map: true,
            without_quorum: vec![],
            not_serving: vec![],
            under_replicated: vec![PartitionId(0), PartitionId(1)],
            alarms: vec!["n2 is gone".into()],
        }
    }

    /// Guards against a status that people can't read at a glance, and against its words changing unseen.
    #[test]
    fn status_for_people() {
        assert_eq!(
            status_text(&status(), &Moves::default()),
            "\
cluster 00000000000000000000000000000abc, epoch 12: under-replicated

viewleaders
  name  address          role    term  applied
  v1    127.0.0.1:39000  leader     3       17

storage nodes
  node  address          zone  state  heartbeat  partitions  primaries  keys    bytes  epoch
  n1    127.0.0.1:38001     –  alive      40 ms           2          1  1200  3.0 MiB     12
  n2    127.0.0.1:38002     –  dead           –           2          1  1200  3.0 MiB     12

partitions
  2 partitions, 2 replicas each
  UNDER-REPLICATED: 2 (p0, p1)

alarms
  n2 is gone"
        );
    }

    /// Guards against a cluster that waits for nodes and does not say so.
    #[test]
    fn status_before_the_first_map() {
        let early = ClusterStatus { has_map: false, nodes: vec![], under_replicated: vec![], ..status() };
        let text = status_text(&early, &Moves::default());
        assert!(text.contains(": waiting\n"), "{text}");
        assert!(text.contains("none has registered"), "{text}");
        assert!(text.contains("0 of 2 storage nodes have registered"), "{text}");
    }

    /// Guards against JSON that changes under scripts.
    #[test]
    fn status_for_programs() {
        let json = status_json(&status(), &Moves::default());
        assert_eq!(json["health"], "under-replicated");
        assert_eq!(json["under_replicated"], json!([0, 1]));
        assert_eq!(json["leaders"][0]["role"], "leader");
        assert_eq!(json["nodes"][1]["alive"], false);
        assert_eq!(json["nodes"][1]["heartbeat_age_ms"], Value::Null);
    }

    /// Guards against a node that is about to leave and looks like any other, and against moves that go unseen.
    #[test]
    fn what_changes_is_seen() {
        let mut leaving = status();
        leaving.nodes[0].info.duty = Duty::Draining;
        assert!(nodes_text(&leaving.nodes).contains("  alive, draining  "), "{}", nodes_text(&leaving.nodes));
        assert_eq!(node_json(&leaving.nodes[0])["duty"], "draining");
        let moving = |blocked: Option<&str>| client::Move {
            partition: PartitionId(1),
            joins: Some(NodeId(1)),
            leaves: None,
            primary: Some(NodeId(2)),
            filling: true,
            keys: 1,
            bytes: 1,
            blocked: blocked.map(str::to_owned),
        };
        let moves = Moves {
            underway: vec![moving(None), moving(Some("n2 is dead"))],
            planned: vec![moving(None)],
            paused: true,
            ..Moves::default()
        };
        assert_eq!(
            moving_line(&moves).unwrap(),
            "  moving: 2 under way, 1 of them BLOCKED, 1 to begin, PAUSED (dhtctl rebalance status)"
        );
        assert_eq!(moving_line(&Moves::default()), None);
    }

    /// Guards against a server list that hides who is dead.
    #[test]
    fn servers() {
        assert_eq!(
            servers_text(&view()),
            "epoch 12\n\n  node  address          state\n  n1    127.0.0.1:38001  alive\n  n2    127.0.0.1:38002  dead"
        );
        assert_eq!(servers_json(&view())["servers"][1], {
            json!({ "node": 2, "address": "127.0.0.1:38002", "http_address": "127.0.0.1:13802", "alive": false })
        });
    }

    /// Guards against a filter that hides what lacks something, or shows what does not.
    #[test]
    fn partitions_that_lack_something() {
        let only_second = ClusterStatus { under_replicated: vec![PartitionId(1)], ..status() };
        assert_eq!(partition_rows(&view(), &only_second, false).len(), 2);
        assert_eq!(
            partitions_text(&partition_rows(&view(), &only_second, true)),
            "  partition  term  primary  other replicas  lacks\n  p1            9  n2       n1              replicas"
        );
    }

    /// Guards against long lists that bury the rest.
    #[test]
    fn long_lists_are_cut() {
        let list: Vec<PartitionId> = (0..11).map(PartitionId).collect();
        assert_eq!(named(&list), "p0, p1, p2, p3, p4, p5, p6, p7 and 3 more");
        assert_eq!(named(&list[..2]), "p0, p1");
    }

    /// Guards against a route that names the wrong node as primary.
    #[test]
    fn a_route_for_people() {
        let replicas = vec![(NodeId(2), "h:2".to_owned(), true), (NodeId(1), "h:1".to_owned(), false)];
        let route = Route { position: "ab12".into(), partition: PartitionId(7), term: Term(9), replicas };
        assert_eq!(
            route_text(b"hello", &route),
            "hello is at ab12 of the ring, partition p7, term 9\n\n  role     node  address  state\n  \
             primary  n2    h:2      alive\n  replica  n1    h:1      dead"
        );
    }
}
