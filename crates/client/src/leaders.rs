//! Calls to the viewleader group: any member answers, so whoever answers first wins.
//!
//! A member that refuses costs nothing, one that is silent costs [`HEDGE_AFTER`]: then the next is asked as well.

use crate::endpoint::{check_address, endpoint, root_cause, status_text};
use crate::error::Error;
use crate::operations::{Moves, Operation};
use crate::status::ClusterStatus;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::Channel;
use types::limits::MESSAGE_BYTES_MAX;
use types::{Epoch, ErrorCode, View};
use wire::convert::apply_view_update;
use wire::v1;
use wire::v1::leaders_client::LeadersClient;

/// How long one member is waited for before another is asked too.
const HEDGE_AFTER: Duration = Duration::from_millis(25);
/// How long a member may take in all.
const CALL_MAX: Duration = Duration::from_secs(3);

/// Members kept beside those given at first.
const LEARNED_MAX: usize = 16;

/// The members of the viewleader group: those that --leaders lists, and those of which they say that they have joined
/// since. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leaders {
    /// The first of them, so many, are those given.
    given: usize,
    members: Arc<Mutex<Arc<[Member]>>>,
    /// Who answered last: asked first next time.
    preferred: Arc<AtomicUsize>,
}

#[derive(Clone, Debug)]
struct Member {
    address: String,
    client: LeadersClient<Channel>,
}

/// Why one member was of no use.
#[derive(Debug)]
enum Useless {
    Unreachable(String),
    NotAViewleader,
    Says(String),
}

impl Leaders {
    /// The group whose members are at `addresses`. Connects to nobody yet.
    ///
    /// # Errors
    /// [`Error::Usage`] for an empty list or an address that is none.
    pub fn new(addresses: &[String]) -> Result<Leaders, Error> {
        let member =
            |address: &String| Member::new(address.trim()).map_err(|why| Error::Usage(format!("--leaders: {why}")));
        let members = addresses.iter().map(member).collect::<Result<Arc<[Member]>, Error>>()?;
        if members.is_empty() {
            return Err(Error::Usage("--leaders is empty; give at least one host:port".to_owned()));
        }
        Ok(Leaders { given: members.len(), members: Arc::new(Mutex::new(members)), preferred: Arc::default() })
    }

