//! One watcher: follows, gives its watch up now and then and goes on from its cursor, sometimes much later; starts over
//! where it is told to; and waits in the end until it has heard of the last change, or has waited in vain.

use super::{KEYS, Watches};
use crate::workload::Seat;
use bytes::Bytes;
use check::watches::{Event, Watch as Piece};
use client::{Cursor, Error, Watch, WatchEvent, WatchFrom, WatchWhat};
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use types::{PartitionId, Seq};

/// How long one watch is followed.
const LIFE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(4_000));
/// Of a hundred that were given up so many are resumed only after a sleep.
const SLEEPERS_PERCENT: u64 = 25;
const SLEEP: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(6));
/// Before a watch that failed is begun again.
const REST: Duration = Duration::from_millis(50);
/// How often a watcher looks up from what it hears.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// In the end everything is whole: who hears nothing for so long misses something.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nothing is promised yet.
const NEVER: u64 = u64::MAX;

/// Why a watch is not followed any more.
enum Ended {
    /// To be resumed.
    GivenUp,
    Failed(Error),
    /// The load has ended, and every change was heard, or waited for in vain.
    Over,
}

pub(super) struct Watcher<'a> {
    shared: &'a Watches,
    seat: Seat,
    what: WatchWhat,
    keys: Vec<Bytes>,
    /// Begin with what is there.
    current: bool,
    /// Where to go on: what was heard reaches to there, and no further. `None`: begin anew.
    cursor: Option<Cursor>,
    /// Partitions of which what is there is being told, each with what its place in the cursor was before.
    behind: BTreeMap<PartitionId, Option<Seq>>,
    /// Whether the watch is set up: what is written from now on is told.
    watching: bool,
    /// By key, what was heard since the last gap.
    open: BTreeMap<Bytes, Piece>,
    /// Since when only the last changes are waited for.
    ending: Option<Instant>,
}

impl<'a> Watcher<'a> {
    pub(super) fn new(shared: &'a Watches, seat: Seat) -> Watcher<'a> {
        let number = seat.number as usize;
        let key = |which: usize| Bytes::from(shared.key(which));
        // All keys from now on, all keys with what is there, or one key.
        let (what, keys) = match number % 3 {
            2 => (WatchWhat::Key(key(number % KEYS)), vec![key(number % KEYS)]),
            _ => (WatchWhat::Prefix(shared.prefix.clone().into()), (0..KEYS).map(key).collect()),
        };
        let (current, open) = (number % 3 == 1, BTreeMap::new());
        Watcher {
            shared,
            seat,
            what,
            keys,
            current,
            cursor: None,
            behind: BTreeMap::new(),
            watching: false,
            open,
            ending: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let resumes = self.cursor.is_some();
            let from = match (&self.cursor, self.current) {
                (Some(cursor), _) => WatchFrom::After(cursor.clone()),
                (None, true) => WatchFrom::Current,
                (None, false) => WatchFrom::Now,
            };
            let ended = match self.seat.client.watch(self.what.clone(), from) {
                Ok(watch) => {
                    self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner).resumed += u64::from(resumes);
                    self.follow(watch).await
                }
                Err(error) => Ended::Failed(error),
            };
            match ended {
                Ended::Over => break,
                Ended::GivenUp if self.seat.random.percent(SLEEPERS_PERCENT) && self.ending.is_none() => {
                    tokio::time::sleep(self.seat.random.between(SLEEP.0, SLEEP.1)).await;
                }
                Ended::GivenUp => {}
                Ended::Failed(Error::Compacted { .. }) => self.start_over(),
                Ended::Failed(_) if self.is_over() => break,
                Ended::Failed(_) => {
                    if self.cursor.is_none() {
                        self.start_over();
                    }
                    tokio::time::sleep(REST).await;
                }
            }
        }
        self.end();
    }

