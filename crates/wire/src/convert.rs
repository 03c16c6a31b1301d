//! Generated messages to domain types, checked, and back.

use crate::v1;
use bytes::Bytes;
use std::sync::Arc;
use types::limits::{
    COMPARED_VALUE_BYTES_MAX, KEY_BYTES_MAX, LOCK_NAME_BYTES_MAX, PAGE_BYTES_DEFAULT, PAGE_RECORDS_MAX,
    TRANSACTION_BYTES_MAX, TRANSACTION_KEYS_MAX, TTL_MAX, VALUE_BYTES_MAX,
};
use types::{
    ClusterId, Condition, Configuration, Duty, Entry, EntryId, Epoch, ErrorCode, Fence, FencingToken, Incarnation,
    LeaseId, Lifetime, Mutation, MutationKind, NodeId, NodeInfo, Page, PageItem, PageQuery, PartitionCount,
    PartitionId, RecordKind, RequestId, Seq, Stamp, Term, Transaction, View, ViewDelta,
};

/// A message that breaks a rule; the text says which, for a person.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

fn malformed(what: impl Into<String>) -> Malformed {
    Malformed(what.into())
}

/// The 16 bytes of a cluster id.
pub fn cluster_to_wire(cluster: ClusterId) -> Bytes {
    Bytes::copy_from_slice(&cluster.0.to_be_bytes())
}

/// # Errors
/// [`Malformed`] unless there are 16 bytes, or none ([`ClusterId::NONE`]).
pub fn cluster_from_wire(bytes: &[u8]) -> Result<ClusterId, Malformed> {
    if bytes.is_empty() {
        return Ok(ClusterId::NONE);
    }
    let bytes: [u8; 16] = bytes.try_into().map_err(|_| malformed("a cluster id has 16 bytes"))?;
    Ok(ClusterId(u128::from_be_bytes(bytes)))
}

/// An error as it travels.
pub fn error(code: ErrorCode, message: impl Into<String>) -> v1::Error {
    v1::Error { code: code.number(), message: message.into() }
}

impl From<EntryId> for v1::EntryId {
    fn from(id: EntryId) -> Self {
        v1::EntryId { term: id.term.0, seq: id.seq.0 }
    }
}

impl From<v1::EntryId> for EntryId {
    fn from(id: v1::EntryId) -> Self {
        EntryId { term: Term(id.term), seq: Seq(id.seq) }
    }
}

/// # Errors
/// [`Malformed`] if the field is absent.
pub fn required<T>(field: Option<T>, name: &str) -> Result<T, Malformed> {
    field.ok_or_else(|| malformed(format!("{name} is missing")))
}

/// Entries without their seqs, which follow from the one before them.
pub fn entries_to_wire(entries: impl IntoIterator<Item = Entry>) -> Vec<v1::LogEntry> {
    entries.into_iter().map(|e| v1::LogEntry { term: e.id.term.0, payload: e.payload }).collect()
}

/// Numbers the entries that follow `prev`. Payloads are not decoded here.
///
/// # Errors
/// [`Malformed`] where a term is lower than the one before it.
pub fn entries_from_wire(prev: EntryId, entries: Vec<v1::LogEntry>) -> Result<Vec<Entry>, Malformed> {
    let mut last = prev;
    entries
        .into_iter()
        .map(|entry| {
            let id = EntryId { term: Term(entry.term), seq: last.seq.next() };
            if id.term < last.term {
                return Err(malformed(format!("{id:?} follows {last:?}: terms never fall within a log")));
            }
            last = id;
            Ok(Entry { id, payload: entry.payload })
        })
        .collect()
}

impl From<&Configuration> for v1::Configuration {
    fn from(c: &Configuration) -> Self {
        v1::Configuration {
            term: c.term.0,
            replicas: c.replicas.iter().map(|n| n.0).collect(),
            learner: c.learner.map_or(0, |n| n.0),
            prior: c.prior.iter().map(|n| n.0).collect(),
        }
    }
}

impl TryFrom<v1::Configuration> for Configuration {
    type Error = Malformed;

