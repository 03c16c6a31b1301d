//! Reads at the primary (P17), and answers that change nothing, which are reads too (P12).
//!
//! Everything that arrived since the last flush shares one round: a question to the other replicas, sent after all of
//! them arrived, whether any has promised a higher term. Rounds are numbered; who answers a later one has answered the
//! earlier ones too, because it was asked later.

use crate::event::{Answer, Effect, State, Token};
use crate::message::Body;
use crate::replica::{Replica, Role, user};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use types::{ErrorCode, NodeId, Seq, Term};

/// One that waits for its round.
#[derive(Debug)]
pub(crate) struct Waiting {
    token: Token,
    what: What,
}

#[derive(Debug)]
enum What {
    /// The key's value as of what is committed when the answer leaves.
    Value(Bytes),
    /// This answer, once everything it saw is committed (P12).
    Settled { answer: Answer, seen: Seq },
}

impl Waiting {
    pub(crate) fn settled(token: Token, answer: Answer, seen: Seq) -> Waiting {
        Waiting { token, what: What::Settled { answer, seen } }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// Arrived since the last round was sent.
    fresh: Vec<Waiting>,
    rounds: VecDeque<(u64, Vec<Waiting>)>,
    /// The last round's number.
    nonce: u64,
    /// The latest round that each node has answered.
    answered: FxHashMap<NodeId, u64>,
    /// Confirmed, but not everything they saw is committed yet.
    uncommitted: Vec<(Token, Answer, Seq)>,
}

impl Reads {
    pub(crate) fn arrive(&mut self, waiting: Waiting) {
        self.fresh.push(waiting);
    }

    pub(crate) fn any(&self) -> bool {
        !self.fresh.is_empty() || !self.rounds.is_empty() || !self.uncommitted.is_empty()
    }

    /// The latest round, if this node owes an answer to it.
    pub(crate) fn open_round(&self, node: NodeId) -> Option<u64> {
        let (nonce, _) = self.rounds.back()?;
        (self.answered.get(&node).copied().unwrap_or(0) < *nonce).then_some(*nonce)
    }

    pub(crate) fn remove(&mut self, token: Token) -> bool {
        let before = self.len();
        self.fresh.retain(|w| w.token != token);
        self.rounds.iter_mut().for_each(|(_, waiting)| waiting.retain(|w| w.token != token));
        self.uncommitted.retain(|(t, ..)| *t != token);
        self.len() < before
    }

    fn len(&self) -> usize {
        self.fresh.len() + self.rounds.iter().map(|(_, w)| w.len()).sum::<usize>() + self.uncommitted.len()
    }

    pub(crate) fn into_tokens(self) -> impl Iterator<Item = Token> {
        let rounds = self.rounds.into_iter().flat_map(|(_, waiting)| waiting);
        let uncommitted = self.uncommitted.into_iter().map(|(token, ..)| token);
        rounds.chain(self.fresh).map(|w| w.token).chain(uncommitted)
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
        let patience_ticks = self.settings.resend_ticks;
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.term() == term && nonce <= primary.reads.nonce {
            primary.heard_from(from, patience_ticks);
            let answered = primary.reads.answered.entry(from).or_default();
            *answered = nonce.max(*answered);
        }
    }

    /// Answers what is confirmed and committed. The own promise is still the term, or the role would be gone (P8, P17).
    pub(crate) fn answer_reads(&mut self, state: &dyn State, effects: &mut Vec<Effect>) {
        let (Role::Primary(primary), Some(configuration)) = (&mut self.role, &self.configuration) else { return };
        if primary.reads.rounds.is_empty() && primary.reads.uncommitted.is_empty() {
            return;
        }
        let replicas = &configuration.replicas;
        let confirmed = primary.reads.confirmed(replicas, replicas.len() / 2);
        if !confirmed.is_empty() {
            primary.moved();
        }
        let committed = self.committed;
        primary.reads.uncommitted.retain(|(token, answer, seen)| {
            let settled = *seen <= committed;
            if settled {
                Self::reply(*token, answer.clone(), effects);
            }
            !settled
        });
        for Waiting { token, what } in confirmed {
            match what {
                What::Value(key) => {
                    let answer = match self.committed_record(&user(&key), state, effects) {
                        Some(Some(record)) => Answer::Found(record),
                        Some(None) => Answer::NotFound,
                        None => Answer::Error(ErrorCode::Damaged),
                    };
                    Self::reply(token, answer, effects);
                }
                What::Settled { answer, seen } if seen <= committed => Self::reply(token, answer, effects),
                What::Settled { answer, seen } => {
                    if let Role::Primary(primary) = &mut self.role {
                        primary.reads.uncommitted.push((token, answer, seen));
                    } else {
                        Self::reply(token, Answer::Error(ErrorCode::Damaged), effects);
                    }
                }
            }
        }
    }
}
