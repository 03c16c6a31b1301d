//! A few replicas on a table: every message, sync, crash and view happens when a script says so, and everything that a
//! replica does is printed.

mod commands;
mod show;
mod state;

use replcore::{
    Effect, Event, Message, PersistIndex, PersistRecord, Proposal, Recovery, Replica, Settings, Standing, Token,
    TransactionMessage, TransactionProposal,
};
use state::{Job, States};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::sync::Arc;
use types::{Configuration, Epoch, NodeId, PageQuery, PartitionId, RecordKind, Seq};

pub(crate) struct Bench {
    settings: Settings,
    nodes: BTreeMap<u64, Node>,
    mail: BTreeMap<u64, Mail>,
    /// Messages that take longer than others.
    delayed: BTreeMap<u64, Mail>,
    messages: u64,
    /// Directed links whose messages are lost when they are sent.
    cut: BTreeSet<(u64, u64)>,
    tokens: u64,
    /// What primaries of different partitions say to each other, until a script lets somebody hear it.
    letters: VecDeque<Letter>,
    /// Letters that take longer than others.
    late_letters: VecDeque<Letter>,
}

/// A message to another partition, whoever its primary is.
#[derive(Clone)]
struct Letter {
    to: PartitionId,
    message: TransactionMessage,
}

/// A message under way.
#[derive(Clone)]
struct Mail {
    from: u64,
    to: u64,
    message: Message,
}

#[derive(Default)]
struct Node {
    partition: PartitionId,
    replica: Option<Replica>,
    states: States,
    /// Records in the log, and how many of them are synced.
    log: Vec<(PersistIndex, PersistRecord)>,
    synced: usize,
    /// Records wait for `sync` instead of being synced at once.
    slow: bool,
    /// What the state is to do waits for `work` instead of being done at once.
    busy: bool,
    jobs: VecDeque<Job>,
}

impl Default for Bench {
    fn default() -> Self {
        Bench {
            settings: Settings { resend_ticks: 2, stuck_ticks: 4, ..Settings::default() },
            nodes: BTreeMap::new(),
            mail: BTreeMap::new(),
            delayed: BTreeMap::new(),
            messages: 0,
            cut: BTreeSet::new(),
            tokens: 0,
            letters: VecDeque::new(),
            late_letters: VecDeque::new(),
        }
    }
}

type Outcome = Result<String, Box<dyn std::error::Error>>;

impl Bench {
    fn node(&mut self, node: u64) -> Result<&mut Node, String> {
        self.nodes.get_mut(&node).ok_or_else(|| format!("there is no node {node}"))
    }

    fn replica(&mut self, node: u64) -> Result<&mut Replica, String> {
        self.node(node)?.replica.as_mut().ok_or_else(|| format!("node {node} does not run"))
    }

    fn cluster(&mut self, nodes: u64) -> Outcome {
        self.partition(0, &(1..=nodes).collect::<Vec<_>>())
    }

    /// Begins with replicas of a partition on these nodes, which have none of another.
    fn partition(&mut self, partition: u32, nodes: &[u64]) -> Outcome {
        for node in nodes {
            self.nodes.insert(*node, Node { partition: PartitionId(partition), ..Node::default() });
            self.start(*node, 1)?;
        }
        Ok(String::new())
    }

    /// Starts a replica from what is on the node's disk.
    fn start(&mut self, node: u64, accepted_at: u64) -> Outcome {
        let settings = self.settings;
        let it = self.node(node)?;
        let mut recovery = Recovery::default();
        for (_, record) in &it.log {
            recovery.replay(record.clone())?;
        }
        // P5: what a crash left of generations that have ended, or never began, goes.
        let generation = recovery.base().generation;
        it.states.retain(generation);
        let recovered = recovery.finish(it.states.applied(generation), it.states.requests(generation))?;
        it.replica = Some(Replica::new(NodeId(node), it.partition, Epoch(accepted_at), settings, recovered)?);
        Ok(String::new())
    }

    /// The process ends; of the records that are not synced, `lose` are lost.
    fn crash(&mut self, node: u64, lose: usize) -> Outcome {
        let it = self.node(node)?;
        let unsynced = it.log.len() - it.synced;
        if lose > unsynced {
            return Err(format!("only {unsynced} records of node {node} are not synced").into());
        }
        it.log.truncate(it.log.len() - lose);
        it.synced = it.log.len();
        it.jobs.clear();
        it.replica = None;
        Ok(String::new())
    }

