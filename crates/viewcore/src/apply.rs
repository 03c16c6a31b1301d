//! Carrying out commands: checks, then exactly one change of the epoch, or none.

use crate::command::{Bootstrap, Change, Command, Done, Outcome, Refusal, Registration};
use crate::state::{ClusterState, NODES_MAX};
use std::collections::BTreeSet;
use std::sync::Arc;
use types::limits::REPLICATION_MAX;
use types::{ClusterId, Configuration, Epoch, NodeId, NodeInfo, PartitionId, Term, View};

/// Longest address or zone that a node may register, in bytes.
const NAME_BYTES_MAX: usize = 255;

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
            Command::NoteDamage { node, partition } => self.note_damage(&view, *node, *partition),
        }
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

    // P20.
    fn register(&mut self, view: &View, registration: &Registration) -> Outcome {
        check_registration(registration)?;
        if registration.cluster != ClusterId::NONE && registration.cluster != view.cluster {
            return Err(Refusal::WrongCluster { ours: view.cluster, theirs: registration.cluster });
        }
        let seen = registration.highest_epoch.0.max(registration.highest_promised.0);
        if seen > view.epoch.0 {
            let alarm = format!(
                "node {} at {} has seen epoch e{seen}, but these viewleaders are at {}: they have lost changes. Nothing \
                 is changed any more; stop the viewleaders and restore their newest data directories",
                registration.node.unwrap_or_default(),
                registration.address,
                view.epoch
            );
            self.halted = Some(alarm.clone());
            return Err(Refusal::Halted(alarm));
        }
        match registration.node {
            Some(node) => {
                let known = view.nodes.get(&node).ok_or(Refusal::UnknownNode(node))?;
                self.register_known(view, known, registration)
            }
            // A lost reply to a first registration is retried without an id: the nonce tells that it is the same one.
            None => match self.nonces.iter().find(|(_, nonce)| **nonce == registration.nonce) {
                Some((node, _)) => {
                    let known = view.nodes.get(node).ok_or(Refusal::UnknownNode(*node))?;
                    self.register_known(view, known, registration)
                }
                None => self.register_new(view, registration),
            },
        }
    }

    fn register_new(&mut self, view: &View, registration: &Registration) -> Outcome {
        if view.nodes.len() >= NODES_MAX {
            return Err(Refusal::Registration(format!(
                "the cluster has {NODES_MAX} nodes already, the most there can be"
            )));
        }
        self.nodes_minted += 1;
        let id = NodeId(self.nodes_minted);
        let accepted_at = view.epoch;
        self.nonces.insert(id, registration.nonce);
        self.next_epoch(|view, _| {
            view.nodes.insert(id, node_info(id, accepted_at, registration));
        });
        Ok(Done::Registered { node: id, accepted_at })
    }

    fn register_known(&mut self, view: &View, known: &NodeInfo, registration: &Registration) -> Outcome {
        let node = known.id;
        let stale = Refusal::StaleDirectory { node, presented: registration.incarnation, used: known.incarnation };
        if registration.incarnation < known.incarnation {
            return Err(stale);
        }
        if registration.incarnation > known.incarnation {
            // P11: what the last incarnation knew of its terms is gone, so it gets a new one everywhere it is primary;
            // all terms up to the present epoch are over for it.
            let accepted_at = view.epoch;
            self.nonces.insert(node, registration.nonce);
            self.next_epoch(|view, term| {
                view.nodes.insert(node, node_info(node, accepted_at, registration));
                for configuration in &mut view.configurations {
                    if configuration.primary() == Some(node) {
                        begin_term(configuration, term, None);
                    }
                }
            });
            return Ok(Done::Registered { node, accepted_at });
        }
        if self.nonces.get(&node) != Some(&registration.nonce) {
            return Err(stale);
        }
        let info = node_info(node, known.accepted_at, registration);
        if info != *known {
            self.next_epoch(|view, _| {
                view.nodes.insert(node, info);
            });
        }
        Ok(Done::Registered { node, accepted_at: known.accepted_at })
    }

    fn change(&mut self, view: &View, change: &Change) -> Outcome {
        if change.planned_on != view.epoch {
            return Err(Refusal::StalePlan { planned_on: change.planned_on, at: view.epoch });
        }
        check_change(view, change)?;
        let turns = |nodes: &[NodeId], alive| {
            nodes.iter().any(|node| view.nodes.get(node).is_some_and(|info| info.alive != alive))
        };
        if change.placements.is_empty() && !turns(&change.dead, false) && !turns(&change.alive, true) {
            return Ok(Done::Changed(view.epoch));
        }
        self.next_epoch(|view, term| {
            for (nodes, alive) in [(&change.dead, false), (&change.alive, true)] {
                for node in nodes {
                    if let Some(info) = view.nodes.get_mut(node) {
                        info.alive = alive;
                    }
                }
            }
            if !view.has_map() {
                view.configurations.resize_with(change.placements.len(), Default::default);
            }
            for (partition, replicas) in &change.placements {
                if let Some(configuration) = view.configurations.get_mut(partition.0 as usize) {
                    begin_term(configuration, term, Some(replicas));
                }
            }
        });
        Ok(Done::Changed(self.epoch()))
    }

    // P16, P20: accepted again while its term is current.
    fn activated(&mut self, view: &View, partition: PartitionId, term: Term) -> Outcome {
        let configuration = view.configuration(partition).ok_or(Refusal::NoSuchPartition(partition))?;
        if configuration.term != term {
            return Err(Refusal::StaleTerm { partition, current: configuration.term, presented: term });
        }
        if !configuration.is_activated() {
            self.next_epoch(|view, _| {
                if let Some(configuration) = view.configurations.get_mut(partition.0 as usize) {
                    Arc::make_mut(configuration).prior.clear();
                }
            });
        }
        Ok(Done::Activated)
    }

    // P3. A repeated report gets the first one's epoch: the views since then are still after it.
    fn note_damage(&mut self, view: &View, node: NodeId, partition: PartitionId) -> Outcome {
        if !view.nodes.contains_key(&node) {
            return Err(Refusal::UnknownNode(node));
        }
        if partition.0 >= view.partition_count.get() {
            return Err(Refusal::NoSuchPartition(partition));
        }
        let epoch = *self.out_of_service.entry((partition, node)).or_insert(view.epoch);
        Ok(Done::DamageNoted(epoch))
    }

    /// One event is one change: `edit` gets the view, and the term that begins with it.
    fn next_epoch(&mut self, edit: impl FnOnce(&mut View, Term)) {
        if let Some(view) = &mut self.view {
            let view = Arc::make_mut(view);
            view.epoch = view.epoch.next();
            edit(view, Term::begun_at(view.epoch));
        }
    }
}

