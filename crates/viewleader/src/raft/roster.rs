//! Who the members are: what openraft's membership keeps of each, and what the applied part of the log says of all.
//!
//! Invariants: the highest id that a membership ever named is kept for ever, so that an id is given once; an id up to it
//! that the membership does not name was removed, which is final.

use super::LogId;
use crate::identity::{DirectoryId, MemberId};
use openraft::StoredMembership;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One member, in openraft's membership.
///
/// Encoded as one text, the address, as groups wrote it before members could be admitted; behind a space follows the
/// directory of one that was.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct MemberNode {
    /// `host:port`.
    pub(crate) address: String,
    /// The data directory that was admitted; `None` for those that the group began with.
    pub(crate) directory: Option<DirectoryId>,
}

impl MemberNode {
    /// A member that the group begins with.
    pub(crate) fn founder(address: &str) -> MemberNode {
        MemberNode { address: address.to_owned(), directory: None }
    }
}

impl From<MemberNode> for String {
    fn from(node: MemberNode) -> String {
        match node.directory {
            None => node.address,
            Some(directory) => format!("{} {directory:016x}", node.address),
        }
    }
}

impl TryFrom<String> for MemberNode {
    type Error = String;

    fn try_from(text: String) -> Result<MemberNode, String> {
        let Some((address, directory)) = text.split_once(' ') else {
            return Ok(MemberNode { address: text, directory: None });
        };
        let directory = DirectoryId::from_str_radix(directory, 16).map_err(|_| format!("{text:?} is no member"))?;
        Ok(MemberNode { address: address.to_owned(), directory: Some(directory) })
    }
}

/// The members as of the last applied change.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Roster {
    /// The change that made it so.
    pub(super) log_id: Option<LogId>,
    /// Those that vote, and those that don't yet.
    pub(crate) members: BTreeMap<MemberId, MemberNode>,
    /// Those that vote; after a change that takes two steps, of which the second is missing, those of the second.
    pub(crate) voters: BTreeSet<MemberId>,
    /// Those that vote before and after such a change. Until it is done, the others count for nothing yet: without the
    /// old majority the group stands still.
    pub(crate) steady: BTreeSet<MemberId>,
    /// Whether a change's second step is missing.
    pub(crate) between: bool,
    /// The highest id that was ever given.
    pub(crate) minted: MemberId,
}

impl Roster {
    /// What `membership` says, by somebody who has seen ids up to `minted`.
    pub(super) fn new(membership: &StoredMembership<u64, MemberNode>, minted: MemberId) -> Roster {
        let configs = membership.membership().get_joint_config();
        let members: BTreeMap<_, _> = membership.nodes().map(|(id, node)| (*id, node.clone())).collect();
        Roster {
            log_id: *membership.log_id(),
            voters: configs.last().cloned().unwrap_or_default(),
            steady: configs.iter().cloned().reduce(|all, config| &all & &config).unwrap_or_default(),
            between: configs.len() > 1,
            minted: members.keys().next_back().map_or(minted, |highest| minted.max(*highest)),
            members,
        }
    }

    /// Whether this id was a member's, and is no more.
    pub(crate) fn was_removed(&self, member: MemberId) -> bool {
        (1..=self.minted).contains(&member) && !self.members.contains_key(&member)
    }

    /// Members that don't vote yet.
    pub(crate) fn learners(&self) -> impl Iterator<Item = (MemberId, &MemberNode)> {
        self.members.iter().filter(|(id, _)| !self.voters.contains(id)).map(|(id, node)| (*id, node))
    }

    /// Where all members are.
    pub(crate) fn addresses(&self) -> BTreeMap<MemberId, String> {
        self.members.iter().map(|(id, node)| (*id, node.address.clone())).collect()
    }

    /// `1 at a:1, 2 at b:2`, for people.
    pub(crate) fn named(&self, ids: impl IntoIterator<Item = MemberId>) -> String {
        let name = |id: MemberId| match self.members.get(&id) {
            Some(node) => format!("{id} at {}", node.address),
            None => id.to_string(),
        };
        ids.into_iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::codec;
    use openraft::{BasicNode, Membership};

    fn stored(ids: &[u64]) -> StoredMembership<u64, MemberNode> {
        let nodes: BTreeMap<_, _> = ids.iter().map(|id| (*id, MemberNode::founder("a:1"))).collect();
        StoredMembership::new(None, Membership::new(vec![ids.iter().copied().collect()], nodes))
    }

    /// Guards against an id that is given again once its member, the highest one, is gone.
    #[test]
    fn the_highest_id_is_remembered() {
        let before = Roster::new(&stored(&[1, 2, 7]), 0);
        let after = Roster::new(&stored(&[1, 2]), before.minted);
        assert_eq!(after.minted, 7);
        assert!(after.was_removed(7) && after.was_removed(5));
        assert!(!after.was_removed(1) && !after.was_removed(8) && !after.was_removed(0));
    }

    /// Guards against a member that is said to vote while the group still needs the majority that it had before.
    #[test]
    fn between_two_steps_only_those_of_both_vote() {
        let nodes: BTreeMap<_, _> = (1..=3u64).map(|id| (id, MemberNode::founder("a:1"))).collect();
        let configs = vec![[1, 2].into(), [1, 2, 3].into()];
        let between = Roster::new(&StoredMembership::new(None, Membership::new(configs, nodes)), 0);
        assert!(between.between);
        assert_eq!((between.steady, between.voters), ([1, 2].into(), [1, 2, 3].into()));
        let after = Roster::new(&stored(&[1, 2, 3]), 3);
        assert!(!after.between);
        assert_eq!(after.steady, after.voters);
    }

    /// Guards against logs of groups that began before members could be admitted, which must stay readable.
    #[test]
    fn a_founder_is_encoded_as_it_always_was() {
        let old = codec::encode(&BasicNode::new("a:1")).unwrap();
        assert_eq!(codec::decode(&old), Ok(MemberNode::founder("a:1")));
        assert_eq!(codec::encode(&MemberNode::founder("a:1")).unwrap(), old);
        let admitted = MemberNode { address: "a:1".into(), directory: Some(u64::MAX - 1) };
        assert_eq!(codec::decode(&codec::encode(&admitted).unwrap()), Ok(admitted));
        assert!(codec::decode::<MemberNode>(&codec::encode(&"a:1 xyz".to_owned()).unwrap()).is_err());
    }
}
