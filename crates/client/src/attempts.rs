//! One request's way to an outcome: attempts until an answer settles it or its time is up.
//!
//! The first attempt goes to the primary. One that got no answer is followed by another through a different node, which
//! forwards, and so on in turn; a new view ends every pause at once. Mutations keep their id, so that a second attempt
//! gets the first one's answer instead of a second effect (P28).

use crate::clock::Clock;
use crate::error::{Error, Unanswered, UnansweredCause};
use crate::mutants::{Mutant, on};
use crate::node_stream::{NodeStream, is_of_another_cluster};
use crate::outcome::{CollectedKey, Found, Transacted, Written};
use crate::slots::Reply;
use crate::transaction;
use crate::views::Views;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use types::{
    Epoch, ErrorCode, FencingToken, NodeId, OperationResult, Page, PartitionId, Seq, Stamp, Term, TransactionOutcome,
};
use wire::convert::Operation;
use wire::v1;

/// An attempt's time; twice as long after each that ran out. A primary that hangs costs no more than this, one that
/// is merely slow gets its chance.
const PATIENCE_MIN: Duration = Duration::from_millis(300);
/// The pause after a refusal, growing to the longest; the real one is drawn from its upper half.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// What settles a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Written(Written),
    Found(Found),
    Page(Page),
    NotFound,
    ConditionFailed(Option<Seq>),
    Transacted(Transacted),
    Collected(Vec<CollectedKey>),
    /// A newer token than the request's was used.
    Fenced(FencingToken),
}

/// A request under way.
pub(crate) struct Attempts<'a> {
    views: &'a Views,
    operation: Operation,
    partition: PartitionId,
    deadline: Instant,
    timeout: Duration,
    clock: &'a Clock,
    /// P29: an attempt went out whose effect nobody has told us.
    may_have_happened: bool,
    made: u32,
    /// Attempts whose patience ran out.
    timed_out: u32,
    target: Target,
    /// Where the attempt under way went, and by which view.
    asked: Option<(NodeId, Epoch)>,
    pause: Duration,
    last: Option<(ErrorCode, String)>,
}

/// Where the next attempt goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    Primary,
    /// Who a refusal named.
    Hinted(NodeId),
    /// Any other node: it forwards.
    Detour,
}

