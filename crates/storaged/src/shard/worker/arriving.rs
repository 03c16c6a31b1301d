//! What clients, peers and other partitions of the node say.

use super::Worker;
use crate::clock;
use crate::kv::answer;
use crate::kv::connection::Connection;
use crate::shard::input::{Completion, Incoming, Input};
use crate::shard::lag;
use crate::shard::open::OpenRequest;
use replcore::{Body, Event, Message, Proposal, TransactionMessage, TransactionProposal};
use std::sync::Arc;
use types::{ErrorCode, NodeId, PartitionId, Stamp};
use wire::convert::Operation;

impl Worker {
    pub(super) fn on_request(&mut self, connection: &Arc<Connection>, request: Incoming) {
        let Incoming { number, partition, operation, deadline } = request;
        let place = self.place_of(partition);
        let (changes, overloaded) = (operation.changes(), self.lag.is_overloaded());
        let calendar_ms = clock::calendar_ms();
        let refused = match (self.stopping, self.slot(place)) {
            (Some(_), _) => Some(ErrorCode::ShuttingDown),
            (None, None) => Some(ErrorCode::NotPrimary),
            (None, Some(_)) if changes && overloaded => Some(ErrorCode::Overloaded),
            (None, Some(slot)) if is_from_the_future(&operation, calendar_ms, slot.replica.refused_before()) => {
                Some(ErrorCode::StampTooOld)
            }
            (None, Some(_)) => None,
        };
        if let Some(code) = refused {
            let view = Some(self.parts.view.as_ref());
            let mut response = answer::refusal(number, self.parts.me.node, Some(partition), code, None, view);
            self.suggest_time(place, code, &mut response);
            self.burst.answer(connection.clone(), response);
            return;
        }
        let token = self.open.insert(OpenRequest { connection: connection.clone(), number, partition, deadline });
        let event = match operation {
            Operation::Get(key) => Event::Read { token, key },
            Operation::Scan(_, query) => Event::ReadPage { token, query },
            Operation::Collect(keys) => Event::Collect { token, keys },
            Operation::Transact(transaction, id, stamp) => {
                let parts = transaction.split(self.parts.view.partition_count);
                let forget_before = clock::forget_before(calendar_ms, stamp);
                let proposal = TransactionProposal { id, stamp, parts, forget_before };
                Event::Transact { token, proposal: Box::new(proposal) }
            }
            Operation::Mutate(mutation, id, stamp) => {
                self.burst_bytes += mutation.kind.value().map_or(0, bytes::Bytes::len);
                let forget_before = clock::forget_before(calendar_ms, stamp);
                let proposal = Proposal { id, stamp, mutation, forget_before };
                Event::Mutate { token, proposal }
            }
        };
        self.step(place, event);
    }

    /// P28: who is refused for its stamp hears of one that would be accepted.
    pub(super) fn suggest_time(&mut self, place: usize, code: ErrorCode, response: &mut wire::v1::Response) {
        if code == ErrorCode::StampTooOld
            && let Some(slot) = self.slot(place)
        {
            response.server_time_ms = clock::acceptable_ms(clock::calendar_ms(), slot.replica.refused_before());
        }
    }

    pub(super) fn hear_partitions(&mut self, messages: Vec<(PartitionId, TransactionMessage)>) {
        self.meters.messages_received(messages.len());
        for (partition, message) in messages {
            let place = self.place_of(partition);
            self.step(place, Event::FromPartition { message });
        }
    }

    /// To whoever is that partition's primary by the newest view that this node has.
    pub(super) fn send_to_partition(&mut self, partition: PartitionId, message: TransactionMessage) {
        let primary = self.parts.view.configuration(partition).and_then(|configuration| configuration.primary());
        match primary {
            Some(node) if node == self.parts.me.node => {
                self.between[partition.0 as usize % self.parts.count].push((partition, message));
            }
            Some(node) => self.burst.send_to_partition(node, partition, message),
            // The partition map is not there yet: it will be said again.
            None => {}
        }
    }

    /// What partitions of this node have to say to each other leaves.
    pub(super) fn speak_between(&mut self) {
        for index in 0..self.between.len() {
            if self.between[index].is_empty() {
                continue;
            }
            let messages = std::mem::take(&mut self.between[index]);
            if index == self.parts.index {
                // The receiver is this worker.
                let _heard = self.completions.send(Completion::FromPartitions(messages));
            } else {
                self.parts.shards.at(index).offer(Input::FromPartitions(messages));
            }
        }
    }

    pub(super) fn on_message(&mut self, from: NodeId, partition: PartitionId, message: Message) {
        if partition.0 >= self.parts.view.partition_count.get() {
            tracing::warn!(%from, %partition, "a message for a partition that the cluster does not have");
            return;
        }
        self.burst_bytes += match &message.body {
            Body::Prepare { entries, .. } | Body::Fetched { entries, .. } => {
                entries.iter().map(|entry| entry.payload.len()).sum::<usize>()
            }
            Body::Chunk(chunk) => chunk.bytes(),
            _ => 0,
        };
        let message = if self.lag.is_overloaded() { lag::without_entries(message) } else { message };
        let place = self.place_of(partition);
        // P4: without a record the replica answers that it is no member.
        if self.slot(place).is_none() && !self.create(place, partition) {
            return;
        }
        self.step(place, Event::Message { from, message });
    }

    /// Tells the replicas what has become of a peer's stream.
    pub(super) fn look_at_peer(&mut self, peer: NodeId) {
        self.burst.set_links(self.parts.links.all());
        let era = self.burst.link(peer).and_then(|link| link.era());
        let event = match (self.peers.insert(peer, era), era) {
            (Some(known), now) if known == now => return,
            (_, Some(_)) => Event::PeerUp { peer },
            (_, None) => Event::PeerDown { peer },
        };
        for place in 0..self.slots.len() {
            self.step(place, event.clone());
        }
    }
}

/// P28: a stamp that would be remembered for too long.
fn is_from_the_future(operation: &Operation, calendar_ms: u64, refused_before: Stamp) -> bool {
    operation.stamp().is_some_and(|stamp| clock::is_too_far_ahead(stamp, calendar_ms, refused_before))
}
