//! Golden scripts: what a leader does and what becomes of the view, as text. `UPDATE_GOLDENFILES=1` writes them anew.

use goldenscript::Command as Line;
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write;
use types::{BootNonce, ClusterId, Duty, Epoch, Incarnation, NodeId, PartitionCount, PartitionId, Term};
use viewcore::{
    Bootstrap, ClusterState, Command, Done, Effect, Event, Heartbeat, Leader, LeaderSettings, Operation, Outcome,
    Registration, Serving, Step, status,
};

/// A group of one that commits at once: what the leader proposes is applied before the next line.
struct World {
    state: ClusterState,
    leader: Option<Leader>,
    bootstrap: Bootstrap,
    now_ms: u64,
}

fn list(text: &str) -> Result<BTreeSet<NodeId>, Box<dyn Error>> {
    text.split('/').filter(|part| !part.is_empty()).map(|part| Ok(NodeId(part.parse()?))).collect()
}

impl World {
    fn new() -> World {
        let bootstrap = Bootstrap {
            cluster: ClusterId(7),
            partition_count: PartitionCount::new(4).expect("4 is a power of two"),
            replication: 3,
            expected_nodes: 3,
        };
        World { state: ClusterState::default(), leader: None, bootstrap, now_ms: 0 }
    }

    fn apply(&mut self, command: &Command) -> (Outcome, String) {
        let before = self.state.epoch();
        let outcome = self.state.apply(command);
        let mut text = match &outcome {
            Ok(Done::Bootstrapped(_)) => "bootstrapped".to_owned(),
            Ok(Done::Registered { node, accepted_at }) => format!("registered {node}, accepted at {accepted_at}"),
            Ok(Done::Changed(_)) => "changed".to_owned(),
            Ok(Done::Activated) => "activated".to_owned(),
            Ok(Done::ActivatedAll(accepted)) => format!("activated {accepted:?}"),
            Ok(Done::DamageNoted(epoch)) => format!("damage noted at {epoch}"),
            Ok(Done::Operated(_)) => "operated".to_owned(),
            Ok(Done::Coordinated(outcomes)) => format!("coordinated {outcomes:?}"),
            Err(refusal) => format!("refused ({:?}): {refusal}", refusal.code()),
        };
        if self.state.epoch() != before {
            let _ = write!(text, ", view {}", self.state.epoch());
        }
        (outcome, text)
    }

    fn step(&mut self, event: Event, out: &mut String) {
        let Some(leader) = &mut self.leader else { return };
        let effects = leader.step(self.now_ms, event, &self.state);
        for effect in effects {
            match effect {
                Effect::Probe { node, address } => {
                    let _ = writeln!(out, "probe {node} at {address}");
                }
                Effect::Propose(command) => {
                    match &command {
                        Command::Change(change) => {
                            let _ = write!(out, "propose {:?}", change.cause);
                            for (word, nodes) in [("dead", &change.dead), ("alive", &change.alive)] {
                                if !nodes.is_empty() {
                                    let _ = write!(out, " {word} {nodes:?}");
                                }
                            }
                            for (partition, replicas) in &change.placements {
                                let _ = write!(out, " {partition}{replicas:?}");
                            }
                            for (partition, step) in &change.steps {
                                let _ = match step {
                                    Step::Fill { joins, leaves: Some(leaves) } => {
                                        write!(out, " {partition} fills {joins} for {leaves}")
                                    }
                                    Step::Fill { joins, leaves: None } => write!(out, " {partition} fills {joins}"),
                                    Step::Members(replicas) => write!(out, " {partition} becomes {replicas:?}"),
                                    Step::GiveUp => write!(out, " {partition} gives its learner up"),
                                };
                            }
                            if !change.forgotten.is_empty() {
                                let _ = write!(out, " forgotten {:?}", change.forgotten);
                            }
                        }
                        other => {
                            let _ = write!(out, "propose {other:?}");
                        }
                    }
                    let _ = writeln!(out, "\n  {}", self.apply(&command).1);
                    self.step(Event::Settled, out);
                }
            }
        }
    }

    fn registration(line: &Line) -> Result<Registration, Box<dyn Error>> {
        let mut args = line.consume_args();
        let number = |text: Option<&str>, default: u64| text.map_or(Ok(default), str::parse);
        let node = number(args.take_key("node"), 0)?;
        let nonce = number(args.take_key("nonce"), node)?;
        let registration = Registration {
            cluster: ClusterId(u128::from(number(args.take_key("cluster"), if node == 0 { 0 } else { 7 })?)),
            node: (node != 0).then_some(NodeId(node)),
            incarnation: Incarnation(number(args.take_key("incarnation"), 1)?),
            nonce: BootNonce(nonce),
            address: args.take_key("address").map_or_else(|| format!("host:{nonce}"), str::to_owned),
            http_address: String::new(),
            zone: args.take_key("zone").unwrap_or_default().to_owned(),
            weight: number(args.take_key("weight"), 100)? as u32,
            highest_epoch: Epoch(number(args.take_key("epoch"), 0)?),
            highest_promised: Term(number(args.take_key("promised"), 0)?),
        };
        args.reject_next()?;
        Ok(registration)
    }

