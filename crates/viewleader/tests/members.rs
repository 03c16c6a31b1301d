//! The group's own members change while it runs: they join, go, and come back with nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::time::Duration;
use support::{Cluster, Node, Watcher, soon};
use types::{ErrorCode, View};
use viewleader::Error;
use wire::v1;
use wire::v1::leader_message::Message as ToNode;
use wire::v1::node_message::Message as FromNode;

/// What the group says once `wanted` is true of its members.
async fn members_where(cluster: &Cluster, what: &str, wanted: impl Fn(&[v1::Member]) -> bool) -> Vec<v1::Member> {
    soon(what, async {
        loop {
            let leader = cluster.leader().await;
            if let Ok(status) = cluster.members[leader].client().status(v1::StatusRequest {}).await {
                let status = status.into_inner();
                if status.error.is_none() && wanted(&status.members) {
                    return status.members;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Waits until exactly `ids` are members, and all of them vote.
async fn voting(cluster: &Cluster, ids: &[u64]) -> Vec<v1::Member> {
    let vote = |member: &v1::Member| matches!(member.role.as_str(), "leader" | "follower" | "candidate");
    let wanted = |members: &[v1::Member]| {
        members.iter().map(|member| member.id).eq(ids.iter().copied()) && members.iter().all(vote)
    };
    members_where(cluster, &format!("{ids:?} to vote"), wanted).await
}

/// A group of one, bootstrapped, and `count` others that ask to be admitted, one after the other.
async fn grown_to(count: usize) -> Cluster {
    let mut cluster = Cluster::new(count);
    let founder = cluster.members[0].config.advertise.clone();
    cluster.members[0].config.peers = vec![founder.clone()];
    cluster.members[0].start();
    for place in 1..count {
        cluster.joins(place, &[0]);
        cluster.members[place].start();
        let ids: Vec<u64> = (1..=place as u64 + 1).collect();
        voting(&cluster, &ids).await;
    }
    cluster
}

/// What the leader answers to the wish to remove a member.
async fn remove(cluster: &Cluster, member: u64) -> Option<v1::Error> {
    soon("a removal", async {
        loop {
            let leader = cluster.leader().await;
            let request = v1::RemoveMemberRequest { member };
            let reply = cluster.members[leader].client().remove_member(request).await;
            match reply.map(|reply| reply.into_inner().error) {
                Ok(Some(error)) if error.code != ErrorCode::Refused.number() => {}
                Ok(outcome) => return outcome,
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// The epoch at which somebody just registered, seen by the member at `place`: the group commits, and it follows.
async fn goes_on(cluster: &Cluster, node: &mut Node, place: usize) {
    let session = node.join(cluster).await;
    let epoch = session.view.as_ref().unwrap().epoch;
    Watcher::new(&cluster.members[place]).await.view_where(|view: &View| view.epoch >= epoch).await;
}

/// Guards against members that are admitted but never count: the founder, alone at first, dies for good, and then another
/// leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_becomes_three_then_five_and_survives_its_old_leaders() {
    let mut cluster = grown_to(3).await;
    let mut node = Node::new(1).await;
    goes_on(&cluster, &mut node, 2).await;
    // Any member passes the request on.
    for (place, asked) in [(3, [1]), (4, [2])] {
        cluster.add();
        cluster.joins(place, &asked);
        cluster.members[place].start();
    }
    let members = voting(&cluster, &[1, 2, 3, 4, 5]).await;
    assert_eq!(members.iter().filter(|member| member.role == "leader").count(), 1);
    let mut second = Node::new(2).await;
    goes_on(&cluster, &mut second, 4).await;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        cluster.members[leader].kill().await;
        let place = cluster.leader().await;
        goes_on(&cluster, &mut second, place).await;
    }
}

/// Guards against a member that needs its flags, or the members that it once joined, to be started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_joined_starts_again_with_the_same_flags_or_none() {
    let mut cluster = grown_to(3).await;
    cluster.members[2].kill().await;
    cluster.members[2].start();
    voting(&cluster, &[1, 2, 3]).await;
    // All at once, so that nobody is there to be asked; the founder without its list, another one without any.
    cluster.members[0].config.peers = Vec::new();
    cluster.members[1].config.join = Vec::new();
    for place in 0..3 {
        cluster.members[place].kill().await;
    }
    cluster.members.iter_mut().for_each(support::Member::start);
    voting(&cluster, &[1, 2, 3]).await;
    let mut node = Node::new(1).await;
    goes_on(&cluster, &mut node, 2).await;
    // The founder's own list stays a right one, any other is none.
    cluster.members[0].stop().await.unwrap();
    cluster.members[0].config.peers =
        cluster.members.iter().map(|member| member.config.advertise.clone()).collect::<Vec<_>>();
    cluster.members[0].start();
    assert!(matches!(cluster.members[0].ended().await, Error::PeersChanged { .. }));
    cluster.members[0].config.peers = vec![cluster.members[0].config.advertise.clone()];
    cluster.members[0].start();
    voting(&cluster, &[1, 2, 3]).await;
}

/// Guards against a removed member that goes on as if it were one, disturbs the others, or comes back under its old id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_follower_ends_and_its_directory_is_refused() {
    let mut cluster = Cluster::started(3);
    let mut node = Node::new(1).await;
    goes_on(&cluster, &mut node, 0).await;
    let leader = cluster.leader().await;
    let gone = (leader + 1) % 3;
    let id = cluster.id_of(gone).await;
    assert_eq!(remove(&cluster, id).await, None);
    let error = cluster.members[gone].ended().await;
    assert!(matches!(error, Error::Removed { member, .. } if member == id), "{error}");
    // What is done is done; and who never was is named.
    assert_eq!(remove(&cluster, id).await, None);
    let error = remove(&cluster, 99).await.unwrap();
    assert!(error.message.contains("no member 99"), "{}", error.message);
    cluster.members[gone].start();
    assert!(matches!(cluster.members[gone].ended().await, Error::Removed { .. }));
    // Nor does --join make it new.
    let own_list = std::mem::take(&mut cluster.members[gone].config.peers);
    cluster.joins(gone, &[leader]);
    cluster.members[gone].start();
    assert!(matches!(cluster.members[gone].ended().await, Error::Removed { .. }));
    // With an empty directory and the old list it would be the old member: with --join it is a new one.
    std::fs::remove_dir_all(cluster.data_dir(gone)).unwrap();
    cluster.members[gone].config.join = Vec::new();
    cluster.members[gone].config.peers = own_list;
    cluster.members[gone].start();
    assert!(matches!(cluster.members[gone].ended().await, Error::Removed { .. }));
    std::fs::remove_dir_all(cluster.data_dir(gone)).unwrap();
    cluster.members[gone].config.peers = Vec::new();
    cluster.joins(gone, &[leader]);
    cluster.members[gone].start();
    let mut ids: Vec<u64> = (1..=4).filter(|other| *other != id).collect();
    ids.sort_unstable();
    voting(&cluster, &ids).await;
    goes_on(&cluster, &mut node, gone).await;
}

/// Guards against a removed member that was away meanwhile, and is told by nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_removed_while_it_was_down_is_told_at_its_next_start() {
    let mut cluster = Cluster::started(3);
    let leader = cluster.leader().await;
    let gone = (leader + 1) % 3;
    let id = cluster.id_of(gone).await;
    Watcher::new(&cluster.members[gone]).await.view_where(|_| true).await;
    cluster.members[gone].kill().await;
    assert_eq!(remove(&cluster, id).await, None);
    cluster.members[gone].start();
    let error = cluster.members[gone].ended().await;
    assert!(matches!(error, Error::Removed { .. }), "{error}");
}

/// Guards against a leader that can't be removed, leads on, or takes the group with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_removes_itself_and_another_one_leads() {
    let mut cluster = Cluster::started(3);
    let mut node = Node::new(1).await;
    goes_on(&cluster, &mut node, 0).await;
    let old = cluster.leader().await;
    let id = cluster.id_of(old).await;
    assert_eq!(remove(&cluster, id).await, None);
    let error = cluster.members[old].ended().await;
    assert!(matches!(error, Error::Removed { member, .. } if member == id), "{error}");
    let ids: Vec<u64> = (1..=3).filter(|other| *other != id).collect();
    voting(&cluster, &ids).await;
    let place = cluster.leader().await;
    goes_on(&cluster, &mut node, place).await;
}

/// Guards against a removal that stops the group: the last member, or one without which no majority answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_would_stop_the_group_is_refused_with_the_reason() {
    let mut cluster = Cluster::started(3);
    let leader = cluster.leader().await;
    let (down, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let (down_id, other_id) = (cluster.id_of(down).await, cluster.id_of(other).await);
    Watcher::new(&cluster.members[other]).await.view_where(|_| true).await;
    cluster.members[down].kill().await;
    let error = remove(&cluster, other_id).await.unwrap();
    let silent = format!("start {down_id} at {}", cluster.members[down].config.advertise);
    assert!(error.message.contains(&silent), "{}", error.message);
    // The one that is down may go, and then, with two left that both answer, one more; the last one may not.
    assert_eq!(remove(&cluster, down_id).await, None);
    assert_eq!(remove(&cluster, other_id).await, None);
    let last = cluster.id_of(leader).await;
    let error = remove(&cluster, last).await.unwrap();
    assert!(error.message.contains("the only one"), "{}", error.message);
    assert!(matches!(cluster.members[other].ended().await, Error::Removed { .. }));
}

/// Guards against a wiped member that votes again under its old id, can't come back, or shrinks the majority on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_member_takes_its_own_place_under_a_new_id() {
    let mut cluster = Cluster::started(3);
    let mut node = Node::new(1).await;
    let wiped = (cluster.leader().await + 1) % 3;
    let other = (wiped + 1) % 3;
    let id = cluster.id_of(wiped).await;
    goes_on(&cluster, &mut node, wiped).await;
    // While it is there, nobody takes its place.
    cluster.add();
    cluster.members[3].config.advertise = cluster.members[wiped].config.advertise.clone();
    cluster.joins(3, &[other]);
    cluster.members[3].start();
    let error = cluster.members[3].ended().await;
    assert!(matches!(&error, Error::JoinRefused(why) if why.contains("answers there")), "{error}");

    cluster.members[wiped].stop().await.unwrap();
    std::fs::remove_dir_all(cluster.data_dir(wiped)).unwrap();
    cluster.members[wiped].start();
    let error = cluster.members[wiped].ended().await;
    assert!(matches!(error, Error::DirectoryReplaced { .. }), "{error}");
    assert!(error.to_string().contains(&format!("dhtctl leaders remove {id}")), "{error}");
    std::fs::remove_dir_all(cluster.data_dir(wiped)).unwrap();
    cluster.members[wiped].config.peers = Vec::new();
    cluster.joins(wiped, &[other]);
    cluster.members[wiped].start();
    let ids: Vec<u64> = (1..=4).filter(|other| *other != id).collect();
    voting(&cluster, &ids).await;
    goes_on(&cluster, &mut node, wiped).await;
    // And again, with the old one removed by hand first: 4 is never given again.
    cluster.members[wiped].kill().await;
    std::fs::remove_dir_all(cluster.data_dir(wiped)).unwrap();
    assert_eq!(remove(&cluster, 4).await, None);
    cluster.members[wiped].start();
    let ids: Vec<u64> = (1..=5).filter(|other| ![id, 4].contains(other)).collect();
    voting(&cluster, &ids).await;
    // It counts: with it and one more, another leader is found.
    let leader = cluster.leader().await;
    let victim = if leader == wiped { other } else { leader };
    cluster.members[victim].kill().await;
    let place = cluster.leader().await;
    goes_on(&cluster, &mut node, place).await;
}

/// Guards against a directory of one cluster that ends up in another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_another_cluster_is_not_admitted() {
    let mut ours = Cluster::started(1);
    let mut theirs = Cluster::started(1);
    Watcher::new(&ours.members[0]).await.view_where(|_| true).await;
    Watcher::new(&theirs.members[0]).await.view_where(|_| true).await;
    theirs.members[0].stop().await.unwrap();
    theirs.members[0].config.peers = Vec::new();
    theirs.members[0].config.join = vec![ours.members[0].config.advertise.clone()];
    theirs.members[0].start();
    let error = theirs.members[0].ended().await;
    assert!(matches!(error, Error::OtherGroup { .. }), "{error}");
    assert_eq!(voting(&ours, &[1]).await.len(), 1);
    // Without the flag it is what it was.
    theirs.members[0].config.join = Vec::new();
    theirs.members[0].start();
    voting(&theirs, &[1]).await;
    ours.members[0].stop().await.unwrap();
}

/// Guards against a change that stays half done, or is done twice, when the leader dies in its middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_goes_on_after_the_leaders_death_in_its_middle() {
    let mut cluster = Cluster::started(3);
    let mut node = Node::new(1).await;
    goes_on(&cluster, &mut node, 0).await;
    for round in 0..3 {
        let id = 4 + round;
        let place = cluster.members.len();
        cluster.add();
        cluster.joins(place, &[0, 1, 2]);
        cluster.members[place].start();
        // A learner, or more already.
        members_where(&cluster, "the new one", |members| members.iter().any(|member| member.id == id)).await;
        crash_leader(&mut cluster).await;
        voting(&cluster, &[1, 2, 3, id]).await;
        let leader = cluster.leader().await;
        let mut client = cluster.members[leader].client();
        let removal = tokio::spawn(async move { client.remove_member(v1::RemoveMemberRequest { member: id }).await });
        // Each round at another point of it.
        tokio::time::sleep(Duration::from_millis(2 * round)).await;
        crash_leader(&mut cluster).await;
        removal.await.unwrap().ok();
        assert_eq!(remove(&cluster, id).await, None);
        voting(&cluster, &[1, 2, 3]).await;
        assert!(matches!(cluster.members[place].ended().await, Error::Removed { .. }));
    }
    goes_on(&cluster, &mut node, 0).await;
}

/// Kills whoever of the first three leads, and starts it again.
async fn crash_leader(cluster: &mut Cluster) {
    let leader = cluster.leader().await;
    if leader < 3 {
        cluster.members[leader].kill().await;
        cluster.members[leader].start();
    }
}

/// Guards against a new member that can't follow once the log's beginning is purged, and against ids that are forgotten
/// with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_brings_a_new_member_up_to_date_and_remembers_ids() {
    let mut cluster = grown_to(1).await;
    voting(&cluster, &[1]).await;
    let mut node = Node::new(1).await;
    let mut session = node.join(&cluster).await;
    let never = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let request = v1::JoinRequest { directory: 7, address: never.local_addr().unwrap().to_string() };
    assert_eq!(cluster.members[0].client().join(request).await.unwrap().into_inner().member, 2);
    assert_eq!(remove(&cluster, 2).await, None);
    // More than are kept behind a snapshot.
    for round in 0..3 * 1000u64 {
        session.send(FromNode::Activated(v1::Activated { partition: 0, term: 1 + round })).await;
        assert!(matches!(session.next().await, Some(ToNode::Activated(_))));
    }
    for (place, ids) in [(1, &[1, 3][..]), (2, &[1, 3, 4])] {
        cluster.add();
        cluster.joins(place, &[0]);
        cluster.members[place].start();
        voting(&cluster, ids).await;
    }
    for place in 0..3 {
        cluster.members[place].kill().await;
    }
    cluster.members.iter_mut().for_each(support::Member::start);
    voting(&cluster, &[1, 3, 4]).await;
    assert_eq!(remove(&cluster, 4).await, None);
    assert!(matches!(cluster.members[2].ended().await, Error::Removed { .. }));
    cluster.add();
    cluster.joins(3, &[1]);
    cluster.members[3].start();
    voting(&cluster, &[1, 3, 5]).await;
    goes_on(&cluster, &mut node, 3).await;
}

/// Guards against an answer to a wish to join that gets lost: the same directory is given the same id, at the same address
/// only, and another one another id, also once the first is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_directory_gets_the_same_answer_and_no_id_is_given_twice() {
    let cluster = Cluster::started(1);
    voting(&cluster, &[1]).await;
    let listeners: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let at = |n: usize| listeners[n].local_addr().unwrap().to_string();
    let join = async |directory: u64, address: String| {
        let request = v1::JoinRequest { directory, address };
        soon("an answer", async {
            loop {
                let reply = cluster.members[0].client().join(request.clone()).await.unwrap().into_inner();
                match &reply.error {
                    Some(error) if error.code == ErrorCode::NotBootstrapped.number() => {}
                    _ => return reply,
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    };
    let first = join(7, at(0)).await;
    assert_eq!((first.error, first.member), (None, 2));
    assert_eq!(join(7, at(0)).await.member, 2);
    let elsewhere = join(7, at(1)).await.error.unwrap();
    assert!(elsewhere.message.contains("--advertise"), "{}", elsewhere.message);
    assert_eq!(join(8, at(1)).await.member, 3);
    // Nobody behind them ever spoke, so they don't vote, and may go.
    assert_eq!(remove(&cluster, 3).await, None);
    assert_eq!(join(8, at(1)).await.member, 4);
    // The directory behind 2 was lost before it ever voted.
    assert_eq!(join(9, at(0)).await.member, 5);
    let members = members_where(&cluster, "the members", |members| members.len() == 3).await;
    assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [1, 4, 5]);
    assert!(members[1..].iter().all(|member| member.role == "unreachable"), "{members:?}");
    for nonsense in ["", "nowhere", "a b:1", ":1"] {
        let error = join(10, nonsense.to_owned()).await.error.unwrap();
        assert_eq!(error.code, ErrorCode::Invalid.number(), "{nonsense}");
    }
    assert_eq!(join(0, at(2)).await.error.unwrap().code, ErrorCode::Invalid.number());
    let nobody = join(11, "127.0.0.1:1".to_owned()).await.error.unwrap();
    assert!(nobody.message.contains("nothing listens"), "{}", nobody.message);
}
