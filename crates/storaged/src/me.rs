//! Who this node is, once the viewleaders have accepted it.

use bytes::Bytes;
use types::{ClusterId, Epoch, Incarnation, NodeId};

/// This start of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Me {
    /// Its cluster.
    pub(crate) cluster: ClusterId,
    /// Its id.
    pub(crate) node: NodeId,
    /// Its start count.
    pub(crate) incarnation: Incarnation,
    /// The epoch at which this start was first accepted (P11).
    pub(crate) accepted_at: Epoch,
}

impl Me {
    /// The cluster's id as messages carry it.
    pub(crate) fn cluster_bytes(&self) -> Bytes {
        wire::convert::cluster_to_wire(self.cluster)
    }
}
