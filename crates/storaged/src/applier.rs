//! The thread in front of the engine: takes committed changes of all shards, and makes checkpoints.
//!
//! Shards hand over rarely and much, with rewrites of one key merged, because a put costs the engine more than
//! everything before it. What has not been applied yet is read from the replicas' overlays; a read that goes to the
//! engine waits for the call under way, so calls are short.

use crate::error::Error;
use crate::fatal::Fatal;
use crate::shard::Completion;
use engine::{ApplyBatch, Engine, EngineError, Keyspace, VersionedChange};
use replcore::Apply;
use std::collections::VecDeque;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc::UnboundedSender, oneshot};
use types::{EntryId, PartitionId, Record, RecordKey};

/// Readers of the engine wait for a whole call: so many changes go into one, unless one partition brings more.
const CHANGES_PER_CALL: usize = 128;
/// Or about so many bytes, which take sled a millisecond or two.
const BYTES_PER_CALL: usize = 128 << 10;
/// Jobs after which snapshots that are complete no longer wait for company on their way to the disk.
const JOBS_PER_CHECKPOINT: usize = 32;

/// Jobs after which a deletion goes on for a step, though more are waiting.
const JOBS_PER_DELETION_STEP: usize = 16;
/// Between two steps of a deletion, at most.
const DELETION_PAUSE_MAX: Duration = Duration::from_millis(50);

/// One thing for the thread to do.
enum Job {
    Apply { batches: Vec<(PartitionId, Apply)>, done: UnboundedSender<Completion> },
    Install { part: Part, done: UnboundedSender<Completion> },
    Checkpoint(oneshot::Sender<()>),
    Delete(Keyspace),
}

/// A part of a snapshot (P23).
pub(crate) struct Part {
    /// A generation that is being built beside the present one.
    pub(crate) keyspace: Keyspace,
    /// Its number.
    pub(crate) number: u64,
    /// What to add.
    pub(crate) records: Vec<(RecordKey, Record)>,
    /// The last part: what `applied` becomes, and everything is to be on disk.
    pub(crate) start: Option<EntryId>,
}

/// How shards and the log's keeper reach the thread. The last clone's end ends it.
#[derive(Clone)]
pub(crate) struct Applier {
    jobs: mpsc::Sender<Job>,
}

