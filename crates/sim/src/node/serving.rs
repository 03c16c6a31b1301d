//! What a node does for those who watch what it serves, and for keys that expire.

use super::Node;
use crate::context::Context;
use crate::happening::{Happening, Input, Process};
use crate::network::Place;
use crate::queue::{MS, Micros};
use crate::readers::Subscription;
use bytes::Bytes;
use types::{Expiry, Lifetime, PartitionId, Seq};

/// A key whose time was over and that is still there is proposed again after this.
const AGAIN: Micros = 50 * MS;

impl Node {
    /// A watcher wants this partition; what it wanted of it before counts no more.
    pub(super) fn watch(&mut self, subscription: Subscription) {
        let Some(process) = &mut self.process else { return };
        process.watchers.insert((subscription.partition, subscription.watcher), subscription);
    }

    /// Tells those who watch the partition what was committed since.
    pub(super) fn feed(&mut self, ctx: &mut Context, partition: PartitionId) {
        let here = Place::Node(self.place);
        let Some(process) = &mut self.process else { return };
        let Some(replica) = process.replicas.get(partition.0 as usize) else { return };
        process.watchers.retain(|(of, watcher), told| {
            if *of != partition {
                return true;
            }
            loop {
                let bytes_max = [1, 60, 1000][ctx.random.index(3)];
                let fed = replica.committed_after(told.after, bytes_max);
                let (after, number) = (told.after, told.number);
                let through = fed.as_ref().ok().map(|fed| fed.through);
                if through == Some(after) {
                    return true;
                }
                ctx.send(here, Place::Clients, Happening::Fed { watcher: *watcher, partition, number, after, fed });
                match through {
                    Some(through) => told.after = through,
                    None => return false,
                }
            }
        });
    }

    pub(super) fn key_expires(&mut self, ctx: &mut Context, partition: PartitionId, key: Bytes, expiry: Expiry) {
        let Some(process) = &mut self.process else { return };
        let Expiry { version, lifetime } = expiry;
        let after = match lifetime {
            Lifetime::Milliseconds(ttl_ms) => ttl_ms * MS,
            // Named by when it ends.
            Lifetime::Lease(lease) => (lease.0 * MS).saturating_sub(ctx.now),
        };
        let known = process.timers.entry((partition, key.clone())).or_default();
        if *known < version {
            *known = version;
            let input = Input::KeyExpired { partition, key, version };
            ctx.process(after, self.place, process.start, Process::Input(input));
        }
    }

    /// Whether the timer is still meant; if so, it is due again until it is over.
    pub(super) fn key_expired(&mut self, ctx: &mut Context, partition: PartitionId, key: &Bytes, version: Seq) -> bool {
        let Some(process) = &mut self.process else { return false };
        let meant = process.timers.get(&(partition, key.clone())) == Some(&version);
        if meant {
            let input = Input::KeyExpired { partition, key: key.clone(), version };
            ctx.process(AGAIN, self.place, process.start, Process::Input(input));
        }
        meant
    }

    pub(super) fn expiry_over(&mut self, ctx: &mut Context, partition: PartitionId, keys: Vec<(Bytes, Seq)>) {
        let Some(process) = &mut self.process else { return };
        for (key, version) in keys {
            let place = (partition, key);
            if process.timers.get(&place) == Some(&version) {
                process.timers.remove(&place);
                ctx.counts.expired += 1;
            }
        }
    }
}
