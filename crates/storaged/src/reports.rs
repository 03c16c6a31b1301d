//! What the viewleader should hear: a board that shards and peer streams write on and the session reads from.
//!
//! A board instead of a queue: what is reported again replaces what it repeats, so it is bounded by the number of
//! partitions and nodes however long no viewleader is reachable, and nothing on it is ever lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use types::{LeaseId, NodeId, PartitionId, Term};
use wire::v1;
use wire::v1::node_message::Message;

/// Transactions that a heartbeat tells of.
pub(crate) const DOUBTS_MAX: usize = 8;
/// Leases in one message.
const LEASES_TOLD_MAX: usize = 10_000;

/// Everything there is to report.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    board: Mutex<Board>,
    urgent: Notify,
}

#[derive(Debug, Default)]
struct Board {
    /// What serves here, and whom it waits for (P19).
    serving: BTreeMap<PartitionId, Serving>,
    /// Of `serving`, what this session has not said yet; absent there: ceased.
    changed: BTreeSet<PartitionId>,
    activated: BTreeMap<PartitionId, Term>,
    stuck: BTreeMap<PartitionId, (Term, Vec<NodeId>, Option<NodeId>)>,
    damaged: BTreeMap<PartitionId, Term>,
    /// Transactions that take long, by shard: lines for people.
    doubts: BTreeMap<usize, Vec<String>>,
    /// Peers whose machine refused a connection and that have not come back since.
    suspects: BTreeSet<NodeId>,
    unsaid_suspects: BTreeSet<NodeId>,
    /// Leases that keys live as long as, and the shards which serve such.
    leases: BTreeMap<LeaseId, BTreeSet<usize>>,
    unsaid_leases: BTreeSet<LeaseId>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Serving {
    term: Term,
    behind: Vec<NodeId>,
    filled: Option<NodeId>,
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, Board> {
        // Nothing that runs under the lock leaves the board half-changed.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A partition begins (`Some`) or ceases to serve here.
    pub(crate) fn serving(&self, partition: PartitionId, term: Option<Term>) {
        let mut board = self.lock();
        match term {
            Some(term) => board.serving.insert(partition, Serving { term, behind: Vec::new(), filled: None }),
            None => board.serving.remove(&partition),
        };
        board.changed.insert(partition);
    }

    /// Who lacks more than a moment's entries of a partition that serves here, and the learner if it lacks no more.
    pub(crate) fn followers(&self, partition: PartitionId, behind: Vec<NodeId>, filled: Option<NodeId>) {
        let mut board = self.lock();
        if let Some(serving) = board.serving.get_mut(&partition)
            && (&serving.behind, serving.filled) != (&behind, filled)
        {
            let is_waited_for = filled.is_some() && serving.filled != filled;
            (serving.behind, serving.filled) = (behind, filled);
            board.changed.insert(partition);
            drop(board);
            if is_waited_for {
                self.urgent.notify_one();
            }
        }
    }

    /// How many partitions serve here.
    pub(crate) fn serving_count(&self) -> usize {
        self.lock().serving.len()
    }

    /// P16.
    pub(crate) fn activated(&self, partition: PartitionId, term: Term) {
        self.lock().activated.insert(partition, term);
        self.urgent.notify_one();
    }

    /// P19.
    pub(crate) fn stuck(&self, partition: PartitionId, term: Term, unreachable: Vec<NodeId>, holder: Option<NodeId>) {
        self.lock().stuck.insert(partition, (term, unreachable, holder));
        self.urgent.notify_one();
    }

    /// A shard's transactions that take long.
    pub(crate) fn doubts(&self, shard: usize, lines: Vec<String>) {
        if lines.is_empty() {
            self.lock().doubts.remove(&shard);
        } else {
            self.lock().doubts.insert(shard, lines);
        }
    }

    /// Some of the transactions that take long.
    pub(crate) fn some_doubts(&self) -> Vec<String> {
        self.lock().doubts.values().flatten().take(DOUBTS_MAX).cloned().collect()
    }

    /// P3.
    pub(crate) fn damaged(&self, partition: PartitionId, term: Term) {
        self.lock().damaged.insert(partition, term);
        self.urgent.notify_one();
    }

    /// A shard begins or ceases to serve keys that live as long as this lease.
    pub(crate) fn relies(&self, shard: usize, lease: LeaseId, begins: bool) {
        let mut board = self.lock();
        let board = &mut *board;
        let shards = board.leases.entry(lease).or_default();
        if begins {
            shards.insert(shard);
            // Also where another shard has it: the answer to that one may have come and gone.
            board.unsaid_leases.insert(lease);
            return;
        }
        shards.remove(&shard);
        if shards.is_empty() {
            board.leases.remove(&lease);
            board.unsaid_leases.remove(&lease);
        }
    }

    /// Leases that have not been told of, as many as fit a message.
    pub(crate) fn take_leases(&self) -> Vec<u64> {
        let mut board = self.lock();
        std::iter::from_fn(|| board.unsaid_leases.pop_first()).take(LEASES_TOLD_MAX).map(|lease| lease.0).collect()
    }

    /// A peer's machine refused a connection: nobody listens there.
    pub(crate) fn suspect(&self, node: NodeId) {
        let mut board = self.lock();
        if board.suspects.insert(node) {
            board.unsaid_suspects.insert(node);
            drop(board);
            self.urgent.notify_one();
        }
    }

    /// A suspect is back.
    pub(crate) fn trust(&self, node: NodeId) {
        let mut board = self.lock();
        board.suspects.remove(&node);
        board.unsaid_suspects.remove(&node);
    }

    /// P8: somebody has promised a higher term: the next heartbeat should leave now, it brings the newest view.
    pub(crate) fn want_view(&self) {
        self.urgent.notify_one();
    }

    /// Resolves when something should leave before the next heartbeat is due.
    pub(crate) async fn urgent(&self) {
        self.urgent.notified().await;
    }

    /// A new session knows nothing.
    pub(crate) fn begin_session(&self) {
        let mut board = self.lock();
        board.changed = board.serving.keys().copied().collect();
        board.unsaid_suspects = board.suspects.clone();
        board.unsaid_leases = board.leases.keys().copied().collect();
    }

    /// What began, ceased or changed to serve since this was last asked.
    pub(crate) fn take_serving(&self) -> Vec<v1::Serving> {
        let mut board = self.lock();
        let changed = std::mem::take(&mut board.changed);
        let said = changed.into_iter().map(|partition| {
            let serving = board.serving.get(&partition);
            v1::Serving {
                partition: partition.0,
                term: serving.map_or(0, |serving| serving.term.0),
                behind: serving.map_or_else(Vec::new, |serving| numbers(&serving.behind)),
                filled: serving.and_then(|serving| serving.filled).unwrap_or_default().0,
            }
        });
        said.collect()
    }

    /// Of everything else that has not been said, at most `count` messages: the most urgent first.
    pub(crate) fn take_messages(&self, count: usize) -> Vec<Message> {
        let mut board = self.lock();
        let board = &mut *board;
        let mut messages = Vec::new();
        while messages.len() < count {
            let message = if let Some(node) = board.unsaid_suspects.pop_first() {
                Message::Suspect(v1::Suspect { node: node.0 })
            } else if let Some((partition, term)) = board.damaged.pop_first() {
                Message::Damaged(v1::Damaged { partition: partition.0, term: term.0 })
            } else if let Some((partition, term)) = board.activated.pop_first() {
                Message::Activated(v1::Activated { partition: partition.0, term: term.0 })
            } else if let Some((partition, (term, unreachable, holder))) = board.stuck.pop_first() {
                let unreachable = numbers(&unreachable);
                let holder = holder.unwrap_or_default().0;
                Message::Stuck(v1::Stuck { partition: partition.0, term: term.0, unreachable, holder })
            } else {
                break;
            };
            messages.push(message);
        }
        messages
    }
}

fn numbers(nodes: &[NodeId]) -> Vec<u64> {
    nodes.iter().map(|node| node.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a new leader that is never told what serves here, or whom a node suspects.
    #[test]
    fn a_new_session_hears_everything_again() {
        let reports = Reports::default();
        reports.serving(PartitionId(3), Some(Term(7)));
        reports.followers(PartitionId(3), vec![NodeId(2)], Some(NodeId(4)));
        reports.suspect(NodeId(9));
        let expected = vec![v1::Serving { partition: 3, term: 7, behind: vec![2], filled: 4 }];
        for _ in 0..2 {
            reports.begin_session();
            assert_eq!(reports.take_serving(), expected);
            assert_eq!(reports.take_messages(usize::MAX), [Message::Suspect(v1::Suspect { node: 9 })]);
            assert!(reports.take_serving().is_empty() && reports.take_messages(usize::MAX).is_empty());
        }
        reports.trust(NodeId(9));
        reports.serving(PartitionId(3), None);
        assert_eq!(reports.take_serving(), [v1::Serving { partition: 3, term: 0, behind: vec![], filled: 0 }]);
        reports.begin_session();
        assert!(reports.take_serving().is_empty() && reports.take_messages(usize::MAX).is_empty());
    }

    /// Guards against keys that outlive their lease because a new leader was not told of them, or because a shard that
    /// comes late to a lease hears nothing.
    #[test]
    fn leases_are_told_to_each_session_and_for_each_shard() {
        let (reports, lease) = (Reports::default(), LeaseId(7));
        reports.relies(0, lease, true);
        assert_eq!(reports.take_leases(), [7]);
        assert!(reports.take_leases().is_empty());
        reports.relies(1, lease, true);
        assert_eq!(reports.take_leases(), [7]);
        reports.relies(0, lease, false);
        reports.begin_session();
        assert_eq!(reports.take_leases(), [7]);
        reports.relies(1, lease, false);
        reports.begin_session();
        assert!(reports.take_leases().is_empty());
    }

    /// Guards against a queue that grows while no viewleader is reachable.
    #[test]
    fn what_is_repeated_is_kept_once() {
        let reports = Reports::default();
        for term in 1..1000 {
            reports.stuck(PartitionId(1), Term(term), vec![NodeId(2)], None);
            reports.activated(PartitionId(1), Term(term));
        }
        assert_eq!(reports.take_messages(usize::MAX).len(), 2);
    }

    /// Guards against a node whose reports don't fit the stream at once and that therefore reports nothing.
    #[test]
    fn many_reports_leave_bit_by_bit() {
        let reports = Reports::default();
        for partition in 0..1000 {
            reports.damaged(PartitionId(partition), Term(1));
        }
        let mut said = 0;
        while let count @ 1.. = reports.take_messages(255).len() {
            assert!(count <= 255);
            said += count;
        }
        assert_eq!(said, 1000);
    }
}
