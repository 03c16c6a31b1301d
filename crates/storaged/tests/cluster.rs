//! Three nodes in one process, under a stand-in for the viewleaders.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use support::leaders::FakeLeaders;
use support::nodes::{Asker, TestNode};
use tempfile::TempDir;
use types::NodeId;
use wire::v1;
use wire::v1::node_message::Message as Up;
use wire::v1::request::Operation;
use wire::v1::response::Result as Outcome;

const PARTITIONS: u32 = 8;
const KEYS: usize = 40;
/// Of 64 KiB: many times what a log that is trimmed has.
const FILLINGS_MAX: usize = 1_000;

struct Cluster {
    leaders: FakeLeaders,
    addresses: Vec<String>,
    directories: Vec<TempDir>,
    nodes: Vec<Option<TestNode>>,
}

impl Cluster {
    async fn start() -> Cluster {
        let leaders = FakeLeaders::new(3, PARTITIONS);
        let (address, _never_stopped) = leaders.serve().await;
        let mut cluster = Cluster { leaders, addresses: vec![address], directories: Vec::new(), nodes: Vec::new() };
        // One after the other, so that the directories' places are the node ids.
        for registered in 1..=3 {
            let directory = tempfile::tempdir().unwrap();
            cluster.nodes.push(Some(TestNode::start(directory.path(), &cluster.addresses)));
            cluster.directories.push(directory);
            cluster.leaders.view_with(|view| view.nodes.len() == registered).await;
        }
        cluster.leaders.view_with(|view| view.has_map()).await;
        cluster
    }

    fn asker(&self, node: u64) -> Asker {
        Asker::new(&self.leaders.view().nodes[&NodeId(node)].address)
    }

    async fn restart(&mut self, node: u64) {
        let place = node as usize - 1;
        let epoch = self.leaders.view().epoch;
        self.nodes[place] = Some(TestNode::start(self.directories[place].path(), &self.addresses));
        self.leaders.view_with(|view| view.epoch > epoch).await;
    }

    fn take(&mut self, node: u64) -> TestNode {
        self.nodes[node as usize - 1].take().unwrap()
    }
}

/// Guards against a request that is not forwarded, and against an answer from a replica that does not know of a write.
#[tokio::test(flavor = "multi_thread")]
async fn every_node_answers_for_every_key() {
    let cluster = Cluster::start().await;
    let mut askers = [cluster.asker(1), cluster.asker(2), cluster.asker(3)];
    for key in 0..KEYS {
        let written = askers[key % 3].put(&format!("key-{key}"), &format!("value-{key}")).await;
        assert!(written.durable_on >= 2, "P9: {written:?}");
    }
    for asker in &mut askers {
        for key in 0..KEYS {
            assert_eq!(asker.get(&format!("key-{key}")).await, Some(format!("value-{key}")));
        }
        assert_eq!(asker.get("nothing").await, None);
    }
}

/// Guards against an acknowledged write that dies with its primary, and against a death that nobody reports.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_its_primary() {
    let mut cluster = Cluster::start().await;
    let mut first = cluster.asker(1);
    for key in 0..KEYS {
        first.put(&format!("key-{key}"), "before").await;
    }
    cluster.take(2).crash().await;
    cluster.leaders.heard(|said| matches!(said, Up::Suspect(v1::Suspect { node: 2 }))).await;
    cluster.leaders.depose(NodeId(2));
    let mut third = cluster.asker(3);
    for key in 0..KEYS {
        assert_eq!(third.get(&format!("key-{key}")).await.as_deref(), Some("before"));
        first.put(&format!("key-{key}"), "after").await;
    }
    // It comes back behind the others, and catches up before it serves again.
    cluster.restart(2).await;
    cluster.take(3).crash().await;
    cluster.leaders.depose(NodeId(3));
    let mut second = cluster.asker(2);
    for key in 0..KEYS {
        assert_eq!(second.get(&format!("key-{key}")).await.as_deref(), Some("after"));
    }
}

/// Guards against a log or a store that is not read back: everything stops at once, and starts again.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_cluster_starts_again() {
    let mut cluster = Cluster::start().await;
    let mut first = cluster.asker(1);
    // Some segments of the log, so that it is trimmed meanwhile.
    let filling = "x".repeat(64 << 10);
    for round in 0..40 {
        first.put(&format!("filling-{}", round % 7), &filling).await;
    }
    for key in 0..KEYS {
        first.put(&format!("key-{key}"), &format!("value-{key}")).await;
    }
    cluster.take(1).stop().await;
    cluster.take(2).crash().await;
    cluster.take(3).stop().await;
    for node in 1..=3 {
        cluster.restart(node).await;
    }
    let mut first = cluster.asker(1);
    for key in 0..KEYS {
        assert_eq!(first.get(&format!("key-{key}")).await, Some(format!("value-{key}")));
    }
    assert_eq!(first.get("filling-3").await.map(|value| value.len()), Some(filling.len()));
}

