//! Faults found by attacking the core by hand, one test each, on a single replica whose peers the test plays.

mod bounds;

use crate::tests::{Cluster, Memory};
use crate::{
    Answer, Body, Effect, Event, Message, PersistIndex, Proposal, Recovered, Replica, RoleSummary, Settings, Token,
};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use types::{
    Batch, Condition, Configuration, Entry, EntryId, Epoch, ErrorCode, Mutation, MutationKind, NodeId, PartitionId,
    RecordKey, RequestId, Seq, Stamp, Term,
};

struct Alone {
    replica: Replica,
    memory: Memory,
    index: u64,
}
impl Alone {
    fn new(me: u64) -> Alone {
        Alone::of(PartitionId(0), me)
    }
    fn of(partition: PartitionId, me: u64) -> Alone {
        Alone {
            replica: Replica::new(NodeId(me), partition, Epoch(1), Settings::default(), Recovered::default()).unwrap(),
            memory: Memory::default(),
            index: 0,
        }
    }
    fn checkpoint(&mut self, through: Seq) {
        let generation = self.replica.base().generation;
        self.ev(Event::Checkpointed { generation, through, make_room: false });
    }
    fn ev(&mut self, e: Event) -> Vec<Effect> {
        let mut out = vec![];
        self.replica.step(e, &self.memory, &mut out);
        for e in &out {
            if let Effect::Persist { index, .. } = e {
                self.index = index.0;
            }
        }
        out
    }
    fn sync(&mut self) -> Vec<Effect> {
        let i = self.index;
        self.ev(Event::Persisted { through: PersistIndex(i) })
    }
    fn view(&mut self, epoch: u64, term: u64, reps: &[u64], learner: Option<u64>, prior: &[u64]) -> Vec<Effect> {
        self.ev(Event::View {
            epoch: Epoch(epoch),
            configuration: Arc::new(Configuration {
                term: Term(term),
                replicas: reps.iter().map(|n| NodeId(*n)).collect(),
                learner: learner.map(NodeId),
                prior: prior.iter().map(|n| NodeId(*n)).collect(),
            }),
        })
    }
    fn msg(&mut self, from: u64, term: u64, body: Body) -> Vec<Effect> {
        self.ev(Event::Message { from: NodeId(from), message: Message { term: Term(term), body } })
    }
    fn put(&mut self, t: u64) -> Vec<Effect> {
        self.put_value(t, Bytes::from_static(b"v"))
    }
    fn put_value(&mut self, t: u64, value: Bytes) -> Vec<Effect> {
        self.put_key_value(t, Bytes::from_static(b"k"), value)
    }
    fn put_key_value(&mut self, t: u64, key: Bytes, value: Bytes) -> Vec<Effect> {
        let mutation = Mutation { key, kind: MutationKind::Put(value), condition: Condition::None, fence: None };
        self.ev(Event::Mutate {
            token: Token(t),
            proposal: Proposal {
                id: RequestId { client: 1, counter: t },
                stamp: Stamp(100_000),
                mutation,
                forget_before: Stamp(40_000),
            },
        })
    }
    /// So many writes, on this disk.
    fn put_many(&mut self, count: u64) {
        for i in 0..count {
            self.put(i);
        }
        self.ev(Event::Flush);
        self.sync();
    }
    /// Nodes 2 and 3 have everything up to here on disk.
    fn others_hold(&mut self, through: u64) {
        self.msg(2, 2, Body::Prepared { seq: Seq(through) });
        self.msg(3, 2, Body::Prepared { seq: Seq(through) });
    }
    /// Everything committed is in the state.
    fn apply(&mut self) {
        let apply = self.replica.take_apply().unwrap();
        self.ev(Event::Applied { generation: apply.generation, through: apply.through });
    }
    /// primary of term 2 over 1,2,3(+learner), start entry seq 1 committed
    fn serving(learner: Option<u64>) -> Alone {
        let mut o = Alone::new(1);
        o.view(2, 2, &[1, 2, 3], learner, &[]);
        o.sync();
        o.msg(2, 2, Body::Sealed { last: EntryId::ZERO, committed: Seq(0) });
        o.ev(Event::Flush);
        o.sync();
        o.msg(2, 2, Body::Prepared { seq: Seq(1) });
        o.msg(3, 2, Body::Prepared { seq: Seq(1) });
        if let Some(l) = learner {
            o.msg(l, 2, Body::Prepared { seq: Seq(1) });
        }
        assert_eq!(o.replica.role(), RoleSummary::Serving(Term(2)));
        o
    }
}

