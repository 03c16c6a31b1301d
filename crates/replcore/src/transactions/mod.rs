//! Transactions over several keys (P22, P24–P27): one partition's part in them.
//!
//! # Within one partition
//!
//! An ordinary batch: judged against the applied state and every appended entry (P12), one entry, the cost of a put.
//!
//! # Over several
//!
//! The *home*, the partition of the first key, coordinates (`coordinator.rs`); the others are *participants*
//! (`participant.rs`). Partitions speak to each other with [`TransactionMessage`]s, which the driver brings to the
//! destination's primary as its newest view has it. They may be lost, late or doubled: each names its attempt (P24), and
//! whoever waits says its last word again with the ticks.
//!
//! 1. The home locks its own keys, in memory, judges its own conditions, and sends each participant its part.
//! 2. A participant's primary judges the conditions, locks every key and appends one entry: a hidden record with locks
//!    and staged values. Committed, that is its yes, with the seq of that entry and what it read.
//! 3. With every yes, the home appends one entry: its own writes, the request's id with its result, and a hidden record
//!    that names the participants. When it commits the transaction has happened, and the client hears so.
//! 4. Participants are told, write what they staged and drop the locks in one entry, and acknowledge when that commits.
//! 5. After the last acknowledgement the home's hidden record goes; the request's id stays.
//!
//! # Why it holds
//!
//! * *One decision.* Only the term that began an attempt appends its decision (P24): the attempt lives in the memory of
//!   that term's primary and dies with it. A home that serves in a later term has in its log whatever can ever have been
//!   decided before; what it does not find there never was, and *abort* is true for ever (P27).
//! * *What was judged still holds when it is decided.* Keys that were read or will be written are locked from then on. A
//!   participant's locks are in its log: a new primary has them before it serves. The home's own are in memory: if that is
//!   lost, so is the right to decide.
//! * *Nobody sees half of it.* Readers of a key that is locked for writing by a record wait until the entry that releases
//!   it is committed. The home's own keys change with the decision itself, so until it commits the old value is right.
//! * *Nothing is written twice.* A decision names the seq of the prepared record that it is about. If a late or doubled
//!   `Prepare` locks again after the attempt is over, that record has another seq: no decision fits it, only an abort.
//! * *Nobody waits in a cycle.* At its home an attempt that finds keys locked waits before it has locked anything. At a
//!   participant only an older one waits for a younger one's locks; a younger one hears no at once, is given up, and its
//!   client tries again with the same age, so that it is the oldest some day (wait-die).
//! * *An acknowledgement is true.* A participant that has nothing prepared may lack it because it is no primary any more:
//!   it acknowledges after a round of reads has confirmed that it is (P17), and after all it has seen is committed.
//!
//! # Fencing
//!
//! Every partition of a transaction judges its token like a put's, when it locks; a newer token is kept from then on,
//! whatever becomes of the transaction. Until it is over no newer one is used there, so that no write with an older token
//! follows one with a newer.
//!
//! # What is left out
//!
//! Transactions that only read and span partitions: clients read twice and compare ([`Collected`](crate::Collected)), and
//! only take this way if they can't get a consistent view like that. Locks are never shared between branches: a key that
//! only one branch writes is locked for writing all the same.

mod absences;
mod coordinator;
mod judging;
mod locks;
mod participant;
mod records;

pub(crate) use absences::Absences;
pub(crate) use locks::{Conflict, Locks};

use crate::event::{Answer, Effect, Proposal, State, Token, TransactionProposal};
use crate::mutants::{Mutant, on};
use crate::primary::Patience;
use crate::replica::{Replica, Role};
use bytes::Bytes;
use coordinator::{Attempt, Decided};
use judging::Judged;
use participant::Prepared;
use records::{Decision, Staged};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use types::{
    AttemptId, Batch, Change, ErrorCode, FencingToken, PartitionId, RecordKey, RecordKind, RequestId, Seq, Stamp,
    TransactionPart,
};

