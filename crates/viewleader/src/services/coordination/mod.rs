//! Leases, locks and elections, for clients: numbered requests on a stream with the leader.
//!
//! The stream ends with the leadership, so that nobody waits with a member that nobody listens to. Everything that changes
//! something goes through the log; who waits for a lock is answered when the applied state says that it holds it. A client
//! that vanishes leaves claims behind, which end with their leases.

mod convert;
mod proposals;

use super::{LeadersService, no_leader};
use crate::expiry::Expiry;
use crate::raft::{Board, Group};
use convert::{Wanted, holder, lease_info, lock_info, refused};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use proposals::Proposals;
use std::collections::HashMap;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use types::{ErrorCode, FencingToken, LeaseId};
use viewcore::coordination::{self, Claim, Done, Refusal};
use wire::convert::{Malformed, error};
use wire::v1;
use wire::v1::coordination_reply::Reply;
use wire::v1::coordination_server::Coordination;

/// Answers on their way to one client.
const WAITING_MAX: usize = 256;
/// Requests that one stream has open: those who wait for locks, and observers, among them.
const OPEN_MAX: usize = 4096;
/// Leases or locks in one message.
const LISTED_MAX: usize = 500;

type Out = mpsc::Sender<Result<v1::CoordinationReply, Status>>;

/// The service of one member. Clones share it.
#[derive(Clone)]
pub(crate) struct CoordinationService {
    leaders: LeadersService,
    proposals: Proposals,
}

impl CoordinationService {
    pub(crate) fn new(leaders: LeadersService) -> CoordinationService {
        CoordinationService { proposals: Proposals::start(leaders.group.clone()), leaders }
    }

    async fn run(&self, mut inbound: Streaming<v1::CoordinationRequest>, out: &Out) {
        let Some(leading) = self.leaders.take_up().await else { return self.not_leader(out).await };
        let served = Served {
            group: self.leaders.group.clone(),
            expiry: leading.expiry.clone(),
            proposals: self.proposals.clone(),
            out: out.clone(),
        };
        let mut open: FuturesUnordered<BoxFuture<'static, u64>> = FuturesUnordered::new();
        let mut forgotten: HashMap<u64, CancellationToken> = HashMap::new();
        loop {
            let message = tokio::select! {
                () = leading.ended.cancelled() => return self.not_leader(out).await,
                () = self.leaders.stopping.cancelled() => return self.not_leader(out).await,
                Some(number) = open.next(), if !open.is_empty() => {
                    forgotten.remove(&number);
                    continue;
                }
                // The client has gone, or its connection.
                message = inbound.message() => match message {
                    Ok(Some(message)) => message,
                    Ok(None) | Err(_) => return,
                },
            };
            let number = message.number;
            match Wanted::try_from(message) {
                Ok(Wanted::Forget(number)) => {
                    if let Some(forget) = forgotten.get(&number) {
                        forget.cancel();
                    }
                }
                Ok(_) if number == 0 || forgotten.contains_key(&number) => {
                    served.refuse(number, ErrorCode::Invalid, "its number is 0, or that of an open one").await;
                }
                Ok(_) if open.len() >= OPEN_MAX => {
                    let why = format!("this client has {OPEN_MAX} requests open already");
                    served.refuse(number, ErrorCode::Overloaded, &why).await;
                }
                Ok(wanted) => {
                    let forget = CancellationToken::new();
                    forgotten.insert(number, forget.clone());
                    let served = served.clone();
                    open.push(Box::pin(async move {
                        tokio::select! {
                            () = forget.cancelled() => {}
                            () = served.serve(number, wanted) => {}
                        }
                        number
                    }));
                }
                Err(Malformed(why)) => served.refuse(number, ErrorCode::Invalid, &why).await,
            }
        }
    }

    async fn not_leader(&self, out: &Out) {
        let leader_address = self.leaders.leader_address().unwrap_or_default();
        let reply = Reply::NotLeader(v1::NotLeader { leader_address });
        // A client that does not read is given up: its stream ends all the same.
        let _gone = out.try_send(Ok(v1::CoordinationReply { number: 0, reply: Some(reply) }));
    }
}

#[tonic::async_trait]
impl Coordination for CoordinationService {
    type CoordinateStream = ReceiverStream<Result<v1::CoordinationReply, Status>>;

    async fn coordinate(
        &self,
        request: Request<Streaming<v1::CoordinationRequest>>,
    ) -> Result<Response<Self::CoordinateStream>, Status> {
        let (out, replies) = mpsc::channel(WAITING_MAX);
        let service = self.clone();
        tokio::spawn(async move { service.run(request.into_inner(), &out).await });
        Ok(Response::new(ReceiverStream::new(replies)))
    }
}

/// What the requests of one stream share.
#[derive(Clone)]
struct Served {
    group: Group,
    expiry: Expiry,
    proposals: Proposals,
    out: Out,
}

impl Served {
    async fn send(&self, number: u64, reply: Reply) {
        // A client that has gone hears nothing any more; its stream ends.
        let _gone = self.out.send(Ok(v1::CoordinationReply { number, reply: Some(reply) })).await;
    }

    async fn refuse(&self, number: u64, code: ErrorCode, why: &str) {
        self.send(number, Reply::Error(error(code, why))).await;
    }

