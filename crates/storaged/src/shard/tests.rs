//! One shard alone, with a log whose disk the test holds and an engine that fails on command.

use super::input::Incoming;
use super::{Input, Parts, ShardHandle, Shards, Worker};
use crate::applier::Applier;
use crate::clock::{Clock, Moment, calendar_ms};
use crate::fatal::Fatal;
use crate::filler::Filler;
use crate::journal::{Done, Journal};
use crate::kv::connection::Connection;
use crate::me::Me;
use crate::peer::Links;
use crate::reports::Reports;
use crate::scanner::Scanner;
use crate::watch::feeds::Wanted;
use crate::watch::watcher::{Filter, Watcher};
use bytes::Bytes;
use engine::{Engine, Fault, FaultyEngine, Keyspace, MemoryEngine, Operation as Call};
use futures::future::poll_fn;
use replcore::Settings;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use types::{
    ClusterId, Condition, Configuration, Epoch, ErrorCode, Generation, Incarnation, Lifetime, Mutation, MutationKind,
    NodeId, PartitionCount, PartitionId, RequestId, Seq, Stamp, Term, Transaction, TransactionOperation, View,
};
use wal::{Records, SegmentNumber};
use wire::convert::Operation;
use wire::v1;
use wire::v1::response::Result as Outcome;

const ME: NodeId = NodeId(1);
const FAR: Moment = Moment(u64::MAX);

/// A log in memory: each submission is on disk when the test says so.
#[derive(Default)]
struct HeldJournal {
    held: Mutex<Held>,
    submitted: Notify,
}

#[derive(Default)]
struct Held {
    waiting: VecDeque<Done>,
    /// Submissions go to the disk at once.
    through: bool,
    submissions: usize,
    segment: u64,
}

impl Journal for HeldJournal {
    fn submit(&self, _: Records, done: Done) {
        let mut held = self.held.lock().unwrap();
        held.submissions += 1;
        if held.through {
            let segment = SegmentNumber(held.segment);
            drop(held);
            done(segment);
        } else {
            held.waiting.push_back(done);
            self.submitted.notify_one();
        }
    }
}

impl HeldJournal {
    fn let_through(&self, through: bool) {
        self.held.lock().unwrap().through = through;
    }

    fn begin_segment(&self, segment: u64) {
        self.held.lock().unwrap().segment = segment;
    }

    fn submissions(&self) -> usize {
        self.held.lock().unwrap().submissions
    }

    /// Waits for a submission that is not on disk.
    async fn held(&self) -> Done {
        loop {
            if let Some(done) = self.held.lock().unwrap().waiting.pop_front() {
                return done;
            }
            self.submitted.notified().await;
        }
    }
}

struct Bench {
    shard: ShardHandle,
    journal: Arc<HeldJournal>,
    engine: Arc<FaultyEngine<MemoryEngine>>,
    applier: Applier,
    reports: Arc<Reports>,
    fatal: Arc<Fatal>,
    task: JoinHandle<()>,
    connection: Arc<Connection>,
}

impl Bench {
    /// A shard that serves its four partitions, alone.
    async fn serving() -> Bench {
        let mut view = View::new(ClusterId(1), PartitionCount::new(4).unwrap(), 1);
        view.epoch = Epoch(5);
        let alone = Configuration { term: Term(5), replicas: vec![ME], ..Default::default() };
        view.configurations = std::iter::repeat_n(Arc::new(alone), 4).collect();
        let engine = Arc::new(FaultyEngine::new(MemoryEngine::new()));
        let fatal = Arc::new(Fatal::default());
        let (applier, _thread) = Applier::spawn(engine.clone(), fatal.clone()).unwrap();
        let (filler, _reader) = Filler::spawn(engine.clone(), fatal.clone()).unwrap();
        let (scanner, _scans) = Scanner::spawn(engine.clone(), fatal.clone()).unwrap();
        let journal = Arc::new(HeldJournal::default());
        journal.let_through(true);
        journal.begin_segment(1);
        let reports = Arc::new(Reports::default());
        let (shard, inputs) = ShardHandle::channel();
        let parts = Parts {
            me: Me { cluster: ClusterId(1), node: ME, incarnation: Incarnation(1), accepted_at: Epoch(1) },
            index: 0,
            count: 1,
            settings: Settings::default(),
            unapplied_bytes_max: 1 << 20,
            view: Arc::new(view),
            engine: engine.clone(),
            applier: applier.clone(),
            filler,
            scanner,
            journal: journal.clone(),
            shards: Shards::new(vec![shard.clone()]),
            links: Arc::new(Links::default()),
            reports: reports.clone(),
            fatal: fatal.clone(),
            clock: Clock::start(),
        };
        let task = tokio::spawn(Worker::new(parts, Vec::new()).run(inputs));
        let connection = Arc::new(Connection::default());
        let bench = Bench { shard, journal, engine, applier, reports, fatal, task, connection };
        for partition in 0..4 {
            while !matches!(bench.ask(get(partition, "nothing")).await, Outcome::NotFound(_)) {}
        }
        bench
    }

