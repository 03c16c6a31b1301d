//! Follows each watched partition at whoever is its primary, from its cursor on.

use crate::client::Client;
use crate::error::Error;
use crate::watch::begin::{self, Begun, Windows};
use crate::watch::node::{Heard, NodeWatch};
use crate::watch::{WatchEvent, WatchFrom, WatchWhat};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use types::{Epoch, NodeId, PartitionId, Seq, View};
use wire::v1;

/// Partitions asked where they are at a time; and those whose content is being read.
const ASKED_MAX: usize = 512;
const READ_MAX: usize = 16;
/// Batches of all nodes that may wait.
const HEARD_LENGTH: usize = 16;
/// The pause before a partition is tried again where it was refused, growing to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// A piece of what a watch tells.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) partition: PartitionId,
    pub(super) events: Vec<WatchEvent>,
    /// Everything of the partition through here is told with this; `None`: that can't be said yet.
    pub(super) through: Option<Seq>,
}

type Out = mpsc::Sender<Result<Told, Error>>;

/// Nobody takes what is told any more.
#[derive(Debug)]
struct Unwanted;

/// The task behind a watch.
pub(super) struct Follower {
    client: Client,
    what: WatchWhat,
    /// Begin with what is there, also where the history is gone.
    current: bool,
    out: Out,
    partitions: BTreeMap<PartitionId, Partition>,
    nodes: BTreeMap<NodeId, NodeWatch>,
    heard: mpsc::Receiver<Heard>,
    hear: mpsc::Sender<Heard>,
    /// Numbers streams and subscriptions.
    numbers: u64,
    to_begin: VecDeque<PartitionId>,
    beginning: FuturesUnordered<BoxFuture<'static, (PartitionId, Result<Begun, Error>)>>,
    /// Partitions that have not begun for the first time.
    missing: usize,
    /// Partitions that have begun and are not followed, and when to ask for them.
    unserved: BTreeMap<PartitionId, Instant>,
    /// The epoch of the view by which partitions are followed.
    followed: Epoch,
}

/// One watched partition.
#[derive(Debug, Default)]
struct Partition {
    /// Once it has begun: the last seq of which everything was told.
    cursor: Option<Seq>,
    windows: Windows,
    subscription: Option<Subscription>,
    begun_before: bool,
    /// The last pause, if it was refused since it was last told something.
    pause: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Subscription {
    node: NodeId,
    stream: u64,
    number: u64,
}

impl Follower {
    pub(super) fn new(client: Client, what: WatchWhat, from: WatchFrom, watched: &[PartitionId], out: Out) -> Follower {
        let (hear, heard) = mpsc::channel(HEARD_LENGTH);
        let current = from == WatchFrom::Current;
        let after = if let WatchFrom::After(cursor) = from { cursor.positions } else { BTreeMap::new() };
        let partition = |id: &PartitionId| {
            let cursor = after.get(id).copied();
            (*id, Partition { cursor, begun_before: cursor.is_some(), ..Partition::default() })
        };
        let partitions: BTreeMap<_, _> = watched.iter().map(partition).collect();
        // A cursor may name more than is watched.
        let after: BTreeMap<_, _> = after.into_iter().filter(|(id, _)| partitions.contains_key(id)).collect();
        let to_begin: VecDeque<_> = watched.iter().copied().filter(|id| !after.contains_key(id)).collect();
        let missing = to_begin.len();
        let followed = client.view().epoch;
        Follower {
            client,
            what,
            current,
            out,
            partitions,
            nodes: BTreeMap::new(),
            heard,
            hear,
            numbers: 0,
            to_begin,
            beginning: FuturesUnordered::new(),
            missing,
            unserved: after.into_keys().map(|id| (id, Instant::now())).collect(),
            followed,
        }
    }

    /// Follows until nobody takes what is told.
    pub(super) async fn run(mut self) {
        // Unwanted: then there is nobody to hear that it is over.
        let _unwanted = self.follow().await;
    }