    fn print_view(&self, out: &mut String) {
        let Some(view) = self.state.view() else {
            out.push_str("no view\n");
            return;
        };
        let _ = writeln!(out, "{}", view.epoch);
        for node in view.nodes.values() {
            let life = if node.alive { "alive" } else { "dead" };
            let _ = writeln!(out, "{} {} accepted at {} {life}", node.id, node.incarnation, node.accepted_at);
        }
        for (partition, configuration) in self.state.configurations() {
            let _ = write!(out, "{partition} {} {:?}", configuration.term, configuration.replicas);
            if !configuration.prior.is_empty() {
                let _ = write!(out, " prior {:?}", configuration.prior);
            }
            if let Some(learner) = configuration.learner {
                let _ = write!(out, " learner {learner}");
            }
            out.push('\n');
        }
    }
}

impl goldenscript::Runner for World {
    type Command = Line;

    fn run(&mut self, line: &Line, _: &goldenscript::Context) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        let mut args = line.consume_args();
        match line.name.as_str() {
            // cluster [replication=N] [expect=N]: other settings than 4 partitions, 3 replicas, 3 nodes.
            "cluster" => {
                self.bootstrap.replication = args.take_key("replication").map_or(Ok(3), str::parse)?;
                self.bootstrap.expected_nodes = args.take_key("expect").map_or(Ok(3), str::parse)?;
                args.reject_next()?;
            }
            // lead: a new leadership begins now, with a timeout of 1000 ms.
            "lead" => {
                args.reject_next()?;
                let settings = LeaderSettings {
                    node_timeout_ms: 1000,
                    replace_after_ms: 600_000,
                    bootstrap: self.bootstrap.clone(),
                };
                self.leader = Some(Leader::new(settings, self.now_ms));
                self.step(Event::Tick, &mut out);
            }
            // register [node=N] [incarnation=N] [nonce=N] [cluster=N] [zone=Z] [weight=N] [epoch=N] [promised=N]
            "register" => {
                let registration = World::registration(line)?;
                let known = registration.node.and_then(|node| self.state.node(node)).map(|info| info.incarnation);
                let restarted = known.is_some_and(|known| known < registration.incarnation);
                let (outcome, text) = self.apply(&Command::Register(registration));
                let _ = writeln!(out, "{text}");
                if let Ok(Done::Registered { node, .. }) = outcome {
                    self.step(Event::Registered { node, restarted }, &mut out);
                }
            }
            // at MS [heard=N/N]: time passes in ticks of 50 ms; these nodes send heartbeats meanwhile.
            "at" => {
                let until: u64 = args.next_pos().ok_or("no time")?.parse()?;
                let heard = list(args.take_key("heard").unwrap_or_default())?;
                args.reject_next()?;
                while self.now_ms < until {
                    self.now_ms = (self.now_ms + 50).min(until);
                    for node in &heard {
                        let heartbeat = Heartbeat { epoch: self.state.epoch(), ..Heartbeat::default() };
                        self.step(Event::Heartbeat(*node, heartbeat), &mut out);
                    }
                    self.step(Event::Tick, &mut out);
                }
            }
            // sleep MS: time passes, and the leader does nothing. Then it wakes up.
            "sleep" => {
                self.now_ms += args.next_pos().ok_or("no time")?.parse::<u64>()?;
                args.reject_next()?;
                self.step(Event::Tick, &mut out);
            }
            // ended N; suspect N; probed N refused|open
            "ended" => self.step(Event::SessionEnded(NodeId(args.next_pos().ok_or("no node")?.parse()?)), &mut out),
            "suspect" => self.step(Event::Suspect(NodeId(args.next_pos().ok_or("no node")?.parse()?)), &mut out),
            "probed" => {
                let node = NodeId(args.next_pos().ok_or("no node")?.parse()?);
                let refused = args.next_pos().ok_or("refused or open")? == "refused";
                self.step(Event::Probed { node, refused }, &mut out);
            }
            // serve [behind=N/N] [filled=yes]: every primary that is alive says that it serves its partitions at their
            // present terms, if they are activated; and that their learners have what it has.
            "serve" => {
                let behind = list(args.take_key("behind").unwrap_or_default())?;
                let filled = args.take_key("filled").is_some();
                args.reject_next()?;
                let all: Vec<_> = self.state.configurations().map(|(p, c)| (p, c.clone())).collect();
                for (partition, configuration) in all {
                    let Some(primary) = configuration.primary().filter(|node| self.state.is_alive(*node)) else {
                        continue;
                    };
                    if !configuration.is_activated() {
                        continue;
                    }
                    let filled = configuration.learner.filter(|_| filled);
                    let term = configuration.term;
                    let serving = vec![Serving { partition, term, behind: behind.clone(), filled }];
                    let epoch = self.state.epoch();
                    self.step(
                        Event::Heartbeat(primary, Heartbeat { epoch, serving, ..Heartbeat::default() }),
                        &mut out,
                    );
                }
            }
            // stuck PARTITION [term=N] [unreachable=N/N] [holder=N]: by its primary, at its present term unless another is given.
            "stuck" => {
                let partition = PartitionId(args.next_pos().ok_or("no partition")?.parse()?);
                let view = self.state.view().ok_or("no view")?;
                let configuration = view.configuration(partition).ok_or("no such partition")?;
                let node = configuration.primary().ok_or("no primary")?;
                let term = Term(args.take_key("term").map_or(Ok(configuration.term.0), str::parse)?);
                let unreachable = list(args.take_key("unreachable").unwrap_or_default())?;
                let holder = args.take_key("holder").map(str::parse).transpose()?.map(NodeId);
                args.reject_next()?;
                self.step(Event::Stuck { node, partition, term, unreachable, holder }, &mut out);
            }
            // activated PARTITION TERM; damage NODE PARTITION [TERM]
            "activated" => {
                let partition = PartitionId(args.next_pos().ok_or("no partition")?.parse()?);
                let term = Term(args.next_pos().ok_or("no term")?.parse()?);
                let _ = writeln!(out, "{}", self.apply(&Command::Activated { partition, term }).1);
            }
            "damage" => {
                let node = NodeId(args.next_pos().ok_or("no node")?.parse()?);
                let partition = PartitionId(args.next_pos().ok_or("no partition")?.parse()?);
                let configuration = self.state.view().and_then(|view| view.configuration(partition));
                let term = configuration.map_or(Term(0), |configuration| configuration.term);
                let term = args.next_pos().map_or(Ok(term), |text| text.parse().map(Term))?;
                let _ = writeln!(out, "{}", self.apply(&Command::NoteDamage { node, partition, term }).1);
            }
            // drain N
            "drain" => {
                let node = NodeId(args.next_pos().ok_or("no node")?.parse()?);
                let operation = Operation::SetDuty { node, duty: Duty::Draining };
                let _ = writeln!(out, "{}", self.apply(&Command::Operate(operation)).1);
            }
            "view" => self.print_view(&mut out),
            // known: for how long each node has been silent, and who has been dead for so long that it is replaced.
            "known" => {
                let leader = self.leader.as_ref().ok_or("nobody leads")?;
                for node in self.state.nodes() {
                    let _ = match leader.silent_for_ms(node.id, self.now_ms) {
                        Some(silent_ms) => writeln!(out, "{} silent for {silent_ms} ms", node.id),
                        None => writeln!(out, "{} never heard", node.id),
                    };
                }
                let _ = writeln!(out, "gone {:?}", leader.gone(self.now_ms, &self.state));
            }
            "status" => {
                let nothing = viewcore::Observed::default();
                let observed = self.leader.as_ref().map_or(&nothing, Leader::observed);
                let lacks = status::lacks(&self.state, observed);
                let _ = writeln!(out, "without quorum {:?}", lacks.without_quorum);
                let _ = writeln!(out, "not serving {:?}", lacks.not_serving);
                let _ = writeln!(out, "under-replicated {:?}", lacks.under_replicated);
                if let Some(leader) = &self.leader
                    && !leader.held_back().is_empty()
                {
                    let _ = writeln!(out, "held back {:?}", leader.held_back());
                }
            }
            name => return Err(format!("unknown command {name}").into()),
        }
        Ok(out)
    }
}

