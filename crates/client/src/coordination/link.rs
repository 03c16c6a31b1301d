//! The stream with the leader: one task that keeps it, and keeps leases alive over it.
//!
//! Whatever is open when a stream ends is asked again on the next one, with the same words: grants carry a request id,
//! claims their number, releases their token, and the rest may be done twice. A leader that does not answer for
//! [`SILENCE_MAX`] is left for another member, which says who leads now.

use crate::endpoint::{endpoint, status_text};
use crate::leaders::Leaders;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use types::{ErrorCode, LeaseId};
use wire::v1;
use wire::v1::coordination_client::CoordinationClient;
use wire::v1::coordination_reply::Reply;
use wire::v1::coordination_request::Request;

/// How long the leader may be silent while it owes an answer.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// How long an answer to a renewal is waited for at most; else a quarter of the lease's time.
const PATIENCE_MAX: Duration = Duration::from_secs(3);
/// Without anything else to say, it is asked this often whether it is there.
const PING_EVERY: Duration = Duration::from_millis(500);
/// How long a stream may take to come about.
const CONNECT_MAX: Duration = Duration::from_millis(700);
/// Between two attempts to find the leader, or to be answered by it.
const PAUSE: Duration = Duration::from_millis(40);
/// Requests on their way to the leader.
const SENDING_MAX: usize = 1024;
/// Most leases renewed with one request.
const KEPT_MAX: usize = 5_000;

/// What the link is asked to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Ask until the caller has gone. `sent` tells when the first attempt was sent.
    Call { request: Request, replies: mpsc::Sender<Reply>, sent: watch::Sender<Option<Instant>> },
    /// Keep a lease alive that was granted or renewed by a request sent at `sent`.
    Keep { lease: LeaseId, ttl: Duration, sent: Instant, alive: watch::Sender<Alive> },
    /// Keep it alive no more.
    Leave { lease: LeaseId },
    /// Tell the group something, whoever listens.
    Tell { request: Request },
}

/// What is known of a lease that is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Alive {
    /// A request that was sent then has renewed it.
    Renewed(Instant),
    /// The group says that it is no more.
    Gone,
}

struct Open {
    request: Request,
    replies: Option<mpsc::Sender<Reply>>,
    sent: watch::Sender<Option<Instant>>,
    /// It owes a first answer since then.
    owing: Option<Instant>,
}

struct Kept {
    ttl: Duration,
    alive: watch::Sender<Alive>,
    renew_at: Instant,
}

struct Stream {
    requests: mpsc::Sender<v1::CoordinationRequest>,
    replies: Streaming<v1::CoordinationReply>,
    /// The renewal or question that is under way, and what it renews.
    asked: Option<(u64, Instant, Vec<LeaseId>)>,
    heard: Instant,
}

/// Why a stream is left.
struct Ended {
    why: String,
    leader: Option<String>,
}

pub(super) struct Link {
    leaders: Leaders,
    /// Which of them is asked next.
    turn: usize,
    numbers: u64,
    open: BTreeMap<u64, Open>,
    kept: HashMap<LeaseId, Kept>,
    /// Why the last stream ended, or none came about.
    trouble: watch::Sender<String>,
}

impl Link {
    pub(super) fn new(leaders: Leaders, trouble: watch::Sender<String>) -> Link {
        Link { leaders, turn: 0, numbers: 0, open: BTreeMap::new(), kept: HashMap::new(), trouble }
    }

