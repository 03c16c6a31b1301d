//! How a new directory becomes a member of a running group: it asks whoever `--join` names until the leader has admitted
//! it, which it may ask any number of times.

use crate::identity::{Candidate, Identity};
use crate::{Config, Error, Surroundings};
use futures::future::join_all;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use types::{ClusterId, ErrorCode};
use wire::convert::cluster_from_wire;
use wire::v1;
use wire::v1::leaders_client::LeadersClient;

/// How long one member may take to answer: the leader may wait for another change first.
const ANSWER_MAX: Duration = Duration::from_secs(6);
/// Between two rounds through the list.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Rounds between two lines that say why it takes so long.
const ROUNDS_PER_LINE: u32 = 25;
/// How long members are asked which cluster theirs is.
const CHECK_MAX: Duration = Duration::from_millis(500);
const CHECK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Why one member was of no use.
enum NotYet {
    Later(String),
    Never(Error),
}

/// Resolves once the group has admitted the directory.
///
/// # Errors
/// [`Error::JoinRefused`] with the leader's reason; [`Error::Daemon`] if the outcome can't be noted.
pub(crate) async fn admitted(
    candidate: Candidate,
    config: &Config,
    surroundings: &dyn Surroundings,
) -> Result<Identity, Error> {
    let request = v1::JoinRequest { directory: candidate.directory_id(), address: config.advertise.clone() };
    for round in 0u32.. {
        for address in others(config) {
            match ask(surroundings, address, &request).await {
                Ok(reply) => {
                    let malformed =
                        |error: wire::Malformed| Error::JoinRefused(format!("{address} says nonsense: {error}"));
                    let cluster = cluster_from_wire(&reply.cluster).map_err(malformed)?;
                    let members = reply.members.into_iter().map(|member| (member.id, member.address)).collect();
                    tracing::info!(member = reply.member, %cluster, by = address, "admitted to the group");
                    return candidate.admitted(reply.member, cluster, members);
                }
                Err(NotYet::Never(error)) => return Err(error),
                Err(NotYet::Later(why)) if round % ROUNDS_PER_LINE == 0 => {
                    tracing::warn!(address, why, "not admitted to the group yet; asking on");
                }
                Err(NotYet::Later(why)) => tracing::debug!(address, why, "not admitted yet"),
            }
        }
        sleep(ASK_AGAIN_AFTER).await;
    }
    Err(Error::JoinRefused("nobody has answered for a very long time".into()))
}

/// This member can't answer itself before it is one.
fn others(config: &Config) -> impl Iterator<Item = &str> {
    config.join.iter().map(String::as_str).filter(|address| *address != config.advertise)
}

async fn ask(
    surroundings: &dyn Surroundings,
    address: &str,
    request: &v1::JoinRequest,
) -> Result<v1::JoinReply, NotYet> {
    let channel = surroundings.channel(address).map_err(|error| NotYet::Later(error.to_string()))?;
    let answer = timeout(ANSWER_MAX, LeadersClient::new(channel).join(request.clone())).await;
    let answer = answer.map_err(|_| NotYet::Later("no answer in time".into()))?;
    let reply = match answer {
        Ok(reply) => reply.into_inner(),
        Err(status) if status.code() == tonic::Code::Unimplemented => {
            return Err(NotYet::Never(Error::JoinRefused(format!("{address} is no viewleader that admits others"))));
        }
        Err(status) => return Err(NotYet::Later(status.message().to_owned())),
    };
    let Some(error) = &reply.error else {
        let whole = reply.member != 0 && !reply.cluster.is_empty();
        return if whole { Ok(reply) } else { Err(NotYet::Later("an answer without a member or a cluster".into())) };
    };
    match ErrorCode::from_number(error.code) {
        ErrorCode::Refused | ErrorCode::Invalid => Err(NotYet::Never(Error::JoinRefused(error.message.clone()))),
        _ => Err(NotYet::Later(error.message.clone())),
    }
}

/// Whether those whom `--join` names are of the cluster that the directory belongs to; `false`: that is not known yet. A
/// member that is started again does not wait for them.
///
/// # Errors
/// [`Error::OtherGroup`].
pub(crate) async fn is_same_group(
    identity: &Identity,
    config: &Config,
    surroundings: &dyn Surroundings,
) -> Result<bool, Error> {
    let ours = identity.cluster();
    if ours == ClusterId::NONE {
        return Ok(false);
    }
    let mut same = false;
    let asked =
        join_all(others(config).map(|address| async move { (address, cluster_of(surroundings, address).await) }));
    for (address, theirs) in asked.await {
        match theirs {
            None | Some(ClusterId::NONE) => {}
            Some(theirs) if theirs == ours => same = true,
            Some(theirs) => {
                let (path, address) = (config.data_dir.clone(), address.to_owned());
                return Err(Error::OtherGroup { path, ours, address, theirs });
            }
        }
    }
    Ok(same)
}

/// Asks on until that is known.
///
/// # Errors
/// As [`is_same_group`].
pub(crate) async fn check_same_group(
    identity: &Identity,
    config: &Config,
    surroundings: &dyn Surroundings,
) -> Result<(), Error> {
    while others(config).next().is_some() && !is_same_group(identity, config, surroundings).await? {
        sleep(CHECK_AGAIN_AFTER).await;
    }
    Ok(())
}

async fn cluster_of(surroundings: &dyn Surroundings, address: &str) -> Option<ClusterId> {
    let request = v1::GetViewRequest { have_epoch: u64::MAX, linearizable: false };
    let mut client = LeadersClient::new(surroundings.channel(address).ok()?);
    // No answer is none to hold against it.
    let reply = timeout(CHECK_MAX, client.get_view(request)).await.ok()?.ok()?;
    cluster_from_wire(&reply.get_ref().cluster).ok()
}