/// How old an attempt is: that of the client's request, whatever it takes. The lesser is older.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Age {
    /// When the client first asked, by its clock.
    pub stamp: Stamp,
    /// Which request: no two attempts under way are equally old but those of one request.
    pub request: RequestId,
}

/// What the primaries of two partitions say to each other about one attempt.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TransactionMessage {
    /// Which one (P24).
    pub attempt: AttemptId,
    /// The partition that says it.
    pub from: PartitionId,
    /// What.
    pub body: TransactionBody,
}

/// What they say.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum TransactionBody {
    /// From the home: judge this, lock it, and say yes or no.
    Prepare {
        /// Who waits for whom.
        age: Age,
        /// The participant's part.
        part: Box<TransactionPart>,
    },
    /// To the home: locked, staged, committed (P25).
    Yes {
        /// The entry that did it.
        prepared: Seq,
        /// What was found.
        judged: Box<Judgement>,
    },
    /// To the home: nothing is locked here for this attempt.
    No {
        /// Why.
        code: ErrorCode,
    },
    /// To the home: nothing is locked here for this attempt, whose fencing token is older than one that was used.
    Fenced {
        /// That one.
        newest: FencingToken,
    },
    /// From the home: it has happened (P26).
    Commit {
        /// The entry that prepared it: any other is not what was decided.
        prepared: Seq,
        /// Which branch.
        succeeded: bool,
    },
    /// From the home: it has not happened and never will (P27), or it changes nothing here.
    Abort,
    /// To the home: what was to be written is committed here (P26).
    Done,
    /// To the home: I hold locks; what has become of it (P27)?
    Ask {
        /// The entry that prepared it.
        prepared: Seq,
    },
}

impl TransactionBody {
    /// A short name, for traces and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            TransactionBody::Prepare { .. } => "prepare",
            TransactionBody::Yes { .. } => "yes",
            TransactionBody::No { .. } => "no",
            TransactionBody::Fenced { .. } => "fenced",
            TransactionBody::Commit { .. } => "commit",
            TransactionBody::Abort => "abort",
            TransactionBody::Done => "done",
            TransactionBody::Ask { .. } => "ask",
        }
    }
}

pub use judging::Judgement;

/// A transaction that is not over, as this partition's primary sees it; for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InDoubt {
    /// Which one.
    pub attempt: AttemptId,
    /// Whose answer is waited for.
    pub waits_for: Vec<PartitionId>,
    /// What it waits for.
    pub stage: DoubtStage,
    /// Ticks since it began here, or since this primary took over.
    pub ticks: u32,
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DoubtStage {
    /// The home: participants' votes.
    Voting,
    /// The home: participants that know of the decision.
    Telling,
    /// A participant: the home's decision.
    Prepared,
}

/// One that waits for a key's locks.
#[derive(Clone, Hash, Debug)]
pub(crate) enum Parked {
    Mutate(Token, Proposal),
    Transact(Token, TransactionProposal),
    Prepare(AttemptId, Age, Box<TransactionPart>),
}

/// What follows when an entry is committed.
#[derive(Clone, Hash, Debug)]
enum OnCommit {
    /// A yes.
    Prepared(AttemptId),
    /// The transaction has happened.
    Decided(AttemptId),
    /// Readers may go on; the home may hear of it.
    Released { attempt: AttemptId, keys: Vec<locks::Locked>, acknowledge: bool },
}

