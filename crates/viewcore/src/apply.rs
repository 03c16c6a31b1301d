//! Carrying out commands: checks, then exactly one change of the epoch, or none.

use crate::Coordination;
use crate::command::{Bootstrap, Command, Done, Outcome, Refusal};
use crate::coordination;
use crate::mutants::{Mutant, on};
use crate::state::{ClusterState, NODES_MAX};
use std::collections::BTreeSet;
use std::sync::Arc;
use types::limits::REPLICATION_MAX;
use types::{ClusterId, Epoch, NodeId, PartitionId, Term, View};

impl ClusterState {
    /// Carries out one command. Total and deterministic; a refused command leaves the state as it was, except that a
    /// registration from the future stops the group (P20).
    pub fn apply(&mut self, command: &Command) -> Outcome {
        if let Some(alarm) = &self.halted {
            return Err(Refusal::Halted(alarm.clone()));
        }
        if let Command::Bootstrap(bootstrap) = command {
            return self.bootstrap(bootstrap);
        }
        let view = self.view.clone().ok_or(Refusal::NotBootstrapped)?;
        match command {
            Command::Bootstrap(_) => Ok(Done::Bootstrapped(view.cluster)),
            Command::Register(registration) => self.register(&view, registration),
            Command::Change(change) => self.change(&view, change),
            Command::Activated { partition, term } => self.activated(&view, *partition, *term),
            Command::NoteDamage { node, partition, term } => self.note_damage(&view, *node, *partition, *term),
            Command::ActivatedAll(activations) => Ok(self.activated_all(&view, activations)),
            Command::Operate(operation) => self.operate(&view, operation),
            Command::Coordinate(_) => Err(Refusal::BadPlan("leases and locks are not the view's".into())),
        }
    }

    /// Carries out what clients ask of leases and locks, which stop where the view stops; names of locks that changed
    /// are added to `touched`. The view stays as it is.
    ///
    /// # Errors
    /// [`Refusal::Halted`] and [`Refusal::NotBootstrapped`], and then nothing was done.
    pub fn coordinate(
        &self,
        coordination: &mut Coordination,
        requests: &[coordination::Request],
        touched: &mut BTreeSet<String>,
    ) -> Outcome {
        if let Some(alarm) = &self.halted {
            return Err(Refusal::Halted(alarm.clone()));
        }
        if self.view.is_none() {
            return Err(Refusal::NotBootstrapped);
        }
        Ok(Done::Coordinated(requests.iter().map(|request| coordination.apply(request, touched)).collect()))
    }

    fn bootstrap(&mut self, bootstrap: &Bootstrap) -> Outcome {
        if let Some(view) = &self.view {
            return Ok(Done::Bootstrapped(view.cluster));
        }
        if bootstrap.cluster == ClusterId::NONE {
            return Err(Refusal::Settings("a cluster id of zero stands for none".into()));
        }
        if bootstrap.replication == 0 || bootstrap.replication > REPLICATION_MAX {
            return Err(Refusal::Settings(format!("--replication is 1 to {REPLICATION_MAX}")));
        }
        if bootstrap.expected_nodes == 0 || bootstrap.expected_nodes as usize > NODES_MAX {
            return Err(Refusal::Settings(format!("--expect-nodes is 1 to {NODES_MAX}")));
        }
        let mut view = View::new(bootstrap.cluster, bootstrap.partition_count, bootstrap.replication);
        view.epoch = Epoch(1);
        self.view = Some(Arc::new(view));
        self.expected_nodes = bootstrap.expected_nodes;
        Ok(Done::Bootstrapped(bootstrap.cluster))
    }

    // P16, P20: accepted again while its term is current.
    fn activated(&mut self, view: &View, partition: PartitionId, term: Term) -> Outcome {
        let configuration = view.configuration(partition).ok_or(Refusal::NoSuchPartition(partition))?;
        if configuration.term != term && !on(Mutant::P16AnyTerm) {
            return Err(Refusal::StaleTerm { partition, current: configuration.term, presented: term });
        }
        if !configuration.is_activated() {
            self.next_epoch(|view, _| {
                if let Some(configuration) = view.configurations.get_mut(partition.0 as usize) {
                    Arc::make_mut(configuration).prior.clear();
                }
            });
            self.forget_damage();
        }
        Ok(Done::Activated)
    }

