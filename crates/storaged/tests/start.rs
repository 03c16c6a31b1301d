//! Starting: registration, and the directories that a node must not start from.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod support;

use daemon::Exit;
use support::leaders::FakeLeaders;
use support::nodes::{Asker, TestNode, config};
use types::{ErrorCode, NodeId};
use wire::v1;
use wire::v1::request::Operation;
use wire::v1::response::Result as Outcome;

fn one_line(error: &storaged::Error) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

/// Guards against a node that gives up at a member that does not lead, or does not go where it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_finds_the_leader() {
    let leader = FakeLeaders::new(1, 4);
    let (leader_address, _stop) = leader.serve().await;
    let follower = FakeLeaders::new(1, 4);
    follower.redirect(&leader_address);
    let (follower_address, _stop) = follower.serve().await;
    let directory = tempfile::tempdir().unwrap();
    // Nobody listens at the first address.
    let node = TestNode::start(directory.path(), &["127.0.0.1:1".to_owned(), follower_address]);
    let view = leader.view_with(|view| view.has_map()).await;
    let mut asker = Asker::new(&view.nodes[&NodeId(1)].address);
    asker.put("key", "value").await;
    assert_eq!(asker.get("key").await.as_deref(), Some("value"));
    node.stop().await;
}

/// Guards against a node that serves before it is accepted (P20), and one that gives up while nobody accepts it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_before_acceptance() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let leader_address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let directory = tempfile::tempdir().unwrap();
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = free.local_addr().unwrap().to_string();
    drop(free);
    let mut config = config(directory.path(), std::slice::from_ref(&leader_address));
    config.listen = listen.clone();
    let node = TestNode::start_with(config);
    let mut asker = Asker::new(&listen);
    let response = loop {
        match asker.call(Operation::Get(v1::Get { key: "key".into() })).await {
            Ok(response) => break response,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let Some(Outcome::Error(error)) = response.result else { panic!("{response:?}") };
    assert_eq!(ErrorCode::from_number(error.code), ErrorCode::Unavailable);
    let leaders = FakeLeaders::new(1, 4);
    let _stop = leaders.serve_on(tokio::net::TcpListener::bind(&leader_address).await.unwrap());
    leaders.view_with(|view| view.has_map()).await;
    asker.put("key", "value").await;
    node.stop().await;
}

/// Guards against a data directory that joins a second cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_cluster_is_refused() {
    let leaders = FakeLeaders::new(1, 4);
    let (address, _stop) = leaders.serve().await;
    let directory = tempfile::tempdir().unwrap();
    let other = daemon::DataDirectory::open(directory.path()).unwrap();
    let node = TestNode::start(directory.path(), std::slice::from_ref(&address));
    let error = node.ended().await.unwrap_err();
    assert!(one_line(&error).contains("in use"), "{error}");
    drop(other);

    let node = TestNode::start(directory.path(), std::slice::from_ref(&address));
    let view = leaders.view_with(|view| view.has_map()).await;
    Asker::new(&view.nodes[&NodeId(1)].address).put("key", "value").await;
    node.stop().await;
    let held = daemon::DataDirectory::open(directory.path()).unwrap();
    let identity = String::from_utf8(held.read_small("identity").unwrap().unwrap()).unwrap();
    held.write_small("identity", identity.replace("5eed", "5eee").as_bytes()).unwrap();
    drop(held);
    let error = TestNode::start(directory.path(), &[address]).ended().await.unwrap_err();
    assert!(one_line(&error).contains("different clusters"), "{error}");
}

/// Guards against a copy of an older state of the directory that is taken for the node (P20).
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_is_refused() {
    let leaders = FakeLeaders::new(1, 4);
    let (address, _stop) = leaders.serve().await;
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let epoch = leaders.view().epoch;
        let node = TestNode::start(directory.path(), std::slice::from_ref(&address));
        leaders.view_with(|view| view.has_map() && view.epoch > epoch).await;
        let mut asker = Asker::new(&leaders.view().nodes[&NodeId(1)].address);
        asker.put("key", "value").await;
        node.stop().await;
    }
    let held = daemon::DataDirectory::open(directory.path()).unwrap();
    let identity = String::from_utf8(held.read_small("identity").unwrap().unwrap()).unwrap();
    held.write_small("identity", identity.replace(r#""incarnation":2"#, r#""incarnation":1"#).as_bytes()).unwrap();
    drop(held);
    let error = TestNode::start(directory.path(), &[address]).ended().await.unwrap_err();
    assert!(one_line(&error).contains("older copy"), "{error}");
    assert_eq!(error.exit(), Exit::Denied);
}

/// Guards against promises forgotten because half of the directory is gone (P1), and against damage that is served (P3).
#[tokio::test(flavor = "multi_thread")]
async fn half_a_directory_and_a_damaged_log_are_refused() {
    let leaders = FakeLeaders::new(1, 4);
    let (address, _stop) = leaders.serve().await;
    let directory = tempfile::tempdir().unwrap();
    let node = TestNode::start(directory.path(), std::slice::from_ref(&address));
    let view = leaders.view_with(|view| view.has_map()).await;
    Asker::new(&view.nodes[&NodeId(1)].address).put("key", "value").await;
    node.stop().await;

    let (wal, aside) = (directory.path().join("wal"), directory.path().join("aside"));
    std::fs::rename(&wal, &aside).unwrap();
    let error = TestNode::start(directory.path(), std::slice::from_ref(&address)).ended().await.unwrap_err();
    assert!(one_line(&error).contains("write-ahead log is empty"), "{error}");
    std::fs::remove_dir_all(&wal).unwrap();
    std::fs::rename(&aside, &wal).unwrap();

    let identity = directory.path().join("identity");
    let kept = std::fs::read(&identity).unwrap();
    std::fs::remove_file(&identity).unwrap();
    let error = TestNode::start(directory.path(), std::slice::from_ref(&address)).ended().await.unwrap_err();
    assert!(one_line(&error).contains("no identity"), "{error}");
    std::fs::write(&identity, &kept).unwrap();

    let first = std::fs::read_dir(&wal).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let mut content = std::fs::read(&first).unwrap();
    content[600] ^= 1;
    std::fs::write(&first, &content).unwrap();
    let error = TestNode::start(directory.path(), &[address]).ended().await.unwrap_err();
    assert!(one_line(&error).contains("damaged"), "{error}");
    assert_eq!(error.exit(), Exit::Unavailable);
}

/// Guards against settings that are found to be wrong only when something breaks.
#[tokio::test]
async fn settings_that_make_no_sense_are_usage_errors() {
    let directory = tempfile::tempdir().unwrap();
    let good = config(directory.path(), &["127.0.0.1:1".to_owned()]);
    let spoilt = [
        storaged::Config { leaders: vec![], ..good.clone() },
        storaged::Config { leaders: vec!["nowhere".to_owned()], ..good.clone() },
        storaged::Config { advertise: Some("no port".to_owned()), ..good.clone() },
        storaged::Config { weight: 0, ..good.clone() },
        storaged::Config { shards: 0, ..good.clone() },
        storaged::Config { listen: "0.0.0.0:0".to_owned(), ..good },
    ];
    for config in spoilt {
        let error = TestNode::start_with(config).ended().await.unwrap_err();
        assert_eq!(error.exit(), Exit::Usage, "{}", one_line(&error));
    }
}
