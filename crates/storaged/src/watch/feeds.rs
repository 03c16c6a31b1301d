//! A shard's side of watching: which of its partitions are watched by whom, and how far each watcher is.

use crate::watch::watcher::{Filter, Push, Watcher, to_wire};
use bytes::Bytes;
use replcore::{Changed, Fed, NotFed, Replica};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;
use types::{ErrorCode, PartitionId, Seq};
use wire::v1;

/// What is read of a log at a time, in bytes.
const READ_BYTES: usize = 256 << 10;
/// A watcher whose keys do not change hears how far it is after so many bytes of changes to others.
const SILENT_BYTES_MAX: usize = 64 << 10;

/// The watched partitions of a shard, by place.
#[derive(Debug, Default)]
pub(crate) struct Feeds {
    places: BTreeMap<usize, Feed>,
    /// Places with somebody who is behind and has room.
    behind: Vec<usize>,
    /// The shard will come back to them by itself.
    waking: bool,
}

/// One watched partition.
#[derive(Debug)]
struct Feed {
    partition: PartitionId,
    /// Whoever is up to date has been told everything that concerns it through here.
    fed: Seq,
    /// Bytes that went by since everybody was told how far it is.
    silent_bytes: usize,
    /// Up to date, by the key that they watch.
    keys: FxHashMap<Bytes, Vec<Subscriber>>,
    /// Up to date, watching a prefix.
    prefixes: Vec<Subscriber>,
    /// Those that must read the log for themselves.
    lagging: Vec<Subscriber>,
}

#[derive(Debug)]
struct Subscriber {
    watcher: Arc<Watcher>,
    number: u64,
    /// The end of the last part.
    told: Seq,
    /// It waits for room.
    full: bool,
}

impl Subscriber {
    /// Tells it of changes through `through`.
    fn tell(&mut self, partition: PartitionId, changes: Vec<v1::WatchedChange>, through: Seq) -> Push {
        let (after, subscription) = (self.told.0, self.number);
        let part =
            v1::WatchPart { subscription, partition: partition.0, after, through: through.0, changes, end: None };
        let push = self.watcher.push(part);
        if push == Push::Taken {
            self.told = through;
        }
        push
    }

    fn end(&self, partition: PartitionId, end: v1::watch_part::End) {
        let told = self.told.0;
        let part = v1::WatchPart {
            subscription: self.number,
            partition: partition.0,
            after: told,
            through: told,
            changes: Vec::new(),
            end: Some(end),
        };
        // Gone: then nobody wants to know.
        let _gone = self.watcher.push(part);
    }
}

/// One subscription that a client asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// The client's number for it.
    pub(crate) number: u64,
    /// Which partition.
    pub(crate) partition: PartitionId,
    /// The last seq that it has seen.
    pub(crate) after: Seq,
}

/// Says that there is nothing to be had here.
pub(crate) fn refuse(watcher: &Arc<Watcher>, wanted: Wanted, code: ErrorCode, why: &str) {
    let Wanted { number, partition, after } = wanted;
    let subscriber = Subscriber { watcher: watcher.clone(), number, told: after, full: false };
    subscriber.end(partition, v1::watch_part::End::Error(wire::convert::error(code, format!("{partition}: {why}"))));
}

impl Feeds {
    /// Whether the shard must see to it that [`Feeds::catch_up`] is called again. Asked once until [`Feeds::woken`].
    pub(crate) fn wants_to_wake(&mut self) -> bool {
        let wants = !self.behind.is_empty() && !self.waking;
        self.waking |= wants;
        wants
    }

    /// The shard has come back.
    pub(crate) fn woken(&mut self) {
        self.waking = false;
    }

    /// A new subscriber: it reads the log from where it says.
    pub(crate) fn subscribe(&mut self, place: usize, watcher: &Arc<Watcher>, wanted: Wanted) {
        let Wanted { number, partition, after } = wanted;
        let feed = self.places.entry(place).or_insert_with(|| Feed {
            partition,
            fed: Seq(0),
            silent_bytes: 0,
            keys: FxHashMap::default(),
            prefixes: Vec::new(),
            lagging: Vec::new(),
        });
        feed.lagging.push(Subscriber { watcher: watcher.clone(), number, told: after, full: false });
        self.behind.push(place);
    }