    /// One event, then a flush, with everything that follows on this node.
    fn step(&mut self, node: u64, event: Event, out: &mut String) -> Result<(), String> {
        let mut events = VecDeque::from([event, Event::Flush]);
        while let Some(event) = events.pop_front() {
            let it = self.node(node)?;
            let Some(replica) = &mut it.replica else { return Ok(()) };
            let mut effects = Vec::new();
            replica.step(event, &it.states, &mut effects);
            let mut written = false;
            for effect in effects {
                let it = self.node(node)?;
                if let Effect::Persist { index, record } = &effect {
                    it.log.push((*index, record.clone()));
                    written = true;
                }
                if let Some(job) = Job::of(&effect) {
                    it.jobs.push_back(job);
                }
                self.show_effect(node, effect, out);
            }
            let it = self.node(node)?;
            if written && !it.slow {
                events.extend(it.sync().map(|through| Event::Persisted { through }));
                events.push_back(Event::Flush);
            }
            if events.is_empty() && !it.busy {
                while let Some(job) = it.jobs.pop_front() {
                    events.extend(it.states.carry_out(job));
                }
                if !events.is_empty() {
                    events.push_back(Event::Flush);
                }
            }
        }
        Ok(())
    }

    /// The state does what waits.
    fn work(&mut self, node: u64, out: &mut String) -> Result<(), String> {
        for job in std::mem::take(&mut self.node(node)?.jobs) {
            if let Some(event) = self.node(node)?.states.carry_out(job) {
                self.step(node, event, out)?;
            }
        }
        Ok(())
    }

    fn show_effect(&mut self, node: u64, effect: Effect, out: &mut String) {
        // Every term begins with a look at the keys that expire; where there are none it says nothing.
        if matches!(&effect, Effect::ScanState { query, .. } if query.kind == RecordKind::Expiry) {
            return;
        }
        let line = match effect {
            Effect::Send { to, message } => {
                let text = show::message(&message);
                if self.cut.contains(&(node, to.0)) {
                    format!("n{node} to {to}: {text} (lost)")
                } else {
                    self.messages += 1;
                    self.mail.insert(self.messages, Mail { from: node, to: to.0, message });
                    format!("n{node} to {to}: {text}")
                }
            }
            Effect::SendToPartition { partition, message } => {
                let text = format!("n{node} to {partition}: {}", show::between_partitions(&message));
                self.letters.push_back(Letter { to: partition, message });
                text
            }
            other => format!("n{node} {}", show::effect(&other)),
        };
        // Writing to a String can't fail.
        let _ = writeln!(out, "{line}");
    }

    fn sync(&mut self, node: u64, out: &mut String) -> Result<(), String> {
        if let Some(through) = self.node(node)?.sync() {
            self.step(node, Event::Persisted { through }, out)?;
        }
        Ok(())
    }

    fn arrive(&mut self, mail: Mail, out: &mut String) -> Result<(), String> {
        let Mail { from, to, message } = mail;
        if self.nodes.get(&to).is_none_or(|node| node.replica.is_none()) {
            return Ok(());
        }
        let _ = writeln!(out, "n{to} from n{from}: {}", show::message(&message));
        self.step(to, Event::Message { from: NodeId(from), message }, out)
    }

    /// A node hears the oldest letter to its partition; `again`: and will once more.
    fn hear(&mut self, node: u64, again: bool, out: &mut String) -> Result<(), String> {
        let partition = self.node(node)?.partition;
        let at = self.letters.iter().position(|letter| letter.to == partition);
        let letter = if again {
            at.and_then(|at| self.letters.get(at).cloned())
        } else {
            at.and_then(|at| self.letters.remove(at))
        };
        let Letter { message, .. } = letter.ok_or_else(|| format!("there is no letter to {partition}"))?;
        let _ = writeln!(out, "n{node} from {}: {}", message.from, show::between_partitions(&message));
        self.step(node, Event::FromPartition { message }, out)
    }

    /// These nodes hear every letter to their partitions, and everything is delivered, until all is quiet.
    fn talk(&mut self, nodes: &[u64], out: &mut String) -> Result<(), String> {
        loop {
            self.deliver_all(&[], out)?;
            let hears = |node: &&u64| {
                let partition = self.nodes.get(node).map(|it| it.partition);
                self.letters.iter().any(|letter| Some(letter.to) == partition)
            };
            let Some(node) = nodes.iter().find(hears).copied() else { return Ok(()) };
            self.hear(node, false, out)?;
        }
    }

