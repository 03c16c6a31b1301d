//! Watches: every committed change is delivered once, in order per key, and none is missing.
//!
//! What was committed is known from the writes' answers and from what any watcher heard: where one heard of a change, a
//! write of which nobody knows was done, and who heard of an older and of a newer one must have heard of it too.

use crate::report::PieceOperation;
use crate::{Anomaly, Outcome};
use bytes::Bytes;
use std::collections::BTreeMap;

/// One write to a watched key. Instants are microseconds of one clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// Who asked, for people.
    pub client: u64,
    /// Which key.
    pub key: Bytes,
    /// Its new value, unique per key; `None`: a delete.
    pub value: Option<Bytes>,
    /// The version that the answer named, if it was done.
    pub version: Option<u64>,
    /// When it was called.
    pub called_at: u64,
    /// When it was answered; `None` where no answer came.
    pub answered_at: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
}

/// One change as a watcher heard of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// When it came.
    pub at: u64,
    /// Which key.
    pub key: Bytes,
    /// The key's version since.
    pub version: u64,
    /// The key's value since; `None`: it was deleted.
    pub value: Option<Bytes>,
}

/// One watcher and all that it heard, resumptions included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watch {
    /// Who watched, for people.
    pub client: u64,
    /// What every watched key begins with; empty: all keys.
    pub prefix: Bytes,
    /// When the watch was known to be set up: writes called from here on must be delivered.
    pub from: u64,
    /// Writes answered until here must have been delivered: the harness waits for the last ones before it stops.
    pub until: u64,
    /// What came, in the order in which it came.
    pub events: Vec<Event>,
}

/// What can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// A committed change that did not come.
    Missing,
    /// A change that came twice.
    Twice,
    /// An older change after a newer one of the same key.
    OutOfOrder,
    /// A change that nobody asked for, or that was definitely not done, or with another value.
    Invented,
}

/// Holds what each watcher heard against the writes, and against what the other watchers heard.
pub fn check(writes: &[Write], watches: &[Watch]) -> Vec<Anomaly<Kind>> {
    let committed = Committed::new(writes, watches);
    watches.iter().flat_map(|watch| committed.judge(watch)).collect()
}

struct Committed<'a> {
    /// Done writes by key and version.
    done: BTreeMap<(&'a Bytes, u64), &'a Write>,
    /// The same in the order in which they were asked for, so that a short watch is judged by a short piece of them.
    done_by_call: Vec<(u64, &'a Write)>,
    /// Writes that may explain a version nobody was told, by key and value.
    unknown: BTreeMap<(&'a Bytes, &'a Option<Bytes>), Vec<&'a Write>>,
    /// What any watcher heard of, by key and version, with the first such watcher.
    heard: BTreeMap<&'a Bytes, BTreeMap<u64, (u64, &'a Event)>>,
    /// How many versions that no answer named were heard of, by key and value.
    unnamed: BTreeMap<(&'a Bytes, &'a Option<Bytes>), usize>,
}