    // P16, P20.
    fn activated_all(&mut self, view: &View, activations: &[(PartitionId, Term)]) -> Done {
        let current = |(partition, term): &(PartitionId, Term)| {
            view.configuration(*partition).is_some_and(|configuration| configuration.term == *term)
        };
        let accepted: Vec<bool> = activations.iter().map(current).collect();
        let waiting = |partition: PartitionId| view.configuration(partition).is_some_and(|now| !now.is_activated());
        let activated: Vec<PartitionId> = activations
            .iter()
            .zip(&accepted)
            .filter(|((partition, _), accepted)| **accepted && waiting(*partition))
            .map(|((partition, _), _)| *partition)
            .collect();
        if !activated.is_empty() {
            self.next_epoch(|view, _| {
                for partition in activated {
                    if let Some(configuration) = view.configurations.get_mut(partition.0 as usize) {
                        Arc::make_mut(configuration).prior.clear();
                    }
                }
            });
            self.forget_damage();
        }
        Done::ActivatedAll(accepted)
    }

    // P3. A repeated report gets the first one's epoch: the views since then are still after it. One that comes so late that
    // the replica may have been let go and filled again since is not believed: whoever is damaged says so again.
    fn note_damage(&mut self, view: &View, node: NodeId, partition: PartitionId, term: Term) -> Outcome {
        if !view.nodes.contains_key(&node) {
            return Err(Refusal::UnknownNode(node));
        }
        if partition.0 >= view.partition_count.get() {
            return Err(Refusal::NoSuchPartition(partition));
        }
        let current = view.configuration(partition).map_or(Term(0), |configuration| configuration.term);
        if term < current && !on(Mutant::P3Late) {
            return Err(Refusal::StaleTerm { partition, current, presented: term });
        }
        if !view.configuration(partition).is_some_and(|configuration| configuration.votes(node)) {
            // The view that ends it must come after the one that is noted, and must not name it as a voter.
            self.moves.retain(|moved, underway| *moved != partition || underway.joins != node);
            self.next_epoch(|view, _| {
                if let Some(configuration) = view.configurations.get_mut(partition.0 as usize)
                    && configuration.learner == Some(node)
                {
                    Arc::make_mut(configuration).learner = None;
                }
            });
            return Ok(Done::DamageNoted(view.epoch));
        }
        let epoch = *self.out_of_service.entry((partition, node)).or_insert(view.epoch);
        Ok(Done::DamageNoted(epoch))
    }

