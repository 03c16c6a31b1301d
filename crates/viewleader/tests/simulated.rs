//! The wiring of a group on a simulated network: real members (openraft, tonic, the log on a real disk) under turmoil.
//!
//! A seed decides who is cut off from whom, in one direction or both, who crashes, and for how long; how long each message
//! takes; and who stands for election first. What is checked is what the group is for: of one epoch there is one view,
//! whoever tells and whoever led; who reads what the group has is told no less than was acknowledged; a node's weight, a
//! lease, a lock's token that no later holder is given again, all stand; and once everything is mended, it goes on.
//!
//! `SIMULATED_SEEDS=1000 cargo test -p viewleader --test simulated` runs more of them than CI does.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::history::{self, AGAIN_AFTER, CALL_MAX, Seen};
use support::network::{PORT, Random, Simulated, incoming};
use support::register;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use turmoil::Sim;
use types::{NodeId, PartitionCount};
use viewleader::{ClusterSettings, Config, Surroundings};
use wire::v1;
use wire::v1::coordination_client::CoordinationClient;
use wire::v1::coordination_reply::Reply;
use wire::v1::coordination_request::Request;
use wire::v1::leader_message::Message as ToNode;
use wire::v1::leaders_client::LeadersClient;
use wire::v1::node_message::Message as FromNode;

const MEMBERS: [&str; 3] = ["v1", "v2", "v3"];
const NODE: &str = "node";
const SEEDS: u64 = 4;
const FAULTS: u64 = 25;
/// A bound on what must happen in the end, in simulated time.
const PATIENCE: Duration = Duration::from_secs(60);
const LEASE_MS: u64 = 24 * 60 * 60 * 1000;
const CLIENT: u64 = 7;

fn address(host: &str) -> String {
    format!("{host}:{PORT}")
}

fn channel(address: &str) -> Channel {
    Simulated::new(0).channel(address).unwrap()
}

fn members() -> Vec<LeadersClient<Channel>> {
    MEMBERS.iter().map(|member| LeadersClient::new(channel(&address(member)))).collect()
}

/// One world: its network, and what its clients know.
struct World {
    sim: Sim<'static>,
    random: Random,
    seen: Arc<Seen>,
    granted: Arc<Granted>,
    node: Rc<Cell<u64>>,
    /// Ends the operator's work.
    stop: watch::Sender<bool>,
    done: Rc<Cell<bool>>,
}

/// What was acknowledged to the client that asks for leases and locks.
#[derive(Default)]
struct Granted {
    leases: Mutex<BTreeSet<u64>>,
    tokens: Mutex<Vec<u64>>,
}

