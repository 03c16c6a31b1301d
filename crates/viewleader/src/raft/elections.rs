//! When a member stands for election: not before a majority has said that it would vote for it ("pre-vote"; D. Ongaro,
//! Consensus: Bridging Theory and Practice, section 9.6).
//!
//! With timers alone, whoever hears no leader raises its term. One that hears the others while nobody hears it then
//! deposes every leader they elect, for as long as the fault lasts, and one that was cut off deposes the leader by coming
//! back. So Raft's own timers are off, and this is the only place where an election begins.

use super::log::LogStore;
use super::messages::{PreVote, PreVoteReply};
use super::network::Network;
use super::{Group, LogId, Raft};
use crate::identity::MemberId;
use crate::mutants::{Mutant, on};
use openraft::ServerState;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;
use tokio::task::JoinSet;

/// Nobody votes for another within this time after it heard from a leader; Raft itself keeps to the same time.
pub(super) const LEASE: Duration = Duration::from_millis(500);
/// How long a member hears nothing before it asks whether it could lead: drawn anew each time, so that two rarely ask
/// together.
const PATIENCE_MS: Range<u64> = 500..1000;
/// Between two questions that were answered with no. They change nothing, so they may come often.
const AGAIN_MS: Range<u64> = 100..300;
const ASK_TIMEOUT: Duration = Duration::from_millis(300);
/// How often one that leads, or can't vote, looks whether this is still so.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a member knows when a candidate asks about its vote.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// For how long it has heard of no leader and no election; of one that leads: for how long no majority has answered.
    quiet: Duration,
    last_log: Option<LogId>,
}

impl Standing {
    /// What this member knows now.
    ///
    /// # Errors
    /// A line, where Raft has ended.
    pub(super) async fn of(raft: &Raft, log: &LogStore) -> Result<Standing, String> {
        let since_vote = raft.with_raft_state(|state| state.vote_last_modified().map(|at| at.elapsed()));
        // Nothing since it started: it knows of nobody.
        let since_vote = since_vote.await.map_err(|error| error.to_string())?.unwrap_or(Duration::MAX);
        let since_answers = raft.metrics().borrow().millis_since_quorum_ack.map(Duration::from_millis);
        Ok(Standing { quiet: since_answers.map_or(since_vote, |since| since.min(since_vote)), last_log: log.last_id() })
    }

    /// Whether a vote for a candidate whose log ends there could be given. Saying so promises nothing.
    pub(super) fn would_vote_for(&self, candidate: Option<LogId>) -> bool {
        self.quiet >= LEASE && self.last_log <= candidate
    }
}

/// Whether these are a majority of each set that decides.
fn is_quorum(deciding: &[BTreeSet<MemberId>], granted: &BTreeSet<MemberId>) -> bool {
    deciding.iter().all(|voters| voters.intersection(granted).count() > voters.len() / 2)
}

/// Stands for election whenever there is need and hope, until Raft ends.
pub(super) async fn stand_for_election(group: Group) {
    let mut patience = Duration::ZERO;
    // Standing fails only where Raft has ended.
    while let Ok(standing) = Standing::of(&group.raft, &group.log).await {
        let deciding = deciding(&group);
        let own = group.identity.member();
        let wait = if group.raft.metrics().borrow().state == ServerState::Leader
            || !deciding.iter().any(|voters| voters.contains(&own))
        {
            LOOK_EVERY
        } else if let Some(left) = patience.checked_sub(standing.quiet).filter(|left| !left.is_zero()) {
            left
        } else if on(Mutant::ElectionUnasked) || would_win(&group, &deciding, standing.last_log).await {
            tracing::info!("no leader is heard, and a majority would vote for this member: it stands for election");
            if group.raft.trigger().elect().await.is_err() {
                return;
            }
            patience = drawn(&group, PATIENCE_MS);
            // Its own vote begins its patience; it may be noted a moment later.
            LEASE
        } else {
            patience = drawn(&group, PATIENCE_MS);
            drawn(&group, AGAIN_MS)
        };
        tokio::time::sleep(wait).await;
    }
}

/// The sets of voters of which each must agree: two while members change, else one.
fn deciding(group: &Group) -> Vec<BTreeSet<MemberId>> {
    group.raft.metrics().borrow().membership_config.membership().get_joint_config().clone()
}

/// Asks everybody at once, until a majority is for it or all have spoken.
async fn would_win(group: &Group, deciding: &[BTreeSet<MemberId>], last_log: Option<LogId>) -> bool {
    let own = group.identity.member();
    let mut granted = BTreeSet::from([own]);
    let addresses: BTreeMap<MemberId, String> = group.addresses();
    let mut asking = JoinSet::new();
    let voters: BTreeSet<MemberId> = deciding.iter().flatten().copied().filter(|voter| *voter != own).collect();
    for (member, address) in voters.into_iter().filter_map(|voter| Some((voter, addresses.get(&voter)?.clone()))) {
        let network: Network = group.network.clone();
        asking.spawn(async move {
            let asked = network.line(member, &address).pre_vote(PreVote { last_log }, ASK_TIMEOUT).await;
            (member, asked)
        });
    }
    while !is_quorum(deciding, &granted) {
        match asking.join_next().await {
            Some(Ok((member, Ok(PreVoteReply { granted: true })))) => {
                granted.insert(member);
            }
            Some(Ok((member, Err(error)))) => tracing::debug!(member, %error, "no answer about a vote"),
            Some(_) => {}
            None => return false,
        }
    }
    true
}

fn drawn(group: &Group, range_ms: Range<u64>) -> Duration {
    let width = range_ms.end - range_ms.start;
    // Without randomness everybody waits longest: slower, and still right.
    let within = group.surroundings().random().map_or(width, |random| random % width);
    Duration::from_millis(range_ms.start + within)
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::CommittedLeaderId;

    fn id(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new(CommittedLeaderId::new(term, 1), index))
    }

    /// Guards against a leader deposed while others hear it, and against candidates that would lose what is committed.
    #[test]
    fn a_vote_needs_silence_and_a_log_that_is_as_new() {
        let quiet = Standing { quiet: LEASE, last_log: id(2, 7) };
        assert!(quiet.would_vote_for(id(2, 7)));
        assert!(quiet.would_vote_for(id(3, 1)), "the later term is newer, whatever its length");
        assert!(!quiet.would_vote_for(id(2, 6)));
        assert!(!quiet.would_vote_for(id(1, 9)));
        assert!(!quiet.would_vote_for(None));
        let hears = Standing { quiet: LEASE - Duration::from_millis(1), last_log: id(2, 7) };
        assert!(!hears.would_vote_for(id(9, 9)));
    }

    /// Guards against an election between two memberships that only one of them would decide.
    #[test]
    fn a_majority_of_each_set_decides() {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<MemberId>>();
        assert!(is_quorum(&[set(&[1])], &set(&[1])));
        assert!(!is_quorum(&[set(&[1, 2])], &set(&[1])));
        assert!(is_quorum(&[set(&[1, 2, 3])], &set(&[1, 3])));
        assert!(!is_quorum(&[set(&[1, 2, 3]), set(&[1, 4, 5])], &set(&[1, 2, 3])));
        assert!(is_quorum(&[set(&[1, 2, 3]), set(&[1, 4, 5])], &set(&[1, 2, 4])));
        assert!(!is_quorum(&[set(&[1, 2, 3])], &set(&[1, 9, 8])), "strangers count for nothing");
    }
}
