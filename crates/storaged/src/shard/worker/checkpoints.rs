//! Committed state goes to the engine, and the log that held it goes.

use super::{Drained, Worker};
use crate::shard::slot::Slot;
use replcore::Event;
use tokio::sync::oneshot;
use wal::SegmentNumber;

impl Worker {
    /// Gives the engine everything that is committed.
    pub(super) fn hand_over(&mut self) {
        let mut batches = Vec::new();
        let slots = &mut self.slots;
        let mut take = |slot: &mut Slot| {
            batches.extend(slot.replica.take_apply().map(|apply| (slot.replica.partition(), apply)));
        };
        self.lag.lagging.retain(|place| {
            let Some(Some(slot)) = slots.get_mut(*place) else { return false };
            slot.lagging = slot.unapplied_bytes > 0;
            if slot.lagging {
                take(slot);
            }
            slot.lagging
        });
        if self.lag.is_draining() {
            // Entries that change nothing, such as a term's first, weigh nothing, and still hold up the log.
            slots.iter_mut().flatten().for_each(|slot| take(slot));
        }
        let any = !batches.is_empty();
        if any {
            self.meters.handed_over(batches.iter().map(|(_, apply)| apply.changes.len()).sum());
            self.parts.applier.apply(batches, self.completions.clone());
        }
        let drained = self.lag.handed_over(any, self.now);
        self.answer_drain(drained);
    }

    pub(super) fn answer_drain(&mut self, drained: Option<Drained>) {
        if let Some(done) = drained {
            for slot in self.slots.iter_mut().flatten() {
                slot.drained = (slot.replica.base().generation, slot.replica.applied().seq);
            }
            // The keeper goes only when the node ends.
            let _ended = done.send(());
        }
    }

    /// The state is on disk as of the last drain: the log before that may go, once the bases are written again.
    pub(super) fn trim(&mut self, room_before: SegmentNumber, done: oneshot::Sender<Option<SegmentNumber>>) {
        for place in 0..self.slots.len() {
            let Some(Some(slot)) = self.slots.get_mut(place) else { continue };
            let (generation, through) = slot.drained;
            let oldest = slot.retention.oldest_needed(slot.replica.first_kept());
            let make_room = oldest.is_some_and(|oldest| oldest < room_before);
            self.step(place, Event::Checkpointed { generation, through, make_room });
            self.step(place, Event::WriteBase);
        }
        // They leave with this burst.
        self.trimming = Some((self.submissions + 1, done));
    }

    pub(super) fn answer_trimming(&mut self) {
        let Some((submission, _)) = &self.trimming else { return };
        // A shard without replicas has written no bases: nothing to wait for.
        let written = if self.slots.iter().all(Option::is_none) { 0 } else { *submission };
        if self.durable_submissions < written {
            return;
        }
        let oldest = self.slots.iter_mut().flatten().filter_map(|slot| {
            let first_kept = slot.replica.first_kept();
            slot.retention.oldest_needed(first_kept)
        });
        let oldest = oldest.min();
        if let Some((_, done)) = self.trimming.take() {
            // The keeper goes only when the node ends.
            let _ended = done.send(oldest);
        }
    }
}
