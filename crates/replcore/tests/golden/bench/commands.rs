//! What a script can say.

use super::{Bench, Outcome};
use bytes::Bytes;
use goldenscript::Context;
use replcore::{Event, Proposal, TransactionProposal};
use std::str::FromStr;
use types::{
    Condition, Configuration, Epoch, Fence, FencingToken, Lifetime, Mutation, MutationKind, NodeId, PageQuery,
    PartitionId, RecordKind, RequestId, Seq, Stamp, Term, Transaction, TransactionOperation, TransactionPart,
};

/// Nodes are numbers; a link is `FROM-TO`, and a node stands for all its links.
#[derive(goldenscript::Command)]
pub(crate) enum Command {
    /// Begins with so many nodes, their disks empty; `message_bytes=1` sends every entry alone, `chunk_bytes=1` every
    /// record of a snapshot, and with `log_bytes=0` no log is kept for who is away,
    /// with `history_bytes=0` none for watchers; `window_bytes`, `uncommitted_bytes` and `reads_waiting` bound what a primary
    /// takes on at a time.
    Cluster {
        nodes: u64,
        #[arg(key)]
        window_bytes: Option<usize>,
        #[arg(key)]
        uncommitted_bytes: Option<usize>,
        #[arg(key)]
        reads_waiting: Option<usize>,
        #[arg(key)]
        message_bytes: Option<usize>,
        #[arg(key)]
        chunk_bytes: Option<usize>,
        #[arg(key)]
        log_bytes: Option<usize>,
        #[arg(key)]
        history_bytes: Option<usize>,
    },
    /// The view of this epoch has this order: `view 5 order=1-2-4 prior=1-2-3 learner=5 to=1-2`. Its term is the epoch
    /// unless told, and everybody whom it names learns it.
    View {
        epoch: u64,
        #[arg(key)]
        order: Numbers,
        #[arg(key)]
        prior: Option<Numbers>,
        #[arg(key)]
        learner: Option<u64>,
        #[arg(key)]
        to: Option<Numbers>,
        #[arg(key)]
        term: Option<u64>,
    },
    /// `put 1 a x id=1` at node 1; `if=` absent, present, or a value; `stamp=`, `forget=` and `ttl=` in milliseconds;
    /// `fence=lock-7`.
    Put {
        node: u64,
        key: String,
        value: String,
        #[arg(key)]
        id: u64,
        #[arg(key = "if")]
        condition: Option<String>,
        #[arg(key)]
        stamp: Option<u64>,
        #[arg(key)]
        forget: Option<u64>,
        #[arg(key)]
        ttl: Option<u64>,
        #[arg(key)]
        fence: Option<String>,
    },
    /// `delete 1 a id=2`; `fence=lock-7`.
    Delete {
        node: u64,
        key: String,
        #[arg(key)]
        id: u64,
        #[arg(key)]
        fence: Option<String>,
    },
    /// Begins with replicas of another partition on these nodes: `partition 1 nodes=4-5-6`. What a script calls node 1 to
    /// 3 are replicas of partition 0.
    Partition {
        number: u32,
        #[arg(key)]
        nodes: Numbers,
    },
    /// `txn 1 a/1 b/2 c@ d- id=1 if="a/1 b/absent" else="a/3" fence=lock-7`: put, put, get and delete if the conditions hold. A key's first
    /// letter says its partition: a is 0, b is 1; the first key's is the home.
    Txn {
        node: u64,
        #[arg(many)]
        then: Vec<String>,
        #[arg(key)]
        id: u64,
        #[arg(key = "if")]
        conditions: Option<String>,
        #[arg(key = "else")]
        otherwise: Option<String>,
        #[arg(key)]
        stamp: Option<u64>,
        #[arg(key)]
        fence: Option<String>,
    },
    /// `collect 1 a a2`: several keys of one partition as of one instant.
    Collect {
        node: u64,
        #[arg(many)]
        keys: Vec<String>,
    },
    /// Requests stamped before this, in milliseconds, need be remembered no longer.
    Forget { node: u64, before: u64 },
    /// The time of the request with this token is over.
    Expire { node: u64, token: u64 },
    /// A node hears the oldest letter to its partition.
    Hear(u64),
    /// The same, and the letter comes again later.
    Echo(u64),
    /// The oldest letter to this partition is lost.
    Lose(u32),
    /// All letters to this partition are late: others overtake them, until `arrive`.
    Late(u32),
    /// What was late is there.
    Arrive,
    /// These nodes hear every letter to their partitions, and everything is delivered, until all is quiet.
    Talk(Vec<u64>),
    /// `get 1 a`.
    Get { node: u64, key: String },
    /// `scan 1 prefix=a after=ab max=2`: a page of keys.
    Scan {
        node: u64,
        #[arg(key, optional)]
        prefix: String,
        #[arg(key, optional)]
        after: String,
        #[arg(key)]
        max: Option<usize>,
    },
    /// The states of these nodes read what scans want of them; `work` hands it over.
    Look(Vec<u64>),
    /// `feed 1 7`: what a watcher that has seen all through seq 7 is shown by node 1.
    Feed { node: u64, after: u64 },
    /// `expired 1 a 7`: by the clock of node 1 version 7 of this key has lived long enough.
    Expired { node: u64, key: String, version: u64 },
    /// Delivers everything under way and all that follows from it; only on the links named, if any are.
    Deliver(#[arg(many, optional)] Vec<Target>),
    /// Delivers the oldest message of a link.
    First(Target),
    /// Delivers the newest message of a link.
    Newest(Target),
    /// Delivers the oldest message of a link, and keeps it under way.
    Repeat(Target),
    /// What is under way on these links stays there until `release`, and others overtake it.
    Delay(Vec<Target>),
    /// What was delayed can be delivered.
    Release,
    /// Loses what is under way on these links.
    Drop(Vec<Target>),
    /// From now on, what is sent on these links is lost; all links of the nodes named.
    Cut(Vec<Target>),
    /// No link is cut any more.
    Mend,
    /// What these nodes write waits for `sync`.
    Slow(Vec<u64>),
    /// What these nodes wrote is on disk.
    Sync(Vec<u64>),
    /// The process ends, and loses so many of the records that are not synced.
    Crash {
        node: u64,
        #[arg(key, optional)]
        lose: usize,
    },
    /// A new process, accepted at this epoch.
    Start {
        node: u64,
        #[arg(key)]
        accepted: u64,
    },
    /// The viewleader's answer to what this node reported of this term; `no` refuses it.
    Activated {
        node: u64,
        term: u64,
        #[arg(optional)]
        answer: String,
    },
    /// The state of this node can't be read any more.
    Damage { node: u64 },
    /// The viewleader has noted this node's damage at this epoch.
    Noted { node: u64, epoch: u64 },
    /// What the states of these nodes are to read, install or delete waits for `work`.
    Busy(Vec<u64>),
    /// The states of these nodes do what waits.
    Work(Vec<u64>),
    /// Ticks.
    Tick {
        node: u64,
        #[arg(optional)]
        times: u64,
    },
    /// The stream to a peer is up again.
    PeerUp { node: u64, peer: u64 },
    /// The states of these nodes take in what is committed.
    Apply(Vec<u64>),
    /// The states of these nodes are on disk.
    Checkpoint(Vec<u64>),
    /// The same, and the room that their logs take is needed.
    Room(Vec<u64>),
    /// Shows logs.
    Log(Vec<u64>),
    /// Shows what lies in the states, of each generation.
    State(Vec<u64>),
}

pub(crate) struct Numbers(Vec<u64>);

impl Numbers {
    fn ids(&self) -> Vec<NodeId> {
        self.0.iter().copied().map(NodeId).collect()
    }
}

impl FromStr for Numbers {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split('-').map(str::parse).collect::<Result<_, _>>().map(Numbers)
    }
}

