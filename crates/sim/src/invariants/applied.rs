//! The state is handed only what is committed, and what the replica's own log has on disk (P1, P9).

use super::prefixes::Chosen;
use super::{Scene, Verdict};
use replcore::{Apply, Replica};

pub(super) fn check(chosen: &Chosen, scene: Scene<'_>, replica: &Replica, apply: &Apply) -> Verdict {
    let through = apply.through;
    if through.seq > replica.base().committed {
        return Err(format!("applies {through:?} and has committed {}", replica.base().committed));
    }
    if chosen.get(scene.partition, through.seq).is_none_or(|entry| entry.id != through) {
        return Err(format!("applies {through:?}, which is not committed"));
    }
    if !scene.folds().durable.holds(through) {
        return Err(format!("applies {through:?}, which its own log does not have on disk"));
    }
    Ok(())
}