    /// There is room again for this watcher.
    pub(crate) fn room(&mut self, watcher: &Arc<Watcher>) {
        let behind = &mut self.behind;
        self.places.retain(|place, feed| {
            feed.lagging.retain(|subscriber| !subscriber.watcher.is_gone());
            for subscriber in feed.lagging.iter_mut().filter(|s| Arc::ptr_eq(&s.watcher, watcher)) {
                subscriber.full = false;
                behind.push(*place);
            }
            !feed.is_empty()
        });
    }

    /// Tells this watcher how far it is, and forgets those that have gone.
    pub(crate) fn progress(&mut self, watcher: &Arc<Watcher>) {
        self.places.retain(|_, feed| {
            let chosen = |subscriber: &Subscriber| Arc::ptr_eq(&subscriber.watcher, watcher);
            feed.tell_all(chosen);
            !feed.is_empty()
        });
    }

    /// Nothing is told here any more: whoever watches this place hears why.
    pub(crate) fn end(&mut self, place: usize, code: ErrorCode) {
        if let Some(feed) = self.places.remove(&place) {
            feed.end_all(code);
        }
    }

    /// The node stops.
    pub(crate) fn end_all(&mut self, code: ErrorCode) {
        std::mem::take(&mut self.places).into_values().for_each(|feed| feed.end_all(code));
    }

    /// Tells everybody who is up to date what was committed at this place since the last time.
    pub(crate) fn feed(&mut self, place: usize, replica: &Replica) {
        let Some(feed) = self.places.get_mut(&place) else { return };
        if feed.keys.is_empty() && feed.prefixes.is_empty() {
            return;
        }
        while replica.serves_through().is_some_and(|committed| committed > feed.fed) {
            match replica.committed_after(feed.fed, READ_BYTES) {
                Ok(fed) => feed.give(&fed),
                Err(not_fed) => {
                    // So far behind within one burst, or no primary any more.
                    let feed = self.places.remove(&place);
                    feed.into_iter().for_each(|feed| feed.everybody().for_each(|s| s.not_fed(feed.partition, not_fed)));
                    return;
                }
            }
        }
    }

    /// Lets those who are behind and have room read a piece of the log each. `replica_at` finds a place's replica.
    pub(crate) fn catch_up<'a>(&mut self, replica_at: impl Fn(usize) -> Option<&'a Replica>) {
        let mut behind = std::mem::take(&mut self.behind);
        behind.sort_unstable();
        behind.dedup();
        for place in behind {
            let (Some(feed), Some(replica)) = (self.places.get_mut(&place), replica_at(place)) else { continue };
            if feed.catch_up(replica) {
                self.behind.push(place);
            }
            if feed.is_empty() {
                self.places.remove(&place);
            }
        }
    }
}

