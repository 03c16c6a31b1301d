//! What is bounded, and where the bound lies; and what others may not say.

use super::Alone;
use crate::{Answer, Body, Effect, Event, Token, TransactionBody, TransactionMessage, TransactionProposal};
use bytes::Bytes;
use types::{
    AttemptId, ErrorCode, PageQuery, PartitionId, RecordKind, RequestId, Seq, Stamp, Term, TransactionOperation,
    TransactionPart,
};

impl Alone {
    /// The only replica, which serves: what it writes is committed at once.
    fn single() -> Alone {
        Alone::single_of(PartitionId(0))
    }

    fn single_of(partition: PartitionId) -> Alone {
        let mut o = Alone::of(partition, 1);
        o.view(2, 2, &[1], None, &[]);
        o.settled();
        assert_eq!(o.replica.committed, Seq(1));
        o
    }

    /// Everything under way is on disk; what was answered meanwhile.
    fn settled(&mut self) -> Vec<(Token, Answer)> {
        let mut effects = Vec::new();
        for _ in 0..4 {
            effects.extend(self.ev(Event::Flush));
            effects.extend(self.sync());
        }
        answers(effects)
    }

    /// [`Alone::single`] with so many keys of 100 bytes.
    fn filled(count: usize) -> Alone {
        let mut o = Alone::single();
        for key in keys(count) {
            o.put_key(std::str::from_utf8(&key).unwrap(), vec![7; 100]);
            o.settled();
        }
        o
    }

    fn put_key(&mut self, key: &str, value: Vec<u8>) {
        let token = 1_000 + self.replica.log.last().seq.0;
        self.put_key_value(token, Bytes::copy_from_slice(key.as_bytes()), value.into());
    }

    fn asked(&mut self, event: Event) -> Vec<(Token, Answer)> {
        let mut answered = answers(self.ev(event));
        answered.extend(self.settled());
        answered
    }

    fn transact(&mut self, token: u64, parts: Vec<(PartitionId, TransactionPart)>) -> Event {
        let proposal = TransactionProposal {
            id: RequestId { client: 2, counter: token },
            stamp: Stamp(100_000),
            parts,
            forget_before: Stamp(0),
        };
        Event::Transact { token: Token(token), proposal: Box::new(proposal) }
    }
}

fn answers(effects: Vec<Effect>) -> Vec<(Token, Answer)> {
    let reply = |effect| if let Effect::Reply { token, answer } = effect { Some((token, answer)) } else { None };
    effects.into_iter().filter_map(reply).collect()
}

fn keys(count: usize) -> Vec<Bytes> {
    (0..count).map(|i| Bytes::from(format!("k{i}"))).collect()
}

/// Gets of these keys, numbered from `first`.
fn gets(keys: &[Bytes], first: u32) -> TransactionPart {
    let get = |(number, key): (u32, &Bytes)| (number, TransactionOperation::Get { key: key.clone() });
    let then = (first..).zip(keys).map(get).collect();
    TransactionPart { conditions: Vec::new(), then, otherwise: Vec::new(), fence: None }
}

/// Guards against a record of the log that is longer than the log takes, which would end the node: what waited for a lock
/// is appended all at once.
#[test]
fn what_is_appended_at_once_is_written_in_records_of_bounded_length() {
    let mut o = Alone::serving(None);
    let value = Bytes::from(vec![7; 1 << 20]);
    for i in 0..30 {
        o.put_value(i, value.clone());
    }
    let out = o.ev(Event::Flush);
    let lengths: Vec<usize> = out
        .iter()
        .filter_map(|effect| match effect {
            Effect::Persist { record: crate::PersistRecord::Append { entries, .. }, .. } => {
                Some(entries.iter().map(|entry| entry.payload.len()).sum())
            }
            _ => None,
        })
        .collect();
    assert_eq!(lengths.len(), 30usize.div_ceil(7), "{lengths:?}");
    assert!(lengths.iter().all(|length| *length <= 8 << 20), "{lengths:?}");
    o.sync();
    o.msg(2, 2, Body::Prepared { seq: Seq(31) });
    assert_eq!(o.replica.committed, Seq(31), "all of it is on disk");
}

