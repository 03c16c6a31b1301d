//! Pages of many records at the primary: linearizable, and exactly as at one instant.
//!
//! A page waits for its round like any read (P17). Then the driver reads the state, which takes a while and happens
//! elsewhere, and what comes back is completed here by what is committed and the state lacked. What was committed when
//! the round was confirmed is in for certain: the overlay drops only what the state has.
//!
//! ```text
//! state as of `applied`  +  overlay's versions in (applied, committed]  =  the partition as of `committed`
//! ```
//!
//! If the overlay has dropped something that the state did not have when it was read, the state is read again.
//!
//! A page ends before the first key whose transaction may have happened without this partition knowing it (P22). If that
//! key is the page's first, the page waits for the outcome, and is then read again.
//!
//! The overlay has no order. A page looks at all of it once, and keeps no more than fits the page.

use crate::event::{Answer, Effect, Token};
use crate::mutants::{Mutant, on};
use crate::reads::Waiting;
use crate::replica::{Replica, Role};
use bytes::Bytes;
use rustc_hash::FxHashSet;
use std::collections::BTreeMap;
use types::{ErrorCode, Page, PageItem, PageQuery, Record, RecordKey, RecordKind, Seq, Term};

/// What a record takes on a page beside its name and value.
pub(crate) const ITEM_BYTES: usize = 16;

/// Pages whose round is confirmed and whose state is being read.
#[derive(Clone, Hash, Debug, Default)]
pub(crate) struct Scans {
    open: BTreeMap<Token, PageQuery>,
    /// Those whose first key is locked, and that key.
    locked: BTreeMap<Token, (PageQuery, Bytes)>,
}

impl Scans {
    pub(crate) fn len(&self) -> usize {
        self.open.len() + self.locked.len()
    }

    /// Nobody waits for these any more.
    pub(crate) fn expire(&mut self, tokens: &FxHashSet<Token>, effects: &mut Vec<Effect>) {
        let open = self.open.extract_if(.., |token, _| tokens.contains(token)).map(|(token, _)| token);
        let locked = self.locked.extract_if(.., |token, _| tokens.contains(token)).map(|(token, _)| token);
        for token in open.chain(locked) {
            Replica::reply(token, Answer::Error(ErrorCode::DeadlineExceeded), effects);
        }
    }

    /// The term is over.
    pub(crate) fn refuse(self, term: Term, refusal: &Answer, effects: &mut Vec<Effect>) {
        let clients = self.open.into_keys().chain(self.locked.into_keys()).filter(|token| *token != Token::own(term));
        clients.for_each(|token| Replica::reply(token, refusal.clone(), effects));
    }
}

impl Replica {
    pub(crate) fn on_read_page(&mut self, token: Token, query: PageQuery, effects: &mut Vec<Effect>) {
        let serves = matches!(&self.role, Role::Primary(primary) if primary.serving());
        if serves && on(Mutant::ScanRound) {
            return self.begin_scan(token, query, effects);
        }
        match &mut self.role {
            Role::Primary(primary) if primary.reads.len() + primary.scans.len() >= self.settings.reads_waiting_max => {
                Self::reply(token, Answer::Error(ErrorCode::Overloaded), effects);
            }
            Role::Primary(primary) if primary.serving() => primary.reads.arrive(Waiting::page(token, query)),
            _ => Self::reply(token, self.refusal(), effects),
        }
    }

    /// Its round is confirmed.
    pub(crate) fn begin_scan(&mut self, token: Token, query: PageQuery, effects: &mut Vec<Effect>) {
        if query.records_max == 0 {
            let page = Page { items: Vec::new(), at: self.committed, resume: Some(query.after) };
            return Self::reply(token, Answer::Page(page), effects);
        }
        let Role::Primary(primary) = &mut self.role else {
            // The state turned out to be damaged on the way.
            return Self::reply(token, Answer::Error(ErrorCode::Damaged), effects);
        };
        primary.scans.open.insert(token, query.clone());
        effects.push(Effect::ScanState { token, generation: self.generation, query });
    }

