//! A group of viewleaders with fake storage nodes: beginning, registration, views, and the death of anybody.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeSet;
use support::{Cluster, Node, Session, Watcher, client, register, soon};
use types::{ErrorCode, NodeId, View};
use viewleader::Error;
use wire::v1;
use wire::v1::leader_message::Message as ToNode;
use wire::v1::node_message::Message as FromNode;

async fn view_at(cluster: &Cluster, member: usize, linearizable: bool) -> v1::GetViewReply {
    let request = v1::GetViewRequest { have_epoch: 0, linearizable };
    soon("a view", cluster.members[member].client().get_view(request)).await.unwrap().into_inner()
}

fn primaries(view: &View) -> BTreeSet<NodeId> {
    view.configurations.iter().filter_map(|configuration| configuration.primary()).collect()
}

/// Guards against a group that does not come together, a first map that is committed too early or too late, and members
/// that disagree.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_begin_and_three_nodes_get_a_map() {
    let cluster = Cluster::started(3);
    let mut watchers = Vec::new();
    for member in &cluster.members {
        watchers.push(Watcher::new(member).await);
    }
    let mut nodes = [Node::new(1).await, Node::new(2).await, Node::new(3).await];
    let mut first = nodes[0].join(&cluster).await;
    let _second = nodes[1].join(&cluster).await;
    assert!(!first.view_where(|view| view.nodes.len() == 2).await.has_map());
    let _third = nodes[2].join(&cluster).await;
    let view = first.view_where(View::has_map).await;
    assert_eq!(primaries(&view).len(), 3);
    for watcher in &mut watchers {
        assert_eq!(watcher.view_where(View::has_map).await, view.as_ref());
    }
    for member in 0..3 {
        let reply = view_at(&cluster, member, true).await;
        assert_eq!((reply.error, reply.epoch), (None, view.epoch.0));
        let status = cluster.members[member].client().status(v1::StatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.error, None);
        assert_eq!((status.nodes.len(), status.members.len(), status.has_map), (3, 3, true));
        assert_eq!(status.members.iter().filter(|member| member.role == "leader").count(), 1);
        assert!(status.without_quorum.is_empty() && status.under_replicated.is_empty());
        assert_eq!(status.not_serving.len(), 16, "nobody has said that it serves");
    }
    let have = v1::GetViewRequest { have_epoch: view.epoch.0, linearizable: false };
    assert_eq!(cluster.members[0].client().get_view(have).await.unwrap().into_inner().update, None);
}

/// Guards against a dead node's primaries that stay, or move in more than one change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nodes_death_is_one_change_and_everybody_hears_of_it() {
    let cluster = Cluster::started(3);
    let mut nodes = [Node::new(1).await, Node::new(2).await, Node::new(3).await];
    let mut survivor = nodes[0].join(&cluster).await;
    let _second = nodes[1].join(&cluster).await;
    let doomed = nodes[2].join(&cluster).await;
    let before = survivor.view_where(View::has_map).await;
    let mut watchers = Vec::new();
    for member in &cluster.members {
        watchers.push(Watcher::new(member).await);
    }
    let [_, _, third] = nodes;
    let dead = NodeId(third.register.node);
    drop(third.listener);
    drop(doomed);
    let after = survivor.view_where(|view| !view.nodes[&dead].alive).await;
    assert_eq!(after.epoch, before.epoch.next());
    assert!(!primaries(&after).contains(&dead));
    for watcher in &mut watchers {
        assert_eq!(watcher.view_where(|view| view.epoch == after.epoch).await, after.as_ref());
    }
}