impl<'a> Committed<'a> {
    fn new(writes: &'a [Write], watches: &'a [Watch]) -> Committed<'a> {
        let mut committed = Committed {
            done: BTreeMap::new(),
            done_by_call: Vec::new(),
            unknown: BTreeMap::new(),
            heard: BTreeMap::new(),
            unnamed: BTreeMap::new(),
        };
        for write in writes {
            match (write.outcome, write.version) {
                (Outcome::Done, Some(version)) => {
                    committed.done.insert((&write.key, version), write);
                    committed.done_by_call.push((version, write));
                }
                // Done at a version that was not told is as good as unknown here.
                (Outcome::Done, None) | (Outcome::Unknown, _) => {
                    committed.unknown.entry((&write.key, &write.value)).or_default().push(write);
                }
                (Outcome::NotDone, _) => {}
            }
        }
        committed.done_by_call.sort_by_key(|(_, write)| write.called_at);
        for (watch, event) in watches.iter().flat_map(|watch| watch.events.iter().map(move |event| (watch, event))) {
            committed.heard.entry(&event.key).or_default().entry(event.version).or_insert((watch.client, event));
        }
        for (key, versions) in &committed.heard {
            for (version, (_, event)) in versions {
                if !committed.done.contains_key(&(*key, *version)) {
                    *committed.unnamed.entry((*key, &event.value)).or_default() += 1;
                }
            }
        }
        committed
    }

    fn judge<'b>(&'b self, watch: &'b Watch) -> Vec<Anomaly<Kind>> {
        let client = watch.client;
        let mut anomalies = Vec::new();
        let mut found = |kind, sentence: String, shown: Vec<PieceOperation>| {
            anomalies.push(Anomaly::new(kind, sentence, shown));
        };
        let mut seen: BTreeMap<&'b Bytes, BTreeMap<u64, &Event>> = BTreeMap::new();
        for event in &watch.events {
            let (key, version) = (event.key.escape_ascii(), event.version);
            let of_key = seen.entry(&event.key).or_default();
            let before = of_key.last_key_value().map(|(version, event)| (*version, *event));
            if let Some(first) = of_key.insert(version, event) {
                let sentence = format!("watcher {client} heard twice of {key} at version {version}");
                found(Kind::Twice, sentence, vec![heard(client, first), heard(client, event)]);
            } else if let Some((newest, newer)) = before.filter(|(newest, _)| *newest > version) {
                let sentence = format!("watcher {client} heard of {key} at version {version} after version {newest}");
                found(Kind::OutOfOrder, sentence, vec![heard(client, newer), heard(client, event)]);
            }
            if let Some(why) = self.unexplained(event) {
                let sentence = format!("watcher {client} heard of {key} at version {version}, {why}");
                let write = self.done.get(&(&event.key, version)).map(|write| drawn(write));
                found(Kind::Invented, sentence, write.into_iter().chain([heard(client, event)]).collect());
            }
        }
        for ((key, version), write) in self.due(watch, &seen) {
            if !seen.get(key).is_some_and(|of_key| of_key.contains_key(&version)) {
                let key = key.escape_ascii();
                let sentence =
                    format!("watcher {client} never heard of {key} at version {version}, which was acknowledged");
                found(Kind::Missing, sentence, vec![drawn(write)]);
            }
        }
        for (key, of_key) in &seen {
            for (version, (other, event)) in self.heard.get(key).into_iter().flatten() {
                let is_gap = is_within(of_key, *version) && !of_key.contains_key(version);
                if is_gap && !self.done.contains_key(&(*key, *version)) {
                    let key = key.escape_ascii();
                    let sentence =
                        format!("watcher {client} never heard of {key} at version {version}, and watcher {other} did");
                    let next = of_key.range(version..).next().map(|(_, next)| heard(client, next));
                    found(Kind::Missing, sentence, next.into_iter().chain([heard(*other, event)]).collect());
                }
            }
        }
        anomalies
    }

    /// Done writes that the watcher must have heard of: those in its time, and those between two of which it heard.
    fn due<'b>(
        &'b self,
        watch: &Watch,
        seen: &BTreeMap<&'b Bytes, BTreeMap<u64, &Event>>,
    ) -> BTreeMap<(&'b Bytes, u64), &'b Write> {
        let from = self.done_by_call.partition_point(|(_, write)| write.called_at < watch.from);
        let in_time = self.done_by_call[from..].iter().take_while(|(_, write)| write.called_at <= watch.until);
        let in_time = in_time.filter(|(_, write)| {
            let answered_at = write.outcome.done_by(write.called_at, write.answered_at);
            answered_at.is_some_and(|at| at <= watch.until) && write.key.starts_with(&watch.prefix)
        });
        let between = seen.iter().filter_map(|(key, of_key)| {
            let ends = of_key.first_key_value().zip(of_key.last_key_value());
            let ((first, _), (last, _)) = ends.filter(|_| key.starts_with(&watch.prefix))?;
            Some(self.done.range((*key, *first)..(*key, *last)))
        });
        let between = between.flatten().map(|((key, version), write)| ((*key, *version), *write));
        in_time.map(|(version, write)| ((&write.key, *version), *write)).chain(between).collect()
    }

    /// Why there is no write that this event can tell of, if there is none.
    fn unexplained(&self, event: &Event) -> Option<&'static str> {
        if let Some(write) = self.done.get(&(&event.key, event.version)) {
            return (write.value != event.value).then_some("with another value than was written then");
        }
        let by_value = self.unknown.get(&(&event.key, &event.value));
        match by_value {
            None => Some("which nobody wrote, or which was not done"),
            Some(writes) if writes.iter().all(|write| write.called_at > event.at) => Some("before it was asked for"),
            Some(writes) => {
                let times = self.unnamed.get(&(&event.key, &event.value)).copied().unwrap_or(0);
                (times > writes.len()).then_some("one version of more than were asked for")
            }
        }
    }
}

/// Whether the watcher heard of something older and of something newer.
fn is_within(of_key: &BTreeMap<u64, &Event>, version: u64) -> bool {
    let ends = of_key.first_key_value().zip(of_key.last_key_value());
    ends.is_some_and(|((first, _), (last, _))| *first < version && version < *last)
}

fn value(value: &Option<Bytes>) -> String {
    value.as_ref().map_or_else(|| "deleted".to_owned(), |value| value.escape_ascii().to_string())
}