    fn try_from(c: v1::Configuration) -> Result<Self, Malformed> {
        let nodes = |list: Vec<u64>, name: &str| {
            let nodes: Vec<NodeId> = list.into_iter().map(NodeId).collect();
            let distinct: std::collections::BTreeSet<_> = nodes.iter().collect();
            if distinct.len() != nodes.len() || nodes.contains(&NodeId(0)) {
                return Err(malformed(format!("{name} names a node twice, or none")));
            }
            Ok(nodes)
        };
        let replicas = nodes(c.replicas, "replicas")?;
        if replicas.is_empty() {
            return Err(malformed("a configuration without replicas"));
        }
        Ok(Configuration {
            term: Term(c.term),
            replicas,
            learner: (c.learner != 0).then_some(NodeId(c.learner)),
            prior: nodes(c.prior, "prior")?,
        })
    }
}

impl From<&NodeInfo> for v1::Node {
    fn from(n: &NodeInfo) -> Self {
        v1::Node {
            id: n.id.0,
            address: n.address.clone(),
            http_address: n.http_address.clone(),
            zone: n.zone.clone(),
            weight: n.weight,
            incarnation: n.incarnation.0,
            accepted_at: n.accepted_at.0,
            alive: n.alive,
            duty: n.duty.number(),
        }
    }
}

impl TryFrom<v1::Node> for NodeInfo {
    type Error = Malformed;

    fn try_from(n: v1::Node) -> Result<Self, Malformed> {
        if n.id == 0 || n.address.is_empty() {
            return Err(malformed("a node needs an id and an address"));
        }
        Ok(NodeInfo {
            id: NodeId(n.id),
            address: n.address,
            http_address: n.http_address,
            zone: n.zone,
            weight: n.weight,
            incarnation: Incarnation(n.incarnation),
            accepted_at: Epoch(n.accepted_at),
            alive: n.alive,
            duty: Duty::from_number(n.duty).ok_or_else(|| malformed("an unknown duty of a node"))?,
        })
    }
}

impl From<&View> for v1::View {
    fn from(v: &View) -> Self {
        v1::View {
            cluster: cluster_to_wire(v.cluster),
            epoch: v.epoch.0,
            partition_count: v.partition_count.get(),
            replication: u32::from(v.replication),
            nodes: v.nodes.values().map(Into::into).collect(),
            configurations: v.configurations.iter().map(|c| c.as_ref().into()).collect(),
            fill_bytes_per_second: v.fill_bytes_per_second,
        }
    }
}

impl TryFrom<v1::View> for View {
    type Error = Malformed;

    fn try_from(v: v1::View) -> Result<Self, Malformed> {
        let partition_count = PartitionCount::try_from(v.partition_count).map_err(malformed)?;
        let replication = u8::try_from(v.replication).map_err(|_| malformed("a replication factor above 255"))?;
        let mut view = View::new(cluster_from_wire(&v.cluster)?, partition_count, replication);
        view.epoch = Epoch(v.epoch);
        view.fill_bytes_per_second = v.fill_bytes_per_second;
        for node in v.nodes {
            let node = NodeInfo::try_from(node)?;
            view.nodes.insert(node.id, node);
        }
        if !v.configurations.is_empty() && v.configurations.len() != partition_count.get() as usize {
            return Err(malformed("a partition map that is not whole"));
        }
        for configuration in v.configurations {
            view.configurations.push(Arc::new(configuration.try_into()?));
        }
        Ok(view)
    }
}

impl From<&ViewDelta> for v1::ViewDelta {
    fn from(d: &ViewDelta) -> Self {
        v1::ViewDelta {
            from: d.from.0,
            to: d.to.0,
            nodes: d.nodes.iter().map(Into::into).collect(),
            removed: d.removed.iter().map(|n| n.0).collect(),
            configurations: d
                .configurations
                .iter()
                .map(|(p, c)| v1::PlacedConfiguration { partition: p.0, configuration: Some(c.as_ref().into()) })
                .collect(),
            replication: u32::from(d.replication),
            fill_bytes_per_second: d.fill_bytes_per_second,
        }
    }
}

impl TryFrom<v1::ViewDelta> for ViewDelta {
    type Error = Malformed;