/// Guards against a record of remembered requests that is longer than the state takes, which would end every replica again
/// and again.
#[test]
fn requests_that_are_many_are_stored_in_several_records() {
    let mut o = Alone::serving(None);
    o.put_many(100_000);
    o.msg(2, 2, Body::Prepared { seq: Seq(100_001) });
    let apply = o.replica.take_apply().unwrap();
    let requests = apply.changes.iter().filter(|(key, ..)| key.kind == types::RecordKind::Requests);
    let lengths: Vec<usize> = requests.filter_map(|(_, value, _)| Some(value.as_ref()?.len())).collect();
    assert!(lengths.len() > 3 && lengths.iter().all(|length| *length < 2 << 20), "{lengths:?}");
}

/// Guards against answers of any size: what a request reads of one partition, and a transaction of all of them, is bounded,
/// exactly at the bound.
#[test]
fn what_is_read_at_once_is_bounded() {
    let mut o = Alone::single();
    for key in keys(9) {
        o.put_key(std::str::from_utf8(&key).unwrap(), vec![7; 1 << 20]);
        o.settled();
    }
    let collected = |count| Event::Collect { token: Token(1), keys: keys(count) };
    assert!(matches!(o.asked(collected(8))[..], [(_, Answer::Collected(_))]), "8 MiB");
    assert_eq!(o.asked(collected(9)), [(Token(1), Answer::Error(ErrorCode::Invalid))]);

    let here = PartitionId(0);
    for (count, fits) in [(8, true), (9, false)] {
        let event = o.transact(10 + count as u64, vec![(here, gets(&keys(count), 0))]);
        let answered = o.asked(event);
        let is_done = matches!(answered[..], [(_, Answer::Transacted { .. })]);
        let is_refused = matches!(answered[..], [(_, Answer::Error(ErrorCode::Invalid))]);
        assert_eq!((is_done, is_refused), (fits, !fits), "{count} MiB");
    }

    // As a participant: it says no before it locks anything.
    let attempt = AttemptId { home: PartitionId(1), term: Term(2), counter: 1 };
    let age = crate::Age { stamp: Stamp(1), request: RequestId { client: 3, counter: 1 } };
    for (count, fits) in [(8, true), (9, false)] {
        let attempt = AttemptId { counter: count as u64, ..attempt };
        let body = TransactionBody::Prepare { age, part: Box::new(gets(&keys(count), 0)) };
        let message = TransactionMessage { attempt, from: PartitionId(1), body };
        let mut said = o.ev(Event::FromPartition { message });
        said.extend(o.ev(Event::Flush));
        said.extend(o.sync());
        let no = TransactionBody::No { code: ErrorCode::Invalid };
        let refused = said.iter().any(|e| matches!(e, Effect::SendToPartition { message, .. } if message.body == no));
        assert_eq!(refused, !fits, "{count} MiB");
        let abort = TransactionMessage { attempt, from: PartitionId(1), body: TransactionBody::Abort };
        o.ev(Event::FromPartition { message: abort });
        o.settled();
    }

    // As home, of both together.
    for (theirs, fits) in [(4, true), (5, false)] {
        let mut there = Alone::single_of(PartitionId(1));
        for key in keys(5) {
            there.put_key(std::str::from_utf8(&key).unwrap(), vec![7; 1 << 20]);
            there.settled();
        }
        let parts = vec![(here, gets(&keys(4), 0)), (PartitionId(1), gets(&keys(theirs), 4))];
        let event = o.transact(20 + theirs as u64, parts);
        let answered = converse(&mut o, &mut there, event);
        let is_done = matches!(answered[..], [(_, Answer::Transacted { .. })]);
        let is_refused = matches!(answered[..], [(_, Answer::Error(ErrorCode::Invalid))]);
        assert_eq!((is_done, is_refused), (fits, !fits), "4 MiB here and {theirs} there: {}", answered.len());
    }
}

