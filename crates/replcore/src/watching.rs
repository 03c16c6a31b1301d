//! What watchers are shown: the committed part of the log, from any seq that is still there.
//!
//! A log goes on through all terms with the same seqs, and what is committed is in the log of every primary that serves
//! (P15, P16). So a seq is all that a watcher must remember: whoever serves next can go on after it, and nothing is missing
//! or told twice. Only what is committed is told; a deposed primary's committed entries are committed for ever, so it does
//! no harm to have heard of them from one that does not know yet that it is deposed.
//!
//! Where the log no longer has what comes next, the watcher is told so, never given something else. The log is trimmed as
//! it always was; a bounded *history* of what was trimmed stays in memory ([`Settings::history_bytes_max`]) so that a
//! watcher may be a little behind, and the primary a new one. A replica that was restarted, or got a snapshot, has none.
//!
//! [`Settings::history_bytes_max`]: crate::Settings::history_bytes_max

use crate::event::Answer;
use crate::mutants::{Mutant, on};
use crate::replica::{Replica, Role};
use bytes::Bytes;
use types::{Batch, ErrorCode, RecordKind, Seq};

/// One user's key, changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    /// The entry that changed it: its version.
    pub seq: Seq,
    /// The key.
    pub key: Bytes,
    /// Its new value; `None`: deleted.
    pub value: Option<Bytes>,
}

/// A part of what was committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fed {
    /// Users' keys that changed, in the order of the log.
    pub changes: Vec<Changed>,
    /// Everything through here is among them.
    pub through: Seq,
}

/// Why nothing can be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotFed {
    /// The replica does not serve.
    Refused(ErrorCode),
    /// What comes next is gone; this is the oldest that is there.
    Compacted(Seq),
    /// Nobody can have seen that much: only this much is committed.
    Beyond(Seq),
}

impl Replica {
    /// What was committed after `after`: at least one entry if there is one, and then no more than about `bytes_max`.
    ///
    /// # Errors
    /// [`NotFed`].
    pub fn committed_after(&self, after: Seq, bytes_max: usize) -> Result<Fed, NotFed> {
        let serves = matches!(&self.role, Role::Primary(primary) if primary.serving());
        if !serves {
            let Answer::Error(code) = self.refusal() else { return Err(NotFed::Refused(ErrorCode::Unavailable)) };
            return Err(NotFed::Refused(code));
        }
        let end = if on(Mutant::WatchUncommitted) { self.log.last().seq } else { self.committed };
        let from = match after {
            after if after > end => return Err(NotFed::Beyond(end)),
            after if on(Mutant::WatchLate) && after < end => after.next(),
            after if on(Mutant::WatchEarly) => after.before(),
            after => after,
        };
        let oldest = self.log.oldest();
        let from = if on(Mutant::WatchTrimmed) { from.max(oldest.before()) } else { from };
        let Some(entries) = self.log.following(from, end) else { return Err(NotFed::Compacted(oldest)) };
        let mut fed = Fed { changes: Vec::new(), through: from };
        let mut bytes = 0;
        for entry in entries {
            bytes += entry.payload.len();
            if bytes > bytes_max && fed.through > from {
                break;
            }
            let seq = entry.id.seq;
            let batch = Batch::decode(&entry.payload).expect("an entry is decoded before it is appended");
            let users = batch.changes.into_iter().filter(|change| change.key.kind == RecordKind::User);
            fed.changes.extend(users.map(|change| Changed { seq, key: change.key.name, value: change.value }));
            fed.through = seq;
        }
        Ok(fed)
    }

    /// Whether this replica serves, and through where everything is committed.
    pub fn serves_through(&self) -> Option<Seq> {
        matches!(&self.role, Role::Primary(primary) if primary.serving()).then_some(self.committed)
    }
}
