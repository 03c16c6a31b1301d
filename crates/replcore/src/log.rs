//! A replica's log in memory: what follows the trim point, without holes.
//!
//! Beside it stays a *history*: the last entries before the trim point, for watchers alone. It is bounded by bytes, is not
//! on disk, and counts for nothing in the protocol.

use bytes::Bytes;
use std::collections::VecDeque;
use types::{Entry, EntryId, Seq, Term};

#[derive(Clone, Hash, Debug)]
pub(crate) struct Log {
    trim: EntryId,
    entries: VecDeque<Entry>,
    bytes: usize,
    /// What was trimmed last; its end is the trim point, or it is empty.
    history: VecDeque<Entry>,
    history_bytes: usize,
}

/// What an entry of the history costs beside its payload.
const ENTRY_BYTES: usize = 64;

impl Log {
    /// `entries` follow `trim` without holes.
    pub(crate) fn new(trim: EntryId, entries: Vec<Entry>) -> Log {
        let bytes = entries.iter().map(|entry| entry.payload.len()).sum();
        Log { trim, entries: entries.into(), bytes, history: VecDeque::new(), history_bytes: 0 }
    }

    /// The entry before the first one kept.
    pub(crate) fn trim(&self) -> EntryId {
        self.trim
    }

    /// `(term, seq)` of the end; of the trim point where nothing follows it.
    pub(crate) fn last(&self) -> EntryId {
        self.entries.back().map_or(self.trim, |entry| entry.id)
    }