fn run(script: &str) {
    goldenscript::run(&mut World::new(), format!("tests/scripts/{script}")).expect("the script runs");
}

/// Guards P20: an id minted twice for one node, a stale copy that is let in, a group that goes on after losing changes.
#[test]
fn registration() {
    run("registration");
    run("halted");
}

/// Guards against primaries that stay on a dead node, move one by one, or pile up on one survivor.
#[test]
fn failover() {
    run("failover");
}

/// Guards P21: a new leader that declares everybody dead, and a leader that is cut off and does.
#[test]
fn detector() {
    run("detector");
}

/// Guards P19: partitions that move to and fro, and nodes that lead right after their third start.
#[test]
fn patience() {
    run("patience");
}

/// Guards against a node that is replaced as soon as it is dead, or never; and against one that is called dead because
/// another one registers at its address while it speaks.
#[test]
fn replacement() {
    run("replacement");
}

/// Guards P3: a damaged replica that is made primary, or counted for a quorum.
#[test]
fn damage() {
    run("damage");
}

/// Guards against a rebalancing that moves a primary to a replica that is behind.
#[test]
fn balance() {
    run("balance");
}

/// Guards P18, P21: a takeover that asks the wrong members, after an order that was changed in the middle of a move.
#[test]
fn scenario_15() {
    run("scenario_15");
}