/// A link, or a node's links.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    Link(u64, u64),
    Node(u64),
}

impl FromStr for Target {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once('-') {
            Some((from, to)) => Target::Link(from.parse()?, to.parse()?),
            None => Target::Node(text.parse()?),
        })
    }
}

impl goldenscript::Runner for Bench {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Outcome {
        let mut out = String::new();
        match command {
            Command::Cluster {
                nodes,
                window_bytes,
                uncommitted_bytes,
                reads_waiting,
                message_bytes,
                chunk_bytes,
                log_bytes,
                history_bytes,
            } => {
                let settings = &mut self.settings;
                settings.window_bytes_max = window_bytes.unwrap_or(settings.window_bytes_max);
                settings.uncommitted_bytes_max = uncommitted_bytes.unwrap_or(settings.uncommitted_bytes_max);
                settings.reads_waiting_max = reads_waiting.unwrap_or(settings.reads_waiting_max);
                settings.message_bytes_max = message_bytes.unwrap_or(settings.message_bytes_max);
                settings.chunk_bytes_max = chunk_bytes.unwrap_or(settings.chunk_bytes_max);
                settings.log_bytes_max = log_bytes.unwrap_or(settings.log_bytes_max);
                settings.history_bytes_max = history_bytes.unwrap_or(settings.history_bytes_max);
                return self.cluster(*nodes);
            }
            Command::View { epoch, order, prior, learner, to, term } => {
                let configuration = Configuration {
                    term: Term(term.unwrap_or(*epoch)),
                    replicas: order.ids(),
                    learner: learner.map(NodeId),
                    prior: prior.as_ref().map(Numbers::ids).unwrap_or_default(),
                };
                let mut named = order.0.clone();
                named.extend(prior.iter().flat_map(|prior| &prior.0).chain(learner).filter(|n| !order.0.contains(n)));
                let to = to.as_ref().map_or(named, |to| to.0.clone());
                self.view(*epoch, configuration, &to, &mut out)?;
            }
            Command::Activated { node, term, answer } => {
                let accepted = answer != "no";
                self.step(*node, Event::ActivationAnswered { term: Term(*term), accepted }, &mut out)?;
            }
            Command::Damage { node } => self.step(*node, Event::Damaged, &mut out)?,
            Command::Noted { node, epoch } => {
                self.step(*node, Event::DamageNoted { epoch: Epoch(*epoch) }, &mut out)?;
            }
            Command::Busy(nodes) => {
                for node in nodes {
                    self.node(*node)?.busy = true;
                }
            }
            Command::Work(nodes) => {
                for node in nodes {
                    self.work(*node, &mut out)?;
                }
            }
            Command::Put { node, key, value, id, condition, stamp, forget, ttl, fence: with } => {
                let condition = match condition.as_deref() {
                    None => Condition::None,
                    Some("absent") => Condition::Absent,
                    Some("present") => Condition::Present,
                    Some(value) => Condition::Value(value.to_owned().into()),
                };
                let value = value.clone().into();
                let kind = match *ttl {
                    None => MutationKind::Put(value),
                    Some(ttl_ms) => MutationKind::PutExpiring { value, lifetime: Lifetime::Milliseconds(ttl_ms) },
                };
                let mutation = Mutation { key: key.clone().into(), kind, condition, fence: fence(with.as_deref())? };
                self.mutate(*node, proposal(*id, mutation, *stamp, *forget), &mut out)?;
            }
            Command::Delete { node, key, id, fence: with } => {
                let key = key.clone().into();
                let (kind, condition) = (MutationKind::Delete, Condition::None);
                let mutation = Mutation { key, kind, condition, fence: fence(with.as_deref())? };
                self.mutate(*node, proposal(*id, mutation, None, None), &mut out)?;
            }
            Command::Partition { number, nodes } => return self.partition(*number, &nodes.0),
            Command::Txn { node, then, id, conditions, otherwise, stamp, fence: with } => {
                let otherwise = otherwise.iter().flat_map(|list| list.split(' ')).map(operation);
                let transaction = Transaction {
                    conditions: conditions.iter().flat_map(|list| list.split(' ')).map(condition).collect(),
                    then: then.iter().map(|text| operation(text)).collect(),
                    otherwise: otherwise.collect(),
                    fence: fence(with.as_deref())?,
                };
                let proposal = TransactionProposal {
                    id: RequestId { client: 1, counter: *id },
                    stamp: Stamp(stamp.unwrap_or(100_000)),
                    parts: by_first_letter(&transaction),
                    forget_before: Stamp(0),
                };
                self.transact(*node, proposal, &mut out)?;
            }
            Command::Collect { node, keys } => self.collect(*node, keys, &mut out)?,
            Command::Forget { node, before } => {
                self.step(*node, Event::Forget { before: Stamp(*before) }, &mut out)?;
            }
            Command::Expire { node, token } => self.expire(*node, *token, &mut out)?,
            Command::Hear(node) => self.hear(*node, false, &mut out)?,
            Command::Echo(node) => self.hear(*node, true, &mut out)?,
            Command::Lose(partition) => {
                let at = self.letters.iter().position(|letter| letter.to.0 == *partition);
                let lost = at.and_then(|at| self.letters.remove(at));
                lost.ok_or("there is no letter to lose")?;
            }
            Command::Late(partition) => {
                let (late, others) = self.letters.drain(..).partition::<Vec<_>, _>(|letter| letter.to.0 == *partition);
                self.late_letters.extend(late);
                self.letters.extend(others);
            }
            Command::Arrive => self.letters.append(&mut self.late_letters),
            Command::Talk(nodes) => self.talk(nodes, &mut out)?,
            Command::Get { node, key } => self.read(*node, key, &mut out)?,
            Command::Scan { node, prefix, after, max } => {
                let query = PageQuery {
                    kind: RecordKind::User,
                    prefix: prefix.clone().into(),
                    after: after.clone().into(),
                    records_max: max.unwrap_or(100),
                    bytes_max: 1000,
                    names_only: false,
                };
                self.scan(*node, query, &mut out)?;
            }
            Command::Look(nodes) => {
                for node in nodes {
                    self.node(*node)?.look();
                }
            }
            Command::Feed { node, after } => self.feed(*node, *after, &mut out)?,
            Command::Expired { node, key, version } => {
                let keys = vec![(key.clone().into(), Seq(*version))];
                self.step(*node, Event::Expired { keys }, &mut out)?;
            }
            Command::Deliver(targets) if targets.is_empty() => self.deliver_all(&[], &mut out)?,
            Command::Deliver(targets) => {
                let links: Vec<_> = targets.iter().flat_map(|target| self.links(*target)).collect();
                self.deliver_all(&links, &mut out)?;
            }
            Command::First(link) | Command::Newest(link) | Command::Repeat(link) => {
                let links = self.links(*link);
                let mut on_link = self.mail.iter().filter(|(_, mail)| links.contains(&(mail.from, mail.to)));
                let found = if matches!(command, Command::Newest(_)) { on_link.next_back() } else { on_link.next() };
                let (id, mail) = found.map(|(id, mail)| (*id, mail.clone())).ok_or("nothing is under way there")?;
                if !matches!(command, Command::Repeat(_)) {
                    self.mail.remove(&id);
                }
                self.arrive(mail, &mut out)?;
            }
            Command::Delay(targets) => {
                let links: Vec<_> = targets.iter().flat_map(|target| self.links(*target)).collect();
                let slow = self.mail.extract_if(.., |_, mail| links.contains(&(mail.from, mail.to)));
                self.delayed.extend(slow);
            }
            Command::Release => self.mail.append(&mut self.delayed),
            Command::Drop(targets) => {
                for target in targets {
                    let links = self.links(*target);
                    self.mail.retain(|_, mail| !links.contains(&(mail.from, mail.to)));
                }
            }
            Command::Cut(targets) => {
                for target in targets {
                    let links = self.links(*target);
                    self.cut.extend(links);
                }
            }
            Command::Mend => self.cut.clear(),
            Command::Slow(nodes) => {
                for node in nodes {
                    self.node(*node)?.slow = true;
                }
            }
            Command::Sync(nodes) => {
                for node in nodes {
                    self.sync(*node, &mut out)?;
                }
            }
            Command::Crash { node, lose } => return self.crash(*node, *lose),
            Command::Start { node, accepted } => return self.start(*node, *accepted),
            Command::Tick { node, times } => {
                for _ in 0..(*times).max(1) {
                    self.step(*node, Event::Tick, &mut out)?;
                }
            }
            Command::PeerUp { node, peer } => self.step(*node, Event::PeerUp { peer: NodeId(*peer) }, &mut out)?,
            Command::Apply(nodes) => {
                for node in nodes {
                    self.apply(*node, &mut out)?;
                }
            }
            Command::Checkpoint(nodes) | Command::Room(nodes) => {
                for node in nodes {
                    self.checkpoint(*node, matches!(command, Command::Room(_)), &mut out)?;
                }
            }
            Command::Log(nodes) => {
                for node in nodes {
                    self.show_log(*node, &mut out)?;
                }
            }
            Command::State(nodes) => {
                for node in nodes {
                    self.show_state(*node, &mut out)?;
                }
            }
        }
        Ok(out)
    }
}

