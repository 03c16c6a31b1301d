//! Who waits for which number on a stream.
//!
//! A number is a place in a vector and how often that place was used before, so that an answer which comes after its
//! waiter has gone finds nobody instead of the next one.

use crate::error::Unanswered;
use tokio::sync::oneshot;
use tokio::time::Instant;
use types::{Epoch, PartitionId};
use wire::v1;

/// What a waiter gets.
pub(crate) type Reply = Result<v1::Response, Unanswered>;

/// One request that waits for its answer.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// The partition it is for and the epoch of the view that chose the node, where a view did.
    pub(crate) routed: Option<(PartitionId, Epoch)>,
    /// When to give up.
    pub(crate) deadline: Instant,
    /// Where the answer goes. The other end may have gone.
    pub(crate) reply: oneshot::Sender<Reply>,
}

#[derive(Debug, Default)]
struct Slot {
    uses: u32,
    waiter: Option<Waiter>,
}

#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slots {
    /// Gives `waiter` a number that no other one has.
    pub(crate) fn insert(&mut self, waiter: Waiter) -> u64 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            // More than four thousand million requests in flight do not fit into memory.
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[place as usize];
        slot.uses = slot.uses.wrapping_add(1);
        slot.waiter = Some(waiter);
        u64::from(slot.uses) << 32 | u64::from(place)
    }

    /// The waiter with this number, if it still waits.
    pub(crate) fn take(&mut self, number: u64) -> Option<Waiter> {
        let place = number as u32;
        let slot = self.slots.get_mut(place as usize)?;
        if u64::from(slot.uses) != number >> 32 {
            return None;
        }
        let waiter = slot.waiter.take()?;
        self.free.push(place);
        Some(waiter)
    }

    /// Takes every waiter that `chosen` names, with its number.
    pub(crate) fn take_where(&mut self, mut chosen: impl FnMut(&Waiter) -> bool) -> Vec<(u64, Waiter)> {
        let mut taken = Vec::new();
        for (place, slot) in self.slots.iter_mut().enumerate() {
            if slot.waiter.as_ref().is_some_and(&mut chosen) {
                let place = place as u32;
                taken.extend(slot.waiter.take().map(|w| (u64::from(slot.uses) << 32 | u64::from(place), w)));
                self.free.push(place);
            }
        }
        taken
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter() -> Waiter {
        Waiter { routed: None, deadline: Instant::now(), reply: oneshot::channel().0 }
    }

    /// Guards against a late answer that is given to whoever uses the place next.
    #[test]
    fn a_late_number_finds_nobody() {
        let mut slots = Slots::default();
        let first = slots.insert(waiter());
        assert!(slots.take(first).is_some());
        let second = slots.insert(waiter());
        assert_ne!(first, second);
        assert!(slots.take(first).is_none());
        assert!(slots.take(u64::MAX).is_none());
        assert!(!slots.is_empty());
        assert_eq!(slots.take_where(|_| true)[0].0, second);
        assert!(slots.is_empty() && slots.take(second).is_none());
    }
}