    async fn serve(&self, number: u64, wanted: Wanted) {
        let last = match wanted {
            Wanted::Request(coordination::Request::Acquire { name, claim, wait }) => {
                self.acquire(number, name, claim, wait).await
            }
            Wanted::Request(request) => self.submit(request).await,
            Wanted::Keep(leases) if leases.is_empty() => Reply::Kept(v1::LeasesKept { gone: Vec::new() }),
            Wanted::Keep(leases) => match self.proposals.keep_alive(leases).await {
                Ok(gone) => Reply::Kept(v1::LeasesKept { gone: gone.into_iter().map(|lease| lease.0).collect() }),
                Err(why) => Reply::Error(why),
            },
            Wanted::ListLeases(lease) => self.list_leases(number, lease).await,
            Wanted::ListLocks(name) => self.list_locks(number, name).await,
            Wanted::Observe(name) => self.observe(number, &name).await,
            // It is no request.
            Wanted::Forget(_) => return,
        };
        self.send(number, last).await;
    }

    async fn submit(&self, request: coordination::Request) -> Reply {
        match self.proposals.submit(request).await {
            Ok(Ok(done)) => convert::done(&done),
            Ok(Err(refusal)) => refused(&refusal),
            Err(why) => Reply::Error(why),
        }
    }

    async fn acquire(&self, number: u64, name: String, claim: Claim, wait: bool) -> Reply {
        let (lease, place) = (claim.lease, claim.number);
        // Watched from before it can be queued, so that no grant is missed.
        let mut changes = self.group.board().watch(&name);
        let request = coordination::Request::Acquire { name: name.clone(), claim, wait };
        match self.proposals.submit(request).await {
            Ok(Ok(Done::Queued { ahead })) => self.send(number, convert::done(&Done::Queued { ahead })).await,
            Ok(Ok(done)) => return convert::done(&done),
            Ok(Err(refusal)) => return refused(&refusal),
            Err(why) => return Reply::Error(why),
        }
        loop {
            match standing(self.group.board(), &name, lease, place) {
                Standing::Holds(token) => return Reply::Held(v1::LockHeld { token: token.0 }),
                Standing::Waits => {}
                Standing::Gone => return refused(&Refusal::NoLease(lease)),
                Standing::Overtaken => return refused(&Refusal::Late),
            }
            if changes.changed().await.is_err() {
                changes = self.group.board().watch(&name);
            }
        }
    }

    /// Everything that was committed before is applied here, and this member leads.
    async fn is_current(&self) -> Result<(), Reply> {
        self.group.read_barrier().await.map_err(|_| Reply::Error(no_leader()))
    }

    async fn list_leases(&self, number: u64, wanted: Option<LeaseId>) -> Reply {
        if let Err(reply) = self.is_current().await {
            return reply;
        }
        let ids: Vec<LeaseId> = match wanted {
            Some(lease) => vec![lease],
            None => self.group.board().read().leases().iter().map(|(id, _)| id).collect(),
        };
        let mut pages = ids.chunks(LISTED_MAX).peekable();
        loop {
            let page = pages.next().unwrap_or_default();
            let leases = page.iter().filter_map(|id| lease_info(&self.group, &self.expiry, *id)).collect();
            let reply = Reply::Leases(v1::LeaseList { leases, last: pages.peek().is_none() });
            if pages.peek().is_none() {
                return reply;
            }
            self.send(number, reply).await;
        }
    }

    async fn list_locks(&self, number: u64, wanted: Option<String>) -> Reply {
        if let Err(reply) = self.is_current().await {
            return reply;
        }
        let names: Vec<String> = match wanted {
            Some(name) => vec![name],
            None => self.group.board().read().locks().iter().map(|(name, _)| name.to_owned()).collect(),
        };
        let mut pages = names.chunks(LISTED_MAX).peekable();
        loop {
            let page = pages.next().unwrap_or_default();
            let locks = page.iter().filter_map(|name| lock_info(self.group.board(), name)).collect();
            let reply = Reply::Locks(v1::LockList { locks, last: pages.peek().is_none() });
            if pages.peek().is_none() {
                return reply;
            }
            self.send(number, reply).await;
        }
    }

    async fn observe(&self, number: u64, name: &str) -> Reply {
        let mut changes = self.group.board().watch(name);
        if let Err(reply) = self.is_current().await {
            return reply;
        }
        let mut told = None;
        loop {
            let holder = holder(self.group.board(), name);
            let token = holder.as_ref().map(|holder| holder.token);
            if told != Some(token) {
                told = Some(token);
                self.send(number, Reply::Observed(v1::LockObserved { holder })).await;
            }
            if changes.changed().await.is_err() {
                changes = self.group.board().watch(name);
            }
        }
    }
}

/// What became of a claim.
enum Standing {
    Holds(FencingToken),
    Waits,
    /// Its lease has ended.
    Gone,
    /// Its client has made another one, or has given it up.
    Overtaken,
}

fn standing(board: &Board, name: &str, lease: LeaseId, number: u64) -> Standing {
    let board = board.read();
    match board.locks().token_of(name, lease, number) {
        Some(token) => Standing::Holds(token),
        None if board.locks().place_of(name, lease, number).is_some() => Standing::Waits,
        None if board.leases().get(lease).is_none() => Standing::Gone,
        None => Standing::Overtaken,
    }
}