impl Feed {
    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.prefixes.is_empty() && self.lagging.is_empty()
    }

    fn everybody(&self) -> impl Iterator<Item = &Subscriber> {
        self.keys.values().flatten().chain(&self.prefixes).chain(&self.lagging)
    }

    fn end_all(&self, code: ErrorCode) {
        self.everybody().for_each(|subscriber| subscriber.not_fed(self.partition, NotFed::Refused(code)));
    }

    /// One pass over new changes for all who are up to date.
    fn give(&mut self, fed: &Fed) {
        let (partition, lagging) = (self.partition, &mut self.lagging);
        if !self.keys.is_empty() {
            let mut by_key: BTreeMap<&Bytes, Vec<v1::WatchedChange>> = BTreeMap::new();
            for change in fed.changes.iter().filter(|change| self.keys.contains_key(&change.key)) {
                by_key.entry(&change.key).or_default().push(to_wire(change));
            }
            for (key, changes) in by_key {
                let Some(subscribers) = self.keys.get_mut(key) else { continue };
                tell(partition, subscribers, lagging, |_| changes.clone(), fed.through);
                if subscribers.is_empty() {
                    self.keys.remove(key);
                }
            }
        }
        let wanted = |watcher: &Watcher| -> Vec<v1::WatchedChange> {
            fed.changes.iter().filter(|change| watcher.wants(&change.key)).map(to_wire).collect()
        };
        tell(partition, &mut self.prefixes, lagging, wanted, fed.through);
        self.fed = fed.through;
        self.silent_bytes += fed.changes.iter().map(bytes_of).sum::<usize>();
        if self.silent_bytes > SILENT_BYTES_MAX {
            self.silent_bytes = 0;
            self.tell_all(|_| true);
        }
    }

    /// Tells those who are up to date, and chosen, how far they are.
    fn tell_all(&mut self, chosen: impl Fn(&Subscriber) -> bool) {
        let Feed { partition, fed, keys, prefixes, lagging, .. } = self;
        let told = |subscriber: &mut Subscriber| {
            if subscriber.watcher.is_gone() {
                return false;
            }
            // One without room is told when it has some.
            if subscriber.told < *fed && chosen(subscriber) {
                let _full = subscriber.tell(*partition, Vec::new(), *fed);
            }
            true
        };
        prefixes.retain_mut(told);
        lagging.retain(|subscriber| !subscriber.watcher.is_gone());
        keys.retain(|_, subscribers| {
            subscribers.retain_mut(told);
            !subscribers.is_empty()
        });
    }

    /// One piece of the log for each who is behind and has room; true: there is more to do.
    fn catch_up(&mut self, replica: &Replica) -> bool {
        let mut again = false;
        for mut subscriber in std::mem::take(&mut self.lagging) {
            if subscriber.full {
                self.lagging.push(subscriber);
                continue;
            }
            let fed = match replica.committed_after(subscriber.told, READ_BYTES) {
                Ok(fed) => fed,
                Err(not_fed) => {
                    subscriber.not_fed(self.partition, not_fed);
                    continue;
                }
            };
            let wanted = fed.changes.iter().filter(|change| subscriber.watcher.wants(&change.key));
            let changes: Vec<_> = wanted.map(to_wire).collect();
            // Also where there is nothing: its client knows then that it is watching.
            match subscriber.tell(self.partition, changes, fed.through) {
                Push::Gone => {}
                Push::Full => {
                    subscriber.full = true;
                    self.lagging.push(subscriber);
                }
                Push::Taken if replica.serves_through() == Some(fed.through) => self.up_to_date(subscriber),
                Push::Taken => {
                    again = true;
                    self.lagging.push(subscriber);
                }
            }
        }
        again
    }

    /// It has read everything that is committed. Others have too: the burst's feed came before.
    fn up_to_date(&mut self, subscriber: Subscriber) {
        self.fed = subscriber.told;
        match subscriber.watcher.filter() {
            Filter::Key(key) => self.keys.entry(key.clone()).or_default().push(subscriber),
            Filter::Prefix(_) => self.prefixes.push(subscriber),
        }
    }
}

impl Subscriber {
    fn not_fed(&self, partition: PartitionId, why: NotFed) {
        use v1::watch_part::End;
        let error = |code, why: String| End::Error(wire::convert::error(code, format!("{partition}: {why}")));
        let end = match why {
            NotFed::Compacted(oldest) => End::Compacted(oldest.0),
            NotFed::Refused(code) => error(code, "this node does not serve it any more".to_owned()),
            NotFed::Beyond(end) => {
                error(ErrorCode::Invalid, format!("only {end} is committed; the cursor is of another cluster"))
            }
        };
        self.end(partition, end);
    }
}

/// Tells each of `subscribers` what is `wanted`; who has no room must read the log later, who has gone is forgotten.
fn tell(
    partition: PartitionId,
    subscribers: &mut Vec<Subscriber>,
    lagging: &mut Vec<Subscriber>,
    wanted: impl Fn(&Watcher) -> Vec<v1::WatchedChange>,
    through: Seq,
) {
    let refused = subscribers.extract_if(.., |subscriber| {
        let changes = wanted(&subscriber.watcher);
        if changes.is_empty() {
            return false;
        }
        let push = subscriber.tell(partition, changes, through);
        subscriber.full = push == Push::Full;
        push != Push::Taken
    });
    lagging.extend(refused.filter(|subscriber| subscriber.full));
}

fn bytes_of(change: &Changed) -> usize {
    change.key.len() + change.value.as_ref().map_or(0, Bytes::len)
}
