//! The group: openraft around [`viewcore`]. Nothing outside this folder names openraft.
//!
//! - [`log`]: log and vote on the write-ahead log.
//! - [`machine`] and [`snapshot`]: the state machine, published after every step, and what a restart begins with.
//! - [`board`]: leases and locks, as the state machine has them.
//! - [`network`] and [`service`]: the members' messages, each with who sends it, to whom, from which directory.
//! - [`bootstrap`]: how a group begins.
//! - [`elections`]: when a member stands for election.
//! - [`roster`], [`change`] and [`keep`]: who the members are, and how that changes.
//! - [`group`]: what the rest of this crate uses.

mod board;
mod bootstrap;
mod change;
mod codec;
mod elections;
mod group;
mod keep;
mod log;
mod machine;
mod messages;
mod network;
mod roster;
mod service;
mod snapshot;
#[cfg(test)]
mod tests;

pub(crate) use board::Board;
pub(crate) use bootstrap::found_or_join;
pub(crate) use change::NotChanged;
pub(crate) use group::{Group, GroupOptions, Leadership, MemberFacts, NotDone};
pub(crate) use roster::Roster;

use viewcore::{Command, Outcome};

openraft::declare_raft_types!(
    /// What this group's Raft is made of.
    pub(crate) GroupTypes:
        D = Command,
        R = Option<Outcome>,
        NodeId = u64,
        Node = roster::MemberNode,
        SnapshotData = std::io::Cursor<Vec<u8>>,
);

type Entry = openraft::Entry<GroupTypes>;
type LogId = openraft::LogId<u64>;
type Vote = openraft::Vote<u64>;
type Membership = openraft::StoredMembership<u64, roster::MemberNode>;
type StorageError = openraft::StorageError<u64>;
type Raft = openraft::Raft<GroupTypes>;
