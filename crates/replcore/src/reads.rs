//! Reads at the primary (P17), and answers that change nothing, which are reads too (P12).
//!
//! Everything that arrived since the last flush shares one round: a question to the other replicas, sent after all of
//! them arrived, whether any has promised a higher term. Rounds are numbered; who answers a later one has answered the
//! earlier ones too, because it was asked later.

use crate::event::{Answer, Collected, Effect, State, Token};
use crate::fingerprint::hash_table;
use crate::message::Body;
use crate::mutants::{Mutant, on};
use crate::replica::{Replica, Role, user};
use crate::transactions::TransactionBody;
use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use types::limits::TRANSACTION_READ_BYTES_MAX;
use types::{AttemptId, ErrorCode, NodeId, PageQuery, Record, Seq, Term};

/// One that waits for its round.
#[derive(Clone, Hash, Debug)]
pub(crate) struct Waiting {
    /// Who is answered; nobody where another partition is.
    token: Option<Token>,
    what: What,
}

#[derive(Clone, Hash, Debug)]
enum What {
    /// The values of these keys as of one instant.
    Values(Vec<Bytes>),
    /// A transaction's home hears this, once everything seen is committed.
    Message { attempt: AttemptId, body: TransactionBody, seen: Seq },
    /// The key's value as of what is committed when the answer leaves.
    Value(Bytes),
    /// These records.
    Page(PageQuery),
    /// This answer, once everything it saw is committed (P12).
    Settled { answer: Answer, seen: Seq },
}

impl Waiting {
    pub(crate) fn page(token: Token, query: PageQuery) -> Waiting {
        Waiting { token: Some(token), what: What::Page(query) }
    }

    pub(crate) fn settled(token: Token, answer: Answer, seen: Seq) -> Waiting {
        Waiting { token: Some(token), what: What::Settled { answer, seen } }
    }

    pub(crate) fn message(attempt: AttemptId, body: TransactionBody, seen: Seq) -> Waiting {
        Waiting { token: None, what: What::Message { attempt, body, seen } }
    }

    /// Answers with `refusal`, unless the request is known to be appended: then its outcome is unknown (P29).
    fn give_up(&self, refusal: Answer, effects: &mut Vec<Effect>) {
        let answer = match &self.what {
            What::Settled { answer: Answer::Written { .. } | Answer::Transacted { .. }, .. } => {
                Answer::Error(ErrorCode::Unknown)
            }
            _ => refusal,
        };
        if let Some(token) = self.token {
            Replica::reply(token, answer, effects);
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    /// Arrived since the last round was sent.
    fresh: Vec<Waiting>,
    rounds: VecDeque<(u64, Vec<Waiting>)>,
    /// The last round's number.
    nonce: u64,
    /// The latest round that each node has answered.
    answered: FxHashMap<NodeId, u64>,
    /// Confirmed, but not everything they saw is committed yet.
    uncommitted: Vec<Waiting>,
    /// Confirmed, but a key is locked (P22).
    locked: Vec<Waiting>,
    /// What was committed when `uncommitted` and `locked` were last looked through.
    looked_at: Seq,
    /// All of the above.
    waiting: usize,
}

impl Hash for Reads {
    /// `waiting` follows from the rest.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.fresh, &self.rounds, self.nonce, &self.uncommitted, &self.locked, self.looked_at).hash(hasher);
        hash_table(&self.answered, hasher);
    }
}

impl Reads {
    pub(crate) fn arrive(&mut self, waiting: Waiting) {
        self.fresh.push(waiting);
        self.waiting += 1;
    }

    pub(crate) fn any(&self) -> bool {
        self.waiting > self.locked.len()
    }

