//! One term is served by one start of one node, once: it is never taken up again (P8, P11, P18).

use super::Verdict;
use std::collections::BTreeMap;
use types::{NodeId, PartitionId, Term};

#[derive(Debug, Default)]
pub(super) struct Serving {
    by_term: BTreeMap<(PartitionId, Term), (NodeId, u64)>,
}

impl Serving {
    pub(super) fn begins(&mut self, partition: PartitionId, term: Term, node: NodeId, start: u64) -> Verdict {
        match self.by_term.insert((partition, term), (node, start)) {
            None => Ok(()),
            Some((other, its_start)) => {
                Err(format!("start {start} begins to serve {term}, which start {its_start} of {other} served"))
            }
        }
    }
}
