//! What happens to a replica, and what follows from it.

use crate::message::{Message, SnapshotId};
use crate::persist::PersistRecord;
use crate::transactions::TransactionMessage;
use bytes::Bytes;
use std::sync::Arc;
use types::{
    Configuration, EntryId, Epoch, ErrorCode, Expiry, FencingToken, Generation, Mutation, NodeId, Page, PageQuery,
    PartitionId, Record, RecordKey, RecordKind, RequestId, Seq, Stamp, Term, TransactionOutcome, TransactionPart,
    WriteOutcome,
};

/// Names a client's request between the driver and a replica; unique among those that are open.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

impl Token {
    /// A replica's own in this term: no driver gives one of these to a request.
    pub fn own(term: Term) -> Token {
        Token(u64::MAX - term.0)
    }
}

/// Numbers what a replica has asked to be written to the log: 1, 2, 3, … since it was started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PersistIndex(pub u64);

/// A mutation with everything that must not be decided twice.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Proposal {
    /// Names the mutation for ever (P28).
    pub id: RequestId,
    /// Its client's stamp.
    pub stamp: Stamp,
    /// What to do.
    pub mutation: Mutation,
    /// The driver's clock less the time that requests are remembered for: how far `forgotten_before` may advance.
    pub forget_before: Stamp,
}

/// A transaction with everything that must not be decided twice.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TransactionProposal {
    /// Names the transaction for ever (P28).
    pub id: RequestId,
    /// Its client's stamp.
    pub stamp: Stamp,
    /// What it asks of each partition, the home's first.
    pub parts: Vec<(PartitionId, TransactionPart)>,
    /// As of [`Proposal::forget_before`].
    pub forget_before: Stamp,
}

/// One thing that happens to a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The view of this epoch has this configuration for the partition. The node has the view on disk (P5).
    View {
        /// The view's epoch.
        epoch: Epoch,
        /// This partition's part of it.
        configuration: Arc<Configuration>,
    },
    /// A message arrived from another node.
    Message {
        /// The sender.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// Everything up to here is on disk (P2).
    Persisted {
        /// The highest [`PersistIndex`] that is.
        through: PersistIndex,
    },
    /// A client wants a change.
    Mutate {
        /// Whom to answer.
        token: Token,
        /// What it wants.
        proposal: Proposal,
    },
    /// A client wants a transaction of which this partition is the home.
    Transact {
        /// Whom to answer.
        token: Token,
        /// What it wants.
        proposal: Box<TransactionProposal>,
    },
    /// A client wants several keys of this partition as of one instant.
    Collect {
        /// Whom to answer.
        token: Token,
        /// The users' keys.
        keys: Vec<Bytes>,
    },
    /// The primary of another partition speaks; or one that has been.
    FromPartition {
        /// What it says.
        message: TransactionMessage,
    },
    /// A client wants a value.
    Read {
        /// Whom to answer.
        token: Token,
        /// The user's key.
        key: Bytes,
    },
    /// A client wants a page of the partition's records.
    ReadPage {
        /// Whom to answer.
        token: Token,
        /// What it wants.
        query: PageQuery,
    },
    /// What [`Effect::ScanState`] asked for, read at one instant.
    Scanned {
        /// For whom.
        token: Token,
        /// What the state held then.
        applied: Seq,
        /// By name; all within the query.
        records: Vec<(Bytes, Record)>,
        /// There are no more within the query.
        ended: bool,
    },
    /// By the driver's clock these values have lived long enough; repeated until [`Effect::ExpiryOver`].
    Expired {
        /// Keys, and the versions whose time is over.
        keys: Vec<(Bytes, Seq)>,
    },
    /// Nobody waits for these answers any more: answer *unknown* where it was appended, else not done.
    Expire {
        /// Whose time is over; those that are not open here are passed over.
        tokens: Vec<Token>,
    },
    /// Nothing more is at hand: what has gathered leaves now, as few messages and one log record. Sent to every replica
    /// that had an event since its last flush.
    Flush,
    /// A tick of the driver's coarse timer (see [`Settings`] for what is counted in ticks).
    Tick,
    /// A stream to this peer is up: what was sent before may be lost.
    PeerUp {
        /// The peer.
        peer: NodeId,
    },
    /// The stream to this peer is down: nothing sent will arrive.
    PeerDown {
        /// The peer.
        peer: NodeId,
    },
    /// The state holds what [`Replica::take_apply`](crate::Replica::take_apply) gave, though perhaps not on disk.
    Applied {
        /// Which life of the partition; of another than the present one it is ignored.
        generation: Generation,
        /// What it gave as `through`.
        through: EntryId,
    },
    /// The state is on disk through here: the log may be trimmed that far.
    Checkpointed {
        /// Which life of the partition; of another than the present one it is ignored.
        generation: Generation,
        /// Everything up to here.
        through: Seq,
        /// Nothing of it is kept for those who lack it, but for snapshots under way: the log is needed otherwise.
        make_room: bool,
    },
    /// A page of the state that [`Effect::ReadState`] asked for; an empty one is the end.
    StateRead {
        /// For whom.
        to: NodeId,
        /// For which snapshot.
        snapshot: SnapshotId,
        /// In order.
        records: Vec<(RecordKey, Record)>,
    },
    /// The state has what [`Effect::Install`] gave; with the last part, everything of it is on disk.
    Installed {
        /// Which life of the partition.
        generation: Generation,
        /// Which part.
        number: u64,
    },
    /// Write everything but the log again, so that older segments of the write-ahead log can go.
    WriteBase,
    /// The viewleader's answer to [`Effect::ReportActivated`] (P16).
    ActivationAnswered {
        /// The term it was about.
        term: Term,
        /// Whether it is committed there; false: the term is over.
        accepted: bool,
    },
    /// Time to forget requests older than this, though nothing is being written (P28).
    Forget {
        /// How far `forgotten_before` may advance.
        before: Stamp,
    },
    /// The state of this partition turned out to be damaged (P3).
    Damaged,
    /// The viewleader has noted the damage at this epoch (P3).
    DamageNoted {
        /// A view after this one may name the node again.
        epoch: Epoch,
    },
}

