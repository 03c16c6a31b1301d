//! Reads at the primary (P17), and answers that change nothing, which are reads too (P12).
//!
//! Everything that arrived since the last flush shares one round: a question to the other replicas, sent after all of
//! them arrived, whether any has promised a higher term. Rounds are numbered; who answers a later one has answered the
//! earlier ones too, because it was asked later.

use crate::event::{Answer, Effect, State, Token};
use crate::fingerprint::hash_table;
use crate::message::Body;
use crate::mutants::{Mutant, on};
use crate::replica::{Replica, Role, user};
use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use types::{ErrorCode, NodeId, PageQuery, Record, Seq, Term};

/// One that waits for its round.
#[derive(Clone, Hash, Debug)]
pub(crate) struct Waiting {
    token: Token,
    what: What,
}

#[derive(Clone, Hash, Debug)]
enum What {
    /// The key's value as of what is committed when the answer leaves.
    Value(Bytes),
    /// These records.
    Page(PageQuery),
    /// This answer, once everything it saw is committed (P12).
    Settled { answer: Answer, seen: Seq },
}

impl Waiting {
    pub(crate) fn page(token: Token, query: PageQuery) -> Waiting {
        Waiting { token, what: What::Page(query) }
    }

    pub(crate) fn settled(token: Token, answer: Answer, seen: Seq) -> Waiting {
        Waiting { token, what: What::Settled { answer, seen } }
    }

    /// Answers with `refusal`, unless the request is known to be appended: then its outcome is unknown (P29).
    fn give_up(&self, refusal: Answer, effects: &mut Vec<Effect>) {
        let answer = match &self.what {
            What::Settled { answer: Answer::Written { .. }, .. } => Answer::Error(ErrorCode::Unknown),
            _ => refusal,
        };
        Replica::reply(self.token, answer, effects);
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
    /// What was committed when `uncommitted` was last looked through.
    looked_at: Seq,
    /// All of the above.
    waiting: usize,
}

impl Hash for Reads {
    /// `waiting` follows from the rest.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.fresh, &self.rounds, self.nonce, &self.uncommitted, self.looked_at).hash(hasher);
        hash_table(&self.answered, hasher);
    }
}

impl Reads {
    pub(crate) fn arrive(&mut self, waiting: Waiting) {
        self.fresh.push(waiting);
        self.waiting += 1;
    }

    pub(crate) fn any(&self) -> bool {
        self.waiting > 0
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
                let over = tokens.contains(&w.token);
                if over {
                    w.give_up(Answer::Error(ErrorCode::DeadlineExceeded), effects);
                }
                !over
            });
        };
        take(&mut self.fresh);
        take(&mut self.uncommitted);
        self.rounds.iter_mut().for_each(|(_, waiting)| take(waiting));
        self.rounds.retain(|(_, waiting)| !waiting.is_empty());
        self.recount();
    }

    /// The term is over.
    pub(crate) fn refuse(self, refusal: &Answer, effects: &mut Vec<Effect>) {
        let rounds = self.rounds.into_iter().flat_map(|(_, waiting)| waiting);
        rounds.chain(self.fresh).chain(self.uncommitted).for_each(|w| w.give_up(refusal.clone(), effects));
    }

    /// The node has answered whatever it was asked last.
    pub(crate) fn answered_latest(&mut self, node: NodeId) {
        self.answered.insert(node, self.nonce);
    }

    fn recount(&mut self) {
        let in_rounds: usize = self.rounds.iter().map(|(_, waiting)| waiting.len()).sum();
        self.waiting = self.fresh.len() + in_rounds + self.uncommitted.len();
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
        match &mut self.role {
            Role::Primary(primary) if primary.reads.len() >= self.settings.reads_waiting_max => {
                Self::reply(token, Answer::Error(ErrorCode::Overloaded), effects);
            }
            Role::Primary(primary) if primary.serving() => {
                primary.reads.arrive(Waiting { token, what: What::Value(key) });
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

    /// Answers what is confirmed and committed. The own promise is still the term, or the role would be gone (P8, P17).
    pub(crate) fn answer_reads(&mut self, state: &dyn State, effects: &mut Vec<Effect>) {
        let (Role::Primary(primary), Some(configuration)) = (&mut self.role, &self.configuration) else { return };
        let reads = &primary.reads;
        if reads.rounds.is_empty() && (reads.uncommitted.is_empty() || reads.looked_at == self.committed) {
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
        if reads.looked_at < committed && !reads.uncommitted.is_empty() {
            settled.append(&mut reads.uncommitted);
        }
        reads.looked_at = committed;
        let mut early = Vec::new();
        for waiting in settled {
            let answer = match &waiting.what {
                What::Value(key) => match self.record_to_read(key, state, effects) {
                    Some(Some(record)) => Answer::Found(record),
                    Some(None) => Answer::NotFound,
                    None => Answer::Error(ErrorCode::Damaged),
                },
                What::Page(query) => {
                    self.begin_scan(waiting.token, query.clone(), effects);
                    continue;
                }
                What::Settled { seen, .. } if *seen > committed => {
                    early.push(waiting);
                    continue;
                }
                What::Settled { answer, .. } => answer.clone(),
            };
            Self::reply(waiting.token, answer, effects);
        }
        match &mut self.role {
            Role::Primary(primary) => {
                primary.reads.uncommitted.append(&mut early);
                primary.reads.recount();
            }
            // The state turned out to be damaged on the way.
            _ => early.iter().for_each(|w| w.give_up(Answer::Error(ErrorCode::Damaged), effects)),
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
