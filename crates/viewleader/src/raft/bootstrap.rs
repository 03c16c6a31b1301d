//! How a group begins, and how a member with an empty directory finds out whether it may take part. One that was admitted
//! to a running group only waits for its leader.
//!
//! Every member of a new group is started with the same list. One without a log asks all others who they are. It takes part once a
//! majority of the list, itself included, is there and nobody remembers another directory behind its id. Then, unless
//! somebody's log has begun, the lowest one of those that are there begins the group with the list as its membership;
//! should two do so at once, they write the same first entry, which openraft allows. A member with another list counts as
//! not there; one that meets a group that has begun with another list ends.
//!
//! A group of which a majority lost their directories at once can't be told from a new one: it begins anew, with another
//! cluster id, which its storage nodes refuse.

use super::Group;
use super::messages::HelloReply;
use super::roster::MemberNode;
use crate::Error;
use openraft::error::{InitializeError, RaftError};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;

const ASK_EVERY: Duration = Duration::from_millis(100);
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// Returns once this member takes part in a group that has begun.
///
/// # Errors
/// [`Error::PeersDiffer`], [`Error::DirectoryReplaced`], [`Error::Raft`]: the process should end.
pub(crate) async fn found_or_join(group: &Group) -> Result<(), Error> {
    let mut rounds = 0u32;
    while !is_initialized(group).await? {
        let of = group.identity.founders().len();
        let replies = ask_all(group).await?;
        let there = replies.len() + 1;
        // One that was admitted later has no such list, and begins nothing.
        if of > 0 && there > of / 2 {
            group.admitted.store(true, Ordering::Release);
            let own = group.identity.member();
            let begun = replies.values().any(|reply| reply.initialized);
            if !begun && replies.keys().all(|member| own < *member) {
                begin(group).await?;
                continue;
            }
        }
        if rounds.is_multiple_of(50) {
            match of {
                0 => tracing::info!("admitted; waiting for the leader"),
                of => tracing::info!(there, of, "waiting for the other viewleaders"),
            }
        }
        rounds += 1;
        tokio::time::sleep(ASK_EVERY).await;
    }
    group.identity.set_begun()?;
    group.admitted.store(true, Ordering::Release);
    Ok(())
}

async fn is_initialized(group: &Group) -> Result<bool, Error> {
    group.raft.is_initialized().await.map_err(|error| Error::Raft(error.to_string()))
}

async fn begin(group: &Group) -> Result<(), Error> {
    let members: BTreeMap<u64, MemberNode> =
        (1..).zip(group.identity.founders().iter().map(|address| MemberNode::founder(address))).collect();
    tracing::info!(members = members.len(), "beginning a new group of viewleaders");
    match group.raft.initialize(members).await {
        // Not allowed: another member was faster, and the group has begun.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(Error::Raft(error.to_string())),
    }
}

/// The answers of those that are there.
async fn ask_all(group: &Group) -> Result<BTreeMap<u64, HelloReply>, Error> {
    let mut asking = JoinSet::new();
    for (member, address) in group.identity.other_founders() {
        let mut line = group.network.line(member, address);
        let address = address.to_owned();
        asking.spawn(async move { (member, address, line.hello(ASK_TIMEOUT).await) });
    }
    let mut replies = BTreeMap::new();
    for (member, address, reply) in asking.join_all().await {
        match reply {
            Ok((directory, reply)) => {
                check(group, &address, &reply)?;
                if reply.peers != group.identity.founders() {
                    continue;
                }
                group.identity.meet(member, directory)?;
                replies.insert(member, reply);
            }
            Err(error) => tracing::debug!(%address, %error, "no answer yet"),
        }
    }
    Ok(replies)
}

fn check(group: &Group, address: &str, reply: &HelloReply) -> Result<(), Error> {
    let identity = &group.identity;
    if reply.peers != identity.founders() {
        let differ = Error::PeersDiffer {
            peer: address.to_owned(),
            theirs: reply.peers.join(","),
            ours: identity.founders().join(","),
        };
        // Where a group has begun, its list is right. Before that nobody knows which one is: say so, and wait.
        if reply.initialized {
            return Err(differ);
        }
        tracing::error!("{differ}");
        return Ok(());
    }
    if reply.met_you_as.is_some_and(|met| met != identity.directory_id()) {
        return Err(Error::DirectoryReplaced { member: identity.member(), witness: address.to_owned() });
    }
    Ok(())
}