    /// One event is one change: `edit` gets the view, and the term that begins with it.
    pub(crate) fn next_epoch(&mut self, edit: impl FnOnce(&mut View, Term)) {
        if let Some(view) = &mut self.view {
            let view = Arc::make_mut(view);
            view.epoch = view.epoch.next();
            edit(view, Term::begun_at(view.epoch));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Cause, Change, Registration};
    use types::{BootNonce, Configuration, Incarnation, PartitionCount};

    /// One partition on nodes 1 and 2 that is not activated: its last activated members are 2 and 3.
    fn with_prior() -> ClusterState {
        let mut state = ClusterState::default();
        let bootstrap = Bootstrap {
            cluster: ClusterId(7),
            partition_count: PartitionCount::new(1).unwrap(),
            replication: 2,
            expected_nodes: 3,
        };
        state.apply(&Command::Bootstrap(bootstrap)).unwrap();
        for nonce in 1..=3 {
            state.apply(&Command::Register(registration(None, 1, nonce))).unwrap();
        }
        let view = Arc::make_mut(state.view.as_mut().unwrap());
        let replicas = vec![NodeId(1), NodeId(2)];
        let prior = vec![NodeId(2), NodeId(3)];
        view.configurations = vec![Arc::new(Configuration { term: Term(4), replicas, learner: None, prior })];
        state
    }

    fn registration(node: Option<NodeId>, incarnation: u64, nonce: u64) -> Registration {
        Registration {
            cluster: if node.is_some() { ClusterId(7) } else { ClusterId::NONE },
            node,
            incarnation: Incarnation(incarnation),
            nonce: BootNonce(nonce),
            address: "host:1".into(),
            http_address: String::new(),
            zone: String::new(),
            weight: 100,
            highest_epoch: Epoch(0),
            highest_promised: Term(0),
        }
    }

    fn configuration(state: &ClusterState) -> &Configuration {
        state.view().unwrap().configuration(PartitionId(0)).unwrap()
    }

    /// Guards P18, scenario 15: a change of order, or a new term for a restarted primary, that loses the prior members.
    #[test]
    fn a_change_of_order_keeps_the_prior_there_is() {
        let mut state = with_prior();
        let change = Change {
            dead: vec![NodeId(1)],
            placements: vec![(PartitionId(0), vec![NodeId(2), NodeId(1)])],
            ..Change::new(state.epoch(), Cause::Failover)
        };
        state.apply(&Command::Change(change)).unwrap();
        assert_eq!(configuration(&state).replicas, [NodeId(2), NodeId(1)]);
        assert_eq!(configuration(&state).prior, [NodeId(2), NodeId(3)]);
        state.apply(&Command::Register(registration(Some(NodeId(2)), 2, 9))).unwrap();
        assert_eq!(configuration(&state).term, Term(state.epoch().0));
        assert_eq!(configuration(&state).prior, [NodeId(2), NodeId(3)]);
    }

    /// Guards P16, P20: an activation of a term that is over, and one refused because it was accepted before.
    #[test]
    fn an_activation_counts_for_the_current_term_alone() {
        let mut state = with_prior();
        let activated = |term| Command::Activated { partition: PartitionId(0), term: Term(term) };
        assert!(matches!(state.apply(&activated(3)), Err(Refusal::StaleTerm { .. })));
        assert!(!configuration(&state).is_activated());
        let before = state.epoch();
        assert_eq!(state.apply(&activated(4)), Ok(Done::Activated));
        assert!(configuration(&state).is_activated());
        assert_eq!(configuration(&state).term, Term(4));
        assert_eq!(state.epoch(), before.next());
        assert_eq!(state.apply(&activated(4)), Ok(Done::Activated));
        assert_eq!(state.epoch(), before.next());
    }

    /// Guards against a plan that was made for another view, and against one that changes members on the sly.
    #[test]
    fn a_plan_is_checked_again_when_it_is_applied() {
        let mut state = with_prior();
        let change =
            |state: &ClusterState, placements| Change { placements, ..Change::new(state.epoch(), Cause::Failover) };
        let stale = Change { planned_on: Epoch(1), ..change(&state, vec![]) };
        assert!(matches!(state.apply(&Command::Change(stale)), Err(Refusal::StalePlan { .. })));
        for replicas in [vec![1, 3], vec![1], vec![1, 2, 3], vec![1, 1], vec![], vec![1, 9]] {
            let replicas = replicas.into_iter().map(NodeId).collect();
            let bad = change(&state, vec![(PartitionId(0), replicas)]);
            assert!(matches!(state.apply(&Command::Change(bad)), Err(Refusal::BadPlan(_))));
        }
        let elsewhere = change(&state, vec![(PartitionId(1), vec![NodeId(1)])]);
        assert!(matches!(state.apply(&Command::Change(elsewhere)), Err(Refusal::BadPlan(_))));
    }

    /// Guards against a second bootstrap that gives a running cluster another id.
    #[test]
    fn the_first_bootstrap_wins() {
        let mut state = with_prior();
        let before = state.clone();
        let another = Bootstrap {
            cluster: ClusterId(8),
            partition_count: PartitionCount::new(2).unwrap(),
            replication: 3,
            expected_nodes: 1,
        };
        assert_eq!(state.apply(&Command::Bootstrap(another)), Ok(Done::Bootstrapped(ClusterId(7))));
        assert_eq!(state, before);
    }
}
