//! The wiring of a group: real members (openraft, tonic, the write-ahead log) with ways between them that can be cut.
//!
//! Members are cut off, cut in one direction, and killed, while an operator goes on changing the view and everybody is
//! watched. Time is real here and the order of events differs from run to run: what is checked holds in each. The same
//! on a simulated network, with more faults in less time: `simulated.rs`.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;
use support::history::{self, Seen};
use support::links::Links;
use support::{Cluster, Node, client, soon};
use tokio::task::JoinHandle;
use types::NodeId;
use wire::v1;

const ROUNDS: u64 = 8;
/// Changes that must be acknowledged while a fault lasts, each round.
const CHANGES: u64 = 2;

/// Everything is well as long as no watcher has failed.
async fn more_changes(seen: &Seen, tasks: &[JoinHandle<()>]) {
    let wanted = seen.changes() + CHANGES;
    soon("changes by a majority", async {
        while seen.changes() < wanted {
            assert!(tasks.iter().all(|task| !task.is_finished()), "a watcher failed: its panic is above");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Three members whose ways to each other can be cut.
async fn wired() -> (Cluster, Vec<String>, Links) {
    let mut cluster = Cluster::new(3);
    let addresses: Vec<String> = cluster.members.iter().map(|member| member.config.advertise.clone()).collect();
    let links = Links::new(&addresses).await;
    for (place, member) in cluster.members.iter_mut().enumerate() {
        member.surroundings = Arc::new(links.around(place, &addresses));
        member.start();
    }
    (cluster, addresses, links)
}

/// The leader's place, its term, and how far it has applied.
async fn reign(cluster: &Cluster) -> (usize, u64, u64) {
    let place = cluster.leader().await;
    let status = soon("a status", cluster.members[place].client().status(v1::StatusRequest {})).await.unwrap();
    let status = status.into_inner();
    let leader = status.members.iter().find(|member| member.role == "leader").unwrap();
    (place, leader.raft_term, leader.last_applied)
}

/// Guards against a member that, cut off from the leader's voice, asks for votes again and again, and so deposes the
/// leader that all others hear.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hears_no_leader_deposes_nobody() {
    let (cluster, _, links) = wired().await;
    let (leader, term, _) = reign(&cluster).await;
    let victim = (leader + 1) % 3;
    let met = links.held();
    links.cut_only(|_, to| to == victim);
    // A connection in vain lasts a second and a half, some elections' time.
    soon("the cut meets connections", async {
        while links.held() < met + 6 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    links.cut_only(|_, _| false);
    let (_, _, applied) = reign(&cluster).await;
    soon("the member hears the leader again", async {
        loop {
            let status = cluster.members[victim].client().status(v1::StatusRequest {}).await.unwrap().into_inner();
            let own = status.members.iter().find(|member| member.address == cluster.members[victim].config.advertise);
            if own.is_some_and(|own| own.role == "follower" && own.last_applied >= applied) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let (leads_now, term_now, _) = reign(&cluster).await;
    assert_eq!((leads_now, term_now), (leader, term), "leader and term changed, and nobody had lost them");
}

/// Guards against two leaders whose views of one epoch differ, and against an acknowledged change that is lost when
/// leaders are cut off, killed or deposed without knowing it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_view_splits_and_no_change_is_lost() {
    let (mut cluster, addresses, links) = wired().await;
    let mut node = Node::new(1).await;
    let _session = node.join(&cluster).await;
    let node_id = NodeId(node.register.node);

    let seen = Arc::new(Seen::default());
    let mut tasks: Vec<JoinHandle<()>> = Vec::new();
    for (place, address) in addresses.iter().enumerate() {
        tasks.push(tokio::spawn(history::watch(client(address), place, seen.clone())));
    }
    let members = addresses.iter().map(|address| client(address)).collect();
    tasks.push(tokio::spawn(history::operate(members, node_id, seen.clone())));

    let members = addresses.iter().map(|address| client(address)).collect();
    tasks.insert(0, tokio::spawn(history::read(members, seen.clone())));

    more_changes(&seen, &tasks).await;
    let mut leaders = Vec::new();
    for round in 0..ROUNDS {
        let leader = cluster.leader().await;
        leaders.push(leader);
        // Who hears nobody's calls must be one that is called: a follower.
        let follower = round % 4 == 1 || round % 3 == 2;
        let (met, victim) = (links.held(), if follower { (leader + 1) % 3 } else { leader });
        match round % 4 {
            // Cut off from all, and deposed without knowing it.
            0 => links.cut_only(|from, to| from == victim || to == victim),
            // It hears nobody, and goes on calling.
            1 => links.cut_only(|_, to| to == victim),
            // Its calls reach nobody.
            2 => links.cut_only(|from, _| from == victim),
            _ => cluster.members[victim].kill().await,
        }
        more_changes(&seen, &tasks).await;
        if round % 4 == 3 {
            cluster.members[victim].start();
        } else {
            soon("the cut meets a connection", async {
                while links.held() <= met {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
        }
        links.cut_only(|_, _| false);
        more_changes(&seen, &tasks).await;
    }
    assert!(leaders.windows(2).any(|pair| pair[0] != pair[1]), "nobody was ever deposed: {leaders:?}");

    tasks.pop().unwrap().abort();
    let leader = cluster.leader().await;
    let last = soon("the last view", history::last_view(cluster.members[leader].client())).await;
    for (place, address) in addresses.iter().enumerate() {
        let request = v1::GetViewRequest { have_epoch: 0, linearizable: true };
        let reply = soon("the last view", client(address).get_view(request)).await.unwrap().into_inner();
        assert_eq!(reply.error, None);
        assert!(reply.epoch >= last.epoch.0, "member {place} is behind what was known to be committed");
    }
    seen.check_weights(node_id, &last);
    tasks.iter().for_each(JoinHandle::abort);
}