    fn members(&self) -> Arc<[Member]> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in who the group says its members are. Those given at first stay, whoever joins or goes.
    fn learn(&self, told: &[String]) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |address: &String| members.iter().find(|member| member.address == *address).cloned();
        let given = members[..self.given].to_vec();
        let news = told.iter().filter(|address| given.iter().all(|given| given.address != **address));
        // What is no address is of no use, and harms nobody.
        let news: Vec<_> =
            news.filter_map(|address| known(address).or_else(|| Member::new(address).ok())).take(LEARNED_MAX).collect();
        if !told.is_empty() && !members[self.given..].iter().map(|m| &m.address).eq(news.iter().map(|m| &m.address)) {
            *members = given.into_iter().chain(news).collect();
        }
    }

    /// How many members there are.
    pub(crate) fn count(&self) -> usize {
        self.members().len()
    }

    /// The address of a member, counted round the list.
    pub(crate) fn address(&self, index: usize) -> String {
        let members = self.members();
        members[index % members.len()].address.clone()
    }

    /// The present view, as far as the first member that answers knows it.
    ///
    /// # Errors
    /// [`Error::NoViewleader`], [`Error::NotAViewleader`], [`Error::ViewleaderUnavailable`].
    pub async fn view(&self) -> Result<View, Error> {
        self.view_newer_than(None, Epoch(0)).await?.ok_or_else(|| Error::ViewleaderUnavailable {
            addresses: self.addresses(),
            why: "a view was asked for, but none came".to_owned(),
        })
    }

    /// The view of the first member whose epoch is at least `wanted`; `None` if that is the one the caller has.
    pub(crate) async fn view_newer_than(&self, have: Option<&View>, wanted: Epoch) -> Result<Option<View>, Error> {
        let have_epoch = have.map_or(0, |view| view.epoch.0);
        self.first(move |mut client| async move {
            let request = v1::GetViewRequest { have_epoch, linearizable: false };
            let reply = client.get_view(request).await.map_err(|status| useless(&status))?.into_inner();
            self.learn(&reply.member_addresses);
            says(reply.error)?;
            if reply.epoch < wanted.0 {
                return Err(Useless::Says(format!("its view is at epoch {}, {} is out", reply.epoch, wanted.0)));
            }
            let malformed = |error: wire::Malformed| Useless::Says(error.to_string());
            reply.update.map(|update| apply_view_update(have, update)).transpose().map_err(malformed)
        })
        .await
    }

    /// What the Raft leader knows of members, nodes and partitions.
    ///
    /// # Errors
    /// As [`Leaders::view`].
    pub async fn status(&self) -> Result<ClusterStatus, Error> {
        self.first(|mut client| async move {
            let reply = client.status(v1::StatusRequest {}).await.map_err(|status| useless(&status))?.into_inner();
            says(reply.error.clone())?;
            ClusterStatus::try_from(reply).map_err(|error| Useless::Says(error.to_string()))
        })
        .await
    }

    /// The stream of changes after `have_epoch` from one member.
    pub(crate) async fn watch(
        &self,
        index: usize,
        have_epoch: Epoch,
    ) -> Result<tonic::Streaming<v1::ViewUpdate>, String> {
        let members = self.members();
        let mut client = members[index % members.len()].client.clone();
        let call = client.watch_view(v1::WatchViewRequest { have_epoch: have_epoch.0 });
        match tokio::time::timeout(CALL_MAX, call).await {
            Ok(Ok(stream)) => Ok(stream.into_inner()),
            Ok(Err(status)) => Err(status_text(&status)),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    /// Takes a viewleader out of the group; what is done already is done. Several members may be asked: they ask the leader.
    ///
    /// # Errors
    /// [`Error::NotDone`] where the group refuses, with its reason; else as [`Leaders::view`].
    pub async fn remove_member(&self, member: u64) -> Result<(), Error> {
        let outcome = self.first(|mut client| async move {
            let request = v1::RemoveMemberRequest { member };
            let reply = client.remove_member(request).await.map_err(|status| useless(&status))?.into_inner();
            decided(reply.error)
        });
        outcome.await?
    }

    /// Does what an operator wants of the storage nodes; what is done already is done. Several members may be asked:
    /// they ask the leader. The epoch is that of the view in which it is done.
    ///
    /// # Errors
    /// [`Error::NotDone`] where the group refuses, with its reason; else as [`Leaders::view`], and then it may still be
    /// done.
    pub async fn operate(&self, operation: &Operation) -> Result<Epoch, Error> {
        let outcome = self.first(|mut client| async move {
            let request = v1::OperateRequest::from(operation);
            let reply = client.operate(request).await.map_err(|status| useless(&status))?.into_inner();
            Ok(decided(reply.error)?.map(|()| Epoch(reply.epoch)))
        });
        outcome.await?
    }

    /// What moves between storage nodes, what will, and what blocks it; as it would be if an operation had been done,
    /// where one is given.
    ///
    /// # Errors
    /// [`Error::NotDone`] where the operation would be refused, with the reason; else as [`Leaders::view`].
    pub async fn moves(&self, if_done: Option<&Operation>) -> Result<Moves, Error> {
        let outcome = self.first(|mut client| async move {
            let request = v1::MovesRequest { if_done: if_done.map(Into::into) };
            let mut reply = client.moves(request).await.map_err(|status| useless(&status))?.into_inner();
            match decided(reply.error.take())? {
                Ok(()) => Moves::try_from(reply).map(Ok).map_err(|error| Useless::Says(error.to_string())),
                Err(refused) => Ok(Err(refused)),
            }
        });
        outcome.await?
    }

    /// Asks one member after the other until one is of use.
    async fn first<T, F>(&self, call: impl Fn(LeadersClient<Channel>) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Useless>>,
    {
        let members = self.members();
        let start = self.preferred.load(Ordering::Relaxed);
        let mut waiting = (0..members.len()).map(|turn| (start + turn) % members.len());
        let mut asked = FuturesUnordered::new();
        let mut useless: Vec<(usize, Useless)> = Vec::new();
        loop {
            if let Some(index) = waiting.next() {
                let answer = tokio::time::timeout(CALL_MAX, call(members[index].client.clone()));
                asked.push(async move {
                    let silent = |_| Err(Useless::Unreachable("no answer in time".to_owned()));
                    (index, answer.await.unwrap_or_else(silent))
                });
            }
            let hedge = tokio::time::sleep(HEDGE_AFTER);
            let all_asked = waiting.len() == 0;
            tokio::select! {
                Some((index, answer)) = asked.next() => match answer {
                    Ok(answer) => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Err(why) => {
                        tracing::debug!(address = %members[index].address, ?why, "a viewleader is of no use");
                        useless.push((index, why));
                        if useless.len() == members.len() {
                            return Err(all_useless(&members, &useless));
                        }
                    }
                },
                () = hedge, if !all_asked => {}
            }
        }
    }

    /// All addresses, for people.
    pub(crate) fn addresses(&self) -> String {
        listed(&self.members())
    }
}

impl Member {
    fn new(address: &str) -> Result<Member, String> {
        check_address(address)?;
        let channel = endpoint(address)?.connect_lazy();
        let client = LeadersClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Member { address: address.to_owned(), client })
    }
}

fn listed(members: &[Member]) -> String {
    members.iter().map(|member| member.address.as_str()).collect::<Vec<_>>().join(", ")
}

/// One error for what all members said: the most telling first.
fn all_useless(members: &[Member], useless: &[(usize, Useless)]) -> Error {
    let addresses = listed(members);
    let said = useless.iter().find_map(|(_, why)| if let Useless::Says(why) = why { Some(why.clone()) } else { None });
    if let Some(why) = said {
        return Error::ViewleaderUnavailable { addresses, why };
    }
    if let Some((index, _)) = useless.iter().find(|(_, why)| matches!(why, Useless::NotAViewleader)) {
        return Error::NotAViewleader { address: members[*index].address.clone() };
    }
    let why =
        useless.iter().find_map(|(_, why)| if let Useless::Unreachable(why) = why { Some(why.clone()) } else { None });
    Error::NoViewleader { addresses, why: why.unwrap_or_default() }
}

/// A refusal is an answer: no other member would say anything else. Whatever else is wrong is the one member's trouble.
fn decided(error: Option<v1::Error>) -> Result<Result<(), Error>, Useless> {
    match error.as_ref().map(|error| ErrorCode::from_number(error.code)) {
        Some(code @ (ErrorCode::Refused | ErrorCode::Invalid)) => {
            let message = error.map(|error| error.message).unwrap_or_default();
            Ok(Err(Error::NotDone { code, message }))
        }
        _ => says(error).map(Ok),
    }
}

fn says(error: Option<v1::Error>) -> Result<(), Useless> {
    match error {
        None => Ok(()),
        Some(error) if error.message.is_empty() => {
            Err(Useless::Says(format!("{:?}", ErrorCode::from_number(error.code))))
        }
        Some(error) => Err(Useless::Says(error.message)),
    }
}

fn useless(status: &tonic::Status) -> Useless {
    if status.code() == tonic::Code::Unimplemented {
        return Useless::NotAViewleader;
    }
    match status.source() {
        Some(source) if is_another_protocol(source) => Useless::NotAViewleader,
        Some(source) => Useless::Unreachable(root_cause(source)),
        // An answer without gRPC's marks comes from something else that speaks HTTP.
        None if status.code() == tonic::Code::Unknown => Useless::NotAViewleader,
        None => Useless::Says(status_text(status)),
    }
}

/// Whether somebody accepted the connection and then did not speak HTTP/2.
fn is_another_protocol(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains("http2 error") {
            return true;
        }
        cause = error.source();
    }
    false
}