    fn try_from(d: v1::ViewDelta) -> Result<Self, Malformed> {
        Ok(ViewDelta {
            from: Epoch(d.from),
            to: Epoch(d.to),
            nodes: d.nodes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            removed: d.removed.into_iter().map(NodeId).collect(),
            configurations: d
                .configurations
                .into_iter()
                .map(|placed| {
                    let configuration = required(placed.configuration, "a placed configuration")?;
                    Ok((PartitionId(placed.partition), Arc::new(configuration.try_into()?)))
                })
                .collect::<Result<_, Malformed>>()?,
            replication: u8::try_from(d.replication).map_err(|_| malformed("a replication factor above 255"))?,
            fill_bytes_per_second: d.fill_bytes_per_second,
        })
    }
}

/// What a view update makes of the view that the receiver has.
///
/// # Errors
/// [`Malformed`], also where a delta does not fit: the receiver then asks for the whole view.
pub fn apply_view_update(have: Option<&View>, update: v1::ViewUpdate) -> Result<View, Malformed> {
    use v1::view_update::Update;
    match required(update.update, "a view update")? {
        Update::Whole(view) => view.try_into(),
        Update::Delta(delta) => {
            let mut view = have.cloned().ok_or_else(|| malformed("a delta, but no view to apply it to"))?;
            let delta = ViewDelta::try_from(delta)?;
            view.apply(&delta).map_err(|e| malformed(e.to_string()))?;
            Ok(view)
        }
    }
}

/// # Errors
/// [`Malformed`] unless the key has 1 to 1,024 bytes.
pub fn check_key(key: &[u8]) -> Result<(), Malformed> {
    match key.len() {
        0 => Err(malformed("the key is empty; give it 1 to 1024 bytes")),
        bytes if bytes > KEY_BYTES_MAX => {
            Err(malformed(format!("the key has {bytes} bytes; the most is {KEY_BYTES_MAX}")))
        }
        _ => Ok(()),
    }
}

/// # Errors
/// [`Malformed`] if the value has more than a mebibyte.
pub fn check_value(value: &[u8]) -> Result<(), Malformed> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(malformed(format!("the value has {} bytes; the most is {VALUE_BYTES_MAX}", value.len())));
    }
    Ok(())
}

/// # Errors
/// [`Malformed`] if the time to live is longer than a value may be given; 0 is for ever.
pub fn check_ttl(ttl_ms: u64) -> Result<(), Malformed> {
    if u128::from(ttl_ms) > TTL_MAX.as_millis() {
        return Err(malformed("the time to live is longer than 10 years; leave it out for a value that stays"));
    }
    Ok(())
}

impl From<Condition> for v1::Condition {
    fn from(condition: Condition) -> Self {
        use v1::condition::Condition as Wire;
        let condition = match condition {
            Condition::None => None,
            Condition::Absent => Some(Wire::Absent(true)),
            Condition::Present => Some(Wire::Present(true)),
            Condition::Version(seq) => Some(Wire::Version(seq.0)),
            Condition::Value(value) => Some(Wire::Value(value)),
        };
        v1::Condition { condition }
    }
}

pub(crate) fn condition_from_wire(condition: Option<v1::Condition>) -> Result<Condition, Malformed> {
    use v1::condition::Condition as Wire;
    match condition.and_then(|c| c.condition) {
        None => Ok(Condition::None),
        Some(Wire::Absent(true)) => Ok(Condition::Absent),
        Some(Wire::Present(true)) => Ok(Condition::Present),
        Some(Wire::Absent(false) | Wire::Present(false)) => Err(malformed("a condition that is set to false")),
        Some(Wire::Version(version)) => Ok(Condition::Version(Seq(version))),
        Some(Wire::Value(value)) if value.len() > COMPARED_VALUE_BYTES_MAX => {
            Err(malformed(format!("the value to compare with has more than {COMPARED_VALUE_BYTES_MAX} bytes")))
        }
        Some(Wire::Value(value)) => Ok(Condition::Value(value)),
    }
}

/// As it travels.
pub fn fence_to_wire(fence: &Fence) -> v1::Fence {
    v1::Fence { name: String::from_utf8_lossy(&fence.name).into_owned(), token: fence.token.0 }
}