    /// Delivers everything that is under way, and what follows, in the order in which it was sent.
    fn deliver_all(&mut self, links: &[(u64, u64)], out: &mut String) -> Result<(), String> {
        loop {
            let wanted = |mail: &Mail| links.is_empty() || links.contains(&(mail.from, mail.to));
            let Some(id) = self.mail.iter().find(|(_, mail)| wanted(mail)).map(|(id, _)| *id) else { return Ok(()) };
            if let Some(mail) = self.mail.remove(&id) {
                self.arrive(mail, out)?;
            }
        }
    }

    fn view(&mut self, epoch: u64, configuration: Configuration, to: &[u64], out: &mut String) -> Result<(), String> {
        let configuration = Arc::new(configuration);
        for node in to {
            self.step(*node, Event::View { epoch: Epoch(epoch), configuration: configuration.clone() }, out)?;
        }
        Ok(())
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    fn mutate(&mut self, node: u64, proposal: Proposal, out: &mut String) -> Result<(), String> {
        let token = self.token();
        self.step(node, Event::Mutate { token, proposal }, out)
    }

    fn transact(&mut self, node: u64, proposal: TransactionProposal, out: &mut String) -> Result<(), String> {
        let token = self.token();
        self.step(node, Event::Transact { token, proposal: Box::new(proposal) }, out)
    }

    fn collect(&mut self, node: u64, keys: &[String], out: &mut String) -> Result<(), String> {
        let token = self.token();
        let keys = keys.iter().map(|key| key.clone().into()).collect();
        self.step(node, Event::Collect { token, keys }, out)
    }

    fn expire(&mut self, node: u64, token: u64, out: &mut String) -> Result<(), String> {
        self.step(node, Event::Expire { tokens: vec![Token(token)] }, out)
    }

    fn read(&mut self, node: u64, key: &str, out: &mut String) -> Result<(), String> {
        let token = self.token();
        self.step(node, Event::Read { token, key: key.to_owned().into() }, out)
    }

    fn scan(&mut self, node: u64, query: PageQuery, out: &mut String) -> Result<(), String> {
        let token = self.token();
        self.step(node, Event::ReadPage { token, query }, out)
    }

    fn feed(&mut self, node: u64, after: u64, out: &mut String) -> Result<(), String> {
        let fed = self.replica(node)?.committed_after(Seq(after), usize::MAX);
        let _ = writeln!(out, "n{node} shows {}", show::fed(&fed));
        Ok(())
    }

    /// The state takes in what is committed.
    fn apply(&mut self, node: u64, out: &mut String) -> Result<(), String> {
        while let Some(apply) = self.replica(node)?.take_apply() {
            let _ = writeln!(out, "n{node} applies through {:?}", apply.through);
            let applied = Event::Applied { generation: apply.generation, through: apply.through };
            self.node(node)?.states.apply(apply);
            self.step(node, applied, out)?;
        }
        Ok(())
    }

    fn checkpoint(&mut self, node: u64, make_room: bool, out: &mut String) -> Result<(), String> {
        let generation = self.replica(node)?.base().generation;
        let through = self.node(node)?.states.applied(generation).seq;
        self.step(node, Event::Checkpointed { generation, through, make_room }, out)
    }

    fn show_state(&mut self, node: u64, out: &mut String) -> Result<(), String> {
        let base = self.replica(node)?.base();
        let holds = match base.standing {
            Standing::Member => format!("is a member with {}", base.generation),
            Standing::None => "has no record".into(),
            Standing::OutOfService(_) => "is out of service".into(),
        };
        let _ = writeln!(out, "n{node} {holds}; states: {}", self.node(node)?.states.show());
        Ok(())
    }

    fn show_log(&mut self, node: u64, out: &mut String) -> Result<(), String> {
        let replica = self.replica(node)?;
        let base = replica.base();
        let entries = (replica.first_kept().0..=replica.last().seq.0).filter_map(|seq| replica.entry(Seq(seq)));
        let entries: Vec<_> = entries.map(show::entry).collect();
        let _ = writeln!(
            out,
            "n{node} {:?}: promised {}, committed {}, log [{}]",
            replica.role(),
            base.promised,
            base.committed,
            entries.join(", ")
        );
        Ok(())
    }
}

impl Node {
    /// The state reads now what scans want, and hands it over later.
    fn look(&mut self) {
        for job in &mut self.jobs {
            if matches!(job, Job::Scan { .. }) {
                let scan = std::mem::replace(job, Job::HandOver(None));
                *job = Job::HandOver(self.states.carry_out(scan));
            }
        }
    }

    /// Everything written is on disk now.
    fn sync(&mut self) -> Option<PersistIndex> {
        let through = self.log.get(self.synced..)?.last()?.0;
        self.synced = self.log.len();
        Some(through)
    }
}
