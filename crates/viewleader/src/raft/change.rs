//! Changes of the group's own members, by its leader, one at a time.
//!
//! A new member is first a learner, under an id that nobody had; [`super::keep`] lets it vote once it has caught up. If
//! the address is that of a member that answers no more (its directory was lost), the new one takes its place in the
//! change that lets it vote: the majority never shrinks on the way.
//!
//! Invariants: a change begins on the last one's outcome, committed and applied here; an id is told to its member only
//! after the change that names it is committed; a change that would leave fewer than a majority of members that answer
//! is refused before anything happens. All of it may be asked again: what is done already is answered as done.

use super::Group;
use super::roster::{MemberNode, Roster};
use crate::config::MEMBERS_MAX;
use crate::identity::{DirectoryId, MemberId};
use crate::probe::probe;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, LogId, Membership};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long the change before is waited for.
const SETTLE_MAX: Duration = Duration::from_secs(3);
/// How long a member may take to say that it is there.
const HELLO_TIMEOUT: Duration = Duration::from_millis(500);

/// Why the members were not changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum NotChanged {
    /// Another member leads, or nobody does at the moment.
    #[error("this member does not lead the group")]
    NotLeader,
    /// It will not be done, and nothing has happened.
    #[error("{0}")]
    Refused(String),
    /// Not now: the same may be asked again.
    #[error("{0}; try again")]
    Busy(String),
}

type WriteError = RaftError<u64, ClientWriteError<u64, MemberNode>>;

impl From<WriteError> for NotChanged {
    fn from(error: WriteError) -> NotChanged {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => NotChanged::NotLeader,
            error => NotChanged::Busy(format!("the change of the members was not done: {error}")),
        }
    }
}

impl Group {
    /// Admits a data directory as a member at `address`, as a learner first. The same directory is given the same id.
    ///
    /// # Errors
    /// [`NotChanged`].
    pub(crate) async fn admit_member(&self, directory: DirectoryId, address: &str) -> Result<MemberId, NotChanged> {
        let _one_at_a_time = self.changing.lock().await;
        let (raft_term, mut roster) = self.settled().await?;
        if let Some((id, node)) = roster.members.iter().find(|(_, node)| node.directory == Some(directory)) {
            if node.address == address {
                return Ok(*id);
            }
            let known = &node.address;
            return Err(NotChanged::Refused(format!(
                "it is member {id} at {known} already; start with --advertise {known}"
            )));
        }
        for old in roster.members.iter().filter(|(_, node)| node.address == address).map(|(id, _)| *id) {
            if self.answers(&roster, old).await {
                return Err(NotChanged::Refused(format!(
                    "{address} is member {old}, which answers there; give the new one another --advertise, or stop the \
                     old one and type `dhtctl leaders remove {old}`"
                )));
            }
        }
        let same_address = |id: &MemberId| roster.members.get(id).is_some_and(|node| node.address == address);
        // A learner that never voted can simply go.
        let idle: BTreeSet<_> = roster.learners().map(|(id, _)| id).filter(same_address).collect();
        let replaces = roster.voters.iter().find(|id| same_address(id)).copied();
        let staying = roster.members.len() - idle.len() - usize::from(replaces.is_some());
        if staying >= MEMBERS_MAX {
            return Err(NotChanged::Refused(format!(
                "the group has {staying} members ({}), and {MEMBERS_MAX} is the most; take one out with `dhtctl leaders \
                 remove ID`",
                roster.named(roster.members.keys().copied())
            )));
        }
        if probe(&**self.surroundings(), address).await {
            return Err(NotChanged::Refused(format!(
                "nothing listens at {address}, where the others are to reach it; check --advertise and --listen"
            )));
        }
        if !idle.is_empty() {
            self.change(ChangeMembers::RemoveNodes(idle)).await?;
            roster = self.settled().await?.1;
        }
        let id = roster.minted + 1;
        let node = MemberNode { address: address.to_owned(), directory: Some(directory) };
        let (log_id, membership) = self.change(ChangeMembers::AddNodes([(id, node.clone())].into())).await?;
        // The id counts ours only if nobody else led between the look at the roster and the write.
        if log_id.leader_id.term != raft_term || membership.get_node(&id) != Some(&node) {
            if membership.get_node(&id) == Some(&node) {
                self.change(ChangeMembers::RemoveNodes([id].into())).await?;
            }
            return Err(NotChanged::Busy("the group changed its leader meanwhile".into()));
        }
        tracing::info!(member = id, address, ?replaces, "admitted a viewleader; it votes once it has caught up");
        Ok(id)
    }

