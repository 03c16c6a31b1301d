//! What goes on beside the log: the leader finishes what was begun and lets learners vote, everybody notes who the
//! members are, and asks whether it still is one.

use super::Group;
use super::change::NotChanged;
use crate::Error;
use crate::identity::MemberId;
use openraft::ChangeMembers;
use std::collections::BTreeSet;
use std::time::Duration;
use types::ClusterId;

/// How often the leader looks for members that could vote.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A learner that lacks no more entries than this has caught up: the rest comes with the next messages.
const LAG_MAX: u64 = 100;
/// How often a member that does not lead asks another one whether it is still known.
const ASK_EVERY: Duration = Duration::from_secs(1);
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// Lets learners vote while this member leads, and finishes changes that a leader before left half done.
pub(super) async fn keep_members(group: Group) {
    let mut leadership = group.leadership();
    while leadership.wait_for(|now| now.leads).await.is_ok() {
        match advance(&group).await {
            Ok(()) | Err(NotChanged::NotLeader) => {}
            Err(why) => tracing::warn!(%why, "the viewleaders can't be changed"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn advance(group: &Group) -> Result<(), NotChanged> {
    let Ok(_one_at_a_time) = group.changing.try_lock() else { return Ok(()) };
    let (_, roster) = group.settled().await?;
    for (learner, node) in roster.learners() {
        if !group.has_caught_up(learner) || !group.answers(&roster, learner).await {
            continue;
        }
        // Whom it replaces goes in the same change.
        let replaced = |id: &MemberId| roster.members.get(id).is_some_and(|other| other.address == node.address);
        let voters: BTreeSet<_> = roster.voters.iter().copied().filter(|id| !replaced(id)).chain([learner]).collect();
        match group.check_majority(&roster, &voters, &format!("with member {learner}")).await {
            Ok(()) => {}
            Err(why) => {
                tracing::debug!(learner, %why, "a learner can't vote yet");
                continue;
            }
        }
        group.change(ChangeMembers::ReplaceAllVoters(voters)).await?;
        tracing::info!(member = learner, address = %node.address, "a viewleader has caught up, and votes");
        return Ok(());
    }
    Ok(())
}

impl Group {
    fn has_caught_up(&self, learner: MemberId) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&learner).copied().flatten());
        matched.is_some_and(|matched| matched.index + LAG_MAX >= metrics.last_log_index.unwrap_or_default())
    }

    /// Resolves once the group has removed this member, or its identity can't be kept.
    pub(super) async fn until_removed(&self) -> Error {
        let mut told = self.network.removed.subscribe();
        let mut roster = self.roster.clone();
        let own = self.identity.member();
        let witness = tokio::select! {
            error = self.note_members() => return error,
            () = self.ask_others() => return Error::Raft("it asks nobody any more".into()),
            told = told.wait_for(Option::is_some) => told.ok().and_then(|told| told.clone()),
            applied = roster.wait_for(|roster| roster.was_removed(own)) => {
                applied.ok().map(|_| "its own log says so".to_owned())
            }
        };
        // Ended watches are Raft's end, which is told elsewhere.
        let Some(witness) = witness else { return std::future::pending().await };
        match self.identity.set_removed() {
            Ok(()) => Error::Removed { member: own, witness },
            Err(error) => error,
        }
    }

    /// Keeps the small file up to date: which cluster this is, and where its members are.
    async fn note_members(&self) -> Error {
        let (mut state, mut roster) = (self.state(), self.roster.clone());
        loop {
            let cluster = state.borrow_and_update().cluster();
            let members = roster.borrow_and_update().addresses();
            let noted = match cluster {
                ClusterId::NONE => Ok(()),
                cluster => self.identity.note_cluster(cluster),
            };
            let noted = noted.and_then(|()| match members.is_empty() {
                true => Ok(()),
                false => self.identity.note_members(members),
            });
            if let Err(error) = noted {
                return error;
            }
            let more = tokio::select! {
                changed = state.changed(), if cluster == ClusterId::NONE => changed.is_ok(),
                changed = roster.changed() => changed.is_ok(),
            };
            if !more {
                return std::future::pending().await;
            }
        }
    }

    /// A removed member hears nothing any more, and would wait for ever. What the others say is noted where it arrives.
    async fn ask_others(&self) {
        for turn in 0usize.. {
            tokio::time::sleep(ASK_EVERY).await;
            if self.leadership().borrow().leads {
                continue;
            }
            let own = self.identity.member();
            let others: Vec<_> = self.addresses().into_iter().filter(|(member, _)| *member != own).collect();
            if let Some((member, address)) = others.get(turn % others.len().max(1)) {
                let asked = self.network.line(*member, address).hello(ASK_TIMEOUT).await;
                if let Err(error) = asked {
                    tracing::debug!(member, %error, "a viewleader does not say whether it knows this one");
                }
            }
        }
    }
}