/// One primary's memory of the transactions of its term.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transactions {
    /// P16: what the state and the log hold of transactions is here.
    rebuilt: bool,
    pub(crate) locks: Locks,
    /// Attempts begun here so far.
    counter: u64,
    /// Begun here and not decided, by counter.
    attempts: BTreeMap<u64, Attempt>,
    by_request: FxHashMap<RequestId, u64>,
    /// Locked and staged here for other homes.
    prepared: BTreeMap<AttemptId, Prepared>,
    /// Decided here, and not known by every participant.
    decided: BTreeMap<AttemptId, Decided>,
    /// Known by every participant: their records can go.
    finished: Vec<AttemptId>,
    /// By seq.
    commits: VecDeque<(Seq, OnCommit)>,
    /// By the key whose lock is waited for; each in the order of arrival.
    parked: BTreeMap<Bytes, VecDeque<Parked>>,
    parked_count: usize,
    /// Those of the parked that are a home's.
    prepares_parked: FxHashSet<AttemptId>,
    woken: VecDeque<Parked>,
    pub(crate) absences: Absences,
}

impl Hash for Transactions {
    /// What is left out follows from the rest.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Transactions { rebuilt, locks, counter, attempts, prepared, decided, finished, .. } = self;
        (rebuilt, locks, counter, attempts, prepared, decided, finished).hash(hasher);
        (&self.commits, &self.parked, &self.woken, &self.absences).hash(hasher);
    }
}

impl Transactions {
    /// The memory of a term that begins at `start`.
    pub(crate) fn new(start: Seq) -> Transactions {
        Transactions { absences: Absences::new(start), ..Transactions::default() }
    }

    pub(crate) fn needs_tick(&self) -> bool {
        !(self.attempts.is_empty() && self.prepared.is_empty() && self.decided.is_empty() && self.finished.is_empty())
    }

    /// How many wait for locks or votes.
    pub(crate) fn waiting(&self) -> usize {
        self.parked_count + self.attempts.len()
    }

    pub(crate) fn park(&mut self, key: Bytes, waiting: Parked) {
        self.parked_count += 1;
        if let Parked::Prepare(attempt, ..) = &waiting {
            self.prepares_parked.insert(*attempt);
        }
        self.parked.entry(key).or_default().push_back(waiting);
    }

    fn wake<'a>(&mut self, keys: impl IntoIterator<Item = &'a Bytes>) {
        for key in keys {
            if let Some(waiting) = self.parked.remove(key) {
                self.parked_count -= waiting.len();
                for parked in &waiting {
                    if let Parked::Prepare(attempt, ..) = parked {
                        self.prepares_parked.remove(attempt);
                    }
                }
                self.woken.extend(waiting);
            }
        }
    }

    /// How old the attempt is that holds locks here; not known of what was locked before this term.
    fn age(&self, holder: AttemptId) -> Option<Age> {
        match self.prepared.get(&holder) {
            Some(prepared) => prepared.age,
            None => self.attempts.get(&holder.counter).map(Attempt::age),
        }
    }

    /// Takes those out of the waiting ones that `over` names.
    fn unpark(&mut self, mut over: impl FnMut(&Parked) -> bool) {
        let mut count = 0;
        let prepares = &mut self.prepares_parked;
        self.parked.retain(|_, waiting| {
            waiting.retain(|parked| {
                let stays = !over(parked);
                if let (false, Parked::Prepare(attempt, ..)) = (stays, parked) {
                    prepares.remove(attempt);
                }
                stays
            });
            count += waiting.len();
            !waiting.is_empty()
        });
        self.parked_count = count;
    }

    /// The term is over: what was not decided never will be (P24).
    pub(crate) fn refuse(self, refusal: &Answer, effects: &mut Vec<Effect>) {
        let tokens = self.attempts.into_values().flat_map(|attempt| attempt.tokens);
        let parked = self.parked.into_values().flatten().chain(self.woken).filter_map(|parked| match parked {
            Parked::Mutate(token, _) | Parked::Transact(token, _) => Some(token),
            Parked::Prepare(..) => None,
        });
        tokens.chain(parked).for_each(|token| Replica::reply(token, refusal.clone(), effects));
    }
}

impl Replica {
    /// This primary's transactions, once it serves.
    fn transactions(&mut self) -> Option<&mut Transactions> {
        match &mut self.role {
            Role::Primary(primary) if primary.serving() => Some(&mut primary.transactions),
            _ => None,
        }
    }