/// # Errors
/// [`Malformed`] unless the name has 1 to 255 bytes and the token is none of nobody's.
pub fn fence_from_wire(fence: v1::Fence) -> Result<Fence, Malformed> {
    if fence.name.is_empty() || fence.name.len() > LOCK_NAME_BYTES_MAX || fence.token == 0 {
        let most = LOCK_NAME_BYTES_MAX;
        return Err(malformed(format!("a fence is the name of a lock, of 1 to {most} bytes, and a token above 0")));
    }
    Ok(Fence { name: fence.name.into(), token: FencingToken(fence.token) })
}

/// What a client asks, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// The value of a key.
    Get(Bytes),
    /// A change, with the id that names it and its stamp (P28).
    Mutate(Mutation, RequestId, Stamp),
    /// Several keys at once, within the limits, with the id that names it and its stamp (P28).
    Transact(Box<Transaction>, RequestId, Stamp),
    /// Several keys of the first one's partition as of one instant; at least one.
    Collect(Vec<Bytes>),
    /// A page of a partition's keys.
    Scan(PartitionId, PageQuery),
}

impl Operation {
    /// The partition it is about, of so many.
    pub fn partition(&self, count: PartitionCount) -> PartitionId {
        match self {
            Operation::Get(key) => count.partition_of(key),
            Operation::Mutate(mutation, ..) => count.partition_of(&mutation.key),
            Operation::Transact(transaction, ..) => {
                count.partition_of(transaction.first_key().expect("a transaction without keys is malformed"))
            }
            Operation::Collect(keys) => {
                count.partition_of(keys.first().expect("a collection without keys is malformed"))
            }
            Operation::Scan(partition, _) => *partition,
        }
    }

    /// Whether it may change anything.
    pub fn changes(&self) -> bool {
        match self {
            Operation::Get(_) | Operation::Collect(_) | Operation::Scan(..) => false,
            Operation::Mutate(..) => true,
            Operation::Transact(transaction, ..) => !transaction.is_read_only(),
        }
    }

    /// The stamp that it is remembered by (P28).
    pub fn stamp(&self) -> Option<Stamp> {
        match self {
            Operation::Get(_) | Operation::Collect(_) | Operation::Scan(..) => None,
            Operation::Mutate(_, _, stamp) | Operation::Transact(_, _, stamp) => Some(*stamp),
        }
    }

    /// What names it.
    fn named(id: RequestId, stamp: Stamp) -> Option<v1::RequestId> {
        Some(v1::RequestId { client: id.client, counter: id.counter, stamp: stamp.0 })
    }

    /// As it travels.
    pub fn to_wire(&self) -> v1::request::Operation {
        match self.clone() {
            Operation::Get(key) => v1::request::Operation::Get(v1::Get { key }),
            Operation::Scan(partition, query) => v1::request::Operation::Scan(v1::Scan {
                partition: partition.0,
                prefix: query.prefix,
                after: query.after,
                records_max: query.records_max as u32,
                bytes_max: query.bytes_max as u32,
                keys_only: query.names_only,
            }),
            Operation::Mutate(Mutation { key, kind, condition, fence }, id, stamp) => {
                let fence = fence.as_ref().map(fence_to_wire);
                let condition = (condition != Condition::None).then(|| condition.into());
                let request = Self::named(id, stamp);
                match kind {
                    MutationKind::Put(value) => {
                        let (ttl_ms, lease) = (0, 0);
                        v1::request::Operation::Put(v1::Put { key, value, condition, request, fence, ttl_ms, lease })
                    }
                    MutationKind::PutExpiring { value, lifetime } => {
                        let (ttl_ms, lease) = match lifetime {
                            Lifetime::Milliseconds(ttl_ms) => (ttl_ms, 0),
                            Lifetime::Lease(lease) => (0, lease.0),
                        };
                        v1::request::Operation::Put(v1::Put { key, value, condition, request, fence, ttl_ms, lease })
                    }
                    MutationKind::Delete => {
                        v1::request::Operation::Delete(v1::Delete { key, condition, request, fence })
                    }
                }
            }
            Operation::Transact(transaction, id, stamp) => {
                let request = Self::named(id, stamp);
                v1::request::Operation::Transact(v1::Transact { request, ..(*transaction).into() })
            }
            Operation::Collect(keys) => v1::request::Operation::Collect(v1::Collect { keys }),
        }
    }

