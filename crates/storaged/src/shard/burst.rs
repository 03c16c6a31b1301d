//! What one burst sends out: one submission to the log, one batch for each peer, one wake-up for each client's stream.

use crate::journal::{self, Journal};
use crate::kv::connection::Connection;
use crate::peer::link::Link;
use crate::peer::{between, convert};
use crate::shard::input::{Completion, Persisted};
use replcore::{Message, PersistIndex, PersistRecord, TransactionMessage};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;
use types::{NodeId, PartitionId};
use wal::Records;
use wire::v1;

/// Gathers what the effects of a burst want to send out.
#[derive(Default)]
pub(crate) struct Burst {
    records: Records,
    persisted: Vec<Persisted>,
    outgoing: BTreeMap<NodeId, Outgoing>,
    wake: Vec<Arc<Connection>>,
}

struct Outgoing {
    link: Arc<Link>,
    messages: Vec<v1::PeerMessage>,
}

/// What a burst sent out, for the counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct SentOut {
    /// Records of the log.
    pub(crate) records: usize,
    /// Messages to peers.
    pub(crate) messages: usize,
}

impl Burst {
    /// The peers that can be written to from now on. What is gathered for those that stay stays.
    pub(crate) fn set_links(&mut self, links: impl IntoIterator<Item = Arc<Link>>) {
        let mut before = std::mem::take(&mut self.outgoing);
        for link in links {
            let messages = before.remove(&link.peer()).map_or_else(Vec::new, |outgoing| outgoing.messages);
            self.outgoing.insert(link.peer(), Outgoing { link, messages });
        }
    }

    /// The way to a peer.
    pub(crate) fn link(&self, peer: NodeId) -> Option<&Arc<Link>> {
        self.outgoing.get(&peer).map(|outgoing| &outgoing.link)
    }

    /// A record for the log.
    pub(crate) fn persist(&mut self, partition: PartitionId, index: PersistIndex, record: &PersistRecord) {
        journal::push_partition(&mut self.records, partition, record);
        let reset = matches!(record, PersistRecord::Reset(_));
        let highest = match record {
            PersistRecord::Append { entries, .. } => entries.last().map(|entry| entry.id.seq),
            _ => None,
        };
        match self.persisted.last_mut() {
            Some(last) if last.partition == partition && !reset => {
                last.through = index;
                last.highest = last.highest.max(highest);
            }
            _ => self.persisted.push(Persisted { partition, through: index, highest, reset }),
        }
    }

    /// A message for a peer; dropped if no view names that peer.
    pub(crate) fn send(&mut self, to: NodeId, partition: PartitionId, message: Message) {
        if let Some(outgoing) = self.outgoing.get_mut(&to) {
            outgoing.messages.push(convert::to_wire(partition, message));
        }
    }

    /// Something for the primary of another partition, on this peer; dropped if no view names that peer.
    pub(crate) fn send_to_partition(&mut self, to: NodeId, partition: PartitionId, message: TransactionMessage) {
        if let Some(outgoing) = self.outgoing.get_mut(&to) {
            outgoing.messages.push(between::to_wire(partition, message));
        }
    }

    /// An answer for a client.
    pub(crate) fn answer(&mut self, connection: Arc<Connection>, response: v1::Response) {
        if connection.answer(response) {
            self.wake.push(connection);
        }
    }

    /// Sends everything out. True in `submitted` where there was something for the log: one completion will come.
    pub(crate) fn leave(
        &mut self,
        journal: &dyn Journal,
        completions: &UnboundedSender<Completion>,
    ) -> (SentOut, bool) {
        let mut sent = SentOut { records: self.records.len(), messages: 0 };
        let submitted = !self.records.is_empty();
        // The log first: its sync takes longest.
        if submitted {
            let records = std::mem::take(&mut self.records);
            let persisted = std::mem::take(&mut self.persisted);
            let completions = completions.clone();
            let done = move |segment| {
                // The shard goes only when the node ends.
                let _ended = completions.send(Completion::Persisted { segment, persisted });
            };
            journal.submit(records, Box::new(done));
        }
        for outgoing in self.outgoing.values_mut() {
            if !outgoing.messages.is_empty() {
                sent.messages += outgoing.messages.len();
                outgoing.link.send(&mut outgoing.messages);
            }
        }
        for connection in self.wake.drain(..) {
            connection.wake();
        }
        (sent, submitted)
    }
}