impl World {
    fn new(seed: u64, directory: &Path) -> World {
        let mut builder = turmoil::Builder::new();
        builder.rng_seed(seed).enable_random_order().simulation_duration(Duration::from_secs(100_000));
        builder.tcp_capacity(4096).min_message_latency(Duration::from_millis(1));
        builder.max_message_latency(Duration::from_millis(20));
        let random = Random::new(seed);
        let mut sim = builder.build();
        for (place, host) in MEMBERS.iter().enumerate() {
            let config = config(place, directory);
            let starts = Random::new(random.next());
            sim.host(*host, move || {
                let surroundings = Arc::new(Simulated::new(starts.next()));
                let config = config.clone();
                async move {
                    let incoming = incoming().await?;
                    viewleader::run_in(surroundings, incoming, None, config, std::future::pending()).await?;
                    Ok(())
                }
            });
        }
        let (seen, granted, node) = (Arc::<Seen>::default(), Arc::<Granted>::default(), Rc::new(Cell::new(0)));
        let told = node.clone();
        sim.client(NODE, async move {
            be_a_node(told).await;
            Ok(())
        });
        for place in 0..MEMBERS.len() {
            let seen = seen.clone();
            sim.client(format!("watcher-{place}"), async move {
                history::watch(members().swap_remove(place), place, seen).await;
                Ok(())
            });
        }
        let (stop, mut over) = watch::channel(false);
        let (operated, registered) = (seen.clone(), node.clone());
        sim.client("operator", async move {
            while registered.get() == 0 {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            tokio::select! {
                () = history::operate(members(), NodeId(registered.get()), operated) => {}
                _ = over.wait_for(|over| *over) => {}
            }
            Ok(())
        });
        let read = seen.clone();
        sim.client("reader", async move {
            history::read(members(), read).await;
            Ok(())
        });
        let acknowledged = granted.clone();
        sim.client("holder", async move {
            hold_locks(&acknowledged).await;
            Ok(())
        });
        World { sim, random, seen, granted, node, stop, done: Rc::default() }
    }

    fn run_for(&mut self, simulated: Duration) {
        let until = self.sim.elapsed() + simulated;
        while self.sim.elapsed() < until {
            self.sim.step().unwrap();
        }
    }

    /// Goes on until this is so, or fails.
    fn run_until(&mut self, what: &str, is_so: impl Fn(&World) -> bool) {
        let until = self.sim.elapsed() + PATIENCE;
        while !is_so(self) {
            assert!(self.sim.elapsed() < until, "waited {PATIENCE:?} of simulated time for {what}");
            self.sim.step().unwrap();
        }
    }

    /// Waits until the group does everything that it is for.
    fn run_until_it_goes_on(&mut self) {
        let (changes, tokens) = (self.seen.changes(), self.granted.tokens.lock().unwrap().len());
        self.run_until("changes and locks by a majority", |world| {
            world.seen.changes() > changes + 2 && world.granted.tokens.lock().unwrap().len() > tokens + 1
        });
    }

    /// One fault, or two at once, for a while.
    fn fault(&mut self) {
        let lasts = self.random.between_ms(50, 4000);
        let (one, other) = (self.random.below(3) as usize, 1 + self.random.below(2) as usize);
        let (victim, second) = (MEMBERS[one], MEMBERS[(one + other) % 3]);
        let third = MEMBERS[(one + 3 - other) % 3];
        match self.random.below(7) {
            0 => {
                self.sim.partition(victim, second);
                self.sim.partition(victim, third);
            }
            // It hears nobody, and goes on calling.
            1 => {
                self.sim.partition_oneway(second, victim);
                self.sim.partition_oneway(third, victim);
            }
            // Nobody hears it.
            2 => {
                self.sim.partition_oneway(victim, second);
                self.sim.partition_oneway(victim, third);
            }
            // The third one is the only bridge.
            3 => self.sim.partition(victim, second),
            4 => self.sim.crash(victim),
            5 => {
                self.sim.crash(victim);
                self.sim.crash(second);
            }
            _ => {
                self.sim.partition_oneway(victim, second);
                self.sim.crash(third);
            }
        }
        self.run_for(lasts);
        self.mend();
    }

    fn mend(&mut self) {
        for member in MEMBERS {
            for other in MEMBERS.into_iter().filter(|other| *other != member) {
                self.sim.repair(member, other);
            }
            if !self.sim.is_host_running(member) {
                self.sim.bounce(member);
            }
        }
    }

    /// Asks once more, when nothing is wrong any longer and nobody changes anything.
    fn check(&mut self) {
        self.stop.send_replace(true);
        self.run_for(CALL_MAX);
        let (seen, granted, done) = (self.seen.clone(), self.granted.clone(), self.done.clone());
        let node = NodeId(self.node.get());
        self.sim.client("judge", async move {
            let last = history::last_view(members().swap_remove(0)).await;
            seen.check_weights(node, &last);
            let acknowledged = granted.leases.lock().unwrap().clone();
            let there = leases().await;
            let lost: Vec<_> = acknowledged.difference(&there).collect();
            assert!(lost.is_empty(), "leases {lost:?} were acknowledged, and are not there: {there:?}");
            done.set(true);
            Ok(())
        });
        self.run_until("everybody's answers", |world| world.done.get());
    }
}

fn config(place: usize, directory: &Path) -> Config {
    Config {
        name: MEMBERS[place].to_owned(),
        data_dir: directory.join(place.to_string()),
        listen: address(MEMBERS[place]),
        advertise: address(MEMBERS[place]),
        peers: MEMBERS.iter().map(|member| address(member)).collect(),
        join: Vec::new(),
        http: None,
        insecure: true,
        cluster: ClusterSettings { partitions: PartitionCount::new(16).unwrap(), replication: 3, expect_nodes: 3 },
        // The node sends no heartbeats.
        node_timeout: Duration::from_secs(100_000),
        replace_after: Duration::from_secs(100_000),
    }
}

/// A storage node that registers with whoever leads, and takes in what it is told.
async fn be_a_node(told: Rc<Cell<u64>>) {
    let mut register = register(1, &address(NODE));
    for turn in 0usize.. {
        let (to, messages) = mpsc::channel(4);
        let first = v1::NodeMessage { message: Some(FromNode::Register(register.clone())) };
        to.send(first).await.unwrap();
        let mut leaders = members().swap_remove(turn % MEMBERS.len());
        let session = tokio::time::timeout(CALL_MAX, leaders.session(ReceiverStream::new(messages))).await;
        if let Ok(Ok(session)) = session {
            let mut session = session.into_inner();
            while let Ok(Ok(Some(message))) = tokio::time::timeout(10 * CALL_MAX, session.message()).await {
                match message.message {
                    Some(ToNode::Registered(registered)) => {
                        assert!([0, registered.node].contains(&told.get()), "the node was given another id");
                        told.set(registered.node);
                        register.node = registered.node;
                        register.cluster = registered.cluster;
                    }
                    Some(ToNode::Refused(error)) => {
                        let harmless = error.code == types::ErrorCode::NoLeader.number() || told.get() == 0;
                        assert!(harmless || error.message.contains("newer"), "refused: {}", error.message);
                    }
                    _ => {}
                }
            }
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Asks the members in turn, until one answers.
async fn ask(request: Request) -> Vec<Reply> {
    for turn in 0usize.. {
        let mut client = CoordinationClient::new(channel(&address(MEMBERS[turn % MEMBERS.len()])));
        let (to, requests) = mpsc::channel(1);
        to.send(v1::CoordinationRequest { number: 1, request: Some(request.clone()) }).await.unwrap();
        let answered = tokio::time::timeout(CALL_MAX, async {
            let mut replies = client.coordinate(ReceiverStream::new(requests)).await.ok()?.into_inner();
            let mut all = Vec::new();
            loop {
                let reply = replies.message().await.ok()??.reply?;
                let last = !matches!(&reply, Reply::Leases(list) if !list.last);
                all.push(reply);
                if last {
                    return Some(all);
                }
            }
        });
        match answered.await {
            Ok(Some(replies)) if !matches!(replies[..], [Reply::Error(_) | Reply::NotLeader(_)]) => return replies,
            _ => tokio::time::sleep(AGAIN_AFTER).await,
        }
    }
    unreachable!("turns never end")
}

/// Takes a lease, holds a lock on it for a moment, and keeps the lease; again and again.
async fn hold_locks(granted: &Granted) {
    for counter in 1.. {
        let replies = ask(Request::Grant(v1::GrantLease { client: CLIENT, counter, ttl_ms: LEASE_MS })).await;
        let [Reply::Granted(v1::LeaseGranted { lease, .. })] = replies[..] else { panic!("{replies:?}") };
        assert!(granted.leases.lock().unwrap().insert(lease), "lease {lease} was given twice");
        let (name, client) = ("lock".to_owned(), CLIENT.to_string());
        let acquire = v1::AcquireLock {
            name: name.clone(),
            client: client.clone(),
            lease,
            claim: 1,
            bound: true,
            value: Vec::new().into(),
            wait: false,
        };
        let replies = ask(Request::Acquire(acquire)).await;
        let [Reply::Held(v1::LockHeld { token })] = replies[..] else { panic!("{replies:?}") };
        let before = granted.tokens.lock().unwrap().last().copied();
        assert!(before.is_none_or(|before| before < token), "token {token} after {before:?}");
        granted.tokens.lock().unwrap().push(token);
        // Asked twice, where the first answer was lost: it is held no more.
        let replies = ask(Request::Release(v1::ReleaseLock { name, client, token })).await;
        assert!(matches!(replies[..], [Reply::Released(_)]), "{replies:?}");
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// All leases that are alive.
async fn leases() -> BTreeSet<u64> {
    let lists = ask(Request::ListLeases(v1::ListLeases { lease: 0 })).await;
    let lists = lists.into_iter().map(|reply| match reply {
        Reply::Leases(list) => list.leases,
        other => panic!("{other:?}"),
    });
    lists.flatten().map(|info| info.lease).collect()
}

/// Says which seed it was, when its world fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[allow(clippy::print_stderr, reason = "for whoever looks at the failure")]
            {
                eprintln!("this was seed {}: SIMULATED_SEEDS={}..{} runs it again", self.0, self.0, self.0 + 1);
            }
        }
    }
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SIMULATED_SEEDS") else { return 0..SEEDS };
    let (first, end) = text.split_once("..").unwrap_or(("0", &text));
    first.parse().unwrap()..end.parse().unwrap()
}

/// Guards against two leaders whose views of one epoch differ, and against changes, leases and tokens that are lost or
/// given twice, while members are cut off, cut in one direction, and crash, also a majority of them.
#[test]
fn no_view_splits_and_nothing_acknowledged_is_lost() {
    for seed in seeds() {
        let of_panic = Seed(seed);
        // A crash here ends a process, not the machine: a disk that is memory keeps as much, and syncs at once.
        let disk = Some(Path::new("/dev/shm")).filter(|shared_memory| shared_memory.is_dir());
        let directory = tempfile::tempdir_in(disk.map_or_else(std::env::temp_dir, Path::to_path_buf)).unwrap();
        let mut world = World::new(seed, directory.path());
        world.run_until_it_goes_on();
        for _ in 0..FAULTS {
            world.fault();
            let pause = world.random.between_ms(0, 2000);
            world.run_for(pause);
        }
        world.run_until_it_goes_on();
        world.check();
        drop(of_panic);
    }
}