/// Two partitions speak with each other until both are silent; what the first answers.
fn converse(home: &mut Alone, there: &mut Alone, event: Event) -> Vec<(Token, Answer)> {
    let mut answered = Vec::new();
    let mut heard = std::collections::VecDeque::from([(PartitionId(0), event)]);
    while let Some((partition, event)) = heard.pop_front() {
        let speaker = if partition == PartitionId(0) { &mut *home } else { &mut *there };
        let mut effects = speaker.ev(event);
        for _ in 0..4 {
            effects.extend(speaker.ev(Event::Flush));
            effects.extend(speaker.sync());
        }
        for effect in &effects {
            if let Effect::SendToPartition { partition, message } = effect {
                heard.push_back((*partition, Event::FromPartition { message: message.clone() }));
            }
        }
        answered.extend(answers(effects));
    }
    answered
}

/// Guards against a partition that speaks for a home that it is not: it would end, or finish, an attempt of another.
#[test]
fn only_a_home_is_answered_as_one() {
    let mut o = Alone::single();
    let put = |key: &'static str| TransactionOperation::Put { key: key.into(), value: "v".into() };
    let part =
        |key| TransactionPart { conditions: Vec::new(), then: vec![(0, put(key))], otherwise: Vec::new(), fence: None };
    let event = o.transact(1, vec![(PartitionId(0), part("a")), (PartitionId(1), part("b"))]);
    let sent = o.ev(event);
    let attempt = sent
        .iter()
        .find_map(|e| if let Effect::SendToPartition { message, .. } = e { Some(message.attempt) } else { None })
        .expect("a transaction over two partitions asks the other");
    assert_eq!(attempt.home, PartitionId(0));
    // The same attempt, but for its home.
    let others = AttemptId { home: PartitionId(1), ..attempt };
    let bodies = [
        TransactionBody::No { code: ErrorCode::Overloaded },
        TransactionBody::Fenced { newest: types::FencingToken(9) },
        TransactionBody::Done,
        TransactionBody::Ask { prepared: Seq(1) },
        TransactionBody::Yes { prepared: Seq(1), judged: Box::default() },
    ];
    for body in bodies {
        let name = body.name();
        let message = TransactionMessage { attempt: others, from: PartitionId(1), body };
        assert_eq!(o.ev(Event::FromPartition { message }), [], "{name}");
        assert_eq!(o.settled(), [], "{name}");
    }
    // And who is home takes no orders.
    for body in [TransactionBody::Commit { prepared: Seq(1), succeeded: true }, TransactionBody::Abort] {
        let name = body.name();
        let message = TransactionMessage { attempt, from: PartitionId(1), body };
        assert_eq!(o.ev(Event::FromPartition { message }), [], "{name}");
    }
    // Only a home asks for something, and nobody asks himself.
    let age = crate::Age { stamp: Stamp(1), request: RequestId { client: 3, counter: 1 } };
    for (home, from) in [(PartitionId(1), PartitionId(2)), (PartitionId(0), PartitionId(1))] {
        let body = TransactionBody::Prepare { age, part: Box::new(part("c")) };
        let message = TransactionMessage { attempt: AttemptId { home, ..attempt }, from, body };
        assert_eq!(o.ev(Event::FromPartition { message }), [], "{from} for {home}");
        assert_eq!(o.replica.log.last().seq, Seq(1));
    }
    // It still waits for the other's answer: a no ends it.
    let message =
        TransactionMessage { attempt, from: PartitionId(1), body: TransactionBody::No { code: ErrorCode::Overloaded } };
    assert_eq!(o.asked(Event::FromPartition { message }), [(Token(1), Answer::Error(ErrorCode::Overloaded))]);
}