/// Guards against an entry that leaves with a tick and is then denied to its client (P11, P29).
#[test]
fn what_is_not_flushed_does_not_leave() {
    let mut o = Alone::serving(None);
    o.put(7);
    let sent = o.ev(Event::Tick);
    let out = o.msg(2, 3, Body::Seal);
    let left = sent.iter().any(|e| matches!(e, Effect::Send { message: Message { body: Body::Prepare { entries, .. }, .. }, .. } if !entries.is_empty()));
    let denied = out.iter().any(|e| matches!(e, Effect::Reply { answer: Answer::Error(ErrorCode::NotPrimary), .. }));
    assert!(!(left && denied), "entry left the node, client told definitely not done");
    assert_eq!(o.replica.log.last().seq, Seq(1), "what was denied is gone: it could still be committed");
}

/// Guards against an answer about an entry that was never sent: counted, it would be truncated as committed (P8, P9).
#[test]
fn what_is_not_flushed_is_not_counted() {
    let mut o = Alone::serving(None);
    o.put(7);
    o.ev(Event::Tick);
    o.others_hold(2);
    o.msg(2, 3, Body::Seal);
}

/// Guards against a delayed `Mismatch` that marks a follower as out of reach for ever.
#[test]
fn a_late_mismatch_strands_nobody() {
    let mut o = Alone::serving(None);
    o.put_many(5);
    o.others_hold(6);
    o.ev(Event::Flush);
    o.apply();
    o.ev(Event::Tick);
    o.checkpoint(Seq(6));
    assert!(o.replica.base().trim.seq > Seq(0));
    // duplicate, very late
    for n in [2, 3] {
        o.msg(n, 2, Body::Mismatch { last: EntryId::ZERO, committed: Seq(0) });
    }
    o.put(99);
    let mut sent = o.ev(Event::Flush);
    o.sync();
    for _ in 0..500 {
        sent.extend(o.ev(Event::Tick));
        sent.extend(o.ev(Event::Flush));
    }
    assert!(
        sent.iter().any(|e| matches!(e, Effect::Send { message: Message { body: Body::Prepare { .. }, .. }, .. })),
        "followers are never sent anything again"
    );
}

/// Guards against answered reads that keep a lost `Prepare` from being sent again, or from being reported (P19).
#[test]
fn reads_do_not_hide_a_lost_prepare() {
    let mut o = Alone::serving(None);
    o.put(7);
    o.ev(Event::Flush); // both Prepares are lost
    o.sync();
    let mut prepares = 0;
    let mut stuck = 0;
    let mut token = 100;
    for _ in 0..2000 {
        token += 1;
        let mut out = o.ev(Event::Read { token: Token(token), key: Bytes::from_static(b"k") });
        out.extend(o.ev(Event::Flush));
        let nonce = out
            .iter()
            .find_map(|e| match e {
                Effect::Send { message: Message { body: Body::Confirm { nonce }, .. }, .. } => Some(*nonce),
                _ => None,
            })
            .unwrap();
        out.extend(o.msg(2, 2, Body::Confirmed { nonce }));
        out.extend(o.msg(3, 2, Body::Confirmed { nonce }));
        out.extend(o.ev(Event::Tick));
        prepares += out.iter().filter(|e| matches!(e, Effect::Send { message: Message { body: Body::Prepare { entries, .. }, .. }, .. } if !entries.is_empty())).count();
        stuck += out.iter().filter(|e| matches!(e, Effect::ReportStuck { .. })).count();
    }
    assert!(prepares > 0 || stuck > 0, "2000 ticks, write never resent, never reported stuck");
}

