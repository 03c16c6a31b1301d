//! Fencing: a write that comes with an older token than the partition has seen for that name is refused.
//!
//! The partition keeps the newest token of each name in a hidden record, which is state like any other: it is in the log,
//! in snapshots, and survives whatever keys survive. A token is judged like a condition, against the state and everything
//! appended (P12). A newer one is kept in the same entry as the write it came with; if that write's condition fails, or
//! there is nothing to delete, in an entry of its own, because its sender has learned something about the key that no
//! older holder may change any more.
//!
//! What holds, and where: in one partition, so for every single key, no write with an older token is accepted after a
//! newer one was used. Another partition learns of a newer token with the first write that brings it there.

use crate::event::{Answer, Effect, State};
use crate::mutants::{Mutant, on};
use crate::replica::{Replica, Role};
use bytes::{Bytes, BytesMut};
use types::entry::{put_varint, take_varint};
use types::{Change, Fence, FencingToken, Record, RecordKey, RecordKind, Seq};

/// How a write's token stands to what the partition has seen.
pub(crate) enum Judged {
    /// Older: refused. The answer saw the log through `seen`.
    Older { answer: Answer, newest: FencingToken, seen: Seq },
    /// The one that is kept already.
    Same,
    /// Newer: this must be kept with whatever becomes of the write.
    Newer(Change),
}

impl Replica {
    /// Judges a write's token; `None`: the state is damaged.
    pub(crate) fn judge_fence(
        &mut self,
        fence: &Fence,
        state: &dyn State,
        effects: &mut Vec<Effect>,
    ) -> Option<Judged> {
        let key = RecordKey { kind: RecordKind::Fence, name: fence.name.clone() };
        let (kept, seen) = if on(Mutant::FenceAppended) {
            (self.committed_record(&key, state, effects)?, Seq(0))
        } else {
            self.newest(&key, state, effects)?
        };
        let of_this_term = |record: &Record| matches!(&self.role, Role::Primary(p) if record.seq >= p.start());
        let newest = match kept.filter(|record| !on(Mutant::FenceTakeover) || of_this_term(record)) {
            Some(record) => match take_varint(&mut record.value.clone()) {
                Ok(newest) => FencingToken(newest),
                // P3: no replica writes such a record.
                Err(_) => {
                    self.go_out_of_service(effects);
                    return None;
                }
            },
            None => FencingToken(0),
        };
        Some(if fence.token < newest && !on(Mutant::FenceOlder) {
            Judged::Older { answer: Answer::Fenced { newest }, newest, seen }
        } else if fence.token <= newest {
            Judged::Same
        } else {
            Judged::Newer(Change { key, value: Some(encode(fence.token)) })
        })
    }
}

fn encode(token: FencingToken) -> Bytes {
    let mut out = BytesMut::with_capacity(10);
    put_varint(&mut out, token.0);
    out.freeze()
}