/// Guards against messages, records or channels that are too small for the largest cluster there may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_map_fits() {
    let mut cluster = Cluster::new(3);
    for member in &mut cluster.members {
        member.config.cluster.partitions = types::PartitionCount::new(types::limits::PARTITIONS_MAX).unwrap();
        member.start();
    }
    let mut nodes = vec![Node::new(1).await, Node::new(2).await, Node::new(3).await];
    let mut sessions = Vec::new();
    for node in &mut nodes {
        sessions.push(node.join(&cluster).await);
    }
    let mut watcher = Watcher::new(&cluster.members[0]).await;
    watcher.view_where(View::has_map).await;
    // Nothing listens at its address from here on.
    let gone = nodes.pop().unwrap().register;
    let dead = NodeId(gone.node);
    drop(sessions.pop());
    let view = loop {
        match sessions[0].view_if(|view| view.has_map() && !view.nodes[&dead].alive).await {
            Some(view) => break view,
            // So large a map keeps a busy machine so busy that another member may be elected. One that never heard a node
            // does not call it dead either.
            None => {
                drop(cluster.join(gone.clone()).await);
                sessions.clear();
                for node in &mut nodes {
                    sessions.push(node.join(&cluster).await);
                }
            }
        }
    };
    assert_eq!(view.configurations.len(), 65_536);
    assert!(!primaries(&view).contains(&dead));
    let seen = watcher.view_where(|seen| seen.epoch >= view.epoch).await;
    assert!(seen.epoch > view.epoch || seen == view.as_ref(), "two views of {}", view.epoch);
}

/// Guards against a leader's death that changes the view, loses registrations, or gives a node another epoch for the
/// same start (P11, P20).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leaders_death_changes_nothing() {
    let mut cluster = Cluster::started(3);
    let mut nodes = [Node::new(1).await, Node::new(2).await, Node::new(3).await];
    let mut sessions = Vec::new();
    for node in &mut nodes {
        sessions.push(node.join(&cluster).await);
    }
    let before = sessions[0].view_where(View::has_map).await;
    for session in &mut sessions {
        session.view_where(|view| view.epoch == before.epoch).await;
    }
    let leader = cluster.leader().await;
    cluster.members[leader].kill().await;
    for session in &mut sessions {
        while let Some(message) = session.next().await {
            assert!(!matches!(message, ToNode::View(_)), "{message:?}");
        }
    }
    for node in &mut nodes {
        let joined = cluster.join(node.register.clone()).await;
        assert_eq!(joined.registered.node, node.register.node);
        assert_eq!(joined.registered.accepted_at, before.nodes[&NodeId(node.register.node)].accepted_at.0);
        assert_eq!(joined.session.view.as_deref(), Some(before.as_ref()));
    }
    // And it comes back to the others.
    cluster.members[leader].start();
    let mut watcher = Watcher::new(&cluster.members[leader]).await;
    watcher.view_where(|view| view == before.as_ref()).await;
    assert_eq!(view_at(&cluster, leader, true).await.error, None);
}

/// Guards against a restart that begins a new cluster, or forgets nodes; and against a group of one that waits for others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_one_goes_on_after_a_restart() {
    let mut cluster = Cluster::started(1);
    let mut node = Node::new(1).await;
    let session = node.join(&cluster).await;
    let before = session.view.clone().unwrap();
    drop(session);
    cluster.members[0].stop().await.unwrap();
    cluster.members[0].start();
    let mut watcher = Watcher::new(&cluster.members[0]).await;
    let view = watcher.view_where(|view| view.epoch == before.epoch).await;
    assert_eq!(view, before.as_ref());
    cluster.members[0].kill().await;
    cluster.members[0].start();
    // P20: the same start is the same registration, also after the group was gone in between.
    let joined = cluster.join(node.register.clone()).await;
    assert_eq!(joined.registered.node, node.register.node);
}

