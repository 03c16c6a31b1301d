//! The words that every part of Ringleader shares.
//!
//! Ids and counters ([`ids`]), where a key lives ([`position`]), who replicates what ([`view`]), what a log holds
//! ([`entry`], [`record`]), what a client asks and hears ([`request`], [`transaction`], [`error`]), and the limits
//! ([`limits`]).
//!
//! Invariants: nothing here performs I/O, reads a clock or draws a random number, and nothing here knows protobuf.
//! What arrives from outside is validated where it arrives (`wire`), so a value of these types is well-formed.

pub mod entry;
pub mod error;
pub mod expiry;
pub mod ids;
pub mod limits;
mod mutants;
pub mod page;
pub mod position;
pub mod record;
pub mod request;
pub mod transaction;
pub mod view;

pub use entry::{Batch, Change, Entry, EntryId, MalformedBatch, Remembered};
pub use error::ErrorCode;
pub use expiry::{Expiry, Lifetime};
pub use ids::{
    BootNonce, ClusterId, Epoch, FencingToken, Generation, Incarnation, LeaseId, NodeId, PartitionId, Seq, Term,
};
pub use page::{Page, PageItem, PageQuery};
pub use position::{PartitionCount, Position};
pub use record::{Record, RecordKey, RecordKind};
pub use request::{Condition, Fence, Mutation, MutationKind, RequestId, Stamp, WriteOutcome};
pub use transaction::{
    AttemptId, InvalidTransaction, OperationResult, Transaction, TransactionOperation, TransactionOutcome,
    TransactionPart,
};
pub use view::{Configuration, Duty, NodeInfo, View, ViewDelta, ViewError};