/// Guards against a watcher that is fed everything at once, nothing, or half an entry.
#[test]
fn a_watcher_is_fed_a_bounded_piece_but_never_nothing() {
    let o = Alone::filled(4);
    let bytes = |seq| o.replica.log.get(Seq(seq)).unwrap().payload.len();
    let two = bytes(2) + bytes(3);
    for (bytes_max, through) in [(0, 2), (1, 2), (two - 1, 2), (two, 3), (two + 1, 3), (usize::MAX, 5)] {
        let fed = o.replica.committed_after(Seq(1), bytes_max).unwrap();
        assert_eq!((fed.through, fed.changes.len() as u64), (Seq(through), through - 1), "at most {bytes_max}");
    }
}

/// Guards against pages that are longer than asked for, or end too early.
#[test]
fn a_page_ends_where_it_is_full() {
    let mut o = Alone::filled(4);
    let item = 2 + 100 + crate::scanning::ITEM_BYTES;
    for (bytes_max, names_only, count) in
        [(100, false, 1), (2 * item - 1, false, 1), (2 * item, false, 2), (4 * item, false, 4), (2 * item, true, 4)]
    {
        let query = PageQuery {
            kind: RecordKind::User,
            prefix: Bytes::new(),
            after: Bytes::new(),
            records_max: 10,
            bytes_max,
            names_only,
        };
        let mut effects = o.ev(Event::ReadPage { token: Token(1), query });
        effects.extend(o.ev(Event::Flush));
        assert!(effects.iter().any(|e| matches!(e, Effect::ScanState { token: Token(1), .. })));
        let scanned = Event::Scanned { token: Token(1), applied: Seq(0), records: Vec::new(), ended: true };
        let [(_, Answer::Page(page))] = &o.asked(scanned)[..] else { panic!("no page") };
        assert_eq!(page.items.len(), count, "at most {bytes_max} bytes");
        assert_eq!(page.resume.is_some(), count < 4);
    }
}

/// Guards against a driver that is told nothing, and so never forgets a request, hands nothing over, or makes no room.
#[test]
fn a_driver_is_told_what_it_decides_by() {
    let mut o = Alone::single();
    let told = |o: &Alone| (o.replica.oldest_request(), o.replica.newest_request(), o.replica.refused_before());
    assert_eq!(told(&o), (None, None, Stamp(0)));
    let (log_before, unapplied_before) = (o.replica.log_bytes(), o.replica.unapplied_bytes());
    for stamp in [100_000, 100_007] {
        let mutation = types::Mutation {
            key: "k".into(),
            kind: types::MutationKind::Put(vec![7; 1_000].into()),
            condition: types::Condition::None,
            fence: None,
        };
        let id = RequestId { client: 1, counter: stamp };
        let proposal = crate::Proposal { id, stamp: Stamp(stamp), mutation, forget_before: Stamp(0) };
        let answered = o.asked(Event::Mutate { token: Token(stamp), proposal });
        assert!(matches!(answered[..], [(_, Answer::Written { .. })]));
    }
    assert_eq!(told(&o), (Some(Stamp(100_000)), Some(Stamp(100_007)), Stamp(0)));
    assert!(o.replica.log_bytes() - log_before >= 2_000);
    assert!(o.replica.unapplied_bytes() - unapplied_before >= 2_000);
    o.ev(Event::Forget { before: Stamp(100_001) });
    o.settled();
    assert_eq!(told(&o), (Some(Stamp(100_007)), Some(Stamp(100_007)), Stamp(100_001)));
    while let Some(apply) = o.replica.take_apply() {
        o.ev(Event::Applied { generation: apply.generation, through: apply.through });
    }
    assert_eq!(o.replica.unapplied_bytes(), 0);
    assert!(!o.replica.is_out_of_service());
    o.ev(Event::Damaged);
    assert!(o.replica.is_out_of_service());
}