/// One thing that the driver must do, in the order given.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// Append to the write-ahead log, in order; report with [`Event::Persisted`] once it is fsynced.
    Persist {
        /// Its number.
        index: PersistIndex,
        /// What to write.
        record: PersistRecord,
    },
    /// Send now; everything it answers for is on disk.
    Send {
        /// The destination.
        to: NodeId,
        /// What to say.
        message: Message,
    },
    /// Send to whichever node the newest view has as primary of this partition, which may be this one. It may be lost.
    SendToPartition {
        /// Another partition.
        partition: PartitionId,
        /// What to say.
        message: TransactionMessage,
    },
    /// Answer a client.
    Reply {
        /// Which.
        token: Token,
        /// What it hears.
        answer: Answer,
    },
    /// P16: tell the viewleader that a majority of the new members has the term's first entry. Repeated until answered.
    ReportActivated {
        /// The term.
        term: Term,
    },
    /// P19: this primary can't commit or can't finish its takeover. Repeated while it lasts.
    ReportStuck {
        /// The term.
        term: Term,
        /// Members that do not answer.
        unreachable: Vec<NodeId>,
        /// The member that has what this one lacks and can't be given any more: it should be primary.
        holder: Option<NodeId>,
    },
    /// P3: this replica is out of service. Repeated until [`Event::DamageNoted`].
    ReportDamaged,
    /// P8: somebody has promised a higher term: ask for the newest view.
    WantView,
    /// The replica begins (`Some`) or ceases (`None`) to serve.
    Serving {
        /// The term it serves in.
        term: Option<Term>,
    },
    /// P23: read the records after `after`, all kinds but [`types::RecordKind::Requests`], by kind and name; answer with
    /// [`Event::StateRead`], some time.
    ReadState {
        /// For whom.
        to: NodeId,
        /// For which snapshot.
        snapshot: SnapshotId,
        /// Which life of the partition.
        generation: Generation,
        /// Where to go on; none: from the beginning.
        after: Option<RecordKey>,
        /// About how much; at least one record, if there is one.
        bytes_max: usize,
    },
    /// Read records of the state as the query says, all of them at one instant, no earlier than now; answer with
    /// [`Event::Scanned`], some time. Values that are too long for the page are read too.
    ScanState {
        /// For whom.
        token: Token,
        /// Which life of the partition.
        generation: Generation,
        /// Which records.
        query: PageQuery,
    },
    /// This value lives for so long from now on; then [`Event::Expired`]. Said once in a term, by whoever serves, of
    /// every version that is committed; of a key that has a timer the greater version counts. All timers of the
    /// partition end when it ceases to serve.
    Expiring {
        /// The key.
        key: Bytes,
        /// Its version, and how long that lives.
        expiry: Expiry,
    },
    /// These versions need no timer any more.
    ExpiryOver {
        /// Keys and versions.
        keys: Vec<(Bytes, Seq)>,
    },
    /// P23: add these records to the state of this generation; answer with [`Event::Installed`], in order.
    Install {
        /// Which life of the partition; not the present one.
        generation: Generation,
        /// Which part.
        number: u64,
        /// What to add, with the seqs that wrote them.
        records: Vec<(RecordKey, Record)>,
        /// The last part: what `applied` becomes. Everything of this generation must be on disk before the answer.
        start: Option<EntryId>,
    },
    /// P5: this generation's data may go. What says so is on disk. Repeated after a restart.
    DeleteData {
        /// Which life of the partition.
        generation: Generation,
    },
}