/// Guards P20: a copy of a directory, a directory of another cluster, and one that knows more than the group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_directories_are_refused_with_a_line() {
    let cluster = Cluster::started(1);
    let mut node = Node::new(1).await;
    let _session = node.join(&cluster).await;
    let own = node.register.clone();

    let copy = v1::Register { boot_nonce: 99, ..own.clone() };
    let error = cluster.refused(copy).await;
    assert_eq!(error.code, ErrorCode::Refused.number());
    assert!(error.message.contains("stale copy") && error.message.contains("--data-dir"), "{}", error.message);

    let foreign = v1::Register { cluster: vec![9; 16].into(), ..own.clone() };
    assert_eq!(cluster.refused(foreign).await.code, ErrorCode::WrongCluster.number());
    let malformed = v1::Register { cluster: vec![9; 3].into(), ..own.clone() };
    assert_eq!(cluster.refused(malformed).await.code, ErrorCode::Invalid.number());
    let nowhere = v1::Register { address: "x".repeat(100_000), ..register(5, "") };
    let error = cluster.refused(nowhere).await;
    assert!(error.code == ErrorCode::Invalid.number() && error.message.len() < 300, "{}", error.message);

    let newer = v1::Register { incarnation: 2, boot_nonce: 2, highest_promised: 1000, ..own };
    assert!(cluster.refused(newer).await.message.contains("lost changes"));
    let status = cluster.members[0].client().status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert!(status.alarms.iter().any(|alarm| alarm.contains("lost changes")), "{:?}", status.alarms);
}

/// Guards against messages that break a rule being acted on, or bringing a member down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_ends_the_session_and_nothing_else() {
    let cluster = Cluster::started(1);
    let mut node = Node::new(1).await;
    node.join(&cluster).await;
    let address = cluster.members[0].config.advertise.clone();

    let heartbeat = || FromNode::Heartbeat(v1::Heartbeat::default());
    let mut unregistered = Session::begin(&address, heartbeat()).await.unwrap();
    assert!(matches!(unregistered.next().await, Some(ToNode::Refused(_))));
    assert_eq!(unregistered.next().await, None);

    let serving = vec![v1::Serving { partition: 16, term: 1, behind: vec![], filled: 0 }];
    for nonsense in [
        FromNode::Register(node.register.clone()),
        FromNode::Heartbeat(v1::Heartbeat { serving, ..Default::default() }),
        FromNode::Activated(v1::Activated { partition: u32::MAX, term: 1 }),
        FromNode::Stuck(v1::Stuck { partition: 16, term: u64::MAX, unreachable: vec![u64::MAX], holder: u64::MAX }),
        FromNode::Damaged(v1::Damaged { partition: 16, term: 1 }),
    ] {
        let mut session = cluster.join(node.register.clone()).await.session;
        session.send(nonsense).await;
        let Some(ToNode::Refused(error)) = session.next().await else { panic!("not refused") };
        assert_eq!(error.code, ErrorCode::Invalid.number());
        assert_eq!(session.next().await, None);
    }
    let mut empty = cluster.join(node.register.clone()).await.session;
    empty.to.send(v1::NodeMessage { message: None }).await.unwrap();
    assert!(matches!(empty.next().await, Some(ToNode::Refused(_))));

    let mut raft = wire::v1::raft_client::RaftClient::connect(format!("http://{address}")).await.unwrap();
    let garbage = |body: Vec<u8>| v1::RaftBody { cluster: bytes::Bytes::new(), body: body.into() };
    for body in [vec![], vec![1], vec![2, 3], vec![1; 100], vec![255; 1000]] {
        assert!(raft.append_entries(garbage(body.clone())).await.is_err());
        assert!(raft.vote(garbage(body.clone())).await.is_err());
        assert!(raft.install_snapshot(garbage(body.clone())).await.is_err());
        assert!(raft.hello(garbage(body)).await.is_err());
    }
    // It still works.
    let mut session = cluster.join(node.register.clone()).await.session;
    session.send(heartbeat()).await;
    assert!(matches!(session.next().await, Some(ToNode::Heartbeat(_))));
}