    /// Until every handle is gone.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut hint: Option<String> = None;
        let mut orders_ended = false;
        loop {
            let address = hint.take().unwrap_or_else(|| {
                self.turn += 1;
                self.leaders.address(self.turn - 1)
            });
            // Orders are taken meanwhile, so that nobody waits longer than it takes.
            let ended = {
                let connecting = connect(&address);
                tokio::pin!(connecting);
                loop {
                    tokio::select! {
                        connected = &mut connecting => break connected,
                        order = orders.recv(), if !orders_ended => match order {
                            // It is said once there is a stream.
                            Some(order) => drop(self.take(order)),
                            None => orders_ended = true,
                        },
                    }
                }
            };
            self.forget_abandoned();
            if orders_ended && self.open.is_empty() {
                return;
            }
            let ended = match ended {
                Ok(mut stream) => match self.serve(&mut stream, &mut orders).await {
                    Some(ended) => ended,
                    None => return,
                },
                Err(why) => Ended { why, leader: None },
            };
            tracing::debug!(%address, why = %ended.why, leader = ?ended.leader, "asking another viewleader");
            self.trouble.send_replace(format!("{address}: {}", ended.why));
            hint = ended.leader.filter(|leader| !leader.is_empty() && *leader != address);
            if hint.is_none() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// What must be said at once, if there is a stream.
    fn take(&mut self, order: Order) -> Option<v1::CoordinationRequest> {
        match order {
            Order::Call { request, replies, sent } => Some(self.ask(request, Some(replies), sent)),
            Order::Tell { request } => Some(self.ask(request, None, watch::Sender::new(None))),
            Order::Keep { lease, ttl, sent, alive } => {
                self.kept.insert(lease, Kept { ttl, alive, renew_at: sent + ttl / 3 });
                None
            }
            Order::Leave { lease } => {
                self.kept.remove(&lease);
                None
            }
        }
    }

    fn ask(
        &mut self,
        request: Request,
        replies: Option<mpsc::Sender<Reply>>,
        sent: watch::Sender<Option<Instant>>,
    ) -> v1::CoordinationRequest {
        self.numbers += 1;
        self.open.insert(self.numbers, Open { request: request.clone(), replies, sent, owing: None });
        v1::CoordinationRequest { number: self.numbers, request: Some(request) }
    }

    /// Until the stream is of no use (why), or nobody needs it any more (`None`).
    async fn serve(&mut self, stream: &mut Stream, orders: &mut mpsc::Receiver<Order>) -> Option<Ended> {
        let again: Vec<_> = self.open.iter().map(|(number, open)| (*number, open.request.clone())).collect();
        for (number, request) in again {
            // Lists begin anew: who has a part of one is told.
            if matches!(request, Request::ListLeases(_) | Request::ListLocks(_)) {
                self.tell(number, Reply::NotLeader(v1::NotLeader::default()));
            }
            let message = v1::CoordinationRequest { number, request: Some(request) };
            if let Err(ended) = self.send(stream, message) {
                return Some(ended);
            }
        }
        let mut orders_ended = false;
        loop {
            let now = Instant::now();
            // What comes after the last word heard is what the leader is silent about.
            let asked = stream.asked.as_ref().map(|(_, since, leases)| *since + self.patience(leases));
            let owing = self.open.values().filter_map(|open| open.owing).min();
            let silent = match (asked, owing) {
                (Some(until), _) => Some(until),
                (None, owing) => owing.map(|since| since.max(stream.heard) + SILENCE_MAX),
            };
            let renew = match stream.asked {
                Some(_) => None,
                None => {
                    Some(self.kept.values().map(|kept| kept.renew_at).fold(stream.heard + PING_EVERY, Instant::min))
                }
            };
            let wake = [silent, renew].into_iter().flatten().min().unwrap_or(now + PING_EVERY);
            tokio::select! {
                order = orders.recv(), if !orders_ended => match order {
                    Some(order) => {
                        if let Some(message) = self.take(order)
                            && let Err(ended) = self.send(stream, message)
                        {
                            return Some(ended);
                        }
                    }
                    None => orders_ended = true,
                },
                reply = stream.replies.message() => match reply {
                    Ok(Some(reply)) => {
                        stream.heard = Instant::now();
                        if let Some(ended) = self.hear(stream, reply) {
                            return Some(ended);
                        }
                    }
                    Ok(None) => return Some(Ended { why: "the stream ended".into(), leader: None }),
                    Err(status) => return Some(Ended { why: status_text(&status), leader: None }),
                },
                () = sleep_until(wake) => {
                    let now = Instant::now();
                    if silent.is_some_and(|silent| silent <= now) {
                        return Some(Ended { why: "it does not answer".into(), leader: None });
                    }
                    if let Err(ended) = self.renew(stream, now) {
                        return Some(ended);
                    }
                }
            }
            // Requests that nobody waits for are left, but for those that must only be told.
            if orders_ended && self.open.is_empty() {
                return None;
            }
        }
    }

    /// How long an answer to a renewal is waited for: a commit that takes long is better than another leader, while there
    /// is time for one.
    fn patience(&self, leases: &[LeaseId]) -> Duration {
        let shortest = leases.iter().filter_map(|lease| self.kept.get(lease)).map(|kept| kept.ttl).min();
        shortest.map_or(SILENCE_MAX, |ttl| (ttl / 4).clamp(SILENCE_MAX, PATIENCE_MAX))
    }

    fn send(&mut self, stream: &Stream, message: v1::CoordinationRequest) -> Result<(), Ended> {
        let number = message.number;
        if stream.requests.try_send(message).is_err() {
            return Err(Ended { why: "it takes no more requests".into(), leader: None });
        }
        if let Some(open) = self.open.get_mut(&number) {
            let now = Instant::now();
            open.owing = Some(now);
            open.sent.send_if_modified(|sent| sent.replace(now).is_none());
        }
        Ok(())
    }

    /// Renews what is due; asks whether anybody is there, if nothing is and the leader has been silent.
    fn renew(&mut self, stream: &mut Stream, now: Instant) -> Result<(), Ended> {
        for number in self.forget_abandoned() {
            let forget = v1::CoordinationRequest { number: 0, request: Some(Request::Forget(number)) };
            self.send(stream, forget)?;
        }
        self.kept.retain(|_, kept| !kept.alive.is_closed());
        if stream.asked.is_some() {
            return Ok(());
        }
        let due: Vec<LeaseId> =
            self.kept.iter().filter(|(_, kept)| kept.renew_at <= now).map(|(id, _)| *id).take(KEPT_MAX).collect();
        if due.is_empty() && now < stream.heard + PING_EVERY {
            return Ok(());
        }
        self.numbers += 1;
        let leases = due.iter().map(|lease| lease.0).collect();
        let message =
            v1::CoordinationRequest { number: self.numbers, request: Some(Request::Keep(v1::KeepLeases { leases })) };
        stream.asked = Some((self.numbers, now, due));
        self.send(stream, message)
    }

    /// Takes in an answer; why the stream is of no use any more, if it is not.
    fn hear(&mut self, stream: &mut Stream, message: v1::CoordinationReply) -> Option<Ended> {
        let v1::CoordinationReply { number, reply } = message;
        let Some(reply) = reply else { return Some(Ended { why: "it gave an empty answer".into(), leader: None }) };
        if let Reply::NotLeader(other) = reply {
            return Some(Ended { why: "it does not lead".into(), leader: Some(other.leader_address) });
        }
        if let Some((_, sent, leases)) = stream.asked.take_if(|(asked, ..)| *asked == number) {
            return match reply {
                Reply::Kept(kept) => {
                    self.renewed(sent, &leases, &kept.gone);
                    None
                }
                Reply::Error(error) => Some(Ended { why: error.message, leader: None }),
                other => Some(Ended { why: format!("it answered a renewal with {other:?}"), leader: None }),
            };
        }
        if let Reply::Error(error) = &reply
            && ErrorCode::from_number(error.code).is_retryable()
        {
            // Nothing was done, or nobody knows: it is asked again on another stream.
            return Some(Ended { why: error.message.clone(), leader: None });
        }
        self.tell(number, reply);
        None
    }

    fn tell(&mut self, number: u64, reply: Reply) {
        let Some(open) = self.open.get_mut(&number) else { return };
        open.owing = None;
        let more = match &reply {
            Reply::Queued(_) | Reply::Observed(_) | Reply::NotLeader(_) => true,
            Reply::Leases(page) => !page.last,
            Reply::Locks(page) => !page.last,
            _ => false,
        };
        // A caller that does not listen loses an observation; what comes last it must hear.
        let heard = open.replies.as_ref().is_none_or(|replies| replies.try_send(reply).is_ok());
        if !more || !heard {
            self.open.remove(&number);
        }
    }

    fn renewed(&mut self, sent: Instant, leases: &[LeaseId], gone: &[u64]) {
        for lease in leases {
            if gone.contains(&lease.0) {
                if let Some(kept) = self.kept.remove(lease) {
                    kept.alive.send_replace(Alive::Gone);
                }
            } else if let Some(kept) = self.kept.get_mut(lease) {
                kept.alive.send_replace(Alive::Renewed(sent));
                kept.renew_at = sent + kept.ttl / 3;
            }
        }
    }

    /// Nobody waits for these any more.
    fn forget_abandoned(&mut self) -> Vec<u64> {
        let abandoned = |open: &Open| open.replies.as_ref().is_some_and(mpsc::Sender::is_closed);
        self.open.extract_if(.., |_, open| abandoned(open)).map(|(number, _)| number).collect()
    }
}

async fn connect(address: &str) -> Result<Stream, String> {
    let endpoint = endpoint(address)?;
    let (requests, outgoing) = mpsc::channel(SENDING_MAX);
    let connecting = async {
        let channel = endpoint.connect().await.map_err(|error| crate::endpoint::root_cause(&error))?;
        let mut client = CoordinationClient::new(channel);
        let replies = client.coordinate(ReceiverStream::new(outgoing)).await.map_err(|status| status_text(&status))?;
        Ok::<_, String>(replies.into_inner())
    };
    let replies = timeout(CONNECT_MAX, connecting).await.map_err(|_| "no connection in time".to_owned())??;
    Ok(Stream { requests, replies, asked: None, heard: Instant::now() })
}