    async fn send(&self, requests: Vec<Incoming>) {
        self.connection.opened(requests.len(), 0);
        self.shard.send(Input::Requests { connection: self.connection.clone(), requests }).await;
    }

    async fn answers(&self) -> Vec<v1::Response> {
        poll_fn(|context| self.connection.poll_answers(context)).await.unwrap()
    }

    async fn ask(&self, request: Incoming) -> Outcome {
        self.send(vec![request]).await;
        self.answers().await.remove(0).result.unwrap()
    }

    async fn drain(&self) {
        let (done, drained) = oneshot::channel();
        self.shard.send(Input::Drain(done)).await;
        drained.await.unwrap();
    }

    async fn trim(&self) -> Option<SegmentNumber> {
        self.drain().await;
        assert!(self.applier.checkpoint().await);
        self.checkpointed(SegmentNumber(0)).await
    }

    async fn checkpointed(&self, room_before: SegmentNumber) -> Option<SegmentNumber> {
        let (done, trimmed) = oneshot::channel();
        self.shard.send(Input::Checkpointed { room_before, done }).await;
        trimmed.await.unwrap()
    }
}

fn get(partition: u32, key: &str) -> Incoming {
    let operation = Operation::Get(Bytes::copy_from_slice(key.as_bytes()));
    Incoming { number: 0, partition: PartitionId(partition), operation, deadline: FAR }
}

fn put(number: u64, partition: u32, key: &str, value: &'static str) -> Incoming {
    let kind = MutationKind::Put(Bytes::from_static(value.as_bytes()));
    let mutation =
        Mutation { key: Bytes::copy_from_slice(key.as_bytes()), kind, condition: Condition::None, fence: None };
    let operation = Operation::Mutate(mutation, RequestId { client: 1, counter: number }, Stamp(calendar_ms()));
    Incoming { number, partition: PartitionId(partition), operation, deadline: FAR }
}

fn code(outcome: &Outcome) -> Option<ErrorCode> {
    match outcome {
        Outcome::Error(error) => Some(ErrorCode::from_number(error.code)),
        _ => None,
    }
}

/// Guards against an answer that leaves before its entry is on disk (P2).
#[tokio::test]
async fn an_answer_waits_for_the_disk() {
    let bench = Bench::serving().await;
    bench.journal.let_through(false);
    bench.send(vec![put(1, 0, "key", "value")]).await;
    let done = bench.journal.held().await;
    // The shard has nothing more to do: an answer that does not wait would be here.
    tokio::task::yield_now().await;
    let none = poll_fn(|context| std::task::Poll::Ready(bench.connection.poll_answers(context).is_pending())).await;
    assert!(none);
    done(SegmentNumber(1));
    assert!(matches!(bench.answers().await[0].result, Some(Outcome::Written(_))));
}

/// Guards against one fsync for each request.
#[tokio::test]
async fn a_burst_is_one_submission() {
    let bench = Bench::serving().await;
    let before = bench.journal.submissions();
    bench.journal.let_through(false);
    bench.send((0..100).map(|n| put(n, n as u32 % 4, &format!("key-{n}"), "value")).collect()).await;
    bench.journal.held().await(SegmentNumber(1));
    let mut answered = 0;
    while answered < 100 {
        answered += bench.answers().await.len();
    }
    assert_eq!(bench.journal.submissions(), before + 1);
}

/// Guards against a request that waits for ever, and against "not done" where something was appended (P29).
#[tokio::test]
async fn a_deadline_after_the_append_is_unknown() {
    let bench = Bench::serving().await;
    bench.journal.let_through(false);
    bench.send(vec![Incoming { deadline: Moment(0), ..put(1, 0, "key", "value") }]).await;
    let _not_on_disk = bench.journal.held().await;
    assert_eq!(code(bench.answers().await[0].result.as_ref().unwrap()), Some(ErrorCode::Unknown));
}

