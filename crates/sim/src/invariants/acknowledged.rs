//! What is committed, and so everything that is acknowledged, is on the disks of a majority (P2, P9): of the members of
//! some configuration that may have committed it; and the number of replicas that an answer names is not more than hold it,
//! as long as no later configuration has let any of them go: a primary that was stopped may answer long after that.

use super::{Scene, Verdict};
use replcore::Replica;
use std::collections::BTreeMap;
use types::{Configuration, EntryId, NodeId, Seq, Term};

/// Members of every configuration that there was.
pub(super) type Members = BTreeMap<Term, Vec<NodeId>>;

pub(super) fn committed(scene: Scene<'_>, members: &Members, id: EntryId) -> Verdict {
    let enough = |members: &Vec<NodeId>| scene.holders(members, id) >= Configuration::majority_of(members);
    if !members.range(id.term..).any(|(_, members)| enough(members)) {
        return Err(format!("calls {id:?} committed, which is on the disks of no majority"));
    }
    Ok(())
}

pub(super) fn check(scene: Scene<'_>, replica: &Replica, members: &Members, version: Seq, durable_on: u32) -> Verdict {
    if version > replica.base().committed {
        return Err(format!("acknowledges {version} and has committed {}", replica.base().committed));
    }
    let written = &scene.folds().written;
    let Some(entry) = written.get(version) else {
        return match version <= written.start().seq {
            true => Ok(()),
            false => Err(format!("acknowledges {version}, which it lacks")),
        };
    };
    committed(scene, members, entry.id)?;
    let holds = |members: &Vec<NodeId>| scene.holders(members, entry.id) >= durable_on as usize;
    let is_newest = members.keys().next_back().is_none_or(|newest| *newest <= replica.base().promised);
    if is_newest && !members.range(entry.id.term..).any(|(_, members)| holds(members)) {
        return Err(format!("acknowledges {:?} as on {durable_on} disks; it is on fewer", entry.id));
    }
    Ok(())
}