    /// Takes a member out of the group, also this one, which then ends.
    ///
    /// # Errors
    /// [`NotChanged`].
    pub(crate) async fn remove_member(&self, member: MemberId) -> Result<(), NotChanged> {
        let _one_at_a_time = self.changing.lock().await;
        let (_, roster) = self.settled().await?;
        let Some(node) = roster.members.get(&member) else {
            if roster.was_removed(member) {
                return Ok(());
            }
            let known = roster.named(roster.members.keys().copied());
            return Err(NotChanged::Refused(format!("there is no member {member}; the members are {known}")));
        };
        if roster.voters.contains(&member) {
            let rest: BTreeSet<_> = roster.voters.iter().copied().filter(|id| *id != member).collect();
            if rest.is_empty() {
                let why = format!("member {member} at {} is the only one that votes", node.address);
                return Err(NotChanged::Refused(format!("{why}; start another one with --join first")));
            }
            self.check_majority(&roster, &rest, &format!("without member {member}")).await?;
            match self.change(ChangeMembers::RemoveVoters([member].into())).await {
                // This member itself: it may be ending before it hears that it was done.
                Err(_) if self.roster.borrow().was_removed(member) => {}
                outcome => drop(outcome?),
            }
        } else {
            self.change(ChangeMembers::RemoveNodes([member].into())).await?;
        }
        tracing::info!(member, address = %node.address, "removed a viewleader");
        Ok(())
    }

    /// Whether enough of `voters` answer to go on.
    pub(super) async fn check_majority(
        &self,
        roster: &Arc<Roster>,
        voters: &BTreeSet<MemberId>,
        when: &str,
    ) -> Result<(), NotChanged> {
        let silent = self.silent(roster, voters).await;
        let (there, needed) = (voters.len() - silent.len(), voters.len() / 2 + 1);
        if there >= needed {
            return Ok(());
        }
        Err(NotChanged::Refused(format!(
            "{when} the group would be {}, of which {needed} must answer, and {there} {}; start {} first",
            roster.named(voters.iter().copied()),
            if there == 1 { "does" } else { "do" },
            roster.named(silent),
        )))
    }

    /// Those of `voters` that don't answer as themselves.
    async fn silent(&self, roster: &Arc<Roster>, voters: &BTreeSet<MemberId>) -> Vec<MemberId> {
        let mut asking = JoinSet::new();
        for id in voters.iter().copied() {
            let (group, roster) = (self.clone(), roster.clone());
            asking.spawn(async move { (!group.answers(&roster, id).await).then_some(id) });
        }
        let mut silent: Vec<_> = asking.join_all().await.into_iter().flatten().collect();
        silent.sort_unstable();
        silent
    }

    /// Whether a member is there, from the directory that is known of it, and takes part.
    pub(super) async fn answers(&self, roster: &Roster, member: MemberId) -> bool {
        if member == self.identity.member() {
            return true;
        }
        let Some(node) = roster.members.get(&member) else { return false };
        match self.network.line(member, &node.address).hello(HELLO_TIMEOUT).await {
            Ok((directory, hello)) => {
                let known = node.directory.or_else(|| self.identity.met(member));
                hello.initialized && known.is_none_or(|known| known == directory)
            }
            Err(error) => {
                tracing::debug!(member, address = %node.address, %error, "a viewleader does not answer");
                false
            }
        }
    }

    /// The Raft term in which this member leads, and the members, once no change of them is on its way. Finishes one that
    /// a leader before left half done: whoever waits here holds the lock that anybody else would need for it.
    pub(super) async fn settled(&self) -> Result<(u64, Arc<Roster>), NotChanged> {
        let mut metrics = self.raft.metrics();
        let settled = async {
            loop {
                match self.settled_now()? {
                    Some((_, roster)) if roster.between => {
                        tracing::info!("finishing a change of the viewleaders");
                        self.change(ChangeMembers::ReplaceAllVoters(roster.voters.clone())).await?;
                        continue;
                    }
                    Some(settled) => return Ok(settled),
                    None => {}
                }
                if metrics.changed().await.is_err() {
                    return Err(NotChanged::NotLeader);
                }
            }
        };
        let busy = || NotChanged::Busy("another change of the members is on its way".into());
        timeout(SETTLE_MAX, settled).await.unwrap_or_else(|_| Err(busy()))
    }

    /// The Raft term in which this member leads, and the members, possibly between the two steps of a change; `None`: the
    /// last step is not committed and applied.
    fn settled_now(&self) -> Result<Option<(u64, Arc<Roster>)>, NotChanged> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        if metrics.current_leader != Some(self.identity.member()) {
            return Err(NotChanged::NotLeader);
        }
        let roster = self.roster.borrow().clone();
        let settled = *metrics.membership_config.log_id() == roster.log_id;
        Ok(settled.then_some((metrics.current_term, roster)))
    }

    /// One change, both steps of it where there are two.
    pub(super) async fn change(
        &self,
        change: ChangeMembers<u64, MemberNode>,
    ) -> Result<(LogId<u64>, Membership<u64, MemberNode>), NotChanged> {
        let written = self.raft.change_membership(change, false).await?;
        let missing = || NotChanged::Busy("the change of the members has no outcome".into());
        Ok((written.log_id, written.membership.ok_or_else(missing)?))
    }
}