/// Guards against a log that is never trimmed, or trimmed behind the state.
#[tokio::test]
async fn segments_go_when_the_state_has_their_entries() {
    let bench = Bench::serving().await;
    bench.ask(put(1, 2, "key", "first")).await;
    let keyspace = Keyspace { partition: PartitionId(2), generation: Generation(1) };
    bench.journal.begin_segment(2);
    assert_eq!(bench.trim().await, None, "everything is in the state");
    assert_ne!(bench.engine.applied(keyspace).unwrap(), types::EntryId::ZERO);
    bench.ask(put(2, 2, "key", "second")).await;
    // Not applied yet: asked without a drain, the state has on disk what it had before.
    assert_eq!(bench.checkpointed(SegmentNumber(0)).await, Some(SegmentNumber(2)));
    assert_eq!(bench.trim().await, None);
    let found = bench.ask(get(2, "key")).await;
    assert!(matches!(found, Outcome::Found(found) if found.value == "second"));
}

/// Guards against damage of one partition that is served, or takes others with it (P3).
#[tokio::test]
async fn a_damaged_partition_goes_out_of_service_alone() {
    let bench = Bench::serving().await;
    bench.ask(put(1, 1, "key", "value")).await;
    bench.ask(put(2, 2, "key", "value")).await;
    bench.drain().await;
    bench.engine.corrupt(Keyspace { partition: PartitionId(1), generation: Generation(1) });
    assert_eq!(code(&bench.ask(get(1, "other")).await), Some(ErrorCode::Damaged));
    assert!(matches!(bench.ask(get(2, "key")).await, Outcome::Found(_)));
    let told = bench.reports.take_messages(usize::MAX);
    assert_eq!(told, [v1::node_message::Message::Damaged(v1::Damaged { partition: 1, term: 5 })]);
}

/// Guards against a failing disk that is taken for a damaged partition, and a node that goes on after it (P2).
#[tokio::test]
async fn a_store_that_fails_ends_the_node() {
    let bench = Bench::serving().await;
    let before = bench.journal.submissions();
    bench.engine.fail(Call::Get, 0, Fault::Io(ErrorKind::Other));
    bench.send(vec![get(1, "other")]).await;
    let error = bench.fatal.failed().await;
    assert!(matches!(error, crate::Error::Engine(_)), "{error}");
    bench.task.await.unwrap();
    assert_eq!(bench.journal.submissions(), before, "nothing is written on the way out");
    assert!(bench.reports.take_messages(usize::MAX).is_empty());
}

/// Guards against changes that are lost between replica and store when applying them fails.
#[tokio::test]
async fn a_failed_apply_ends_the_node() {
    let bench = Bench::serving().await;
    bench.engine.fail(Call::Apply, 0, Fault::IoAfter(ErrorKind::StorageFull));
    bench.ask(put(1, 1, "key", "value")).await;
    let (done, drained) = oneshot::channel();
    bench.shard.send(Input::Drain(done)).await;
    assert!(matches!(bench.fatal.failed().await, crate::Error::Engine(_)));
    drop(drained);
}

/// Guards against an end that leaves open requests without an answer, or takes new ones on.
#[tokio::test]
async fn stopping_answers_what_is_open() {
    let bench = Bench::serving().await;
    bench.journal.let_through(false);
    bench.send(vec![put(1, 0, "key", "value")]).await;
    let done = bench.journal.held().await;
    bench.shard.send(Input::Stop).await;
    bench.send(vec![put(2, 0, "key", "value")]).await;
    let refused = bench.answers().await.remove(0);
    assert_eq!((refused.number, code(&refused.result.unwrap())), (2, Some(ErrorCode::ShuttingDown)));
    done(SegmentNumber(1));
    assert!(matches!(bench.answers().await[0].result, Some(Outcome::Written(_))));
    bench.task.await.unwrap();
}