/// Guards against a primary that is taken for stuck, and replaced, because at every tick something waits: reads are answered
/// all the time (P19).
#[test]
fn a_busy_primary_is_not_stuck() {
    let mut o = Alone::serving(None);
    let mut nonce = None;
    for token in 0..500 {
        let mut out = o.ev(Event::Read { token: Token(token), key: Bytes::from_static(b"k") });
        out.extend(o.ev(Event::Flush));
        out.extend(o.ev(Event::Tick));
        // The answer to the last tick's, after the next was asked.
        if let Some(nonce) = nonce {
            out.extend(o.msg(2, 2, Body::Confirmed { nonce }));
            out.extend(o.ev(Event::Flush));
        }
        let asked = out.iter().filter_map(|e| match e {
            Effect::Send { message: Message { body: Body::Confirm { nonce }, .. }, .. } => Some(*nonce),
            _ => None,
        });
        nonce = asked.max().or(nonce);
        assert!(!out.iter().any(|e| matches!(e, Effect::ReportStuck { .. })), "tick {token}");
    }
}

/// Guards against a restart that takes the leftovers of a removed replica for damage.
#[test]
fn a_removed_replica_starts_again() {
    let mut c = Cluster::new(3);
    c.view(2, &[1, 2, 3]);
    c.mutate(1, 1, Some("a"), Condition::None);
    for n in 1..=3 {
        c.apply(n);
    }
    let applied = c.replicas[&NodeId(3)].applied();
    // removed by a configuration that is not activated: no DeleteData yet
    let configuration = Arc::new(Configuration {
        term: Term(5),
        replicas: vec![NodeId(1), NodeId(2)],
        learner: None,
        prior: vec![NodeId(1), NodeId(2)],
    });
    c.step(NodeId(3), Event::View { epoch: Epoch(5), configuration });
    assert_eq!(c.replicas[&NodeId(3)].role(), RoleSummary::None);
    let rec = c.recoveries[&NodeId(3)].clone().finish(applied, vec![]);
    assert!(rec.is_ok(), "{rec:?}");
}

/// Guards against a damaged replica that stays out of service because its view overtook the note (P3).
#[test]
fn a_note_of_damage_may_come_after_the_view() {
    let mut o = Alone::new(3);
    o.view(2, 2, &[1, 2, 3], None, &[]);
    o.ev(Event::Damaged);
    o.view(4, 4, &[1, 2], None, &[]);
    o.view(5, 4, &[1, 2], Some(3), &[]);
    o.ev(Event::DamageNoted { epoch: Epoch(3) });
    assert_eq!(o.replica.role(), RoleSummary::Follower);
}

/// Guards against a learner that is named again within its term, empty, and taken for filled.
#[test]
fn a_learner_that_returns_empty_is_filled() {
    let mut o = Alone::serving(Some(4));
    // view 3 removes learner 4 (unseen here), view 4 adds it again: a new empty generation at 4
    o.view(4, 2, &[1, 2, 3], Some(4), &[]);
    o.put(7);
    let mut out = o.ev(Event::Flush);
    o.sync();
    let mut rounds = 0;
    for _ in 0..1000 {
        let bad = out.iter().any(|e| matches!(e, Effect::Send { to: NodeId(4), message: Message { body: Body::Prepare { prev, .. }, .. } } if prev.seq > Seq(0)));
        if !bad {
            break;
        }
        rounds += 1;
        o.msg(4, 2, Body::Mismatch { last: EntryId::ZERO, committed: Seq(0) });
        out = o.ev(Event::Flush);
    }
    assert!(rounds < 1000, "mismatch ping-pong for ever");
}

/// Guards against a fetch that is given up before a slow link could answer, again and again (P15).
#[test]
fn a_takeover_ends_over_a_slow_link() {
    let mut o = Alone::new(1);
    o.view(2, 2, &[1, 2, 3], None, &[]);
    o.sync();
    // FIFO link, Seal answered behind what was asked before; a chunk takes 8 ticks.
    let last = EntryId { term: Term(1), seq: Seq(1) };
    let mut busy_until = 0u64;
    let mut queue: VecDeque<(u64, Body)> = VecDeque::new();
    let mut outs = o.msg(2, 2, Body::Sealed { last, committed: Seq(0) });
    for tick in 1..2000u64 {
        for e in std::mem::take(&mut outs) {
            if let Effect::Send { to: NodeId(2), message } = e {
                match message.body {
                    Body::Seal => {
                        busy_until = busy_until.max(tick);
                        queue.push_back((busy_until, Body::Sealed { last, committed: Seq(0) }));
                    }
                    Body::Fetch { .. } => {
                        busy_until = busy_until.max(tick) + 12;
                        queue.push_back((
                            busy_until,
                            Body::Fetched {
                                prev: EntryId::ZERO,
                                last,
                                entries: vec![Entry { id: last, payload: Batch::default().encode() }],
                            },
                        ));
                    }
                    _ => {}
                }
            }
        }
        while queue.front().is_some_and(|(at, _)| *at <= tick) {
            let (_, b) = queue.pop_front().unwrap();
            outs.extend(o.msg(2, 2, b));
        }
        outs.extend(o.ev(Event::Tick));
        outs.extend(o.ev(Event::Flush));
        outs.extend(o.sync());
        if !matches!(o.replica.role(), RoleSummary::TakingOver(_)) {
            return;
        }
    }
    panic!("takeover never finishes");
}

