//! Admitting new members and removing old ones, in the leader's name.

use super::forward::{Leader, forwarded};
use super::{LeadersService, no_leader};
use crate::raft::NotChanged;
use std::time::Duration;
use tonic::Request;
use types::{ClusterId, ErrorCode};
use wire::convert::{cluster_to_wire, error};
use wire::v1;

/// How long a change is waited for; it goes on all the same.
const CHANGE_MAX: Duration = Duration::from_secs(4);
/// As long as a name can be, and a port.
const ADDRESS_BYTES_MAX: usize = 260;

impl LeadersService {
    pub(super) async fn admit(&self, request: Request<v1::JoinRequest>) -> v1::JoinReply {
        let asked = request.get_ref().clone();
        let refused = |error| v1::JoinReply { error: Some(error), ..Default::default() };
        if let Err(why) = check_candidate(&asked) {
            return refused(error(ErrorCode::Invalid, why));
        }
        match self.find_leader(&request).await {
            Leader::Here => {}
            Leader::Nowhere => return refused(no_leader()),
            Leader::At(leader) => {
                let answer = match self.forwarder.client(&leader) {
                    Ok(mut client) => client.join(forwarded(asked)).await.map_err(|status| status.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                return answer.map_or_else(|why| refused(silent(&leader, &why)), tonic::Response::into_inner);
            }
        }
        // The new member keeps it, so that it is never taken for one of another cluster.
        let cluster = self.group.state().borrow().cluster();
        if cluster == ClusterId::NONE {
            return refused(error(ErrorCode::NotBootstrapped, "the group has only just begun; try again in a moment"));
        }
        let group = self.group.clone();
        let admitted = in_time(async move { group.admit_member(asked.directory, &asked.address).await }).await;
        match admitted {
            Ok(member) => {
                v1::JoinReply { error: None, member, cluster: cluster_to_wire(cluster), members: self.known_members() }
            }
            Err(why) => refused(reason(&why)),
        }
    }

    pub(super) async fn remove(&self, request: Request<v1::RemoveMemberRequest>) -> v1::RemoveMemberReply {
        let asked = *request.get_ref();
        let refused = |error| v1::RemoveMemberReply { error: Some(error) };
        match self.find_leader(&request).await {
            Leader::Here => {}
            Leader::Nowhere => return refused(no_leader()),
            Leader::At(leader) => {
                let answer = match self.forwarder.client(&leader) {
                    Ok(mut client) => client.remove_member(forwarded(asked)).await.map_err(|status| status.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                return answer.map_or_else(|why| refused(silent(&leader, &why)), tonic::Response::into_inner);
            }
        }
        let group = self.group.clone();
        match in_time(async move { group.remove_member(asked.member).await }).await {
            Ok(()) => v1::RemoveMemberReply { error: None },
            Err(why) => refused(reason(&why)),
        }
    }

    fn known_members(&self) -> Vec<v1::Member> {
        let member = |(id, address)| v1::Member { id, address, ..Default::default() };
        self.group.addresses().into_iter().map(member).collect()
    }
}

fn check_candidate(asked: &v1::JoinRequest) -> Result<(), String> {
    if asked.directory == 0 {
        return Err("a new member says which data directory it has".into());
    }
    let port = asked.address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    let printable = asked.address.chars().all(|c| c.is_ascii_graphic());
    match port {
        Some(Ok(_)) if printable && asked.address.len() <= ADDRESS_BYTES_MAX => Ok(()),
        _ => Err(format!("{:.80?} is no HOST:PORT", asked.address)),
    }
}

/// Runs a change to its end even if whoever asked for it goes.
async fn in_time<T: Send + 'static>(
    change: impl Future<Output = Result<T, NotChanged>> + Send + 'static,
) -> Result<T, NotChanged> {
    match tokio::time::timeout(CHANGE_MAX, tokio::spawn(change)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Err(NotChanged::Busy(format!("the change of the members ended: {error}"))),
        Err(_) => Err(NotChanged::Busy("the change of the members is still on its way".into())),
    }
}

fn reason(why: &NotChanged) -> v1::Error {
    match why {
        NotChanged::NotLeader => no_leader(),
        NotChanged::Refused(why) => error(ErrorCode::Refused, why),
        NotChanged::Busy(_) => error(ErrorCode::Unavailable, why.to_string()),
    }
}

fn silent(leader: &str, why: &str) -> v1::Error {
    error(ErrorCode::NoLeader, format!("the leader at {leader} does not answer: {why}; try again"))
}