impl Bench {
    fn links(&self, target: Target) -> Vec<(u64, u64)> {
        match target {
            Target::Link(from, to) => vec![(from, to)],
            Target::Node(node) => self.nodes.keys().flat_map(|other| [(node, *other), (*other, node)]).collect(),
        }
    }
}

/// `k/v` puts, `k@` gets, `k-` deletes.
fn operation(text: &str) -> TransactionOperation {
    let key = |key: &str| Bytes::copy_from_slice(key.as_bytes());
    match (text.split_once('/'), text.strip_suffix('@')) {
        (Some((name, value)), _) => TransactionOperation::Put { key: key(name), value: key(value) },
        (None, Some(name)) => TransactionOperation::Get { key: key(name) },
        (None, None) => TransactionOperation::Delete { key: key(text.trim_end_matches('-')) },
    }
}

/// `k/absent`, `k/present` or `k/v`.
fn condition(text: &str) -> (Bytes, Condition) {
    let (key, what) = text.split_once('/').unwrap_or((text, "present"));
    let condition = match what {
        "absent" => Condition::Absent,
        "present" => Condition::Present,
        value => Condition::Value(Bytes::copy_from_slice(value.as_bytes())),
    };
    (Bytes::copy_from_slice(key.as_bytes()), condition)
}