    pub(crate) fn on_scanned(
        &mut self,
        token: Token,
        applied: Seq,
        records: Vec<(Bytes, Record)>,
        ended: bool,
        effects: &mut Vec<Effect>,
    ) {
        // Nobody: it was refused or expired, or it was an earlier term's own.
        let Role::Primary(primary) = &mut self.role else { return };
        let own = token == Token::own(primary.term());
        let Some(query) = primary.scans.open.remove(&token) else { return };
        if applied < self.applied.seq && !on(Mutant::ScanStale) {
            return self.begin_scan(token, query, effects);
        }
        let mut page = self.complete(&query, applied, records, ended);
        if let Some(key) = self.first_hidden(&query, &page) {
            page.items.retain(|item| item.name < key);
            let Some(last) = page.items.last() else {
                if let Role::Primary(primary) = &mut self.role {
                    primary.scans.locked.insert(token, (query, key));
                }
                return;
            };
            page.resume = Some(last.name.clone());
        }
        match own {
            true => self.on_expiring_listed(page, effects),
            false => Self::reply(token, Answer::Page(page), effects),
        }
    }

    /// P22: the first key within the page of which nothing can be said.
    fn first_hidden(&self, query: &PageQuery, page: &Page) -> Option<Bytes> {
        let Role::Primary(primary) = &self.role else { return None };
        if query.kind != RecordKind::User || on(Mutant::P22Scan) {
            return None;
        }
        let within = |name: &&Bytes| query.covers(name) && page.resume.as_ref().is_none_or(|end| *name <= end);
        primary.transactions.locks.hidden().filter(within).min().cloned()
    }

    /// Pages whose first key is locked no more are read again.
    pub(crate) fn resume_scans(&mut self, effects: &mut Vec<Effect>) {
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.scans.locked.is_empty() {
            return;
        }
        let locks = &primary.transactions.locks;
        let free: Vec<(Token, PageQuery)> = (primary.scans.locked)
            .extract_if(.., |_, (_, key)| !locks.hides(key))
            .map(|(token, (query, _))| (token, query))
            .collect();
        for (token, query) in free {
            self.begin_scan(token, query, effects);
        }
    }

    /// The state's records as of what is committed now.
    fn complete(&self, query: &PageQuery, applied: Seq, records: Vec<(Bytes, Record)>, ended: bool) -> Page {
        let at = self.committed;
        // The state says nothing of names after this one.
        let end = if ended { None } else { records.last().map(|(name, _)| name.clone()) };
        let covered = |name: &Bytes| query.covers(name) && end.as_ref().is_none_or(|end| name <= end);
        let mut names: BTreeMap<Bytes, Record> = BTreeMap::new();
        for (name, record) in records {
            let key = RecordKey { kind: query.kind, name };
            if on(Mutant::ExpirySeen) && self.overlay.newest(&key).is_some_and(|version| version.value.is_none()) {
                continue;
            }
            match self.overlay.newest_at(&key, at).filter(|version| version.seq > applied) {
                None => drop(names.insert(key.name, record)),
                Some(version) => {
                    let value = version.value.clone();
                    names.extend(value.map(|value| (key.name, Record { seq: version.seq, value })));
                }
            }
        }
        let (added, all_added) = self.overlay.added(query.kind, covered, applied, at, query.records_max);
        names.extend(added);
        let mut items = Vec::new();
        let mut bytes = 0;
        let mut cut = !all_added;
        for (name, Record { seq, value }) in names {
            let wanted = !query.names_only && value.len() <= query.bytes_max;
            let value = wanted.then_some(value);
            bytes += name.len() + value.as_ref().map_or(0, Bytes::len) + ITEM_BYTES;
            if items.len() == query.records_max || (bytes > query.bytes_max && !items.is_empty()) {
                cut = true;
                break;
            }
            items.push(PageItem { name, seq, value });
        }
        let resume = if cut { items.last().map(|item| item.name.clone()) } else { end };
        Page { items, at, resume }
    }
}
