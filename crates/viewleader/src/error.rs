//! This library's errors: each reads as one line for the person who started the process.

use daemon::Exit;
use std::path::PathBuf;
use types::ClusterId;

/// Why a viewleader could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is wrong.
    #[error("{0}")]
    Setting(String),
    /// The data directory, a port or a small file.
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
    /// The log is damaged, or can't be opened.
    #[error(transparent)]
    Log(#[from] wal::WalError),
    /// The directory has taken part in a group, but its log is gone.
    #[error(
        "the log in {} is gone, and with it the votes of member {member}: it can't take part without them; bring the \
         log back, or type `dhtctl leaders remove {member}` and start with --join and an empty --data-dir",
        path.display()
    )]
    LogLost {
        /// The log's directory.
        path: PathBuf,
        /// This member's id.
        member: u64,
    },
    /// A write or sync of the log failed while running. Nothing was acknowledged after it (P2).
    #[error("{0}")]
    LogFailed(String),
    /// The identity's content is not understood.
    #[error("cannot use {}: {reason}; start the program that wrote it", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The directory was made for other peers, or for another one of them.
    #[error(
        "the data directory {} is that of member {member} of {stored}; \
         start without --peers, with the same --peers and --advertise as at first, or with an empty --data-dir for a new \
         group",
        path.display()
    )]
    PeersChanged {
        /// The directory.
        path: PathBuf,
        /// The list it was made for.
        stored: String,
        /// Its member id there.
        member: u64,
    },
    /// The member is known to the others at another address.
    #[error(
        "the data directory {} is that of member {member} at {address}, not at {advertise}; start with --advertise \
         {address}, or move it: an empty --data-dir, --join, and `dhtctl leaders remove {member}`",
        path.display()
    )]
    AddressChanged {
        /// The directory.
        path: PathBuf,
        /// Its member.
        member: u64,
        /// Where the others reach it.
        address: String,
        /// What was given.
        advertise: String,
    },
    /// --join names a group that the directory is not of.
    #[error(
        "the data directory {} belongs to cluster {ours}, {address} to cluster {theirs}; start without --join to go on \
         in its own, or with an empty --data-dir to join that one",
        path.display()
    )]
    OtherGroup {
        /// The directory.
        path: PathBuf,
        /// The directory's cluster.
        ours: ClusterId,
        /// A member that --join names.
        address: String,
        /// The cluster of that one.
        theirs: ClusterId,
    },
    /// The group does not want this member.
    #[error("the group does not admit this member: {0}")]
    JoinRefused(String),
    /// This member is one no more.
    #[error(
        "member {member} was removed from this group ({witness}), and its directory is of no use any more; \
         to return, start with --join and an empty --data-dir"
    )]
    Removed {
        /// Our id.
        member: u64,
        /// Who says so.
        witness: String,
    },
    /// Another member was started with another list.
    #[error("{peer} was started with --peers {theirs}, this member with {ours}; give every member the same list")]
    PeersDiffer {
        /// The other member's address.
        peer: String,
        /// Its list.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// This member's directory was lost, and others remember it.
    #[error(
        "member {member} has taken part in this group with another data directory, as {witness} remembers; \
         bring that directory back: with an empty one its votes would count twice; or type `dhtctl leaders remove \
         {member}`, and start with --join instead of --peers"
    )]
    DirectoryReplaced {
        /// Our id.
        member: u64,
        /// The member that remembers.
        witness: String,
    },
    /// A member speaks with another directory than before.
    #[error(
        "member {member} has another data directory than the one this group knows: its votes are lost, so it can't \
         take part"
    )]
    Stranger {
        /// Whose id it claims.
        member: u64,
    },
    /// The snapshot is damaged, or from another version.
    #[error("cannot use the snapshot {}: {reason}; restore it from a copy", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system has no random numbers.
    #[error("cannot draw a random number: {0}")]
    Random(String),
    /// The gRPC server ended.
    #[error("the gRPC server failed: {0}")]
    Server(#[from] tonic::transport::Error),
    /// The Raft core ended: a failed disk, or a bug.
    #[error("the viewleader's Raft core stopped: {0}; start again")]
    Raft(String),
}

impl Error {
    /// The exit code of a process that ends with this error.
    pub fn exit(&self) -> Exit {
        match self {
            Error::Setting(_) => Exit::Usage,
            Error::Daemon(error) => error.exit(),
            Error::PeersChanged { .. }
            | Error::PeersDiffer { .. }
            | Error::AddressChanged { .. }
            | Error::OtherGroup { .. } => Exit::Usage,
            Error::DirectoryReplaced { .. }
            | Error::Stranger { .. }
            | Error::LogLost { .. }
            | Error::JoinRefused(_)
            | Error::Removed { .. } => Exit::Denied,
            Error::Log(_)
            | Error::LogFailed(_)
            | Error::Identity { .. }
            | Error::Snapshot { .. }
            | Error::Random(_)
            | Error::Server(_)
            | Error::Raft(_) => Exit::Unavailable,
        }
    }
}
