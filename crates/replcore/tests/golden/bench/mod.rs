//! A few replicas on a table: every message, sync, crash and view happens when a script says so, and everything that a
//! replica does is printed.

mod commands;
mod show;

use replcore::{
    Effect, Event, Message, PersistIndex, PersistRecord, Proposal, Recovery, Replica, Settings, State, StateDamaged,
    Token,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;
use types::{Configuration, EntryId, Epoch, Generation, NodeId, PartitionId, Record, RecordKey, RecordKind, Seq, Term};

const PARTITION: PartitionId = PartitionId(0);

pub(crate) struct Bench {
    settings: Settings,
    nodes: BTreeMap<u64, Node>,
    mail: BTreeMap<u64, Mail>,
    messages: u64,
    /// Directed links whose messages are lost when they are sent.
    cut: BTreeSet<(u64, u64)>,
    tokens: u64,
}

/// A message under way.
#[derive(Clone)]
struct Mail {
    from: u64,
    to: u64,
    message: Message,
}

struct Node {
    replica: Option<Replica>,
    state: Memory,
    /// Records in the log, and how many of them are synced.
    log: Vec<(PersistIndex, PersistRecord)>,
    synced: usize,
    /// Records wait for `sync` instead of being synced at once.
    slow: bool,
}

#[derive(Default, Clone)]
struct Memory {
    applied: EntryId,
    records: BTreeMap<RecordKey, Record>,
}

impl State for Memory {
    fn get(&self, _: Generation, key: &RecordKey) -> Result<Option<Record>, StateDamaged> {
        Ok(self.records.get(key).cloned())
    }
}

impl Default for Bench {
    fn default() -> Self {
        Bench {
            settings: Settings { resend_ticks: 2, stuck_ticks: 4, ..Settings::default() },
            nodes: BTreeMap::new(),
            mail: BTreeMap::new(),
            messages: 0,
            cut: BTreeSet::new(),
            tokens: 0,
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
        for n in 1..=nodes {
            self.nodes
                .insert(n, Node { replica: None, state: Memory::default(), log: Vec::new(), synced: 0, slow: false });
            self.start(n, 1)?;
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
        let requests = it.state.records.iter().filter(|(key, _)| key.kind == RecordKind::Requests);
        let requests = requests.map(|(key, record)| (key.name.clone(), record.value.clone())).collect();
        let recovered = recovery.finish(it.state.applied, requests)?;
        it.replica = Some(Replica::new(NodeId(node), PARTITION, Epoch(accepted_at), settings, recovered)?);
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
        it.replica = None;
        Ok(String::new())
    }

    /// One event, then a flush, with everything that follows on this node.
    fn step(&mut self, node: u64, event: Event, out: &mut String) -> Result<(), String> {
        let mut events = std::collections::VecDeque::from([event, Event::Flush]);
        while let Some(event) = events.pop_front() {
            let it = self.node(node)?;
            let Some(replica) = &mut it.replica else { return Ok(()) };
            let mut effects = Vec::new();
            replica.step(event, &it.state, &mut effects);
            let mut written = false;
            for effect in effects {
                if let Effect::Persist { index, record } = &effect {
                    self.node(node)?.log.push((*index, record.clone()));
                    written = true;
                }
                self.show_effect(node, effect, out);
            }
            let it = self.node(node)?;
            if written && !it.slow {
                events.extend(it.sync().map(|through| Event::Persisted { through }));
                events.push_back(Event::Flush);
            }
        }
        Ok(())
    }

    fn show_effect(&mut self, node: u64, effect: Effect, out: &mut String) {
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

    fn view(&mut self, epoch: u64, term: u64, order: &[u64], to: &[u64], out: &mut String) -> Result<(), String> {
        let replicas: Vec<NodeId> = order.iter().map(|n| NodeId(*n)).collect();
        let configuration = Arc::new(Configuration { term: Term(term), replicas, ..Configuration::default() });
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

    fn read(&mut self, node: u64, key: &str, out: &mut String) -> Result<(), String> {
        let token = self.token();
        self.step(node, Event::Read { token, key: key.to_owned().into() }, out)
    }

    /// The state takes in what is committed.
    fn apply(&mut self, node: u64, out: &mut String) -> Result<(), String> {
        while let Some(apply) = self.replica(node)?.take_apply() {
            let _ = writeln!(out, "n{node} applies through {:?}", apply.through);
            let state = &mut self.node(node)?.state;
            for (key, value, seq) in apply.changes {
                match value {
                    Some(value) => drop(state.records.insert(key, Record { seq, value })),
                    None => drop(state.records.remove(&key)),
                }
            }
            state.applied = apply.through;
            let applied = Event::Applied { generation: apply.generation, through: apply.through };
            self.step(node, applied, out)?;
        }
        Ok(())
    }

    fn checkpoint(&mut self, node: u64, out: &mut String) -> Result<(), String> {
        let through = self.node(node)?.state.applied.seq;
        let generation = self.replica(node)?.base().generation;
        self.step(node, Event::Checkpointed { generation, through }, out)
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
    /// Everything written is on disk now.
    fn sync(&mut self) -> Option<PersistIndex> {
        let through = self.log.get(self.synced..)?.last()?.0;
        self.synced = self.log.len();
        Some(through)
    }
}