    async fn follow(&mut self, mut watch: Watch) -> Ended {
        let given_up_at = Instant::now() + self.seat.random.between(LIFE.0, LIFE.1);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = watch.next() => match event {
                    Ok(event) => self.hear(event, watch.cursor()),
                    Err(error) => return Ended::Failed(error),
                },
                _ = looks.tick() => {
                    if self.is_over() {
                        return Ended::Over;
                    }
                    if Instant::now() > given_up_at && self.ending.is_none() && self.cursor.is_some() {
                        return Ended::GivenUp;
                    }
                }
            }
            let at = |partition: &PartitionId| watch.cursor().positions.get(partition).copied();
            self.behind.retain(|partition, before| at(partition) == *before);
            let reaches = self.watching && self.behind.is_empty();
            // A cursor that lacks a partition would lose what is changed there meanwhile.
            let whole = watch.cursor().positions.len() == self.partitions();
            self.cursor = (reaches && whole).then(|| watch.cursor().clone());
        }
    }

    fn partitions(&self) -> usize {
        match self.what {
            WatchWhat::Key(_) => 1,
            WatchWhat::Prefix(_) => self.seat.client.view().configurations.len(),
        }
    }

    fn hear(&mut self, event: WatchEvent, cursor: &Cursor) {
        let at = self.seat.load.now_us();
        let view = self.seat.client.view();
        let told_anew = match &event {
            WatchEvent::Present { key, .. } => Some(view.partition_of(key)),
            WatchEvent::Restarted { partition } => Some(*partition),
            WatchEvent::Watching | WatchEvent::Changed { .. } => None,
        };
        if let Some(partition) = told_anew {
            self.behind.entry(partition).or_insert_with(|| cursor.positions.get(&partition).copied());
        }
        match event {
            WatchEvent::Watching => {
                if !std::mem::replace(&mut self.watching, true) {
                    for key in self.keys.clone() {
                        self.piece(key).from = at;
                    }
                }
            }
            WatchEvent::Present { key, value, version } => self.change(at, key, Some(value), version.0),
            WatchEvent::Changed { key, value, version } => self.change(at, key, value, version.0),
            WatchEvent::Restarted { partition } => self.gap(|key| view.partition_of(key) == partition),
        }
    }

    fn change(&mut self, at: u64, key: Bytes, value: Option<Bytes>, version: u64) {
        let from = if self.watching { at } else { NEVER };
        let piece = self.piece(key.clone());
        // The first word after a gap: what is written from now on is told.
        piece.from = piece.from.min(from);
        piece.events.push(Event { at, key, version, value });
    }

    fn piece(&mut self, key: Bytes) -> &mut Piece {
        let (client, prefix) = (self.seat.number, key.clone());
        self.open.entry(key).or_insert_with(|| Piece { client, prefix, from: NEVER, until: 0, events: Vec::new() })
    }

    /// Begins anew with what is there.
    fn start_over(&mut self) {
        self.gap(|_| true);
        self.behind.clear();
        (self.cursor, self.current, self.watching) = (None, true, false);
    }

    /// The history of these keys was gone: nothing is promised of what was written before the next word of them.
    fn gap(&mut self, of: impl Fn(&Bytes) -> bool) {
        let mut heard = self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.started_over += 1;
        for key in self.keys.iter().filter(|key| of(key)) {
            // Its last changes may be among what is gone.
            heard.pieces.extend(self.open.remove(key));
        }
    }

    /// Whether the load has ended, and there is nothing to wait for any more.
    fn is_over(&mut self) -> bool {
        if !self.seat.load.has_ended() || !self.shared.are_written() {
            return false;
        }
        let since = *self.ending.get_or_insert_with(Instant::now);
        self.missing().is_empty() || since.elapsed() > PATIENCE
    }

    /// Newest changes that are to be heard of yet.
    fn missing(&self) -> Vec<check::watches::Write> {
        let newest = self.keys.iter().filter_map(|key| self.shared.newest(key));
        let is_missing = |write: &check::watches::Write| match self.open.get(&write.key) {
            Some(piece) => {
                let last = piece.events.last().map_or(0, |event| event.version);
                write.called_at >= piece.from && write.version > Some(last)
            }
            // Since a gap nothing was heard of it: right, where it is not there.
            None => write.value.is_some() && write.version.is_some(),
        };
        newest.filter(is_missing).collect()
    }

    fn end(mut self) {
        for write in self.missing() {
            if !self.open.contains_key(&write.key) {
                self.piece(write.key.clone()).from = write.called_at;
            }
        }
        let until = self.seat.load.now_us();
        let mut heard = self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.pieces.extend(std::mem::take(&mut self.open).into_values().map(|piece| Piece { until, ..piece }));
    }
}
