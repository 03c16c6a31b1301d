//! A small cluster without faults, in memory: the shortest way to see the parts work together.

use crate::{
    Answer, Effect, Event, PersistIndex, Proposal, Recovered, Recovery, Replica, RoleSummary, Settings, State,
    StateDamaged, Token,
};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use types::{
    Condition, Configuration, Epoch, ErrorCode, Generation, Mutation, MutationKind, NodeId, PartitionId, Record,
    RecordKey, RecordKind, RequestId, Seq, Stamp, Term,
};

#[derive(Default)]
pub(crate) struct Memory(BTreeMap<RecordKey, Record>);

impl State for Memory {
    fn get(&self, _: Generation, key: &RecordKey) -> Result<Option<Record>, StateDamaged> {
        Ok(self.0.get(key).cloned())
    }

    fn list(&self, _: Generation, kind: RecordKind) -> Result<Vec<(Bytes, Record)>, StateDamaged> {
        let of_kind = self.0.iter().filter(|(key, _)| key.kind == kind);
        Ok(of_kind.map(|(key, record)| (key.name.clone(), record.clone())).collect())
    }
}

pub(crate) struct Cluster {
    pub(crate) replicas: BTreeMap<NodeId, Replica>,
    states: BTreeMap<NodeId, Memory>,
    pub(crate) recoveries: BTreeMap<NodeId, Recovery>,
    mail: VecDeque<(NodeId, NodeId, crate::Message)>,
    answers: BTreeMap<Token, Answer>,
    dead: Vec<NodeId>,
    tokens: u64,
}

impl Cluster {
    pub(crate) fn new(nodes: u64) -> Cluster {
        let ids = (1..=nodes).map(NodeId);
        let start = |n: NodeId| {
            Replica::new(n, PartitionId(0), Epoch(1), Settings::default(), Recovered::default())
                .expect("nothing to decode")
        };
        Cluster {
            replicas: ids.clone().map(|n| (n, start(n))).collect(),
            states: ids.clone().map(|n| (n, Memory::default())).collect(),
            recoveries: ids.map(|n| (n, Recovery::default())).collect(),
            mail: VecDeque::new(),
            answers: BTreeMap::new(),
            dead: Vec::new(),
            tokens: 0,
        }
    }

    pub(crate) fn step(&mut self, node: NodeId, event: Event) {
        let mut events = VecDeque::from([event, Event::Flush]);
        while let Some(event) = events.pop_front() {
            let mut effects = Vec::new();
            let replica = self.replicas.get_mut(&node).unwrap();
            replica.step(event, &self.states[&node], &mut effects);
            let mut persisted = PersistIndex(0);
            for effect in effects {
                match effect {
                    Effect::Persist { index, record } => {
                        let mut bytes = Vec::new();
                        record.encode(PartitionId(0), &mut bytes);
                        let decoded = crate::PersistRecord::decode(bytes.into()).unwrap();
                        assert_eq!(decoded, (PartitionId(0), record.clone()));
                        self.recoveries.get_mut(&node).unwrap().replay(record).unwrap();
                        persisted = index;
                    }
                    Effect::Send { to, message } => self.mail.push_back((node, to, message)),
                    Effect::Reply { token, answer } => assert_eq!(self.answers.insert(token, answer), None),
                    _ => {}
                }
            }
            if persisted > PersistIndex(0) {
                events.push_back(Event::Persisted { through: persisted });
                events.push_back(Event::Flush);
            }
        }
    }

    fn deliver(&mut self) {
        while let Some((from, to, message)) = self.mail.pop_front() {
            if !self.dead.contains(&to) && !self.dead.contains(&from) {
                self.step(to, Event::Message { from, message });
            }
        }
    }