fn drawn(write: &Write) -> PieceOperation {
    let version = write.version.map_or_else(String::new, |version| format!(" at version {version}"));
    let (key, to) = (write.key.escape_ascii(), value(&write.value));
    PieceOperation {
        client: write.client,
        began_us: write.called_at,
        ended_us: write.answered_at,
        text: format!("write {key}: {to} → {}{version}", write.outcome.word()),
    }
}

fn heard(client: u64, event: &Event) -> PieceOperation {
    PieceOperation {
        client,
        began_us: event.at,
        ended_us: Some(event.at),
        text: format!("heard {}: {} at version {}", event.key.escape_ascii(), value(&event.value), event.version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Bytes = Bytes::from_static(b"k");

    fn bytes(value: u64) -> Option<Bytes> {
        Some(Bytes::from(format!("v{value}")))
    }

    /// The write that makes version `version`, called at ten times that.
    fn write(version: u64, outcome: Outcome) -> Write {
        let is_done = outcome == Outcome::Done;
        Write {
            client: 1,
            key: KEY,
            value: bytes(version),
            version: is_done.then_some(version),
            called_at: version * 10,
            answered_at: (outcome != Outcome::Unknown).then_some(version * 10 + 5),
            outcome,
        }
    }

    fn watch(client: u64, from: u64, versions: &[u64]) -> Watch {
        let event = |version: &u64| Event { at: version * 10 + 3, key: KEY, version: *version, value: bytes(*version) };
        Watch { client, prefix: Bytes::new(), from, until: 1_000, events: versions.iter().map(event).collect() }
    }

    /// Versions 1, 2 and 5 were done, nobody knows of 3, and 4 was not done.
    fn kinds(watches: &[Watch]) -> Vec<Kind> {
        let outcomes = [Outcome::Done, Outcome::Done, Outcome::Unknown, Outcome::NotDone, Outcome::Done];
        let writes: Vec<Write> = (1..).zip(outcomes).map(|(version, outcome)| write(version, outcome)).collect();
        check(&writes, watches).into_iter().map(|anomaly| anomaly.kind).collect()
    }

    /// Guards against a checker that rejects what is right.
    #[test]
    fn what_is_possible_is_accepted() {
        assert_eq!(kinds(&[watch(1, 0, &[1, 2, 5]), watch(2, 0, &[1, 2, 5])]), []);
        assert_eq!(kinds(&[watch(1, 0, &[1, 2, 3, 5])]), [], "an unknown write may have been done");
        assert_eq!(kinds(&[watch(1, 15, &[2, 5]), watch(2, 25, &[5])]), [], "who came later hears of less");
        let of_others = Watch { prefix: Bytes::from_static(b"other"), ..watch(1, 0, &[]) };
        assert_eq!(kinds(&[of_others]), []);
    }

    /// Guards against each anomaly passing unseen.
    #[test]
    fn each_anomaly_is_caught() {
        assert_eq!(kinds(&[watch(1, 0, &[1, 5])]), [Kind::Missing]);
        assert_eq!(kinds(&[watch(1, 100, &[1, 5])]), [Kind::Missing], "a gap, whenever the watch began");
        assert_eq!(kinds(&[watch(1, 0, &[1, 2])]), [Kind::Missing], "the last one");
        assert_eq!(kinds(&[watch(1, 0, &[1, 2, 3, 5]), watch(2, 0, &[1, 2, 5])]), [Kind::Missing], "as another heard");
        assert_eq!(kinds(&[watch(1, 0, &[1, 2, 2, 5])]), [Kind::Twice]);
        assert_eq!(kinds(&[watch(1, 0, &[2, 1, 5])]), [Kind::OutOfOrder]);
        assert_eq!(kinds(&[watch(1, 0, &[1, 2, 4, 5])]), [Kind::Invented], "what was not done");
        assert_eq!(kinds(&[watch(1, 0, &[1, 2, 5, 9])]), [Kind::Invented]);
        let mut other_value = watch(1, 0, &[1, 2, 5]);
        other_value.events[1].value = bytes(9);
        assert_eq!(kinds(&[other_value]), [Kind::Invented]);
        let mut too_early = watch(1, 0, &[1, 2, 3, 5]);
        too_early.events[2].at = 29;
        assert_eq!(kinds(&[too_early]), [Kind::Invented]);
        let mut done_twice = watch(1, 0, &[1, 2, 3, 4, 5]);
        done_twice.events[3].value = bytes(3);
        assert_eq!(kinds(&[done_twice]), [Kind::Invented, Kind::Invented], "one request, two versions");
    }
}