    /// # Errors
    /// [`Malformed`] for an operation that breaks a limit or lacks a part.
    pub fn from_wire(operation: Option<v1::request::Operation>) -> Result<Operation, Malformed> {
        use v1::request::Operation as Wire;
        let named = |request: Option<v1::RequestId>| {
            let request = required(request, "the request id")?;
            Ok((RequestId { client: request.client, counter: request.counter }, Stamp(request.stamp)))
        };
        match required(operation, "the operation")? {
            Wire::Transact(transact) => {
                let (id, stamp) = named(transact.request)?;
                Ok(Operation::Transact(Box::new(transact.try_into()?), id, stamp))
            }
            Wire::Collect(collect) => {
                let bytes: usize = collect.keys.iter().map(Bytes::len).sum();
                if collect.keys.is_empty() || collect.keys.len() > TRANSACTION_KEYS_MAX || bytes > TRANSACTION_BYTES_MAX
                {
                    return Err(malformed(format!("a collection names 1 to {TRANSACTION_KEYS_MAX} keys")));
                }
                collect.keys.iter().try_for_each(|key| check_key(key))?;
                Ok(Operation::Collect(collect.keys))
            }
            Wire::Get(get) => {
                check_key(&get.key)?;
                Ok(Operation::Get(get.key))
            }
            Wire::Scan(scan) => {
                if scan.prefix.len() > KEY_BYTES_MAX || scan.after.len() > KEY_BYTES_MAX {
                    return Err(malformed(format!("a prefix or a cursor has more than a key's {KEY_BYTES_MAX} bytes")));
                }
                let bytes_max = if scan.bytes_max == 0 { PAGE_BYTES_DEFAULT } else { scan.bytes_max as usize };
                let query = PageQuery {
                    kind: RecordKind::User,
                    prefix: scan.prefix,
                    after: scan.after,
                    records_max: (scan.records_max as usize).min(PAGE_RECORDS_MAX),
                    bytes_max: bytes_max.min(VALUE_BYTES_MAX),
                    names_only: scan.keys_only,
                };
                Ok(Operation::Scan(PartitionId(scan.partition), query))
            }
            Wire::Put(put) => {
                check_key(&put.key)?;
                check_value(&put.value)?;
                let condition = condition_from_wire(put.condition)?;
                let (id, stamp) = named(put.request)?;
                check_ttl(put.ttl_ms)?;
                let lifetime = match (put.ttl_ms, put.lease) {
                    (0, 0) => None,
                    (ttl_ms, 0) => Some(Lifetime::Milliseconds(ttl_ms)),
                    (0, lease) => Some(Lifetime::Lease(LeaseId(lease))),
                    _ => return Err(malformed("a value has a time to live or a lease, not both")),
                };
                let value = put.value;
                let kind = match lifetime {
                    None => MutationKind::Put(value),
                    Some(lifetime) => MutationKind::PutExpiring { value, lifetime },
                };
                let fence = put.fence.map(fence_from_wire).transpose()?;
                let mutation = Mutation { key: put.key, kind, condition, fence };
                Ok(Operation::Mutate(mutation, id, stamp))
            }
            Wire::Delete(delete) => {
                check_key(&delete.key)?;
                let condition = condition_from_wire(delete.condition)?;
                let (id, stamp) = named(delete.request)?;
                let fence = delete.fence.map(fence_from_wire).transpose()?;
                let mutation = Mutation { key: delete.key, kind: MutationKind::Delete, condition, fence };
                Ok(Operation::Mutate(mutation, id, stamp))
            }
        }
    }
}

impl From<Page> for v1::Page {
    fn from(page: Page) -> Self {
        let items = page.items.into_iter().map(|PageItem { name, seq, value }| v1::Item {
            key: name,
            version: seq.0,
            value_left_out: value.is_none(),
            value: value.unwrap_or_default(),
        });
        let items = items.collect();
        v1::Page { items, at: page.at.0, more: page.resume.is_some(), resume: page.resume.unwrap_or_default() }
    }
}

impl From<v1::Page> for Page {
    fn from(page: v1::Page) -> Self {
        let items = page.items.into_iter().map(|item| PageItem {
            name: item.key,
            seq: Seq(item.version),
            value: (!item.value_left_out).then_some(item.value),
        });
        Page { items: items.collect(), at: Seq(page.at), resume: page.more.then_some(page.resume) }
    }
}