    pub(crate) fn view(&mut self, epoch: u64, replicas: &[u64]) {
        let configuration = Arc::new(Configuration {
            term: Term(epoch),
            replicas: replicas.iter().map(|n| NodeId(*n)).collect(),
            ..Default::default()
        });
        for n in replicas.iter().map(|n| NodeId(*n)).filter(|n| !self.dead.contains(n)).collect::<Vec<_>>() {
            self.step(n, Event::View { epoch: Epoch(epoch), configuration: configuration.clone() });
        }
        self.deliver();
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    pub(crate) fn mutate(&mut self, node: u64, request: u64, value: Option<&str>, condition: Condition) -> Answer {
        let token = self.token();
        let kind = value.map_or(MutationKind::Delete, |v| MutationKind::Put(Bytes::copy_from_slice(v.as_bytes())));
        let mutation = Mutation { key: Bytes::from_static(b"k"), kind, condition, fence: None };
        let id = RequestId { client: 1, counter: request };
        let proposal = Proposal { id, stamp: Stamp(100_000), mutation, forget_before: Stamp(40_000) };
        self.step(NodeId(node), Event::Mutate { token, proposal });
        self.deliver();
        self.answers.remove(&token).unwrap()
    }

    fn get(&mut self, node: u64) -> Option<String> {
        let token = self.token();
        self.step(NodeId(node), Event::Read { token, key: Bytes::from_static(b"k") });
        self.deliver();
        match self.answers.remove(&token) {
            Some(Answer::Found(record)) => Some(String::from_utf8(record.value.to_vec()).unwrap()),
            Some(Answer::NotFound) => None,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn apply(&mut self, node: u64) {
        let node = NodeId(node);
        while let Some(apply) = self.replicas.get_mut(&node).unwrap().take_apply() {
            let state = &mut self.states.get_mut(&node).unwrap().0;
            for (key, value, seq) in apply.changes {
                match value {
                    Some(value) => state.insert(key, Record { seq, value }),
                    None => state.remove(&key),
                };
            }
            self.step(node, Event::Applied { generation: apply.generation, through: apply.through });
        }
    }

    fn restart(&mut self, node: u64, accepted_at: u64) {
        let node = NodeId(node);
        let applied = self.replicas[&node].applied();
        let requests = self.states[&node].0.iter().filter(|(k, _)| k.kind == types::RecordKind::Requests);
        let requests = requests.map(|(k, r)| (k.name.clone(), r.value.clone())).collect();
        let recovered = self.recoveries[&node].clone().finish(applied, requests).unwrap();
        let replica = Replica::new(node, PartitionId(0), Epoch(accepted_at), Settings::default(), recovered).unwrap();
        self.replicas.insert(node, replica);
    }
}

/// Guards against anything that breaks the ordinary path: write, read, compare-and-set, delete, retry.
#[test]
fn an_ordinary_day() {
    for nodes in [1, 2, 3, 5] {
        let mut cluster = Cluster::new(nodes);
        cluster.view(2, &(1..=nodes).collect::<Vec<_>>());
        assert_eq!(cluster.get(1), None);
        let first = cluster.mutate(1, 1, Some("a"), Condition::Absent);
        let Answer::Written { outcome, .. } = first else { panic!("{first:?}") };
        assert_eq!((outcome.version, outcome.replaced), (Seq(2), false));
        assert_eq!(cluster.get(1).as_deref(), Some("a"));
        let again = cluster.mutate(1, 2, Some("b"), Condition::Absent);
        assert_eq!(again, Answer::ConditionFailed { version: Some(Seq(2)) });
        cluster.apply(1);
        assert_eq!(cluster.get(1).as_deref(), Some("a"));
        let second = cluster.mutate(1, 3, Some("c"), Condition::Version(Seq(2)));
        assert!(matches!(second, Answer::Written { outcome, .. } if outcome.version == Seq(3) && outcome.replaced));
        let retried = cluster.mutate(1, 1, Some("a"), Condition::Absent);
        assert!(matches!(retried, Answer::Written { outcome, .. } if outcome.version == Seq(2)), "{retried:?}");
        assert_eq!(cluster.get(1).as_deref(), Some("c"));
        assert!(matches!(cluster.mutate(1, 4, None, Condition::None), Answer::Written { .. }));
        assert_eq!(cluster.mutate(1, 5, None, Condition::None), Answer::NotFound);
        assert_eq!(cluster.get(1), None);
    }
}

/// Guards against a takeover that loses what was acknowledged, or the memory of a request (P15, P16, P28).
#[test]
fn a_takeover_keeps_values_and_requests() {
    let mut cluster = Cluster::new(3);
    cluster.view(2, &[1, 2, 3]);
    cluster.mutate(1, 1, Some("a"), Condition::None);
    cluster.apply(2);
    cluster.dead.push(NodeId(1));
    cluster.view(3, &[2, 3, 1]);
    assert_eq!(cluster.get(2).as_deref(), Some("a"));
    cluster.mutate(2, 2, Some("b"), Condition::None);
    let retried = cluster.mutate(2, 1, Some("a"), Condition::None);
    assert!(matches!(retried, Answer::Written { outcome, .. } if outcome.version == Seq(2)), "{retried:?}");
    assert_eq!(cluster.get(2).as_deref(), Some("b"));
    // The old primary comes back as it was, without knowing of its end: it can answer nothing.
    cluster.dead.clear();
    let token = cluster.token();
    cluster.step(NodeId(1), Event::Read { token, key: Bytes::from_static(b"k") });
    cluster.deliver();
    assert_eq!(cluster.answers.get(&token), None);
    cluster.step(
        NodeId(1),
        Event::View { epoch: Epoch(3), configuration: cluster.replicas[&NodeId(2)].configuration.clone().unwrap() },
    );
    assert_eq!(cluster.answers.get(&token), Some(&Answer::Error(ErrorCode::NotPrimary)));
}

/// Guards against a restart that forgets a promise, an entry or an answer (P1, P2, P11).
#[test]
fn a_restart_forgets_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.view(2, &[1, 2, 3]);
    cluster.mutate(1, 1, Some("a"), Condition::None);
    for (round, node) in (1..).zip([1u64, 2, 3, 1]) {
        for n in 1..=3 {
            cluster.apply(n);
            let replica = &cluster.replicas[&NodeId(n)];
            let (generation, through) = (replica.base().generation, replica.applied().seq);
            cluster.step(NodeId(n), Event::Checkpointed { generation, through, make_room: false });
            cluster.step(NodeId(n), Event::WriteBase);
        }
        let epoch = 10 * round;
        let before = cluster.replicas[&NodeId(node)].base();
        cluster.restart(node, epoch);
        assert_eq!(cluster.replicas[&NodeId(node)].base(), before);
        // P11: a term that began before this start was accepted is not taken over.
        let next = node % 3 + 1;
        cluster.view(epoch, &[node, next, next % 3 + 1]);
        assert_eq!(cluster.replicas[&NodeId(node)].role(), RoleSummary::Follower);
        cluster.view(epoch + 1, &[next, node, next % 3 + 1]);
        assert_eq!(cluster.get(next).as_deref(), Some("a"), "round {round}");
        let retried = cluster.mutate(next, 1, Some("x"), Condition::None);
        assert!(matches!(retried, Answer::Written { outcome, .. } if outcome.version == Seq(2)), "{retried:?}");
    }
    assert!(cluster.replicas[&NodeId(1)].base().trim.seq >= Seq(2), "the log was trimmed on the way");
}