    async fn follow(&mut self) -> Result<(), Unwanted> {
        if self.missing == 0 {
            self.watching().await?;
        }
        loop {
            self.begin();
            // A view that came while something else was being done counts too.
            let view = self.client.view();
            if view.epoch > self.followed {
                self.follow_view(&view);
            }
            self.subscribe(&view);
            let again = self.unserved.values().min().copied();
            let views = self.client.views().clone();
            tokio::select! {
                Some((id, begun)) = self.beginning.next() => self.begun(id, begun).await?,
                heard = self.heard.recv() => match heard {
                    Some(Heard::Batch { stream, batch }) => self.take(stream, batch).await?,
                    Some(Heard::Ended { stream, why }) => self.ended(stream, &why),
                    // Never: `hear` is ours.
                    None => return Ok(()),
                },
                () = views.newer_than(view.epoch) => {}
                () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
                () = self.out.closed() => return Err(Unwanted),
            }
        }
    }

    async fn tell(&mut self, told: Result<Told, Error>) -> Result<(), Unwanted> {
        self.out.send(told).await.map_err(|_| Unwanted)
    }

    async fn watching(&mut self) -> Result<(), Unwanted> {
        let partition = PartitionId::default();
        self.tell(Ok(Told { partition, events: vec![WatchEvent::Watching], through: None })).await
    }

    // ------------------------------------------------------------------------------------------------ the beginning

    fn begin(&mut self) {
        let most = if self.current { READ_MAX } else { ASKED_MAX };
        while self.beginning.len() < most
            && let Some(id) = self.to_begin.pop_front()
        {
            let (client, what, out, current) = (self.client.clone(), self.what.clone(), self.out.clone(), self.current);
            self.beginning.push(Box::pin(async move {
                let begun = match current {
                    true => begin::current(&client, &what, id, &out).await,
                    false => begin::now(&client, id).await,
                };
                (id, begun)
            }));
        }
    }

    async fn begun(&mut self, id: PartitionId, begun: Result<Begun, Error>) -> Result<(), Unwanted> {
        let Begun { after, windows } = match begun {
            Ok(begun) => begun,
            Err(error) => {
                self.tell(Err(error)).await?;
                return Err(Unwanted);
            }
        };
        let Some(partition) = self.partitions.get_mut(&id) else { return Ok(()) };
        let through = windows.is_empty().then_some(after);
        (partition.cursor, partition.windows) = (Some(after), windows);
        self.unserved.insert(id, Instant::now());
        let first = !std::mem::replace(&mut partition.begun_before, true);
        self.tell(Ok(Told { partition: id, events: Vec::new(), through })).await?;
        if first {
            self.missing -= 1;
            if self.missing == 0 {
                self.watching().await?;
            }
        }
        Ok(())
    }

    // ------------------------------------------------------------------------------------------------ subscriptions

    /// Asks the primary of each partition that has begun and is not followed, once its pause is over.
    fn subscribe(&mut self, view: &View) {
        let now = Instant::now();
        let mut by_node: BTreeMap<NodeId, Vec<v1::Subscription>> = BTreeMap::new();
        let due: Vec<PartitionId> = self.unserved.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        for id in &due {
            let Some(partition) = self.partitions.get_mut(id) else { continue };
            let Some(after) = partition.cursor else { continue };
            let primary = view.configuration(*id).and_then(|configuration| configuration.primary());
            let Some(node) = primary.filter(|node| view.nodes.contains_key(node)) else {
                self.unserved.insert(*id, now + PAUSE_MAX);
                continue;
            };
            self.unserved.remove(id);
            self.numbers += 1;
            let number = self.numbers;
            // The stream is known below.
            partition.subscription = Some(Subscription { node, stream: 0, number });
            by_node.entry(node).or_default().push(v1::Subscription { number, partition: id.0, after: after.0 });
        }
        for (node, subscriptions) in by_node {
            let ids: Vec<PartitionId> = subscriptions.iter().map(|s| PartitionId(s.partition)).collect();
            let stream = self.ask(view, node, subscriptions);
            for id in ids {
                if let Some(Partition { subscription: Some(subscription), .. }) = self.partitions.get_mut(&id) {
                    subscription.stream = stream;
                }
            }
        }
    }

    fn ask(&mut self, view: &View, node: NodeId, subscriptions: Vec<v1::Subscription>) -> u64 {
        let cluster = wire::convert::cluster_to_wire(view.cluster);
        let filter = Some(match &self.what {
            WatchWhat::Key(key) => v1::watch_request::Filter::Key(key.clone()),
            WatchWhat::Prefix(prefix) => v1::watch_request::Filter::Prefix(prefix.clone()),
        });
        let request = v1::WatchRequest { cluster, filter, subscriptions };
        if let Some(watch) = self.nodes.get(&node) {
            watch.ask(request);
            return watch.stream;
        }
        self.numbers += 1;
        let stream = self.numbers;
        let address = view.nodes.get(&node).map(|info| info.address.clone()).unwrap_or_default();
        self.nodes.insert(node, NodeWatch::open(stream, address, request, self.hear.clone()));
        stream
    }