    /// Payload bytes kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn index(&self, seq: Seq) -> Option<usize> {
        let index = seq.0.checked_sub(self.trim.seq.0 + 1)? as usize;
        (index < self.entries.len()).then_some(index)
    }

    pub(crate) fn get(&self, seq: Seq) -> Option<&Entry> {
        self.entries.get(self.index(seq)?)
    }

    /// The id at `seq`, also of the trim point; `None` below it and past the end.
    pub(crate) fn id_at(&self, seq: Seq) -> Option<EntryId> {
        if seq == self.trim.seq { Some(self.trim) } else { self.get(seq).map(|entry| entry.id) }
    }

    pub(crate) fn term_at(&self, seq: Seq) -> Option<Term> {
        self.id_at(seq).map(|id| id.term)
    }

    /// Whether the log has this very entry, or is trimmed exactly there.
    pub(crate) fn holds(&self, id: EntryId) -> bool {
        self.id_at(id.seq) == Some(id)
    }

    /// Entries from `from` through `through`, at least one if there is one, then as many as fit in `bytes_max`.
    pub(crate) fn range(&self, from: Seq, through: Seq, bytes_max: usize) -> Vec<Entry> {
        let Some(first) = self.index(from) else { return Vec::new() };
        let count = (through.0 + 1).saturating_sub(from.0) as usize;
        let mut bytes = 0;
        self.entries
            .range(first..)
            .take(count)
            .take_while(|entry| {
                let fits = bytes == 0 || bytes + entry.payload.len() <= bytes_max;
                bytes += entry.payload.len().max(1);
                fits
            })
            .cloned()
            .collect()
    }

    /// Appends the entry that follows the last.
    pub(crate) fn push(&mut self, entry: Entry) {
        let last = self.last();
        assert!(entry.id.seq == last.seq.next() && entry.id.term >= last.term, "{:?} can't follow {last:?}", entry.id);
        self.bytes += entry.payload.len();
        self.entries.push_back(entry);
    }

    /// Takes away everything from `from` on, newest first.
    pub(crate) fn truncate(&mut self, from: Seq) -> Vec<Entry> {
        let mut removed = Vec::new();
        while let Some(entry) = self.entries.pop_back_if(|entry| entry.id.seq >= from) {
            self.bytes -= entry.payload.len();
            removed.push(entry);
        }
        removed
    }

    /// Forgets everything up to `through`, at most the whole log, but for `history_bytes_max` of it.
    pub(crate) fn trim_to(&mut self, through: Seq, history_bytes_max: usize) {
        let from = self.trim.seq;
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.id.seq <= through) {
            self.bytes -= entry.payload.len();
            self.trim = entry.id;
            self.history_bytes += entry.payload.len() + ENTRY_BYTES;
            self.history.push_back(entry);
        }
        while self.history_bytes > history_bytes_max
            && let Some(entry) = self.history.pop_front()
        {
            self.history_bytes -= entry.payload.len() + ENTRY_BYTES;
        }
        // A payload shares the memory of the message it came with: what stays for long has its own.
        for entry in self.history.iter_mut().rev().take_while(|entry| entry.id.seq > from) {
            entry.payload = Bytes::copy_from_slice(&entry.payload);
        }
    }

    /// The first entry that is there, history included.
    pub(crate) fn oldest(&self) -> Seq {
        self.history.front().map_or(self.trim.seq.next(), |entry| entry.id.seq)
    }

    /// What follows `after` through `through`, history included; `None` where the first of it is gone.
    pub(crate) fn following(&self, after: Seq, through: Seq) -> Option<impl Iterator<Item = &Entry>> {
        let skipped = (after.0 + 1).checked_sub(self.oldest().0)? as usize;
        let history = self.history.len();
        let entries = self.history.range(skipped.min(history)..);
        let rest = self.entries.range(skipped.saturating_sub(history).min(self.entries.len())..);
        Some(entries.chain(rest).take_while(move |entry| entry.id.seq <= through))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::Term;

    fn entry(seq: u64, bytes: usize) -> Entry {
        Entry { id: EntryId { term: Term(1), seq: Seq(seq) }, payload: Bytes::from(vec![0; bytes]) }
    }

    fn filled() -> Log {
        let mut log = Log::new(EntryId::ZERO, Vec::new());
        for seq in 1..=6 {
            log.push(entry(seq, 10 * seq as usize));
        }
        log
    }

    /// Guards against bytes that are counted wrongly as entries come and go: what is kept for others, and when a snapshot is
    /// sent instead, is decided by them.
    #[test]
    fn bytes_are_those_of_the_entries_that_are_kept() {
        let mut log = filled();
        assert_eq!(log.bytes(), 210);
        let removed = log.truncate(Seq(6));
        assert_eq!((removed.len(), log.bytes()), (1, 150));
        log.trim_to(Seq(2), 0);
        assert_eq!((log.bytes(), log.trim().seq), (120, Seq(2)));
        log.trim_to(Seq(9), 0);
        assert_eq!((log.bytes(), log.trim().seq, log.oldest()), (0, Seq(5), Seq(6)), "at most the whole log");
    }

    /// Guards against a history that is longer than allowed, or shorter than it may be.
    #[test]
    fn history_is_as_long_as_it_may_be() {
        for (history_bytes_max, oldest) in [
            (0, 5),
            (39 + ENTRY_BYTES, 5),
            (40 + ENTRY_BYTES, 4),
            (69 + 2 * ENTRY_BYTES, 4),
            (70 + 2 * ENTRY_BYTES, 3),
            (usize::MAX, 1),
        ] {
            let mut log = filled();
            log.trim_to(Seq(2), history_bytes_max);
            log.trim_to(Seq(4), history_bytes_max);
            assert_eq!(log.oldest(), Seq(oldest), "at most {history_bytes_max}");
            let followed = log.following(Seq(oldest - 1), Seq(6)).unwrap().map(|entry| entry.id.seq.0);
            assert_eq!(followed.collect::<Vec<_>>(), (oldest..=6).collect::<Vec<_>>());
            assert!(oldest == 1 || log.following(Seq(oldest - 2), Seq(6)).is_none());
        }
    }

    /// Guards against a history that keeps the memory of whole messages alive for the few bytes of an entry.
    #[test]
    fn history_has_its_own_memory() {
        let message = Bytes::from(vec![7; 1 << 20]);
        let mut log = Log::new(EntryId::ZERO, Vec::new());
        for seq in 1..=3 {
            log.push(Entry { payload: message.slice(seq as usize..seq as usize + 10), ..entry(seq, 0) });
        }
        log.trim_to(Seq(2), usize::MAX);
        log.trim_to(Seq(3), usize::MAX);
        assert_eq!(log.following(Seq(0), Seq(3)).unwrap().count(), 3);
        assert!(message.is_unique(), "nothing of the log is part of the message any more");
    }
}