    /// The latest round, if this node owes an answer to it.
    pub(crate) fn open_round(&self, node: NodeId) -> Option<u64> {
        let (nonce, _) = self.rounds.back()?;
        (self.answered.get(&node).copied().unwrap_or(0) < *nonce).then_some(*nonce)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    /// Nobody waits for these any more.
    pub(crate) fn expire(&mut self, tokens: &FxHashSet<Token>, effects: &mut Vec<Effect>) {
        let mut take = |waiting: &mut Vec<Waiting>| {
            waiting.retain(|w| {
                let over = w.token.is_some_and(|token| tokens.contains(&token));
                if over {
                    w.give_up(Answer::Error(ErrorCode::DeadlineExceeded), effects);
                }
                !over
            });
        };
        take(&mut self.fresh);
        take(&mut self.uncommitted);
        take(&mut self.locked);
        self.rounds.iter_mut().for_each(|(_, waiting)| take(waiting));
        self.rounds.retain(|(_, waiting)| !waiting.is_empty());
        self.recount();
    }

    /// The term is over.
    pub(crate) fn refuse(self, refusal: &Answer, effects: &mut Vec<Effect>) {
        let rounds = self.rounds.into_iter().flat_map(|(_, waiting)| waiting);
        let confirmed = self.uncommitted.into_iter().chain(self.locked);
        rounds.chain(self.fresh).chain(confirmed).for_each(|w| w.give_up(refusal.clone(), effects));
    }

    /// The node has answered whatever it was asked last.
    pub(crate) fn answered_latest(&mut self, node: NodeId) {
        self.answered.insert(node, self.nonce);
    }

    fn recount(&mut self) {
        let in_rounds: usize = self.rounds.iter().map(|(_, waiting)| waiting.len()).sum();
        self.waiting = self.fresh.len() + in_rounds + self.uncommitted.len() + self.locked.len();
    }

    /// Everything whose round `needed` other nodes among `members` have answered.
    fn confirmed(&mut self, members: &[NodeId], needed: usize) -> Vec<Waiting> {
        let mut confirmed = Vec::new();
        while let Some((nonce, _)) = self.rounds.front() {
            let answers = members.iter().filter(|n| self.answered.get(n).is_some_and(|a| a >= nonce)).count();
            if answers < needed {
                break;
            }
            confirmed.extend(self.rounds.pop_front().into_iter().flat_map(|(_, waiting)| waiting));
        }
        confirmed
    }
}

impl Replica {
    pub(crate) fn on_read(&mut self, token: Token, key: Bytes, effects: &mut Vec<Effect>) {
        self.begin_read(token, What::Value(key), effects);
    }

    pub(crate) fn on_collect(&mut self, token: Token, keys: Vec<Bytes>, effects: &mut Vec<Effect>) {
        self.begin_read(token, What::Values(keys), effects);
    }

    fn begin_read(&mut self, token: Token, what: What, effects: &mut Vec<Effect>) {
        match &mut self.role {
            Role::Primary(primary) if primary.reads.len() >= self.settings.reads_waiting_max => {
                Self::reply(token, Answer::Error(ErrorCode::Overloaded), effects);
            }
            Role::Primary(primary) if primary.serving() => {
                primary.reads.arrive(Waiting { token: Some(token), what });
            }
            _ => Self::reply(token, self.refusal(), effects),
        }
    }

    /// P17: a round of its own for everything that has arrived, sent now, after it.
    pub(crate) fn begin_round(&mut self, effects: &mut Vec<Effect>) {
        let (Role::Primary(primary), Some(configuration)) = (&mut self.role, &self.configuration) else { return };
        if primary.reads.fresh.is_empty() {
            return;
        }
        if on(Mutant::P17Round)
            && let Some((_, round)) = primary.reads.rounds.back_mut()
        {
            return round.append(&mut primary.reads.fresh);
        }
        primary.reads.nonce += 1;
        let nonce = primary.reads.nonce;
        let round = std::mem::take(&mut primary.reads.fresh);
        primary.reads.rounds.push_back((nonce, round));
        let term = primary.term();
        for node in configuration.replicas.iter().filter(|n| **n != self.me && !self.down.contains(n)) {
            self.send(*node, term, Body::Confirm { nonce }, effects);
        }
    }

    pub(crate) fn on_confirmed(&mut self, from: NodeId, term: Term, nonce: u64) {
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.term() == term && nonce <= primary.reads.nonce {
            let answered = primary.reads.answered.entry(from).or_default();
            *answered = nonce.max(*answered);
            if primary.reads.open_round(from).is_none() {
                primary.round_answered(from);
            }
        }
    }

