//! Becoming primary: seal a majority (P13, P14), adopt the greatest log (P15), begin the term (P16).

use crate::event::Effect;
use crate::message::Body;
use crate::mutants::{Mutant, on};
use crate::replica::{Replica, Role};
use std::collections::BTreeMap;
use types::{Configuration, Entry, EntryId, NodeId, Seq, Term};

/// One takeover, from the promise to the term's first own entry.
#[derive(Clone, Hash, Debug)]
pub(crate) struct Takeover {
    term: Term,
    /// What other members answered.
    sealed: BTreeMap<NodeId, (EntryId, Seq)>,
    /// The own promise is on disk.
    own_sealed: bool,
    fetching: Option<Fetching>,
    ticks: u32,
}

/// The difference to the greatest log, on its way.
#[derive(Clone, Hash, Debug)]
struct Fetching {
    from: NodeId,
    /// What it sealed.
    last: EntryId,
    /// The own log equals its log through here.
    after: Seq,
    /// Ticks since something arrived.
    silent_ticks: u32,
    /// Silence after which it is asked again; doubles each time.
    patience_ticks: u32,
    /// How often it was asked in vain.
    asked: u32,
    /// What is missing here is trimmed there.
    trimmed_there: bool,
}

/// How often a silent source is asked again before another is looked for.
const ASKED_MAX: u32 = 3;

impl Takeover {
    pub(crate) fn term(&self) -> Term {
        self.term
    }
}

/// P14: whom to collect from.
fn collected(configuration: &Configuration) -> &[NodeId] {
    if configuration.prior.is_empty() || on(Mutant::P14Prior) { &configuration.replicas } else { &configuration.prior }
}

impl Replica {
    pub(crate) fn begin_takeover(&mut self, term: Term, effects: &mut Vec<Effect>) {
        assert!(self.promised == term, "a takeover begins with the promise");
        let takeover = Takeover { term, sealed: BTreeMap::new(), own_sealed: false, fetching: None, ticks: 0 };
        self.role = Role::Taking(takeover);
        self.ask_for_seals(effects);
        self.await_own_seal(term, effects);
    }

    fn ask_for_seals(&mut self, effects: &mut Vec<Effect>) {
        let (Role::Taking(takeover), Some(configuration)) = (&self.role, &self.configuration) else { return };
        let unsealed = collected(configuration).iter().filter(|n| **n != self.me && !takeover.sealed.contains_key(n));
        for node in unsealed {
            self.send(*node, takeover.term, Body::Seal, effects);
        }
    }

    pub(crate) fn on_own_seal(&mut self, term: Term, effects: &mut Vec<Effect>) {
        if let Role::Taking(takeover) = &mut self.role
            && takeover.term == term
        {
            takeover.own_sealed = true;
            self.try_adopt(effects);
        }
    }

    pub(crate) fn on_sealed(
        &mut self,
        from: NodeId,
        term: Term,
        last: EntryId,
        committed: Seq,
        effects: &mut Vec<Effect>,
    ) {
        let Role::Taking(takeover) = &mut self.role else { return };
        let Some(configuration) = &self.configuration else { return };
        if takeover.term != term || !collected(configuration).contains(&from) {
            return;
        }
        takeover.sealed.insert(from, (last, committed));
        if on(Mutant::P15Early) {
            self.commit_through(committed);
        }
        self.try_adopt(effects);
    }

    /// P15, once a majority has sealed.
    fn try_adopt(&mut self, effects: &mut Vec<Effect>) {
        let (Role::Taking(takeover), Some(configuration)) = (&mut self.role, &self.configuration) else { return };
        let members = collected(configuration);
        let own = usize::from(takeover.own_sealed && members.contains(&self.me));
        let needed = if on(Mutant::P14) { 1 } else { Configuration::majority_of(members) };
        if takeover.fetching.is_some() || !takeover.own_sealed || takeover.sealed.len() + own < needed {
            return;
        }
        let order = |last: EntryId| {
            if on(Mutant::P15Longest) { (Term(0), last.seq, last.term) } else { (last.term, last.seq, Term(0)) }
        };
        let greatest = takeover.sealed.iter().map(|(node, (last, _))| (order(*last), *last, *node)).max();
        if let Some((_, last, from)) = greatest
            && order(last) > order(self.log.last())
            && !on(Mutant::P15Kept)
        {
            // Everything committed here is in the other log too, so the difference starts there at the latest.
            let after = self.committed;
            let patience_ticks = self.settings.resend_ticks;
            takeover.fetching =
                Some(Fetching { from, last, after, silent_ticks: 0, patience_ticks, asked: 0, trimmed_there: false });
            let term = takeover.term;
            self.send(from, term, Body::Fetch { after, last }, effects);
            return;
        }
        // P15: what others hold as committed counts only now, when the log is one that has it.
        let committed = takeover.sealed.values().map(|(_, committed)| *committed).max().unwrap_or_default();
        let term = takeover.term;
        self.commit_through(committed);
        self.start_term(term, effects);
    }