/// The parts of a transaction whose keys' first letters name their partitions.
fn by_first_letter(transaction: &Transaction) -> Vec<(PartitionId, TransactionPart)> {
    let partition = |key: &Bytes| PartitionId(u32::from(key[0] - b'a'));
    let mut partitions: Vec<PartitionId> = Vec::new();
    for key in transaction.keys() {
        if !partitions.contains(&partition(key)) {
            partitions.push(partition(key));
        }
    }
    let of = |wanted: PartitionId| {
        let branch = |operations: &[TransactionOperation]| {
            let numbered = (0..).zip(operations.iter().cloned());
            numbered.filter(|(_, operation)| partition(operation.key()) == wanted).collect()
        };
        let conditions = transaction.conditions.iter().filter(|(key, _)| partition(key) == wanted).cloned().collect();
        let part = TransactionPart {
            conditions,
            then: branch(&transaction.then),
            otherwise: branch(&transaction.otherwise),
            fence: transaction.fence.clone(),
        };
        (wanted, part)
    };
    partitions.into_iter().map(of).collect()
}

fn fence(text: Option<&str>) -> Result<Option<Fence>, Box<dyn std::error::Error>> {
    let Some(text) = text else { return Ok(None) };
    let (name, token) = text.split_once('-').ok_or("a fence is NAME-TOKEN")?;
    Ok(Some(Fence { name: name.to_owned().into(), token: FencingToken(token.parse()?) }))
}

fn proposal(id: u64, mutation: Mutation, stamp_ms: Option<u64>, forget_ms: Option<u64>) -> Proposal {
    Proposal {
        id: RequestId { client: 1, counter: id },
        stamp: Stamp(stamp_ms.unwrap_or(100_000)),
        mutation,
        forget_before: Stamp(forget_ms.unwrap_or(0)),
    }
}