/// Guards against a retry that has a second effect (P28), and a condition judged against the wrong state (P12).
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gets_the_first_answer() {
    let cluster = Cluster::start().await;
    let mut asker = cluster.asker(1);
    let request = Some(asker.request_id());
    let absent = Some(v1::Condition { condition: Some(v1::condition::Condition::Absent(true)) });
    let put = v1::Put {
        key: "once".into(),
        value: "1".into(),
        condition: absent.clone(),
        request,
        fence: None,
        ttl_ms: 0,
        lease: 0,
    };
    let first = asker.insist(Operation::Put(put.clone())).await;
    assert!(matches!(first, Outcome::Written(_)), "{first:?}");
    assert!(matches!((asker.insist(Operation::Put(put.clone())).await, first),
        (Outcome::Written(again), Outcome::Written(first)) if again.version == first.version));
    let another = v1::Put { request: Some(asker.request_id()), ..put };
    let refused = asker.insist(Operation::Put(another)).await;
    assert!(matches!(refused, Outcome::ConditionFailed(v1::ConditionFailed { present: true, .. })), "{refused:?}");
}

/// Guards against a node that needs the viewleaders to serve what it serves.
#[tokio::test(flavor = "multi_thread")]
async fn without_viewleaders_everything_served_goes_on() {
    let leaders = FakeLeaders::new(3, PARTITIONS);
    let (address, stop) = leaders.serve().await;
    let directories: Vec<TempDir> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let nodes: Vec<TestNode> =
        directories.iter().map(|directory| TestNode::start(directory.path(), std::slice::from_ref(&address))).collect();
    let view = leaders.view_with(|view| view.has_map()).await;
    let mut askers: Vec<Asker> = view.nodes.values().map(|node| Asker::new(&node.address)).collect();
    for key in 0..KEYS {
        askers[key % 3].put(&format!("key-{key}"), "before").await;
    }
    stop.cancel();
    for key in 0..KEYS {
        assert_eq!(askers[key % 3].get(&format!("key-{key}")).await.as_deref(), Some("before"));
        askers[(key + 1) % 3].put(&format!("key-{key}"), "after").await;
        assert_eq!(askers[(key + 2) % 3].get(&format!("key-{key}")).await.as_deref(), Some("after"));
    }
    for node in nodes {
        node.stop().await;
    }
}

/// Guards against one entry of a partition to which nobody writes any more, which keeps every later segment of the log on
/// the disk of whoever was never told that all replicas have it by now.
#[tokio::test(flavor = "multi_thread")]
async fn a_cold_partition_does_not_keep_the_log() {
    let mut cluster = Cluster::start().await;
    // It has its id on disk once it serves: otherwise it would come back as another node.
    cluster.asker(3).put("anything", "").await;
    cluster.take(3).crash().await;
    cluster.leaders.heard(|said| matches!(said, Up::Suspect(v1::Suspect { node: 3 }))).await;
    cluster.leaders.depose(NodeId(3));
    let mut first = cluster.asker(1);
    first.put("cold", "written while the third replica was away").await;
    let newest = |directory: &TempDir| segments(directory).max().unwrap();
    let kept: Vec<u64> = cluster.directories.iter().map(newest).collect();
    cluster.restart(3).await;
    let count = types::PartitionCount::new(PARTITIONS).unwrap();
    let is_hot = |key: &String| count.partition_of(key.as_bytes()) != count.partition_of(b"cold");
    let hot = (0..).map(|number| format!("hot-{number}")).find(is_hot).unwrap();
    let filling = "x".repeat(64 << 10);
    // It takes a moment until the third one follows again.
    while segments(&cluster.directories[2]).max().unwrap() <= kept[2] {
        first.put(&hot, &filling).await;
    }
    for _ in 0..FILLINGS_MAX {
        first.put(&hot, &filling).await;
        let mut nodes = cluster.directories.iter().zip(&kept);
        if nodes.all(|(directory, kept)| segments(directory).min().unwrap() > *kept) {
            return;
        }
    }
    let kept: Vec<_> =
        cluster.directories.iter().zip(kept).map(|(at, kept)| (kept, segments(at).min(), segments(at).max())).collect();
    panic!("the log goes back to before the third replica returned: {kept:?}");
}

/// The numbers of the log's segments in a node's directory.
fn segments(directory: &TempDir) -> impl Iterator<Item = u64> {
    let files = std::fs::read_dir(directory.path().join("wal")).unwrap().flatten();
    files.filter_map(|file| file.file_name().to_str()?.strip_suffix(".wal")?.parse().ok())
}