    /// It is not followed any more: it is asked for again, after a pause that grows while nothing is heard of it.
    fn refused(partition: &mut Partition) -> Instant {
        partition.subscription = None;
        partition.pause = (partition.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        Instant::now() + partition.pause
    }

    /// Partitions with another primary are followed there, and those that were refused are asked for at once.
    fn follow_view(&mut self, view: &View) {
        self.followed = view.epoch;
        let now = Instant::now();
        self.unserved.values_mut().for_each(|at| *at = now);
        for (id, partition) in &mut self.partitions {
            let primary = view.configuration(*id).and_then(|configuration| configuration.primary());
            if partition.subscription.take_if(|subscription| Some(subscription.node) != primary).is_some() {
                self.unserved.insert(*id, now);
            }
        }
        self.nodes.retain(|node, _| view.nodes.contains_key(node));
    }

    fn ended(&mut self, stream: u64, why: &str) {
        tracing::debug!(stream, why, "a watch's stream ended");
        self.nodes.retain(|_, watch| watch.stream != stream);
        for (id, partition) in &mut self.partitions {
            if partition.subscription.is_some_and(|subscription| subscription.stream == stream) {
                self.unserved.insert(*id, Follower::refused(partition));
            }
        }
        self.client.views().ask_for_newer();
    }

    // ------------------------------------------------------------------------------------------------ changes

    async fn take(&mut self, stream: u64, batch: v1::WatchBatch) -> Result<(), Unwanted> {
        self.client.views().heard_of(batch.epoch);
        for part in batch.parts {
            self.take_part(stream, part).await?;
        }
        Ok(())
    }

    async fn take_part(&mut self, stream: u64, part: v1::WatchPart) -> Result<(), Unwanted> {
        use v1::watch_part::End;
        let id = PartitionId(part.partition);
        let Some(partition) = self.partitions.get_mut(&id) else { return Ok(()) };
        let (Some(cursor), Some(subscription)) = (partition.cursor, partition.subscription) else { return Ok(()) };
        if subscription.stream != stream || subscription.number != part.subscription {
            return Ok(()); // of one that was given up
        }
        if part.after != cursor.0 || part.through < part.after {
            // A node that skips or repeats something: begin anew after what is known.
            tracing::warn!(partition = %id, %cursor, after = part.after, "a node does not go on where it was");
            self.unserved.insert(id, Follower::refused(partition));
            return Ok(());
        }
        let through = Seq(part.through);
        let changed = |change: v1::WatchedChange| WatchEvent::Changed {
            key: change.key,
            value: change.value,
            version: Seq(change.version),
        };
        let windows = &partition.windows;
        let news = part.changes.into_iter().filter(|change| !windows.have(&change.key, Seq(change.version)));
        let events: Vec<WatchEvent> = news.map(changed).collect();
        partition.cursor = Some(through);
        partition.windows.passed(through);
        let told = partition.windows.is_empty().then_some(through);
        match part.end {
            None => partition.pause = Duration::ZERO,
            Some(End::Error(error)) => {
                tracing::debug!(partition = %id, message = error.message, "a partition is not watched any more");
                self.unserved.insert(id, Follower::refused(partition));
                self.client.views().ask_for_newer();
            }
            Some(End::Compacted(oldest)) => return self.compacted(id, cursor, Seq(oldest)).await,
        }
        self.tell(Ok(Told { partition: id, events, through: told })).await
    }

    /// What comes next is gone.
    async fn compacted(&mut self, id: PartitionId, after: Seq, oldest: Seq) -> Result<(), Unwanted> {
        if !self.current {
            self.tell(Err(Error::Compacted { partition: id, after, oldest })).await?;
            return Err(Unwanted);
        }
        if let Some(partition) = self.partitions.get_mut(&id) {
            *partition = Partition { begun_before: partition.begun_before, ..Partition::default() };
        }
        self.to_begin.push_back(id);
        let events = vec![WatchEvent::Restarted { partition: id }];
        self.tell(Ok(Told { partition: id, events, through: None })).await
    }
}
