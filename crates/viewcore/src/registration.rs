//! Registration: who a storage node is, and whether its directory may be believed (P20, P11).

use crate::change::begin_term;
use crate::command::{Done, Outcome, Refusal, Registration};
use crate::mutants::{Mutant, on};
use crate::state::{ClusterState, NODES_MAX};
use types::{ClusterId, Duty, Epoch, NodeId, NodeInfo, Term, View};

/// Longest address or zone that a node may register, in bytes.
const NAME_BYTES_MAX: usize = 255;

impl ClusterState {
    // P20.
    pub(crate) fn register(&mut self, view: &View, registration: &Registration) -> Outcome {
        check_registration(registration)?;
        if registration.cluster != ClusterId::NONE && registration.cluster != view.cluster {
            return Err(Refusal::WrongCluster { ours: view.cluster, theirs: registration.cluster });
        }
        let seen = registration.highest_epoch.0.max(registration.highest_promised.0);
        if seen > view.epoch.0 && !on(Mutant::P20Restored) {
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
                let known = match view.nodes.get(&node) {
                    Some(known) if known.duty != Duty::Removed => known,
                    // Ids are minted in order, and a node is only forgotten after its removal.
                    Some(_) => return Err(Refusal::Forgotten(node)),
                    None if node.0 <= self.nodes_minted => return Err(Refusal::Forgotten(node)),
                    None => return Err(Refusal::UnknownNode(node)),
                };
                self.register_known(view, known, registration)
            }
            // A lost reply to a first registration is retried without an id: the nonce tells that it is the same one.
            None => match self.nonces.iter().find(|(_, nonce)| **nonce == registration.nonce) {
                Some((node, _)) => {
                    let known = view.nodes.get(node).filter(|known| known.duty != Duty::Removed);
                    let known = known.ok_or(Refusal::Forgotten(*node))?;
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
        self.nodes_minted += u64::from(self.nodes_minted == 0 || !on(Mutant::P20SharedId));
        let id = NodeId(self.nodes_minted);
        let accepted_at = view.epoch;
        self.nonces.insert(id, registration.nonce);
        self.next_epoch(|view, _| {
            view.nodes.insert(id, node_info(id, accepted_at, registration));
        });
        Ok(Done::Registered { node: id, accepted_at })
    }

    /// What an operator set stays.
    fn known_info(&self, known: &NodeInfo, accepted_at: Epoch, registration: &Registration) -> NodeInfo {
        let weight = self.weights.get(&known.id).copied().unwrap_or(registration.weight);
        NodeInfo { duty: known.duty, weight, ..node_info(known.id, accepted_at, registration) }
    }

    fn register_known(&mut self, view: &View, known: &NodeInfo, registration: &Registration) -> Outcome {
        let node = known.id;
        let stale = Refusal::StaleDirectory { node, presented: registration.incarnation, used: known.incarnation };
        let newer = match on(Mutant::P20Lower) {
            true => registration.incarnation != known.incarnation,
            false => registration.incarnation > known.incarnation,
        };
        if registration.incarnation < known.incarnation && !newer {
            return Err(stale);
        }
        if newer {
            // P11: what the last incarnation knew of its terms is gone, so it gets a new one everywhere it is primary;
            // all terms up to the present epoch are over for it.
            let accepted_at = view.epoch;
            self.nonces.insert(node, registration.nonce);
            let info = self.known_info(known, accepted_at, registration);
            self.next_epoch(|view, term| {
                view.nodes.insert(node, info);
                for configuration in &mut view.configurations {
                    if configuration.primary() == Some(node) && !on(Mutant::P11SameTerm) {
                        begin_term(configuration, term, None);
                    }
                }
            });
            return Ok(Done::Registered { node, accepted_at });
        }
        if self.nonces.get(&node) != Some(&registration.nonce) && !on(Mutant::P20Copies) {
            return Err(stale);
        }
        let info = self.known_info(known, known.accepted_at, registration);
        if info != *known {
            self.next_epoch(|view, _| {
                view.nodes.insert(node, info);
            });
        }
        Ok(Done::Registered { node, accepted_at: known.accepted_at })
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
        duty: Duty::Active,
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