/// Guards against a late answer of the engine that counts for a new generation (P4).
#[test]
fn an_older_generation_applies_nothing() {
    let mut o = Alone::new(4);
    o.view(2, 2, &[1, 2, 3], Some(4), &[]);
    let e = |s| Entry {
        id: EntryId { term: Term(2), seq: Seq(s) },
        payload: Batch {
            changes: vec![types::Change {
                key: RecordKey::user(Bytes::from_static(b"k")),
                value: Some(Bytes::from_static(b"v")),
            }],
            ..Batch::default()
        }
        .encode(),
    };
    let p = Body::Prepare { prev: EntryId::ZERO, entries: vec![e(1)], committed: Seq(1), held_by_all: Seq(0) };
    o.msg(1, 2, p.clone());
    o.sync();
    let a1 = o.replica.take_apply().unwrap();
    o.view(3, 2, &[1, 2, 3], None, &[]);
    o.view(4, 2, &[1, 2, 3], Some(4), &[]);
    o.msg(1, 2, p);
    o.sync();
    let a2 = o.replica.take_apply().unwrap();
    assert_ne!(a1.generation, a2.generation);
    o.ev(Event::Applied { generation: a1.generation, through: a1.through });
    assert_eq!(o.replica.applied(), EntryId::ZERO, "the older generation's apply counted for the new one");
}

/// Guards against `held_by_all` outliving the entries it spoke of: the log is trimmed where others lack it.
#[test]
fn a_truncated_entry_is_held_by_nobody() {
    let mut o = Alone::new(4);
    o.view(2, 2, &[1, 4, 5], None, &[1, 2, 3]);
    let e = |t, s| Entry { id: EntryId { term: Term(t), seq: Seq(s) }, payload: Batch::default().encode() };
    o.msg(1, 2, Body::Prepare { prev: EntryId::ZERO, entries: vec![e(2, 1)], committed: Seq(0), held_by_all: Seq(0) });
    o.sync();
    // all of 1,4,5 hold seq 1, not activated: not committed
    o.msg(
        1,
        2,
        Body::Prepare {
            prev: EntryId { term: Term(2), seq: Seq(1) },
            entries: vec![],
            committed: Seq(0),
            held_by_all: Seq(1),
        },
    );
    o.sync();
    // superseded; {2,3} sealed; another entry at seq 1, held by 2 and 4 only
    o.msg(2, 3, Body::Prepare { prev: EntryId::ZERO, entries: vec![e(3, 1)], committed: Seq(1), held_by_all: Seq(0) });
    o.sync();
    o.apply();
    o.checkpoint(Seq(1));
    assert_eq!(o.replica.base().trim, EntryId::ZERO, "trimmed what others lack");
}

/// Guards against rounds without reads that are kept, ticked and asked about for ever.
#[test]
fn expired_reads_leave_nothing() {
    let mut o = Alone::serving(None);
    for t in 0..1000 {
        o.ev(Event::Read { token: Token(1000 + t), key: Bytes::from_static(b"k") });
        o.ev(Event::Flush);
        o.ev(Event::Expire { tokens: vec![Token(1000 + t)] });
    }
    o.ev(Event::Tick);
    assert!(!o.replica.needs_tick(), "empty rounds stay");
}