/// P18: members stay, so `prior` and the learner stay too; the term grows.
fn begin_term(configuration: &mut Arc<Configuration>, term: Term, replicas: Option<&[NodeId]>) {
    assert!(configuration.term < term, "a partition's terms strictly grow: {} to {term}", configuration.term);
    let configuration = Arc::make_mut(configuration);
    configuration.term = term;
    if let Some(replicas) = replicas {
        configuration.replicas = replicas.to_vec();
    }
}

fn node_info(id: NodeId, accepted_at: Epoch, registration: &Registration) -> NodeInfo {
    NodeInfo {
        id,
        address: registration.address.clone(),
        http_address: registration.http_address.clone(),
        zone: registration.zone.clone(),
        weight: registration.weight,
        incarnation: registration.incarnation,
        accepted_at,
        alive: true,
    }
}

fn check_registration(registration: &Registration) -> Result<(), Refusal> {
    let refuse = |what: String| Err(Refusal::Registration(what));
    let is_address = |address: &str| {
        address.len() <= NAME_BYTES_MAX
            && address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
    };
    if !is_address(&registration.address) {
        return refuse(format!(
            "{:?} is no HOST:PORT that others could reach; set --advertise",
            clip(&registration.address)
        ));
    }
    if !registration.http_address.is_empty() && !is_address(&registration.http_address) {
        return refuse(format!("{:?} is no HOST:PORT of an HTTP gateway", clip(&registration.http_address)));
    }
    if registration.zone.len() > NAME_BYTES_MAX {
        return refuse(format!("--zone has more than {NAME_BYTES_MAX} bytes"));
    }
    if registration.weight == 0 {
        return refuse("--weight is at least 1".into());
    }
    if registration.incarnation.0 == 0 {
        return refuse("a start count begins at 1".into());
    }
    if registration.node.is_some() && registration.cluster == ClusterId::NONE {
        return refuse(
            "the data directory names a node but no cluster: it is damaged; start with an empty --data-dir".into(),
        );
    }
    // Otherwise anybody's claim could halt the group.
    let has_seen_something = registration.highest_epoch > Epoch(0) || registration.highest_promised > Term(0);
    if registration.node.is_none() && has_seen_something {
        return refuse(
            "the data directory has seen views but names no node: it is damaged; start with an empty --data-dir".into(),
        );
    }
    Ok(())
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

fn check_change(view: &View, change: &Change) -> Result<(), Refusal> {
    let refuse = |what: String| Err(Refusal::BadPlan(what));
    let placed = change.placements.iter().flat_map(|(_, replicas)| replicas);
    if let Some(node) = change.dead.iter().chain(&change.alive).chain(placed).find(|n| !view.nodes.contains_key(n)) {
        return refuse(format!("{node} is not registered"));
    }
    if let Some(node) = change.dead.iter().find(|node| change.alive.contains(node)) {
        return refuse(format!("{node} is called dead and alive"));
    }
    if !change.placements.is_sorted_by(|(a, _), (b, _)| a < b) {
        return refuse("partitions are not in ascending order".into());
    }
    if let Some((partition, _)) = change.placements.last().filter(|(p, _)| p.0 >= view.partition_count.get()) {
        return refuse(format!("there is no {partition}"));
    }
    if !view.has_map()
        && !change.placements.is_empty()
        && change.placements.len() != view.partition_count.get() as usize
    {
        return refuse("the first map is not whole".into());
    }
    for (partition, replicas) in &change.placements {
        let members: BTreeSet<NodeId> = replicas.iter().copied().collect();
        if members.len() != replicas.len() {
            return refuse(format!("{partition} names a node twice"));
        }
        match view.configuration(*partition) {
            Some(present) if members != present.replicas.iter().copied().collect() => {
                return refuse(format!("{partition} gets other members: only their order may change"));
            }
            None if replicas.is_empty() || replicas.len() > usize::from(view.replication) => {
                return refuse(format!(
                    "{partition} has {} replicas, at most {} are wanted",
                    replicas.len(),
                    view.replication
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Cause;
    use types::{BootNonce, Incarnation, PartitionCount};

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
            planned_on: state.epoch(),
            cause: Cause::Failover,
            dead: vec![NodeId(1)],
            alive: vec![],
            placements: vec![(PartitionId(0), vec![NodeId(2), NodeId(1)])],
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
        let change = |state: &ClusterState, placements| Change {
            planned_on: state.epoch(),
            cause: Cause::Failover,
            dead: vec![],
            alive: vec![],
            placements,
        };
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
