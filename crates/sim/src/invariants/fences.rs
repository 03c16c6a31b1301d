//! No write with an older fencing token is accepted after a newer one was used in that partition.

use super::Verdict;
use bytes::Bytes;
use std::collections::BTreeMap;
use types::{Batch, Entry, Fence, FencingToken, PartitionId, RequestId};

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
        let Some(fence) = batch.request.and_then(|request| self.asked.get(&request.id)) else { return Ok(()) };
        let newest = self.newest.entry((partition, fence.name.clone())).or_default();
        if fence.token < *newest {
            return Err(format!("{entry:?} was written with {}, after {newest}", fence.token));
        }
        *newest = fence.token;
        Ok(())
    }
}