/// Guards P16, P19 and P3 at the session: what a node asks is answered, by what the group committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nodes_reports_are_answered() {
    let cluster = Cluster::started(1);
    let mut nodes = [Node::new(1).await, Node::new(2).await, Node::new(3).await];
    let mut sessions = Vec::new();
    for node in &mut nodes {
        sessions.push(node.join(&cluster).await);
    }
    let view = sessions[0].view_where(View::has_map).await;
    let own = NodeId(nodes[0].register.node);
    let mut led = (0u32..).zip(&view.configurations).filter(|(_, c)| c.primary() == Some(own));
    let ((damaged, _), (stuck, configuration)) = (led.next().unwrap(), led.next().unwrap());
    let session = &mut sessions[0];

    for (term, accepted) in [(configuration.term.0, true), (configuration.term.0 + 1, false)] {
        session.send(FromNode::Activated(v1::Activated { partition: stuck, term })).await;
        let expected = v1::ActivatedReply { partition: stuck, term, accepted };
        assert_eq!(session.next().await, Some(ToNode::Activated(expected)));
    }

    let term = view.configurations[damaged as usize].term.0;
    session.send(FromNode::Damaged(v1::Damaged { partition: damaged, term: term - 1 })).await;
    session.send(FromNode::Damaged(v1::Damaged { partition: damaged, term })).await;
    let noted = v1::DamageNoted { partition: damaged, epoch: view.epoch.0 };
    assert_eq!(session.next().await, Some(ToNode::DamageNoted(noted)));
    let moved = session.view_where(|view| view.configurations[damaged as usize].primary() != Some(own)).await;
    assert_eq!(moved.epoch, view.epoch.next());

    let report = v1::Stuck { partition: stuck, term: configuration.term.0, unreachable: vec![], holder: 0 };
    session.send(FromNode::Stuck(report)).await;
    session.view_where(|view| view.configurations[stuck as usize].primary() != Some(own)).await;

    let request = v1::StatusRequest {};
    let status = cluster.members[0].client().status(request).await.unwrap().into_inner();
    assert_eq!(status.under_replicated, [damaged]);
    assert!(status.alarms.iter().any(|alarm| alarm.contains("damaged")), "{:?}", status.alarms);
}

/// Guards against two sessions of one node that both live, and against a follower that takes registrations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_with_the_leader_and_the_newest_counts() {
    let cluster = Cluster::started(3);
    let mut node = Node::new(1).await;
    let mut older = node.join(&cluster).await;
    let mut newer = node.join(&cluster).await;
    assert!(matches!(older.next().await, Some(ToNode::Refused(_))));
    newer.send(FromNode::Heartbeat(v1::Heartbeat::default())).await;
    assert!(matches!(newer.next().await, Some(ToNode::Heartbeat(_))));

    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let address = &cluster.members[follower].config.advertise;
    let mut session = Session::begin(address, FromNode::Register(node.register.clone())).await.unwrap();
    let Some(ToNode::NotLeader(elsewhere)) = session.next().await else { panic!("a follower took it") };
    assert_eq!(elsewhere.leader_address, cluster.members[leader].config.advertise);
    assert_eq!(session.next().await, None);
}

/// Guards against a group without a majority that pretends to know, or says nothing at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_what_is_known_is_told_with_an_error() {
    let mut cluster = Cluster::started(3);
    let mut node = Node::new(1).await;
    let view = node.join(&cluster).await.view.unwrap();
    let leader = cluster.leader().await;
    let (second, last) = ((leader + 1) % 3, (leader + 2) % 3);
    Watcher::new(&cluster.members[last]).await.view_where(|seen| seen.epoch >= view.epoch).await;
    cluster.members[leader].kill().await;
    cluster.members[second].kill().await;
    let mut client = client(&cluster.members[last].config.advertise);
    let status = client.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.error.map(|error| error.code), Some(ErrorCode::NoLeader.number()));
    assert_eq!(status.nodes.len(), 1);
    assert_eq!(status.members.iter().filter(|member| member.role == "unreachable").count(), 2);
    assert!(view_at(&cluster, last, false).await.update.is_some());
    let error = view_at(&cluster, last, true).await.error.unwrap();
    assert_eq!(error.code, ErrorCode::NoLeader.number());
}

