//! What the replicas of one partition say to each other.
//!
//! Cluster, partition, sender and destination with their incarnations travel with the envelope and are checked there
//! (P6); what reaches a replica is from a member of the same cluster, for this partition and this start of this node.

use types::{Entry, EntryId, Record, RecordKey, Seq, Term};

/// A message of one term.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Message {
    /// The term it belongs to: the sender's as primary, or that of the primary it answers.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Body {
    /// P7, from the primary: these entries follow `prev`, without holes.
    Prepare {
        /// The entry before the first one sent.
        prev: EntryId,
        /// May be empty: then only `committed` and `held_by_all` are told (P10).
        entries: Vec<Entry>,
        /// What the primary knows to be committed.
        committed: Seq,
        /// Every replica has the log on disk through here: it may be trimmed.
        held_by_all: Seq,
    },
    /// P7: my durable log equals yours of this term through `seq`.
    Prepared {
        /// Through here.
        seq: Seq,
    },
    /// P7: `prev` is not in my log.
    Mismatch {
        /// The end of my log.
        last: EntryId,
        /// What I hold as committed: it equals yours.
        committed: Seq,
    },
    /// I have promised a higher term.
    Fenced {
        /// That term.
        promised: Term,
    },
    /// P4: no view names me for this partition.
    NotMember,
    /// P13, from a primary taking over: promise this term.
    Seal,
    /// P13: promised; this is where my log ends.
    Sealed {
        /// The end of my log, on disk.
        last: EntryId,
        /// What I hold as committed.
        committed: Seq,
    },
    /// P15: send me what follows `after`, of the log that ends at `last`.
    Fetch {
        /// My committed entries end here; they equal yours.
        after: Seq,
        /// What you sealed.
        last: EntryId,
    },
    /// P15: entries of the sealed log.
    Fetched {
        /// The entry before the first one sent.
        prev: EntryId,
        /// A part of the difference; ask again after its end until `last` is reached.
        entries: Vec<Entry>,
        /// What was asked for.
        last: EntryId,
    },
    /// P23, from the primary: a part of a snapshot.
    Chunk(Box<Chunk>),
    /// P23: the state has every part before `next`.
    ChunkTaken {
        /// Of which snapshot.
        snapshot: SnapshotId,
        /// The part that is wanted; 0 where nothing is known of the snapshot.
        next: u64,
        /// Every part before this one has arrived.
        arrived: u64,
        /// The highest number of that name among the parts that came before this was said.
        asked: u64,
    },
    /// P17: have you promised more than this term?
    Confirm {
        /// Names the round; later rounds of a term have greater numbers.
        nonce: u64,
    },
    /// P17: I had not, when I read the question.
    Confirmed {
        /// The round.
        nonce: u64,
    },
}

/// Names a snapshot among those of one partition that one start of a node sends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SnapshotId(pub u64);

/// A part of a snapshot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Chunk {
    /// Of which one.
    pub snapshot: SnapshotId,
    /// Its number, from 0.
    pub number: u64,
    /// The log follows after this entry, which is committed.
    pub start: EntryId,
    /// Records in the order in which they were read.
    pub records: Vec<(RecordKey, Record)>,
    /// This is the last part; the state is exact once the log is replayed through here.
    pub settled: Option<Seq>,
    /// How often the sender had asked again when it sent this: an answer that tells as much is no earlier than the last
    /// time.
    pub asked: u64,
}

impl Chunk {
    /// Bytes of names and values.
    pub fn bytes(&self) -> usize {
        self.records.iter().map(|(key, record)| key.name.len() + record.value.len()).sum()
    }
}

impl Body {
    /// A short name, for traces and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Body::Prepare { .. } => "prepare",
            Body::Prepared { .. } => "prepared",
            Body::Mismatch { .. } => "mismatch",
            Body::Fenced { .. } => "fenced",
            Body::NotMember => "not-member",
            Body::Seal => "seal",
            Body::Sealed { .. } => "sealed",
            Body::Fetch { .. } => "fetch",
            Body::Fetched { .. } => "fetched",
            Body::Chunk(_) => "chunk",
            Body::ChunkTaken { .. } => "chunk-taken",
            Body::Confirm { .. } => "confirm",
            Body::Confirmed { .. } => "confirmed",
        }
    }
}
