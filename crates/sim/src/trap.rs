//! A trap: the process that is about to do one certain thing dies right before it, or right after.
//!
//! Chance crashes a node between two events of its; what lies between two effects of one event it never hits. A trap does:
//! it names what is done (a kind of record written, a kind of message sent), what the replica is at that moment, and the
//! side of it on which the process dies. Without a trap a world is what its seed says, draw for draw.

use replcore::{Effect, PersistRecord, RoleSummary};
use std::collections::BTreeSet;
use std::fmt;

/// Something that leaves a replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Act {
    /// A record of this kind is written.
    Writes(&'static str),
    /// A message of this kind is sent.
    Sends(&'static str),
    /// A message of this kind goes to another partition: a step of a transaction (P25–P27).
    Tells(&'static str),
}

/// What the replica is once the step has been taken that the act belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// No view names the node.
    None,
    /// Damaged (P3).
    OutOfService,
    /// Follows, as replica or learner.
    Follower,
    /// Takes over, up to its first own entry (P13–P15).
    TakingOver,
    /// Has begun its term, and waits for its first entry (P16).
    Starting,
    /// Serves.
    Serving,
}

/// On which side of the act the process dies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum When {
    /// It is not done, nor is anything after it.
    Before,
    /// It is done, and nothing after it: a record is synced, and nobody has been told.
    After,
}

/// One cell of the matrix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cell {
    /// What is done.
    pub act: Act,
    /// By whom.
    pub role: Role,
    /// When the process dies.
    pub when: When,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Writes(kind) => write!(f, "writes {kind}"),
            Act::Sends(kind) => write!(f, "sends {kind}"),
            Act::Tells(kind) => write!(f, "tells {kind}"),
        }
    }
}

impl Act {
    pub(crate) fn of(effect: &Effect) -> Option<Act> {
        match effect {
            Effect::Persist { record, .. } => Some(Act::Writes(match record {
                PersistRecord::Base(_) => "base",
                PersistRecord::Reset(_) => "reset",
                PersistRecord::Promise(_) => "promise",
                PersistRecord::Append { .. } => "append",
            })),
            Effect::Send { message, .. } => Some(Act::Sends(message.body.name())),
            Effect::SendToPartition { message, .. } => Some(Act::Tells(message.body.name())),
            _ => None,
        }
    }
}

impl From<RoleSummary> for Role {
    fn from(role: RoleSummary) -> Role {
        match role {
            RoleSummary::None => Role::None,
            RoleSummary::OutOfService => Role::OutOfService,
            RoleSummary::Follower => Role::Follower,
            RoleSummary::TakingOver(_) => Role::TakingOver,
            RoleSummary::Starting(_) => Role::Starting,
            RoleSummary::Serving(_) => Role::Serving,
        }
    }
}

/// What a world does about a cell.
#[derive(Debug, Default)]
pub(crate) struct Trap {
    cell: Option<Cell>,
    /// So many acts of the cell are let pass.
    pass: u64,
    sprung: bool,
    /// Every act there was.
    pub(crate) met: BTreeSet<(Act, Role)>,
}

impl Trap {
    pub(crate) fn new(cell: Cell, pass: u64) -> Trap {
        Trap { cell: Some(cell), pass, ..Trap::default() }
    }

    pub(crate) fn has_sprung(&self) -> bool {
        self.sprung
    }

    /// Whether the process that is about to do this dies, and when.
    pub(crate) fn springs(&mut self, act: Act, role: Role) -> Option<When> {
        self.met.insert((act, role));
        let cell = self.cell.filter(|cell| (cell.act, cell.role) == (act, role) && !self.sprung)?;
        if self.pass > 0 {
            self.pass -= 1;
            return None;
        }
        self.sprung = true;
        Some(cell.when)
    }
}
