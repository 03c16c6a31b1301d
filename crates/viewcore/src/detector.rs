//! When a node counts as dead (P21).
//!
//! - Silence for longer than the timeout, but not before this leader has led for one timeout, and not where more than a
//!   third of the nodes would go at once: then the leader itself may be the one cut off, and it needs evidence. Nodes
//!   that have been quiet for half the timeout count towards the third: who is cut off from all loses them one by one.
//! - A leader that was itself asleep heard nobody meanwhile: it waits one timeout anew.
//! - A refused connection is evidence: nothing listens where the node said it would. It counts at once for a node that
//!   this leader has heard from, otherwise after the first timeout, because whole clusters start up in any order.
//!
//! Wrong suspicion costs a change of order, never data. Time is milliseconds of any clock that does not jump back.

use crate::mutants::{Mutant, on};
use std::collections::{BTreeMap, BTreeSet};
use types::NodeId;

/// What one leader knows about who is alive.
#[derive(Clone, Debug)]
pub struct Detector {
    timeout_ms: u64,
    /// Since when it has been leading, and awake.
    leading_since_ms: u64,
    last_tick_ms: u64,
    heard_ms: BTreeMap<NodeId, u64>,
    refused: BTreeSet<NodeId>,
    /// When each node was last declared dead by its silence: they still count towards the third for one timeout.
    silenced_ms: BTreeMap<NodeId, u64>,
}

/// Who is dead, and who would be if there were evidence.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// To be declared dead now.
    pub dead: BTreeSet<NodeId>,
    /// Silent, but too many at once: they wait for evidence, or an operator.
    pub held_back: BTreeSet<NodeId>,
}

impl Detector {
    /// The detector of a leader that began to lead at `now_ms`.
    pub fn new(timeout_ms: u64, now_ms: u64) -> Detector {
        Detector {
            timeout_ms,
            leading_since_ms: now_ms,
            last_tick_ms: now_ms,
            heard_ms: BTreeMap::new(),
            refused: BTreeSet::new(),
            silenced_ms: BTreeMap::new(),
        }
    }

    /// Time passes: to be called many times per timeout. Where it was not, this leader was asleep.
    pub fn tick(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.last_tick_ms) > self.timeout_ms / 2 {
            self.leading_since_ms = now_ms;
        }
        self.last_tick_ms = now_ms;
    }

    /// The node registered, or sent a heartbeat: it lives, whatever was known against it.
    pub fn heard(&mut self, node: NodeId, now_ms: u64) {
        self.heard_ms.insert(node, now_ms);
        self.refused.remove(&node);
        self.silenced_ms.remove(&node);
    }

    /// A connection to the node's address was refused, and it has none open.
    pub fn refused(&mut self, node: NodeId) {
        self.refused.insert(node);
    }

    /// Milliseconds since the node was last heard by this leader.
    pub fn silent_for_ms(&self, node: NodeId, now_ms: u64) -> Option<u64> {
        Some(now_ms.saturating_sub(*self.heard_ms.get(&node)?))
    }

    /// Whether this leader heard the node within the timeout, and nothing speaks against it since.
    pub fn answers(&self, node: NodeId, now_ms: u64) -> bool {
        !self.refused.contains(&node)
            && self.silent_for_ms(node, now_ms).is_some_and(|silent| silent <= self.timeout_ms)
    }

    /// Who of the nodes that are believed alive is not.
    pub fn verdict(&self, alive: &BTreeSet<NodeId>, now_ms: u64) -> Verdict {
        let led_long_enough = now_ms.saturating_sub(self.leading_since_ms) > self.timeout_ms || on(Mutant::P21AtOnce);
        let with_evidence =
            |node: &NodeId| self.refused.contains(node) && (led_long_enough || self.heard_ms.contains_key(node));
        let mut dead: BTreeSet<NodeId> = alive.iter().copied().filter(with_evidence).collect();
        if !led_long_enough {
            return Verdict { dead, held_back: BTreeSet::new() };
        }
        let silent: BTreeSet<NodeId> =
            alive.iter().copied().filter(|node| !dead.contains(node) && !self.answers(*node, now_ms)).collect();
        let gone_before = self
            .silenced_ms
            .iter()
            .filter(|(node, at)| !alive.contains(node) && now_ms.saturating_sub(**at) <= self.timeout_ms)
            .count();
        let is_quiet = |node: &&NodeId| {
            !dead.contains(node)
                && self.silent_for_ms(**node, now_ms).is_none_or(|silent_ms| silent_ms > self.timeout_ms / 2)
        };
        let quiet = alive.iter().filter(is_quiet).count();
        let too_many = (dead.len() + quiet + gone_before) * 3 > alive.len() + gone_before;
        if too_many && !on(Mutant::P21Third) {
            return Verdict { dead, held_back: silent };
        }
        dead.extend(silent);
        Verdict { dead, held_back: BTreeSet::new() }
    }

    /// The nodes were declared dead. Those without evidence count towards the third for one timeout more.
    pub fn declared_dead(&mut self, nodes: &[NodeId], now_ms: u64) {
        for node in nodes.iter().filter(|node| !self.refused.contains(node)) {
            self.silenced_ms.insert(*node, now_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards P21: a leader that is cut off from everybody and buries the first third before it notices the rest.
    #[test]
    fn nodes_that_fall_silent_one_after_the_other_are_many_at_once() {
        let alive: BTreeSet<NodeId> = (1..=6).map(NodeId).collect();
        let mut detector = Detector::new(1_000, 0);
        // Their heartbeats came 20 ms apart when the line was cut.
        for node in &alive {
            detector.heard(*node, 5_000 + 20 * node.0);
        }
        for now_ms in (5_000..8_000).step_by(10) {
            detector.tick(now_ms);
            assert_eq!(detector.verdict(&alive, now_ms).dead, BTreeSet::new(), "at {now_ms}");
        }
        // One that is alone in its silence is not held back.
        for node in (1..=5).map(NodeId) {
            detector.heard(node, 8_000);
        }
        assert_eq!(detector.verdict(&alive, 8_010).dead, BTreeSet::from([NodeId(6)]));
    }

    /// Guards P21: nodes whose connections were refused, which count as evidence, are held against the others that are
    /// silent; and nodes that were silent, which are not, because they are dead already.
    #[test]
    fn only_silence_counts_towards_the_third() {
        let alive: BTreeSet<NodeId> = (1..=6).map(NodeId).collect();
        let still: BTreeSet<NodeId> = (3..=6).map(NodeId).collect();
        for refused in [true, false] {
            let mut detector = Detector::new(1_000, 0);
            for now_ms in (0..3_000).step_by(100) {
                detector.tick(now_ms);
                alive.iter().for_each(|node| detector.heard(*node, now_ms));
            }
            if refused {
                detector.refused(NodeId(1));
                detector.refused(NodeId(2));
            }
            detector.declared_dead(&[NodeId(1), NodeId(2)], 3_000);
            // One of the four that are left falls silent.
            for now_ms in (3_000..3_990).step_by(10) {
                detector.tick(now_ms);
                (4..=6).for_each(|node| detector.heard(NodeId(node), now_ms));
            }
            let verdict = detector.verdict(&still, 3_990);
            let (dead, held_back) = if refused { (1, 0) } else { (0, 1) };
            assert_eq!((verdict.dead.len(), verdict.held_back.len()), (dead, held_back), "refused: {refused}");
        }
    }
}