    pub(crate) fn say(&self, to: PartitionId, attempt: AttemptId, body: TransactionBody, effects: &mut Vec<Effect>) {
        let message = TransactionMessage { attempt, from: self.partition(), body };
        effects.push(Effect::SendToPartition { partition: to, message });
    }

    /// Another partition's primary speaks. Who does not serve keeps silent: the other one says it again.
    pub(crate) fn on_transaction_message(
        &mut self,
        message: TransactionMessage,
        state: &dyn State,
        effects: &mut Vec<Effect>,
    ) {
        let TransactionMessage { attempt, from, body } = message;
        let at_home = attempt.home == self.partition();
        if self.transactions().is_none() || from == self.partition() {
            return;
        }
        match body {
            TransactionBody::Prepare { age, part } if !at_home && from == attempt.home => {
                self.on_transaction_prepare(attempt, age, part, state, effects);
            }
            TransactionBody::Commit { prepared, succeeded } if !at_home => {
                self.on_transaction_commit(attempt, prepared, succeeded, effects);
            }
            TransactionBody::Abort if !at_home => self.on_transaction_abort(attempt, effects),
            TransactionBody::Yes { prepared, judged } if at_home => {
                self.on_yes(attempt, from, prepared, *judged, effects);
            }
            TransactionBody::No { code } if at_home => self.on_no(attempt, from, &Answer::Error(code), effects),
            TransactionBody::Fenced { newest } if at_home => {
                self.on_no(attempt, from, &Answer::Fenced { newest }, effects);
            }
            TransactionBody::Done if at_home => self.on_done(attempt, from),
            TransactionBody::Ask { prepared } if at_home => self.on_ask(attempt, from, prepared, effects),
            _ => {} // says what only the other side may say
        }
    }

    /// Appends an entry of this term; records of transactions that are over everywhere go with it.
    fn append_transaction(&mut self, mut batch: Batch) -> Seq {
        let Role::Primary(primary) = &mut self.role else { return Seq(0) };
        let finished = std::mem::take(&mut primary.transactions.finished);
        let gone = |attempt: AttemptId| {
            let key = RecordKey { kind: RecordKind::Decision, name: attempt.to_name() };
            Change { key, value: None }
        };
        batch.changes.extend(finished.into_iter().map(gone));
        let term = primary.term();
        self.append_own(term, &batch);
        self.log.last().seq
    }

    /// Entries through `committed` are committed: votes, decisions and acknowledgements leave.
    pub(crate) fn transactions_committed(&mut self, effects: &mut Vec<Effect>) {
        let committed = self.committed;
        loop {
            let Role::Primary(primary) = &mut self.role else { return };
            let transactions = &mut primary.transactions;
            let Some((_, what)) = transactions.commits.pop_front_if(|(seq, _)| *seq <= committed) else { return };
            match what {
                OnCommit::Prepared(attempt) => self.say_yes(attempt, effects),
                OnCommit::Decided(attempt) => self.tell_decision(attempt, effects),
                OnCommit::Released { attempt, keys, acknowledge } => {
                    transactions.locks.end(attempt, &keys);
                    if acknowledge {
                        self.say(attempt.home, attempt, TransactionBody::Done, effects);
                    }
                }
            }
        }
    }

    /// Those whose key is free now are judged, in the order in which they came.
    pub(crate) fn run_woken(&mut self, state: &dyn State, effects: &mut Vec<Effect>) {
        while let Some(woken) = self.transactions().and_then(|transactions| transactions.woken.pop_front()) {
            match woken {
                Parked::Mutate(token, proposal) => self.on_mutate(token, &proposal, state, effects),
                Parked::Transact(token, proposal) => self.on_transact(token, proposal, state, effects),
                Parked::Prepare(attempt, age, part) => {
                    self.on_transaction_prepare(attempt, age, part, state, effects);
                }
            }
        }
    }