    pub(crate) fn on_fetched(
        &mut self,
        from: NodeId,
        term: Term,
        prev: EntryId,
        entries: Vec<Entry>,
        last: EntryId,
        effects: &mut Vec<Effect>,
    ) {
        // P15: used only while the own promise is the term, and only if it is what was sealed.
        let Role::Taking(takeover) = &mut self.role else { return };
        let Some(fetching) = &mut takeover.fetching else { return };
        let expected = takeover.term == term && self.promised == term;
        if !expected || fetching.from != from || fetching.last != last {
            return;
        }
        let after = fetching.after;
        if prev.seq > after && !self.log.holds(prev) {
            // What is missing here is trimmed there: another member should be primary (P19).
            fetching.trimmed_there = true;
            effects.push(Effect::ReportStuck { term, unreachable: Vec::new(), holder: Some(from) });
            return;
        }
        let end = Seq(prev.seq.0 + entries.len() as u64);
        // A second copy of an earlier part, or an answer that brings nothing.
        if end <= fetching.after || entries.last().is_none_or(|entry| entry.id > last && !on(Mutant::P15Fetch)) {
            return;
        }
        if !self.accept(entries, effects) {
            return;
        }
        let Role::Taking(takeover) = &mut self.role else { return };
        if end >= last.seq {
            takeover.fetching = None;
            if self.log.last() != last && !on(Mutant::P15Fetch) {
                // Not what was sealed: collecting starts again.
                takeover.sealed.remove(&from);
            }
            self.try_adopt(effects);
        } else if let Some(fetching) = &mut takeover.fetching {
            fetching.after = end;
            (fetching.silent_ticks, fetching.asked) = (0, 0);
            self.send(from, term, Body::Fetch { after: end, last }, effects);
        }
    }

    pub(crate) fn takeover_peer_up(&mut self, peer: NodeId, effects: &mut Vec<Effect>) {
        let (Role::Taking(takeover), Some(configuration)) = (&self.role, &self.configuration) else { return };
        let term = takeover.term;
        match &takeover.fetching {
            Some(fetching) if fetching.from == peer => {
                let (after, last) = (fetching.after, fetching.last);
                self.send(peer, term, Body::Fetch { after, last }, effects);
            }
            _ if collected(configuration).contains(&peer) && !takeover.sealed.contains_key(&peer) => {
                self.send(peer, term, Body::Seal, effects);
            }
            _ => {}
        }
    }

    pub(crate) fn tick_takeover(&mut self, effects: &mut Vec<Effect>) {
        let settings = self.settings;
        let (Role::Taking(takeover), Some(configuration)) = (&mut self.role, &self.configuration) else { return };
        takeover.ticks += 1;
        if takeover.ticks.is_multiple_of(settings.stuck_ticks) {
            let holder =
                takeover.fetching.as_ref().filter(|fetching| fetching.trimmed_there).map(|fetching| fetching.from);
            let silent = |n: &&NodeId| match &takeover.fetching {
                Some(fetching) if fetching.trimmed_there => false,
                Some(fetching) => fetching.from == **n,
                None => **n != self.me && !takeover.sealed.contains_key(n),
            };
            let unreachable = collected(configuration).iter().filter(silent).copied().collect();
            effects.push(Effect::ReportStuck { term: takeover.term, unreachable, holder });
        }
        let resend = takeover.ticks.is_multiple_of(settings.resend_ticks);
        if let Some(fetching) = &mut takeover.fetching {
            fetching.silent_ticks += 1;
            if fetching.silent_ticks >= fetching.patience_ticks {
                let (from, after, last) = (fetching.from, fetching.after, fetching.last);
                fetching.silent_ticks = 0;
                fetching.patience_ticks *= 2;
                fetching.asked += 1;
                if fetching.asked > ASKED_MAX {
                    // P15: collecting may start again with any majority until the first own entry is appended.
                    takeover.fetching = None;
                    takeover.sealed.remove(&from);
                } else {
                    let term = takeover.term;
                    self.send(from, term, Body::Fetch { after, last }, effects);
                }
            }
        }
        if resend {
            self.ask_for_seals(effects);
            self.try_adopt(effects);
        }
    }
}
