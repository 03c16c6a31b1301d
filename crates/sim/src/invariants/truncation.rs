//! What is committed anywhere is never replaced where it stands (P7): neither an entry that the replica itself calls
//! committed, nor one that it voted for and that was committed with its vote.

use super::prefixes::Chosen;
use super::{Scene, Verdict};
use replcore::PersistRecord;
use types::Seq;

pub(super) fn check(chosen: &Chosen, scene: Scene<'_>, record: &PersistRecord) -> Verdict {
    let PersistRecord::Append { entries, .. } = record else { return Ok(()) };
    let Some(first) = entries.first() else { return Err("writes an append without entries".into()) };
    let own = &scene.folds().written;
    let last = own.last();
    if first.id.seq.0 > last.seq.0 + 1 {
        return Err(format!("writes {:?} after {last:?}: a hole", first.id));
    }
    for seq in first.id.seq.0..=last.seq.0 {
        let (Some(there), Some(committed)) = (own.get(Seq(seq)), chosen.get(scene.partition, Seq(seq))) else {
            continue;
        };
        let replacement = entries.get((seq - first.id.seq.0) as usize);
        if there == committed && replacement != Some(there) {
            return Err(format!("replaces {there:?}, which is committed, by {replacement:?}"));
        }
    }
    Ok(())
}