impl Applier {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::System`] where the system starts none.
    pub(crate) fn spawn(engine: Arc<dyn Engine>, fatal: Arc<Fatal>) -> Result<(Applier, JoinHandle<()>), Error> {
        let (jobs, queue) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("applier".to_owned())
            .spawn(move || {
                if let Err(error) = work(engine.as_ref(), &queue) {
                    // P2: nothing is tried again on a store that failed, and no log is trimmed behind it.
                    fatal.end(error.into());
                }
            })
            .map_err(|error| Error::System { action: "start a thread", reason: error.to_string() })?;
        Ok((Applier { jobs }, thread))
    }

    fn order(&self, job: Job) {
        // The thread goes only after a failure that ends the node.
        let _ended = self.jobs.send(job);
    }

    /// Applies what replicas gave; `done` hears of it.
    pub(crate) fn apply(&self, batches: Vec<(PartitionId, Apply)>, done: UnboundedSender<Completion>) {
        self.order(Job::Apply { batches, done });
    }

    /// Adds a part of a snapshot; `done` hears of it.
    pub(crate) fn install(&self, part: Part, done: UnboundedSender<Completion>) {
        self.order(Job::Install { part, done });
    }

    /// Makes everything applied so far durable; resolves to false if that failed, and the node is ending.
    pub(crate) async fn checkpoint(&self) -> bool {
        let (done, finished) = oneshot::channel();
        self.order(Job::Checkpoint(done));
        finished.await.is_ok()
    }

    /// P5: deletes one generation of one partition.
    pub(crate) fn delete(&self, keyspace: Keyspace) {
        self.order(Job::Delete(keyspace));
    }
}

fn work(engine: &dyn Engine, queue: &mpsc::Receiver<Job>) -> Result<(), EngineError> {
    let mut installed = Installed::default();
    let mut deletions = Deletions::default();
    loop {
        let next = match (installed.is_empty(), deletions.is_empty()) {
            (true, true) => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            (true, false) => queue.recv_timeout(deletions.pause),
            (false, _) => queue.recv_timeout(Duration::ZERO),
        };
        let job = match next {
            Ok(job) => job,
            Err(_) if !installed.is_empty() => {
                installed.checkpoint(engine)?;
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {
                deletions.step(engine)?;
                continue;
            }
            // What is not deleted yet is found at the next start.
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        match job {
            Job::Apply { batches, done } => apply(engine, batches, &done)?,
            Job::Install { part, done } => {
                let (keyspace, number, is_last) = (part.keyspace, part.number, part.start.is_some());
                install(engine, part)?;
                if is_last {
                    installed.waiting.push((Completion::Installed { keyspace, number }, done));
                } else {
                    tell(&done, Completion::Installed { keyspace, number });
                }
            }
            Job::Checkpoint(done) => {
                installed.checkpoint(engine)?;
                // Who asked may have gone.
                let _nobody_waits = done.send(());
            }
            Job::Delete(keyspace) => deletions.waiting.push_back(keyspace),
        }
        deletions.after_a_job(engine)?;
        installed.jobs_since += usize::from(!installed.waiting.is_empty());
        if installed.jobs_since >= JOBS_PER_CHECKPOINT {
            installed.checkpoint(engine)?;
        }
    }
}

/// What is being deleted, a step at a time where nothing else is to be done: nobody waits for it, and a partition may take
/// minutes.
#[derive(Default)]
struct Deletions {
    waiting: VecDeque<Keyspace>,
    jobs_since: usize,
    /// As long as the last step took: no more than half of the store's time.
    pause: Duration,
}

impl Deletions {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Without an end to other work it goes on all the same, if slowly.
    fn after_a_job(&mut self, engine: &dyn Engine) -> Result<(), EngineError> {
        self.jobs_since += 1;
        if self.jobs_since >= JOBS_PER_DELETION_STEP { self.step(engine) } else { Ok(()) }
    }

    fn step(&mut self, engine: &dyn Engine) -> Result<(), EngineError> {
        self.jobs_since = 0;
        let Some(keyspace) = self.waiting.front().copied() else { return Ok(()) };
        let began = Instant::now();
        match engine.delete_step(keyspace) {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(%keyspace, "deleted");
                self.waiting.pop_front();
            }
            Err(EngineError::Corrupt { keyspace: Some(_), what }) => {
                tracing::warn!(%keyspace, what, "damaged data of an earlier generation stays on disk");
                self.waiting.pop_front();
            }
            Err(error) => return Err(error),
        }
        self.pause = began.elapsed().min(DELETION_PAUSE_MAX);
        Ok(())
    }
}

/// Snapshots that are complete, but perhaps not on disk: one checkpoint serves all that come together.
#[derive(Default)]
struct Installed {
    waiting: Vec<(Completion, UnboundedSender<Completion>)>,
    jobs_since: usize,
}

impl Installed {
    /// Nobody waits for a checkpoint.
    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn checkpoint(&mut self, engine: &dyn Engine) -> Result<(), EngineError> {
        engine.checkpoint()?;
        self.jobs_since = 0;
        for (completion, done) in self.waiting.drain(..) {
            tell(&done, completion);
        }
        Ok(())
    }
}

fn apply(
    engine: &dyn Engine,
    batches: Vec<(PartitionId, Apply)>,
    done: &UnboundedSender<Completion>,
) -> Result<(), EngineError> {
    let mut group: Vec<ApplyBatch> = Vec::new();
    let (mut changes, mut bytes) = (0, 0);
    let mut applied: Vec<(Keyspace, EntryId)> = Vec::with_capacity(batches.len());
    for (partition, apply) in batches {
        changes += apply.changes.len();
        bytes += apply.changes.iter().map(|(_, value, _)| value.as_ref().map_or(0, |value| value.len())).sum::<usize>();
        group.push(to_batch(partition, apply));
        if changes >= CHANGES_PER_CALL || bytes >= BYTES_PER_CALL {
            apply_group(engine, &mut group, &mut applied, done)?;
            (changes, bytes) = (0, 0);
        }
    }
    apply_group(engine, &mut group, &mut applied, done)?;
    tell(done, Completion::Applied(applied));
    Ok(())
}

/// One call to the engine. A damaged partition (P3) is left out, and its shard told.
fn apply_group(
    engine: &dyn Engine,
    group: &mut Vec<ApplyBatch>,
    applied: &mut Vec<(Keyspace, EntryId)>,
    done: &UnboundedSender<Completion>,
) -> Result<(), EngineError> {
    while !group.is_empty() {
        match engine.apply(group) {
            Ok(()) => applied.extend(group.drain(..).map(|batch| (batch.keyspace, batch.through))),
            Err(EngineError::Corrupt { keyspace: Some(damaged), what })
                if group.iter().any(|batch| batch.keyspace == damaged) =>
            {
                tracing::error!(%damaged, what, "the state is damaged");
                group.retain(|batch| batch.keyspace != damaged);
                tell(done, Completion::Damaged(damaged.partition));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// In short calls, like everything else; the last one says what it amounts to.
fn install(engine: &dyn Engine, part: Part) -> Result<(), EngineError> {
    let Part { keyspace, number: _, records, start } = part;
    let mut records = records.into_iter().peekable();
    loop {
        let (mut changes, mut bytes) = (Vec::new(), 0);
        while changes.len() < CHANGES_PER_CALL
            && bytes < BYTES_PER_CALL
            && let Some((key, record)) = records.next()
        {
            bytes += record.value.len();
            changes.push(VersionedChange { key, value: Some(record.value), seq: record.seq });
        }
        let last = records.peek().is_none();
        let through = start.filter(|_| last).unwrap_or(EntryId::ZERO);
        engine.apply(&[ApplyBatch { keyspace, through, changes }])?;
        if last {
            return Ok(());
        }
    }
}

fn to_batch(partition: PartitionId, apply: Apply) -> ApplyBatch {
    let changes = apply.changes.into_iter().map(|(key, value, seq)| VersionedChange { key, value, seq });
    ApplyBatch {
        keyspace: Keyspace { partition, generation: apply.generation },
        through: apply.through,
        changes: changes.collect(),
    }
}

fn tell(done: &UnboundedSender<Completion>, completion: Completion) {
    // A shard goes only when the node ends.
    let _ended = done.send(completion);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use engine::{Fault, FaultyEngine, MemoryEngine, Operation};
    use tokio::sync::mpsc::unbounded_channel;
    use types::{Generation, Seq, Term};

    const KEYSPACE: Keyspace = Keyspace { partition: PartitionId(3), generation: Generation(2) };

    fn part(number: u64, keys: usize, start: Option<EntryId>) -> Part {
        let record = Record { seq: Seq(7), value: Bytes::from(vec![1; 4096]) };
        let key = |key: usize| RecordKey::user(Bytes::from(format!("{number}-{key:06}")));
        Part { keyspace: KEYSPACE, number, records: (0..keys).map(|at| (key(at), record.clone())).collect(), start }
    }

    /// Does what is asked for, then ends; what was told meanwhile, and how it ended.
    fn worked(engine: &dyn Engine, jobs: Vec<Part>) -> (Vec<u64>, Result<(), EngineError>) {
        let (done, mut told) = unbounded_channel();
        let (orders, queue) = mpsc::channel();
        for part in jobs {
            orders.send(Job::Install { part, done: done.clone() }).expect("the queue is there");
        }
        drop((orders, done));
        let ended = work(engine, &queue);
        let mut numbers = Vec::new();
        while let Ok(Completion::Installed { number, keyspace }) = told.try_recv() {
            assert_eq!(keyspace, KEYSPACE);
            numbers.push(number);
        }
        (numbers, ended)
    }

    /// Guards P23 against a snapshot that is said to be complete before it is on disk: after a crash the replica would
    /// have promised with a log that begins where its state does not reach.
    #[test]
    fn the_last_part_is_told_only_after_a_checkpoint() {
        let start = EntryId { term: Term(1), seq: Seq(7) };
        let parts = || vec![part(0, 3, None), part(1, 3, Some(start))];
        let (told, ended) = worked(&MemoryEngine::default(), parts());
        assert_eq!((told, ended.is_ok()), (vec![0, 1], true));

        let engine = FaultyEngine::new(MemoryEngine::default());
        engine.fail(Operation::Checkpoint, 0, Fault::Io(std::io::ErrorKind::StorageFull));
        let (told, ended) = worked(&engine, parts());
        assert_eq!((told, ended.is_err()), (vec![0], true), "what is not on disk was told");
    }

    /// Guards against a deletion that holds up what clients wait for, one that never goes on while there is other work, and
    /// one that keeps a node from ending.
    #[test]
    fn a_deletion_waits_for_everything_else_but_not_for_ever() {
        let engine = FaultyEngine::new(MemoryEngine::default());
        engine.fail(Operation::Delete, 0, Fault::Io(std::io::ErrorKind::Other));
        let run = |parts: u64| {
            let (done, mut told) = unbounded_channel();
            let (orders, queue) = mpsc::channel();
            orders.send(Job::Delete(Keyspace { generation: Generation(1), ..KEYSPACE })).expect("the queue is there");
            (0..parts).for_each(|number| {
                let job = Job::Install { part: part(number, 1, None), done: done.clone() };
                orders.send(job).expect("the queue is there");
            });
            drop((orders, done));
            let ended = work(&engine, &queue);
            (std::iter::from_fn(|| told.try_recv().ok()).count(), ended.is_ok())
        };
        assert_eq!(run(3), (3, true), "it was still to be done when nobody was there any more");
        assert_eq!(run(40), (JOBS_PER_DELETION_STEP - 1, false), "a step between other jobs, which fails here");
    }

    /// Guards against a call in which readers wait for a whole page, and against a part that is cut in two and then says
    /// that the state reaches `start` before all of it is there.
    #[test]
    fn a_large_part_goes_in_short_calls_and_only_the_last_says_what_it_amounts_to() {
        let start = EntryId { term: Term(1), seq: Seq(7) };
        let engine = FaultyEngine::new(MemoryEngine::default());
        // 4 KiB each: 32 of 100 records fill a call, so the fourth is the last.
        engine.fail(Operation::Apply, 3, Fault::Io(std::io::ErrorKind::Other));
        let (told, ended) = worked(&engine, vec![part(0, 100, Some(start))]);
        assert_eq!((told, ended.is_err()), (vec![], true), "it went in fewer calls");
        assert_eq!(engine.inner().applied(KEYSPACE).expect("memory reads"), EntryId::ZERO);
        let (told, ended) = worked(engine.inner(), vec![part(0, 100, Some(start))]);
        assert_eq!((told, ended.is_ok()), (vec![0], true));
        assert_eq!(engine.inner().applied(KEYSPACE).expect("memory reads"), start);
    }
}
