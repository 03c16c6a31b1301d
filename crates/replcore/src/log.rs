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