    fn is_hidden(&self, key: &Bytes) -> bool {
        matches!(&self.role, Role::Primary(primary) if primary.transactions.locks.hides(key))
    }

    /// Every key as of what is committed.
    fn collect(&mut self, keys: &[Bytes], state: &dyn State, effects: &mut Vec<Effect>) -> Answer {
        let mut collected = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        for key in keys {
            let Some(record) = self.committed_record(&user(key), state, effects) else {
                return Answer::Error(ErrorCode::Damaged);
            };
            let committed = self.committed;
            bytes += record.as_ref().map_or(0, |record| record.value.len());
            if bytes > TRANSACTION_READ_BYTES_MAX {
                return Answer::Error(ErrorCode::Invalid);
            }
            collected.push(match (record, &self.role) {
                (Some(record), _) => Collected::Found(record),
                (None, Role::Primary(primary)) => {
                    Collected::Absent { since: primary.transactions.absences.since(key, committed) }
                }
                (None, _) => Collected::Absent { since: None },
            });
        }
        Answer::Collected(collected)
    }

    /// Answers what is confirmed and committed. The own promise is still the term, or the role would be gone (P8, P17).
    pub(crate) fn answer_reads(&mut self, state: &dyn State, effects: &mut Vec<Effect>) {
        let (Role::Primary(primary), Some(configuration)) = (&mut self.role, &self.configuration) else { return };
        let reads = &primary.reads;
        let none_waits = reads.uncommitted.is_empty() && reads.locked.is_empty();
        if reads.rounds.is_empty() && (none_waits || reads.looked_at == self.committed) {
            return;
        }
        let replicas = &configuration.replicas;
        let confirmed = primary.reads.confirmed(replicas, replicas.len() / 2);
        let committed = self.committed;
        if !confirmed.is_empty() {
            primary.reads_moved(committed);
        }
        let mut settled = confirmed;
        let reads = &mut primary.reads;
        if reads.looked_at < committed {
            settled.append(&mut reads.uncommitted);
            settled.append(&mut reads.locked);
        }
        reads.looked_at = committed;
        let (mut early, mut locked) = (Vec::new(), Vec::new());
        for waiting in settled {
            // P22: at the instant the state is read.
            let hidden = match &waiting.what {
                What::Value(key) => self.is_hidden(key),
                What::Values(keys) => keys.iter().any(|key| self.is_hidden(key)),
                What::Page(_) | What::Settled { .. } | What::Message { .. } => false,
            };
            if hidden {
                locked.push(waiting);
                continue;
            }
            let answer = match &waiting.what {
                What::Values(keys) => self.collect(keys, state, effects),
                What::Value(key) => match self.record_to_read(key, state, effects) {
                    Some(Some(record)) => Answer::Found(record),
                    Some(None) => Answer::NotFound,
                    None => Answer::Error(ErrorCode::Damaged),
                },
                What::Page(query) => {
                    if let Some(token) = waiting.token {
                        self.begin_scan(token, query.clone(), effects);
                    }
                    continue;
                }
                What::Settled { seen, .. } | What::Message { seen, .. } if *seen > committed => {
                    early.push(waiting);
                    continue;
                }
                What::Settled { answer, .. } => answer.clone(),
                What::Message { attempt, body, .. } => {
                    self.say(attempt.home, *attempt, body.clone(), effects);
                    continue;
                }
            };
            if let Some(token) = waiting.token {
                Self::reply(token, answer, effects);
            }
        }
        match &mut self.role {
            Role::Primary(primary) => {
                primary.reads.uncommitted.append(&mut early);
                primary.reads.locked.append(&mut locked);
                primary.reads.recount();
            }
            // The state turned out to be damaged on the way.
            _ => early.iter().chain(&locked).for_each(|w| w.give_up(Answer::Error(ErrorCode::Damaged), effects)),
        }
    }

    /// The key's record as of what is committed; `None`: the state is damaged.
    fn record_to_read(&mut self, key: &Bytes, state: &dyn State, effects: &mut Vec<Effect>) -> Option<Option<Record>> {
        if on(Mutant::P17Uncommitted) {
            return Some(self.newest(&user(key), state, effects)?.0);
        }
        self.committed_record(&user(key), state, effects)
    }
}