/// What a client hears.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// The change is committed.
    Written {
        /// The key's version and whether it had a value.
        outcome: WriteOutcome,
        /// Replicas that are known to have it on disk.
        durable_on: u32,
        /// The term in which it was answered.
        term: Term,
    },
    /// The transaction has happened; or, where nothing was to be changed, this is what it saw.
    Transacted {
        /// Which branch, and what its operations did.
        outcome: TransactionOutcome,
        /// Replicas of the home that are known to have it on disk.
        durable_on: u32,
        /// The home's term in which it was answered.
        term: Term,
    },
    /// The keys of a [`Event::Collect`], in its order, all as of one instant.
    Collected(Vec<Collected>),
    /// The key's value.
    Found(Record),
    /// A page of the partition's records.
    Page(Page),
    /// The key has no value: of a read, or of a delete, which then did nothing.
    NotFound,
    /// The condition did not hold; nothing was done.
    ConditionFailed {
        /// The key's version, if it has a value.
        version: Option<Seq>,
    },
    /// The write came with an older token than this, which the partition has seen; nothing was done, nor will be.
    Fenced {
        /// The newest one.
        newest: FencingToken,
    },
    /// Not done, or unknown: the code tells.
    Error(ErrorCode),
}

/// What a collection found of one key. If two of one key are equal and the second was asked for after the first was
/// answered, the key was the same all the time between; if `since` is `None` nothing can be said.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Collected {
    /// Its value: versions are never used again.
    Found(Record),
    /// No value.
    Absent {
        /// Names this absence.
        since: Option<Seq>,
    },
}

/// Committed changes for the state, rewrites of one record merged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Apply {
    /// Which life of the partition.
    pub generation: Generation,
    /// What `applied` becomes, in the same atomic batch (P1).
    pub through: EntryId,
    /// By key; at most one per record; each with the seq that wrote it. `None` deletes.
    pub changes: Vec<(RecordKey, Option<Bytes>, Seq)>,
}

/// The applied state, read in the middle of a step: its content is a function of the events before it.
pub trait State {
    /// The record as of what was applied.
    ///
    /// # Errors
    /// [`StateDamaged`]: the replica goes out of service (P3).
    fn get(&self, generation: Generation, key: &RecordKey) -> Result<Option<Record>, StateDamaged>;

    /// Every record of a hidden kind, by name: read once, when a term begins.
    ///
    /// # Errors
    /// [`StateDamaged`]: the replica goes out of service (P3).
    fn list(&self, generation: Generation, kind: RecordKind) -> Result<Vec<(Bytes, Record)>, StateDamaged>;
}

/// The state can't be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the partition's state is damaged")]
pub struct StateDamaged;

/// Bounds of a replica. They bound memory and repetition; safety depends on none of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Settings {
    /// Most bytes of entries in one message.
    pub message_bytes_max: usize,
    /// Most bytes of entries sent to one follower and not yet answered.
    pub window_bytes_max: usize,
    /// Appended and not yet committed: above this, new mutations are refused as overloaded.
    pub uncommitted_bytes_max: usize,
    /// Reads that wait for their round: above this, requests are refused as overloaded.
    pub reads_waiting_max: usize,
    /// Bytes of records in one part of a snapshot.
    pub chunk_bytes_max: usize,
    /// Bytes of the log that are kept for a replica that is behind; more than that, and it needs a snapshot (P23).
    pub log_bytes_max: usize,
    /// Bytes of the log that stay in memory for watchers after it was trimmed.
    pub history_bytes_max: usize,
    /// Ticks without an answer before something is sent again; doubles up to sixteen times this.
    pub resend_ticks: u32,
    /// Ticks without progress before the primary reports that it is stuck, and between two such reports.
    pub stuck_ticks: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            message_bytes_max: 1 << 20,
            window_bytes_max: 8 << 20,
            uncommitted_bytes_max: 64 << 20,
            reads_waiting_max: 100_000,
            chunk_bytes_max: 256 << 10,
            log_bytes_max: 16 << 20,
            history_bytes_max: 256 << 10,
            resend_ticks: 5,
            stuck_ticks: 50,
        }
    }
}