    pub(crate) fn tick_transactions(&mut self, effects: &mut Vec<Effect>) {
        if self.transactions().is_some() {
            self.tick_attempts(effects);
            self.tick_decided(effects);
            self.tick_prepared(effects);
        }
        if self.transactions().is_some_and(|transactions| !transactions.finished.is_empty()) {
            self.append_transaction(Batch::default());
        }
    }

    /// P16: a term begins with the locks and decisions that the state and the log hold.
    pub(crate) fn rebuild_transactions(&mut self, state: &dyn State, effects: &mut Vec<Effect>) {
        match &mut self.role {
            Role::Primary(primary) if !primary.transactions.rebuilt => primary.transactions.rebuilt = true,
            _ => return,
        }
        let again = Patience::new(self.settings.resend_ticks);
        for kind in [RecordKind::Prepared, RecordKind::Decision] {
            let Ok(listed) = state.list(self.generation, kind) else {
                return self.go_out_of_service(effects);
            };
            let mut records: BTreeMap<Bytes, (Seq, Bytes)> =
                listed.into_iter().map(|(name, record)| (name, (record.seq, record.value))).collect();
            for (name, version) in self.overlay.newest_of(kind) {
                match &version.value {
                    Some(value) => drop(records.insert(name.clone(), (version.seq, value.clone()))),
                    None => drop(records.remove(name)),
                }
            }
            let Role::Primary(primary) = &mut self.role else { return };
            let transactions = &mut primary.transactions;
            for (name, (seq, value)) in records {
                let Some(attempt) = AttemptId::from_name(&name) else {
                    return self.go_out_of_service(effects);
                };
                let known = match kind {
                    RecordKind::Prepared => Staged::decode(value).map(|staged| {
                        if !on(Mutant::P16Locks) {
                            transactions.locks.take(attempt, &staged.locked(), true);
                        }
                        if let Some(name) = &staged.fence {
                            transactions.locks.take_fence(attempt, name);
                        }
                        transactions.prepared.insert(attempt, Prepared::recovered(seq, staged, again));
                    }),
                    _ => Decision::decode(value).map(|decision| {
                        transactions.decided.insert(attempt, Decided::recovered(seq, decision, again));
                    }),
                };
                if known.is_err() {
                    return self.go_out_of_service(effects);
                }
            }
        }
    }

    /// Nobody waits for these any more.
    pub(crate) fn expire_transactions(&mut self, expired: &FxHashSet<Token>, effects: &mut Vec<Effect>) {
        let Some(transactions) = self.transactions() else { return };
        let over = Answer::Error(ErrorCode::DeadlineExceeded);
        transactions.unpark(|parked| match parked {
            Parked::Mutate(token, _) | Parked::Transact(token, _) if expired.contains(token) => {
                Replica::reply(*token, over.clone(), effects);
                true
            }
            _ => false,
        });
        self.expire_attempts(expired, effects);
    }

    /// Transactions that are not over, as this primary sees them.
    pub fn in_doubt(&self) -> Vec<InDoubt> {
        let Role::Primary(primary) = &self.role else { return Vec::new() };
        let transactions = &primary.transactions;
        let (home, term) = (self.partition(), primary.term());
        let voting = transactions.attempts.iter().map(|(counter, attempt)| InDoubt {
            attempt: AttemptId { home, term, counter: *counter },
            waits_for: attempt.silent().collect(),
            stage: DoubtStage::Voting,
            ticks: attempt.ticks,
        });
        let telling = transactions.decided.iter().map(|(attempt, decided)| InDoubt {
            attempt: *attempt,
            waits_for: decided.untold.keys().copied().collect(),
            stage: DoubtStage::Telling,
            ticks: decided.ticks,
        });
        let prepared = transactions.prepared.iter().map(|(attempt, prepared)| InDoubt {
            attempt: *attempt,
            waits_for: vec![attempt.home],
            stage: DoubtStage::Prepared,
            ticks: prepared.ticks,
        });
        voting.chain(telling).chain(prepared).collect()
    }
}
