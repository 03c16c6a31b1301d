//! How a replica learns who replicates its partition: views (P4, P5, P11), and going out of service (P3).

use crate::event::Effect;
use crate::log::Log;
use crate::mutants::{Mutant, on};
use crate::overlay::Overlay;
use crate::persist::{PersistRecord, Standing};
use crate::replica::Replica;
use crate::requests::Requests;
use std::sync::Arc;
use types::{Configuration, EntryId, Epoch, Generation, NodeId, Seq, Term};

impl Replica {
    pub(crate) fn on_view(&mut self, epoch: Epoch, configuration: Arc<Configuration>, effects: &mut Vec<Effect>) {
        // P5: only forward.
        if epoch <= self.view_epoch {
            return;
        }
        self.view_epoch = epoch;
        self.act_on_view(epoch, configuration, effects);
    }

    fn act_on_view(&mut self, epoch: Epoch, configuration: Arc<Configuration>, effects: &mut Vec<Effect>) {
        if let Standing::OutOfService(noted) = self.standing {
            // P3: only a view after the noted epoch that names the node nowhere, or as learner alone, ends it.
            let ends = noted.is_some_and(|noted| epoch > noted) && (!configuration.votes(self.me) || on(Mutant::P3));
            if !ends {
                self.configuration = Some(configuration);
                return;
            }
            self.reset(Standing::None, effects);
        }
        let known = self.configuration.replace(configuration.clone());
        let known_term = known.as_ref().map(|c| c.term);
        if known.is_none_or(|known| members(&configuration).any(|n| !known.names(n))) {
            // A newcomer may lack what all others hold.
            self.held_by_all = self.log.trim().seq;
        }
        let by_prior_alone = !configuration.replicas.contains(&self.me) && configuration.learner != Some(self.me);
        if configuration.names(self.me) && !(by_prior_alone && on(Mutant::P5Prior)) {
            if self.standing == Standing::None {
                // P4: a record is a new, empty generation; the promise is kept or higher.
                self.promised = self.promised.max(configuration.term);
                let ended = self.generation;
                self.generation = self.new_generation();
                self.reset(Standing::Member, effects);
                // P5: what an ended generation left is never served, voted with or sent again.
                self.delete(ended, effects);
            }
            if on(Mutant::P8) && known_term.is_some_and(|known| known < configuration.term) {
                self.abdicate(effects); // the view, at last
            }
            self.raise(configuration.term, effects);
        } else {
            self.on_removed(epoch, &configuration, effects);
            return;
        }
        if configuration.term < self.promised {
            return;
        }
        if configuration.primary() == Some(self.me) {
            self.follow_configuration(effects);
            // P11: a term that this start can have no memory of is not taken over.
            let remembered = configuration.term > Term::begun_at(self.accepted_at) || on(Mutant::P11);
            if remembered && configuration.term > self.began {
                self.began = configuration.term;
                self.begin_takeover(configuration.term, effects);
            }
        } else if configuration.votes(self.me)
            && known_term != Some(configuration.term)
            && let Some(primary) = configuration.primary()
        {
            // P13: unasked, because the view came first.
            self.send_sealed(primary, configuration.term, effects);
        }
    }

    /// P4, P5: the view names this node nowhere.
    fn on_removed(&mut self, epoch: Epoch, configuration: &Configuration, effects: &mut Vec<Effect>) {
        // P5: the node has voted in a later configuration than this view knows of.
        if Term::begun_at(epoch) < self.promised && !on(Mutant::P5Old) {
            return;
        }
        // P4: the promise outlives the record and rises to the term of the removing configuration.
        let rises_to = if on(Mutant::P4Epoch) { Term::begun_at(epoch) } else { configuration.term };
        self.raise(rises_to, effects);
        if on(Mutant::P4Promise) {
            self.promised = Term(0);
        }
        if self.standing == Standing::Member {
            self.abdicate(effects);
            self.reset(Standing::None, effects);
        }
        if configuration.is_activated() || on(Mutant::P5Activated) {
            self.delete(self.generation, effects);
        }
    }

    pub(crate) fn delete(&mut self, generation: Generation, effects: &mut Vec<Effect>) {
        if generation > Generation(0) && self.deleted.insert(generation) {
            self.do_when_persisted(Effect::DeleteData { generation }, effects);
        }
    }

    /// Empties log, overlay and requests, and writes that down. The promise stays (P4).
    fn reset(&mut self, standing: Standing, effects: &mut Vec<Effect>) {
        self.abandon_install(effects);
        self.standing = standing;
        self.settled = Seq(0);
        self.log = Log::new(EntryId::ZERO, Vec::new());
        self.committed = Seq(0);
        self.held_by_all = Seq(0);
        self.checkpointed = Seq(0);
        self.overlay = Overlay::default();
        self.requests = Requests::default();
        self.applied = EntryId::ZERO;
        self.applying = None;
        self.clamp_waiting(Seq(0));
        self.drop_answers();
        self.persist(PersistRecord::Reset(self.base()), effects);
    }

    /// Raises the promise, and with it ends what this node does as primary of an earlier term (P8).
    pub(crate) fn raise(&mut self, term: Term, effects: &mut Vec<Effect>) {
        if term <= self.promised {
            return;
        }
        self.promised = term;
        // The sender's term is over.
        self.abandon_install(effects);
        if !on(Mutant::P8) {
            self.abdicate(effects);
        }
        self.persist(PersistRecord::Promise(term), effects);
    }

    pub(crate) fn go_out_of_service(&mut self, effects: &mut Vec<Effect>) {
        if self.standing != Standing::Member {
            return;
        }
        self.abdicate(effects);
        self.abandon_install(effects);
        self.standing = Standing::OutOfService(None);
        self.persist(PersistRecord::Base(self.base()), effects);
        effects.push(Effect::ReportDamaged);
    }

    pub(crate) fn on_damage_noted(&mut self, epoch: Epoch, effects: &mut Vec<Effect>) {
        if self.standing == Standing::OutOfService(None) {
            self.standing = Standing::OutOfService(Some(epoch));
            self.persist(PersistRecord::Base(self.base()), effects);
            // The view that ends it may have come before the note.
            if let Some(configuration) = self.configuration.clone() {
                self.act_on_view(self.view_epoch, configuration, effects);
            }
        }
    }
}

fn members(configuration: &Configuration) -> impl Iterator<Item = NodeId> {
    configuration.replicas.iter().chain(&configuration.prior).copied().chain(configuration.learner)
}