/// Guards against words between partitions of one node that nobody hears, and against a participant that writes nothing.
#[tokio::test]
async fn a_transaction_over_partitions_of_one_shard() {
    let bench = Bench::serving().await;
    let count = PartitionCount::new(4).unwrap();
    let key_of = |wanted| {
        let mut keys = (0..).map(|number| format!("k{number}"));
        keys.find(|key| count.partition_of(key.as_bytes()) == PartitionId(wanted)).unwrap()
    };
    let (home, other) = (key_of(0), key_of(2));
    let put = |key: &str| TransactionOperation::Put { key: key.to_owned().into(), value: Bytes::from_static(b"v") };
    let transaction = Transaction { then: vec![put(&home), put(&other)], ..Transaction::default() };
    let id = RequestId { client: 1, counter: 1 };
    let operation = Operation::Transact(Box::new(transaction), id, Stamp(calendar_ms()));
    let request = Incoming { number: 1, partition: PartitionId(0), operation, deadline: FAR };
    let Outcome::Transacted(done) = bench.ask(request).await else { panic!("it is done") };
    assert!(done.succeeded && done.results.len() == 2);
    for (partition, key) in [(0, &home), (2, &other)] {
        assert!(matches!(bench.ask(get(partition, key)).await, Outcome::Found(_)), "{key}");
    }
}

async fn parts(watcher: &Watcher) -> Vec<v1::WatchPart> {
    poll_fn(|context| watcher.poll_parts(context)).await.unwrap()
}

/// Guards against a slow watcher that holds up others, fills the memory, or misses what it had no room for.
#[tokio::test]
async fn a_watcher_without_room_reads_the_log_later() {
    let bench = Bench::serving().await;
    let (slow, quick) = (Arc::new(Watcher::new(Filter::Prefix(Bytes::new()))), Arc::new(Watcher::new(key_filter("k"))));
    let wanted = vec![Wanted { number: 7, partition: PartitionId(2), after: Seq(0) }];
    for watcher in [&slow, &quick] {
        bench.shard.send(Input::Watch { watcher: watcher.clone(), wanted: wanted.clone() }).await;
        assert_eq!(parts(watcher).await[0].through, 1, "the term's own entry");
    }
    // More than a queue holds; nobody reads.
    let large: &'static str = "v".repeat(100 << 10).leak();
    for number in 0..30 {
        bench.ask(put(number, 2, if number == 29 { "k" } else { "other" }, large)).await;
    }
    let mut told = Vec::new();
    while told.is_empty() {
        // Parts that say only how far it is come before.
        told.extend(parts(&quick).await.into_iter().flat_map(|part| part.changes));
    }
    assert_eq!(told.len(), 1, "who keeps up is told at once, and only of its key");
    let room = tokio::spawn({
        let (slow, shard) = (slow.clone(), bench.shard.clone());
        async move {
            slow.room().await;
            shard.send(Input::WatchRoom(slow)).await;
        }
    });
    let (mut versions, mut after) = (Vec::new(), 1);
    while versions.len() < 30 {
        for part in parts(&slow).await {
            assert_eq!((part.after, part.subscription), (after, 7), "a part begins where the last one ended");
            after = part.through;
            versions.extend(part.changes.iter().map(|change| change.version));
        }
    }
    room.await.unwrap();
    assert!(versions.into_iter().eq(2..=31));
    bench.shard.send(Input::Stop).await;
    assert!(parts(&slow).await.last().unwrap().end.is_some(), "the end is told");
}

fn key_filter(key: &'static str) -> Filter {
    Filter::Key(Bytes::from_static(key.as_bytes()))
}

/// Guards against a key that stays when its time is over, or goes for a version that is not there any more.
#[tokio::test]
async fn a_key_whose_time_is_over_goes() {
    let bench = Bench::serving().await;
    let watcher = Arc::new(Watcher::new(Filter::Prefix(Bytes::new())));
    let wanted = vec![Wanted { number: 1, partition: PartitionId(1), after: Seq(0) }];
    bench.shard.send(Input::Watch { watcher: watcher.clone(), wanted }).await;
    let expiring = |number, key: &str| {
        let mut request = put(number, 1, key, "value");
        let Operation::Mutate(mutation, ..) = &mut request.operation else { panic!("a put is a mutation") };
        mutation.kind =
            MutationKind::PutExpiring { value: Bytes::from_static(b"value"), lifetime: Lifetime::Milliseconds(20) };
        request
    };
    bench.ask(expiring(1, "stays")).await;
    bench.ask(put(2, 1, "stays", "value")).await;
    bench.ask(expiring(3, "goes")).await;
    let mut deleted = Vec::new();
    while deleted.is_empty() {
        let told = parts(&watcher).await.into_iter().flat_map(|part| part.changes);
        deleted.extend(told.filter(|change| change.value.is_none()).map(|change| change.key));
    }
    assert_eq!(deleted, ["goes"]);
    assert!(matches!(bench.ask(get(1, "goes")).await, Outcome::NotFound(_)));
    assert!(matches!(bench.ask(get(1, "stays")).await, Outcome::Found(_)));
}
