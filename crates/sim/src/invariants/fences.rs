//! No write with an older fencing token is accepted after a newer one was used in that partition.

use super::Verdict;
use bytes::Bytes;
use std::collections::BTreeMap;
use types::{Batch, Change, Entry, Fence, FencingToken, PartitionId, RecordKind, RequestId};

#[derive(Debug, Default)]
pub(super) struct Fences {
    /// What each fenced request came with.
    asked: BTreeMap<RequestId, Fence>,
    newest: BTreeMap<(PartitionId, Bytes), FencingToken>,
}

impl Fences {
    /// A client sends a fenced write.
    pub(super) fn asked(&mut self, request: RequestId, fence: &Fence) {
        self.asked.insert(request, fence.clone());
    }

    /// An entry is committed, the next of its partition.
    pub(super) fn committed(&mut self, partition: PartitionId, entry: &Entry) -> Verdict {
        let batch = Batch::decode(&entry.payload).map_err(|error| format!("{entry:?}: {error}"))?;
        // What a transaction writes elsewhere than at its home carries no request.
        let written = batch.changes.iter().filter_map(writer).chain(batch.request.map(|request| request.id));
        for fence in written.filter_map(|request| self.asked.get(&request)) {
            let newest = self.newest.entry((partition, fence.name.clone())).or_default();
            if fence.token < *newest {
                return Err(format!("{entry:?} was written with {}, after {newest}", fence.token));
            }
            *newest = fence.token;
        }
        Ok(())
    }
}

/// Whose request wrote a client's value: clients write their number and the operation's into each.
fn writer(change: &Change) -> Option<RequestId> {
    if change.key.kind != RecordKind::User || change.key.name.starts_with(b"t") {
        return None; // keys that expire are not the clients'
    }
    let text = std::str::from_utf8(change.value.as_ref()?).ok()?;
    let mut numbers = text.split('.').map(|number| number.parse::<u64>().ok());
    Some(RequestId { client: numbers.next()?? + 1, counter: numbers.next()?? })
}
