//! What is committed, and so everything that is acknowledged, is on the disks of a majority (P2, P9); and the number of
//! replicas that an answer names is not more than there are.

use super::{Scene, Verdict};
use replcore::Replica;
use types::{Configuration, EntryId, NodeId, Seq};

pub(super) fn committed(scene: Scene<'_>, members: &[NodeId], id: EntryId) -> Verdict {
    let holders = scene.holders(members, id);
    if holders < Configuration::majority_of(members) {
        return Err(format!("calls {id:?} committed, which is on the disks of {holders} of {}", members.len()));
    }
    Ok(())
}

pub(super) fn check(scene: Scene<'_>, replica: &Replica, members: &[NodeId], version: Seq, durable_on: u32) -> Verdict {
    if version > replica.base().committed {
        return Err(format!("acknowledges {version} and has committed {}", replica.base().committed));
    }
    let entry = scene.folds().written.get(version).ok_or_else(|| format!("acknowledges {version}, which it lacks"))?;
    let holders = scene.holders(members, entry.id);
    if holders < Configuration::majority_of(members) || holders < durable_on as usize {
        return Err(format!("acknowledges {:?} as on {durable_on} disks; it is on {holders}", entry.id));
    }
    Ok(())
}