/// Guards against a member that lost its directory and votes a second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_a_new_directory_is_refused() {
    let mut cluster = Cluster::started(3);
    let leader = cluster.leader().await;
    let wiped = (leader + 1) % 3;
    Watcher::new(&cluster.members[wiped]).await.view_where(|_| true).await;
    cluster.members[wiped].stop().await.unwrap();
    std::fs::remove_dir_all(cluster.data_dir(wiped)).unwrap();
    cluster.members[wiped].start();
    let error = cluster.members[wiped].ended().await;
    assert!(matches!(error, Error::DirectoryReplaced { .. }), "{error}");
    // And again: the first attempt must not have made it known.
    cluster.members[wiped].start();
    assert!(matches!(cluster.members[wiped].ended().await, Error::DirectoryReplaced { .. }));
}

/// Guards against a member that votes a second time because its log is gone while its name is still there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_its_log_is_refused() {
    let mut cluster = Cluster::started(3);
    let leader = cluster.leader().await;
    let robbed = (leader + 1) % 3;
    Watcher::new(&cluster.members[robbed]).await.view_where(|_| true).await;
    cluster.members[robbed].stop().await.unwrap();
    std::fs::remove_dir_all(cluster.data_dir(robbed).join("log")).unwrap();
    cluster.members[robbed].start();
    let error = cluster.members[robbed].ended().await;
    assert!(matches!(error, Error::LogLost { .. }), "{error}");
}

/// Guards against members with different ideas of who they are that form two groups.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn different_lists_of_peers_are_refused() {
    let mut cluster = Cluster::new(3);
    cluster.members[0].start();
    cluster.members[2].start();
    Watcher::new(&cluster.members[0]).await.view_where(|_| true).await;
    let right = cluster.members[1].config.peers.clone();
    let own = cluster.members[1].config.advertise.clone();
    let other = cluster.members[0].config.advertise.clone();
    cluster.members[1].config.peers = vec![other, own.clone(), "127.0.0.1:1".into()];
    cluster.members[1].start();
    let error = cluster.members[1].ended().await;
    assert!(matches!(error, Error::PeersDiffer { .. }), "{error}");
    // Corrected, it is welcome: nothing had come of the wrong list.
    cluster.members[1].config.peers = right;
    cluster.members[1].start();
    Watcher::new(&cluster.members[1]).await.view_where(|_| true).await;
    cluster.members[1].stop().await.unwrap();
    // Once it has taken part, the list is what it is.
    cluster.members[1].config.peers = vec![own];
    cluster.members[1].start();
    assert!(matches!(cluster.members[1].ended().await, Error::PeersChanged { .. }));
}

/// Guards against settings that can't work being found out late, or in more than one line.
#[tokio::test]
async fn wrong_settings_are_refused_before_anything_is_touched() {
    let cluster = Cluster::new(3);
    let good = cluster.members[0].config.clone();
    let mut wrong = vec![good.clone(); 6];
    wrong[0].advertise = "127.0.0.1:1".into();
    wrong[1].peers.pop();
    wrong[2].peers[1] = wrong[2].peers[0].clone();
    wrong[3].peers[2] = "nowhere".into();
    wrong[4].cluster.replication = 0;
    wrong[5].cluster.expect_nodes = 0;
    for config in wrong {
        let error = viewleader::run(config, std::future::ready(())).await.unwrap_err();
        assert!(matches!(error, Error::Setting(_)), "{error}");
        assert!(error.to_string().contains("--") && !error.to_string().contains('\n'), "{error}");
    }
    assert!(!good.data_dir.exists());
}