/// Guards against a learner that has answered nothing and counts as caught up.
#[test]
fn a_new_learner_is_behind() {
    let mut o = Alone::serving(None);
    o.put_many(50);
    o.others_hold(51);
    o.view(3, 2, &[1, 2, 3], Some(4), &[]);
    o.ev(Event::Flush);
    assert_eq!(o.replica.behind(), vec![NodeId(4)], "a learner that has answered nothing counts as caught up");
    assert_eq!(o.replica.filled(), None);
    // One that has everything does; and who only owes the answer to what is under way is not behind.
    o.msg(4, 2, Body::Mismatch { last: EntryId::ZERO, committed: Seq(0) });
    o.ev(Event::Flush);
    o.msg(4, 2, Body::Prepared { seq: Seq(51) });
    assert_eq!((o.replica.behind(), o.replica.filled()), (vec![], Some(NodeId(4))));
    o.put(50);
    o.ev(Event::Flush);
    o.sync();
    o.msg(2, 2, Body::Prepared { seq: Seq(52) });
    assert_eq!(o.replica.behind(), vec![], "the entry was sent a moment ago");
    o.ev(Event::Tick);
    assert_eq!(o.replica.behind(), vec![NodeId(3), NodeId(4)], "and not answered for a tick");
    o.msg(3, 2, Body::Prepared { seq: Seq(52) });
    o.ev(Event::PeerDown { peer: NodeId(3) });
    assert_eq!(o.replica.behind(), vec![NodeId(4)], "who had everything when it went lacks nothing");
}

/// Guards against answered writes that keep a lost `Confirm` from being sent again.
#[test]
fn writes_do_not_hide_a_lost_confirm() {
    let mut o = Alone::serving(None);
    o.ev(Event::Read { token: Token(1), key: Bytes::from_static(b"k") });
    o.ev(Event::Flush); // both Confirm lost
    let mut confirms = 0;
    for i in 0..500u64 {
        o.put(100 + i);
        let mut out = o.ev(Event::Flush);
        o.sync();
        out.extend(o.ev(Event::Tick));
        o.msg(2, 2, Body::Prepared { seq: Seq(2 + i) });
        o.msg(3, 2, Body::Prepared { seq: Seq(2 + i) });
        confirms += out
            .iter()
            .filter(|e| matches!(e, Effect::Send { message: Message { body: Body::Confirm { .. }, .. }, .. }))
            .count();
    }
    assert!(confirms > 0, "the read's round is never sent again");
}

/// Guards against a follower that never learns of the last commit (P10).
#[test]
fn a_new_stream_is_told_what_is_committed() {
    let mut o = Alone::serving(None);
    o.ev(Event::Tick); // `committed` told once; the stream breaks and it is lost
    assert!(!o.replica.needs_tick());
    o.ev(Event::PeerDown { peer: NodeId(2) });
    let mut out = o.ev(Event::PeerUp { peer: NodeId(2) });
    out.extend(o.ev(Event::Flush));
    assert!(o.replica.needs_tick() || !out.is_empty(), "follower 2 never learns the last commit");
}

/// Guards against a report of P19 that names nobody.
#[test]
fn stuck_reads_name_who_is_silent() {
    let mut o = Alone::serving(None);
    o.ev(Event::Read { token: Token(1), key: Bytes::from_static(b"k") });
    o.ev(Event::Flush);
    let mut reports = 0;
    for _ in 0..200 {
        // Rounds that nobody has answered are no progress, however often they are looked at.
        for e in o.ev(Event::Tick).into_iter().chain(o.ev(Event::Flush)).chain(o.sync()) {
            if let Effect::ReportStuck { unreachable, .. } = e {
                assert!(!unreachable.is_empty(), "stuck, but nobody is named");
                reports += 1;
            }
        }
    }
    assert!(reports > 0, "200 ticks, and nobody hears of it");
}

/// Guards against a log trimmed under a learner that is being sent it.
#[test]
fn what_a_learner_is_sent_is_kept() {
    let mut o = Alone::serving(None);
    o.put_many(50);
    o.others_hold(51);
    o.ev(Event::Flush);
    o.ev(Event::Tick);
    o.apply();
    o.view(3, 2, &[1, 2, 3], Some(4), &[]);
    o.ev(Event::Flush);
    o.msg(4, 2, Body::Mismatch { last: EntryId::ZERO, committed: Seq(0) });
    o.ev(Event::Flush);
    o.checkpoint(Seq(51));
    assert_eq!(o.replica.base().trim, EntryId::ZERO, "trimmed what the learner is being sent");
}