/// What follows from an attempt.
enum Next {
    Settled(Answer),
    /// Another attempt at once.
    Again,
    /// Another attempt after a pause, or when there is a new view.
    AfterPause,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(views: &'a Views, operation: Operation, timeout: Duration, clock: &'a Clock) -> Attempts<'a> {
        let partition = operation.partition(views.routes().view.partition_count);
        Attempts {
            views,
            operation,
            partition,
            deadline: Instant::now() + timeout,
            timeout,
            clock,
            may_have_happened: false,
            made: 0,
            timed_out: 0,
            target: Target::Primary,
            asked: None,
            pause: PAUSE_MIN,
            last: None,
        }
    }

    /// Attempts until settled.
    pub(crate) async fn run(mut self) -> Result<Answer, Error> {
        loop {
            let now = Instant::now();
            if now >= self.deadline {
                return Err(self.out_of_time());
            }
            let next = match self.send(now) {
                Some(reply) => {
                    let reply = reply.await.unwrap_or_else(|_| Err(gone()));
                    match reply {
                        Ok(response) => self.judge(response)?,
                        Err(unanswered) => self.without_answer(&unanswered),
                    }
                }
                None => {
                    if !self.views.routes().view.has_map() {
                        self.last =
                            Some((ErrorCode::NotBootstrapped, "the cluster has no partition map yet".to_owned()));
                        return Err(self.out_of_time());
                    }
                    self.last =
                        Some((ErrorCode::Unavailable, format!("no node is known that serves {}", self.partition)));
                    self.views.ask_for_newer();
                    self.target = Target::Primary;
                    Next::AfterPause
                }
            };
            match next {
                Next::Settled(answer) => return Ok(answer),
                Next::Again => {}
                Next::AfterPause => self.rest().await,
            }
        }
    }

    /// Hands the request to the stream that the target has in the view of now; `None`: there is none.
    fn send(&mut self, now: Instant) -> Option<oneshot::Receiver<Reply>> {
        let patience = PATIENCE_MIN.saturating_mul(1 << self.timed_out.min(10));
        let attempt_until = self.deadline.min(now + patience);
        let remaining_ms = self.deadline.duration_since(now).as_millis().clamp(1, u128::from(u32::MAX)) as u32;
        let request = v1::Request {
            number: 0,
            timeout_ms: remaining_ms,
            forwarded: false,
            operation: Some(self.operation.to_wire()),
        };
        // Pushed under the guard: a view that comes now finds the request and ends its wait if it must.
        let routes = self.views.routes();
        let (primary, at_primary) = routes.primary(self.partition)?;
        let at_primary: (NodeId, &Arc<NodeStream>) = (*primary, at_primary);
        let (node, stream) = match self.target {
            Target::Primary => at_primary,
            Target::Hinted(node) => routes.stream(node).map_or(at_primary, |stream| (node, stream)),
            Target::Detour => routes.detour(*primary, u64::from(self.made)).unwrap_or(at_primary),
        };
        if on(Mutant::P28NewId)
            && let Operation::Mutate(_, id, _) = &mut self.operation
        {
            id.counter += 1 << 32;
        }
        self.made += 1;
        self.asked = Some((node, routes.view.epoch));
        Some(stream.push(request, Some((self.partition, routes.view.epoch)), attempt_until))
    }

    fn judge(&mut self, response: v1::Response) -> Result<Next, Error> {
        use v1::response::Result as Wire;
        if !is_of_another_cluster(&response) {
            self.views.heard_of(response.epoch);
        }
        let mutation = matches!(self.operation, Operation::Mutate(..));
        let result = match (response.result, &self.operation) {
            (Some(Wire::Transacted(transacted)), Operation::Transact(..)) => {
                return self.transacted(transacted, NodeId(response.node));
            }
            (Some(Wire::Collected(collected)), Operation::Collect(_)) => return self.collected(collected),
            (Some(Wire::Fenced(fenced)), Operation::Transact(..)) => {
                return Ok(Next::Settled(Answer::Fenced(FencingToken(fenced.newest))));
            }
            (result, _) => result,
        };
        let alone = !matches!(self.operation, Operation::Transact(..) | Operation::Collect(_));
        match (result, mutation) {
            (Some(Wire::Written(written)), true) => Ok(Next::Settled(Answer::Written(Written {
                version: Seq(written.version),
                replaced: written.replaced,
                durable_on: written.durable_on,
                term: Term(written.term),
                node: NodeId(response.node),
            }))),
            (Some(Wire::Found(found)), false) if alone => {
                Ok(Next::Settled(Answer::Found(Found { value: found.value, version: Seq(found.version) })))
            }
            (Some(Wire::Page(page)), false) if alone => Ok(Next::Settled(Answer::Page(page.into()))),
            (Some(Wire::NotFound(_)), _) if alone => self.nothing_changed(Answer::NotFound, "the key had no value"),
            (Some(Wire::ConditionFailed(failed)), true) => {
                let version = failed.present.then_some(Seq(failed.version));
                self.nothing_changed(Answer::ConditionFailed(version), "the condition was false")
            }
            // Settles whatever came before: an attempt that took effect would have been remembered, and be told again
            // (P28); one that is still on its way meets the same token.
            (Some(Wire::Fenced(fenced)), true) => Ok(Next::Settled(Answer::Fenced(FencingToken(fenced.newest)))),
            (Some(Wire::Error(error)), _) => {
                let hint = NodeId(response.primary_hint);
                self.refused(ErrorCode::from_number(error.code), error.message, hint, response.server_time_ms)
            }
            (other, _) => {
                self.may_have_happened |= self.operation.changes();
                Err(self
                    .ended(ErrorCode::Internal, format!("a node answered with {other:?}, which is no answer to this")))
            }
        }
    }

    fn transacted(&mut self, transacted: v1::Transacted, node: NodeId) -> Result<Next, Error> {
        let v1::Transacted { succeeded, results, durable_on, term } = transacted;
        let results = results.into_iter().map(OperationResult::try_from).collect::<Result<Vec<_>, _>>();
        let results = results.map_err(|malformed| {
            self.may_have_happened |= self.operation.changes();
            self.ended(ErrorCode::Internal, format!("a node answered what can't be read: {malformed}"))
        })?;
        let outcome = TransactionOutcome { succeeded, results };
        let changed = transaction::has_changed(&outcome);
        let TransactionOutcome { succeeded, results } = outcome;
        let answer = Answer::Transacted(Transacted { succeeded, results, durable_on, term: Term(term), node });
        if changed { Ok(Next::Settled(answer)) } else { self.nothing_changed(answer, "there was nothing to change") }
    }

    fn collected(&self, collected: v1::Collected) -> Result<Next, Error> {
        let one = |key: v1::CollectedKey| match key.found {
            Some(v1::collected_key::Found::Value(found)) => {
                Some(CollectedKey::Found(Found { value: found.value, version: Seq(found.version) }))
            }
            Some(v1::collected_key::Found::Absent(absence)) => Some(CollectedKey::Absent(absence.since)),
            None => None,
        };
        match collected.keys.into_iter().map(one).collect() {
            Some(keys) => Ok(Next::Settled(Answer::Collected(keys))),
            None => Err(self.ended(ErrorCode::Internal, "a node answered with a key and nothing about it".to_owned())),
        }
    }

    /// An answer that says nothing was changed. After an attempt of unknown effect it settles nothing: that one may
    /// still be on its way (P29).
    fn nothing_changed(&self, answer: Answer, what: &str) -> Result<Next, Error> {
        if self.may_have_happened && !on(Mutant::P29Condition) {
            let message = format!("an attempt got no answer, and when it was made again {what}");
            return Err(Error::Unknown { message });
        }
        Ok(Next::Settled(answer))
    }

    fn refused(&mut self, code: ErrorCode, message: String, hint: NodeId, server_ms: u64) -> Result<Next, Error> {
        let asked = self.asked.map(|(node, _)| node);
        match code {
            ErrorCode::StampTooOld if !self.may_have_happened || on(Mutant::P28Restamped) => {
                // No attempt took effect: the request may begin anew, with the server's clock.
                self.restamp(server_ms);
                self.last = Some((code, message));
                return Ok(if self.made == 1 { Next::Again } else { Next::AfterPause });
            }
            ErrorCode::Unknown => {
                self.may_have_happened |= self.operation.changes();
                self.target = Target::Primary;
            }
            ErrorCode::NotPrimary => {
                self.views.ask_for_newer();
                self.last = Some((code, message));
                let hinted = hint != NodeId(0) && asked != Some(hint) && !matches!(self.target, Target::Hinted(_));
                self.target = if hinted { Target::Hinted(hint) } else { Target::Primary };
                return Ok(if hinted { Next::Again } else { Next::AfterPause });
            }
            ErrorCode::DeadlineExceeded => self.target = Target::Primary,
            code if code.is_retryable() => self.target = Target::Primary,
            code => return Err(self.ended(code, message)),
        }
        self.last = Some((code, message));
        Ok(Next::AfterPause)
    }

    fn without_answer(&mut self, unanswered: &Unanswered) -> Next {
        let may_have = unanswered.may_have_arrived && !on(Mutant::P29TimeoutFailed);
        if may_have && self.operation.changes() {
            self.may_have_happened = true;
        }
        let cause = unanswered.cause;
        self.last = Some((ErrorCode::Unavailable, unanswered.to_string()));
        if cause == UnansweredCause::Moved {
            self.target = Target::Primary;
            return Next::Again;
        }
        self.views.ask_for_newer();
        // The primary and the others in turn: who knows which of them is cut off.
        self.target = if self.target == Target::Detour { Target::Primary } else { Target::Detour };
        match cause {
            UnansweredCause::TimedOut => {
                self.timed_out += 1;
                Next::Again
            }
            // A node that died under the first attempt: another may know more already.
            UnansweredCause::Broken if self.made == 1 => Next::Again,
            _ => Next::AfterPause,
        }
    }

    /// A pause, ended early by a newer view than the one that the last attempt went by.
    async fn rest(&mut self) {
        let epoch = self.asked.map_or_else(|| self.views.routes().view.epoch, |(_, epoch)| epoch);
        let drawn = self.pause.mul_f64(0.5 + 0.5 * self.views.jitter());
        let until = self.deadline.min(Instant::now() + drawn);
        if tokio::time::timeout_at(until, self.views.newer_than(epoch)).await.is_ok() {
            // A new primary deserves a fresh start.
            self.pause = PAUSE_MIN;
            self.target = Target::Primary;
        } else {
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }

    fn restamp(&mut self, server_ms: u64) {
        self.clock.learn(server_ms);
        if let Operation::Mutate(_, _, stamp) | Operation::Transact(_, _, stamp) = &mut self.operation {
            *stamp = Stamp(server_ms);
        }
    }

    fn ended(&self, code: ErrorCode, message: String) -> Error {
        if self.may_have_happened {
            return Error::Unknown {
                message: format!("an attempt got no answer, and when it was made again: {message}"),
            };
        }
        match code {
            ErrorCode::Invalid => Error::Invalid(message),
            code => Error::NotDone { code, message },
        }
    }

    fn out_of_time(&mut self) -> Error {
        let (code, why) = self.last.take().unwrap_or((ErrorCode::DeadlineExceeded, "no answer".to_owned()));
        let seconds = self.timeout.as_secs_f64();
        if self.may_have_happened {
            return Error::Unknown { message: format!("{seconds} s were not enough ({why})") };
        }
        match code {
            ErrorCode::NotBootstrapped => Error::NotDone { code, message: why },
            code => Error::NotDone { code, message: format!("{seconds} s were not enough ({why}); see dhtctl status") },
        }
    }
}

fn gone() -> Unanswered {
    let why = "the connection was given up".to_owned();
    Unanswered { address: "node".to_owned(), cause: UnansweredCause::Broken, may_have_arrived: true, why }
}
