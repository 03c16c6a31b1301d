//! What a shard does for watchers between its bursts' other work.

use crate::shard::input::Completion;
use crate::shard::worker::Worker;
use crate::watch::feeds::{Wanted, refuse};
use crate::watch::watcher::Watcher;
use std::sync::Arc;
use types::ErrorCode;

impl Worker {
    /// New subscriptions of a client.
    pub(super) fn watch(&mut self, watcher: &Arc<Watcher>, wanted: Vec<Wanted>) {
        for wanted in wanted {
            let place = self.place_of(wanted.partition);
            if self.stopping.is_some() {
                refuse(watcher, wanted, ErrorCode::ShuttingDown, "the node is stopping");
            } else if self.slot(place).is_none() {
                refuse(watcher, wanted, ErrorCode::NotPrimary, "this node has no replica of it");
            } else {
                self.feeds.subscribe(place, watcher, wanted);
            }
        }
    }

    /// Those who are behind read a piece of the log each.
    pub(super) fn catch_up(&mut self) {
        let slots = &self.slots;
        self.feeds.catch_up(|place| slots.get(place)?.as_deref().map(|slot| &slot.replica));
        if self.feeds.wants_to_wake() {
            // The other end is this shard's own.
            let _never_gone = self.completions.send(Completion::CatchUp);
        }
    }
}
