//! A request is carried out once, whatever is retried (P28), and never after the partition has forgotten its time.

use super::Verdict;
use std::collections::BTreeSet;
use types::{Batch, Entry, PartitionId, RequestId, Stamp};

#[derive(Debug)]
pub(super) struct Once {
    partitions: Vec<Partition>,
}

#[derive(Clone, Debug, Default)]
struct Partition {
    done: BTreeSet<RequestId>,
    forgotten_before: Stamp,
}

impl Once {
    pub(super) fn new(partitions: u32) -> Once {
        Once { partitions: vec![Partition::default(); partitions as usize] }
    }

    /// Whether some partition has carried it out.
    pub(super) fn was_done(&self, request: RequestId) -> bool {
        self.partitions.iter().any(|partition| partition.done.contains(&request))
    }

    /// An entry is committed, the next of its partition.
    pub(super) fn committed(&mut self, partition: PartitionId, entry: &Entry) -> Verdict {
        let batch = Batch::decode(&entry.payload).map_err(|error| format!("{entry:?}: {error}"))?;
        let known = &mut self.partitions[partition.0 as usize];
        if let Some(request) = batch.request {
            if request.outcome.version != entry.id.seq {
                return Err(format!("{entry:?} answers with version {}", request.outcome.version));
            }
            if request.stamp < known.forgotten_before {
                return Err(format!("{entry:?} carries out {:?} of {:?}, forgotten", request.id, request.stamp));
            }
            if !known.done.insert(request.id) {
                return Err(format!("{entry:?} carries out {:?} a second time", request.id));
            }
        }
        if let Some(stamp) = batch.forgotten_before {
            known.forgotten_before = known.forgotten_before.max(stamp);
        }
        Ok(())
    }
}
