//! The replica: what it holds, how it learns of views, and how its answers wait for the disk.

use crate::disk::Disk;
use crate::event::{Answer, Apply, Effect, Event, Settings, State, Token};
use crate::installing::Installing;
use crate::log::Log;
use crate::message::{Body, Message};
use crate::mutants::{Mutant, on};
use crate::overlay::Overlay;
use crate::persist::{Base, MalformedRecord, PersistRecord, Recovered, Standing};
use crate::primary::Primary;
use crate::requests::Requests;
use crate::sending::Taken;
use crate::takeover::Takeover;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use types::{
    Batch, Configuration, Entry, EntryId, Epoch, ErrorCode, Generation, NodeId, PartitionId, Record, RecordKey, Seq,
    Term,
};

/// One partition's replica on one node, from one start of the node to its end.
///
/// A value like any other: a copy goes its own way, and two that hash alike behave alike.
#[derive(Clone, Hash, Debug)]
pub struct Replica {
    pub(crate) me: NodeId,
    partition: PartitionId,
    /// P11: only terms above this epoch are taken over.
    pub(crate) accepted_at: Epoch,
    pub(crate) settings: Settings,

    pub(crate) generation: Generation,
    pub(crate) standing: Standing,
    pub(crate) promised: Term,
    pub(crate) committed: Seq,
    pub(crate) log: Log,
    /// P10's sibling for trimming: every replica has the log on disk through here.
    pub(crate) held_by_all: Seq,
    pub(crate) overlay: Overlay,
    pub(crate) requests: Requests,
    /// What the state holds, and what it was given and has not answered for.
    pub(crate) applied: EntryId,
    pub(crate) applying: Option<EntryId>,
    /// The state is on disk through here.
    pub(crate) checkpointed: Seq,

    /// Generations whose data was let go.
    pub(crate) deleted: BTreeSet<Generation>,
    /// See [`Base::highest_generation`].
    pub(crate) highest_generation: Generation,
    /// See [`Base::settled`].
    pub(crate) settled: Seq,
    /// Snapshots begun by this start of the node.
    pub(crate) snapshots: u64,
    /// A snapshot that is being taken in (P23).
    pub(crate) installing: Option<Installing>,

    pub(crate) view_epoch: Epoch,
    pub(crate) configuration: Option<Arc<Configuration>>,
    /// The highest term whose takeover began here.
    pub(crate) began: Term,
    pub(crate) role: Role,
    /// Peers whose stream is known to be down.
    pub(crate) down: Vec<NodeId>,

    pub(crate) disk: Disk,
    ticks: u32,
}

/// What the replica does in the present term.
#[derive(Clone, Hash, Debug)]
pub(crate) enum Role {
    /// Follows, or nothing.
    Follower,
    /// P13–P15.
    Taking(Takeover),
    /// From its own empty entry on (P16).
    Primary(Box<Primary>),
}

/// What a replica is at the moment, for status and tests.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RoleSummary {
    /// No view names the node.
    None,
    /// Damaged (P3).
    OutOfService,
    /// Follows.
    Follower,
    /// Takes over.
    TakingOver(Term),
    /// Has begun its term and waits for its first entry.
    Starting(Term),
    /// Serves.
    Serving(Term),
}

impl Replica {
    /// A replica of `partition` on node `me`, from what was on disk.
    ///
    /// `accepted_at` is the epoch at which this start of the node was first accepted (P11).
    ///
    /// # Errors
    /// [`MalformedRecord`] where the state's request records do not decode: the partition is damaged.
    pub fn new(
        me: NodeId,
        partition: PartitionId,
        accepted_at: Epoch,
        settings: Settings,
        recovered: Recovered,
    ) -> Result<Replica, MalformedRecord> {
        let Recovered { base, log, applied, requests } = recovered;
        let mut replica = Replica {
            me,
            partition,
            accepted_at,
            settings,
            generation: base.generation,
            standing: base.standing,
            promised: base.promised,
            committed: base.committed,
            log: Log::new(base.trim, log),
            held_by_all: base.trim.seq,
            overlay: Overlay::default(),
            requests: Requests::recover(&requests)?,
            applied,
            applying: None,
            checkpointed: base.trim.seq,
            deleted: BTreeSet::new(),
            highest_generation: base.highest_generation.max(base.generation),
            settled: base.settled,
            snapshots: 0,
            installing: None,
            view_epoch: Epoch(0),
            configuration: None,
            began: Term(0),
            role: Role::Follower,
            down: Vec::new(),
            disk: Disk::default(),
            ticks: 0,
        };
        let end = replica.log.last().seq;
        replica.disk = Disk::recovered(end);
        for entry in replica.log.range(applied.seq.next(), end, usize::MAX) {
            let batch = Batch::decode(&entry.payload)?;
            replica.requests.append(entry.id.seq, &batch);
            replica.overlay.append(entry.id.seq, batch.changes);
        }
        replica.requests.committed(replica.committed);
        Ok(replica)
    }

    /// Takes one event and appends what follows from it.
    pub fn step(&mut self, event: Event, state: &dyn State, effects: &mut Vec<Effect>) {
        match event {
            Event::View { epoch, configuration } => self.on_view(epoch, configuration, effects),
            Event::Message { from, message } => self.on_message(from, message, effects),
            Event::Persisted { through } => self.on_persisted(through, effects),
            Event::Mutate { token, proposal } => self.on_mutate(token, &proposal, state, effects),
            Event::Transact { token, proposal } => self.on_transact(token, *proposal, state, effects),
            Event::Collect { token, keys } => self.on_collect(token, keys, effects),
            Event::FromPartition { message } => self.on_transaction_message(message, state, effects),
            Event::Read { token, key } => self.on_read(token, key, effects),
            Event::ReadPage { token, query } => self.on_read_page(token, query, effects),
            Event::Scanned { token, applied, records, ended } => {
                self.on_scanned(token, applied, records, ended, effects);
            }
            Event::Expired { keys } => self.on_expired(keys, state, effects),
            Event::Expire { tokens } => self.on_expire(tokens, effects),
            Event::Flush => self.flush_primary(effects),
            Event::Tick => self.on_tick(effects),
            Event::PeerUp { peer } => self.on_peer_up(peer, effects),
            Event::PeerDown { peer } => {
                if !self.down.contains(&peer) {
                    self.down.push(peer);
                }
            }
            Event::Applied { generation, through } => self.on_applied(generation, through),
            Event::Checkpointed { generation, through, make_room } => {
                self.on_checkpointed(generation, through, make_room);
            }
            Event::StateRead { to, snapshot, records } => self.on_state_read(to, snapshot, records, effects),
            Event::Installed { generation, number } => self.on_installed(generation, number, effects),
            Event::WriteBase => self.persist(PersistRecord::Base(self.base()), effects),
            Event::ActivationAnswered { term, accepted } => self.on_activation(term, accepted, effects),
            Event::Forget { before } => self.on_forget(before),
            Event::Damaged => self.go_out_of_service(effects),
            Event::DamageNoted { epoch } => self.on_damage_noted(epoch, effects),
        }
        self.rebuild_transactions(state, effects);
        self.run_woken(state, effects);
        self.answer_reads(state, effects);
        self.resume_scans(effects);
        self.debug_check();
    }

    // ------------------------------------------------------------------------------------------------ messages

    fn on_message(&mut self, from: NodeId, message: Message, effects: &mut Vec<Effect>) {
        let Message { term, body } = message;
        match self.standing {
            Standing::Member => {}
            // P3: votes for nothing.
            Standing::OutOfService(_) => return,
            Standing::None if on(Mutant::P4Answers) || on(Mutant::P4Promise) => {}
            Standing::None => {
                // P4: never a success.
                let asks = matches!(
                    body,
                    Body::Prepare { .. } | Body::Seal | Body::Fetch { .. } | Body::Confirm { .. } | Body::Chunk(_)
                );
                if asks {
                    self.send_when_persisted(from, Message { term, body: Body::NotMember }, effects);
                }
                return;
            }
        }
        match body {
            Body::Prepare { prev, entries, committed, held_by_all } => {
                self.on_prepare(from, term, prev, entries, committed, held_by_all, effects);
            }
            Body::Seal => self.on_seal(from, term, effects),
            Body::Fetch { after, last } => self.on_fetch(from, term, after, last, effects),
            Body::Confirm { nonce } => self.on_confirm(from, term, nonce, effects),
            Body::Sealed { last, committed } => self.on_sealed(from, term, last, committed, effects),
            Body::Fetched { prev, entries, last } => self.on_fetched(from, term, prev, entries, last, effects),
            Body::Prepared { seq } => self.on_prepared(from, term, seq, effects),
            Body::Mismatch { last, committed } => self.on_mismatch(from, term, last, committed, effects),
            Body::Chunk(chunk) => self.on_chunk(from, term, *chunk, effects),
            Body::ChunkTaken { snapshot, next, arrived, asked } => {
                if matches!(&self.role, Role::Primary(primary) if primary.term() == term) {
                    self.on_chunk_taken(from, snapshot, Taken { next, arrived, asked }, effects);
                }
            }
            Body::Confirmed { nonce } => self.on_confirmed(from, term, nonce),
            // P8: a higher promise elsewhere ends nothing by itself; the newest view will tell.
            Body::Fenced { promised } if promised > self.promised => effects.push(Effect::WantView),
            Body::Fenced { .. } | Body::NotMember => {}
        }
    }

    pub(crate) fn send(&self, to: NodeId, term: Term, body: Body, effects: &mut Vec<Effect>) {
        effects.push(Effect::Send { to, message: Message { term, body } });
    }

    // ------------------------------------------------------------------------------------------------ the log

    /// Appends one entry to the log in memory, with all that follows from its content.
    pub(crate) fn append(&mut self, entry: Entry, batch: Batch) {
        let seq = entry.id.seq;
        self.log.push(entry);
        self.requests.append(seq, &batch);
        self.overlay.append(seq, batch.changes);
    }

    /// Takes everything from `from` on away again. Never a committed entry (P7).
    pub(crate) fn truncate(&mut self, from: Seq) {
        assert!(
            from > self.committed,
            "{}: truncation from {from}, but {} is committed",
            self.partition,
            self.committed
        );
        for entry in self.log.truncate(from) {
            let batch = Batch::decode(&entry.payload).expect("an entry is decoded before it is appended");
            self.overlay.take_back(entry.id.seq, &batch);
        }
        self.requests.take_back(from);
        self.clamp_waiting(from.before());
        // What is to come in its place is held by nobody yet.
        self.held_by_all = self.held_by_all.min(from.before());
    }

    /// Moves `committed` forward, at most to the end of the log.
    pub(crate) fn commit_through(&mut self, seq: Seq) -> bool {
        let seq = seq.min(self.log.last().seq);
        if seq <= self.committed {
            return false;
        }
        self.committed = seq;
        self.requests.committed(seq);
        true
    }

    fn on_applied(&mut self, generation: Generation, through: EntryId) {
        if generation != self.generation || self.applying != Some(through) {
            return; // of a generation that ended meanwhile
        }
        self.applying = None;
        self.applied = through;
        self.overlay.applied(through.seq);
    }

    fn on_checkpointed(&mut self, generation: Generation, through: Seq, make_room: bool) {
        if generation != self.generation {
            return;
        }
        self.checkpointed = self.checkpointed.max(through.min(self.applied.seq));
        // The log stays for whoever lacks it, up to a cap (P23).
        let is_long = make_room || self.log.bytes() > self.settings.log_bytes_max;
        let kept_for = if is_long { self.pinned(make_room) } else { self.held_by_all };
        let through = self.checkpointed.min(kept_for).min(self.committed);
        self.log.trim_to(through, self.settings.history_bytes_max);
    }

    /// Committed changes for the state, or `None` where there are none or the last ones are still out.
    pub fn take_apply(&mut self) -> Option<Apply> {
        // P9: only what the own log has durably.
        let durable = if on(Mutant::P9Durable) { self.committed } else { self.durable() };
        let through = self.log.id_at(self.committed.min(durable))?;
        if self.applying.is_some() || through.seq <= self.applied.seq || self.standing != Standing::Member {
            return None;
        }
        let mut changes = self.overlay.merged(through.seq);
        self.requests.store(self.applied.seq, through.seq, &mut changes);
        self.applying = Some(through);
        Some(Apply { generation: self.generation, through, changes })
    }

    /// The record as of everything appended (P12), with the seq of the newest entry that says so if it is in the log.
    pub(crate) fn newest(
        &mut self,
        key: &RecordKey,
        state: &dyn State,
        effects: &mut Vec<Effect>,
    ) -> Option<(Option<Record>, Seq)> {
        if let Some(version) = self.overlay.newest(key) {
            let record = version.value.clone().map(|value| Record { seq: version.seq, value });
            return Some((record, version.seq));
        }
        self.read_state(key, state, effects).map(|record| (record, Seq(0)))
    }

    /// The record as of what is committed.
    pub(crate) fn committed_record(
        &mut self,
        key: &RecordKey,
        state: &dyn State,
        effects: &mut Vec<Effect>,
    ) -> Option<Option<Record>> {
        if let Some(version) = self.overlay.newest_at(key, self.committed) {
            return Some(version.value.clone().map(|value| Record { seq: version.seq, value }));
        }
        self.read_state(key, state, effects)
    }

    fn read_state(&mut self, key: &RecordKey, state: &dyn State, effects: &mut Vec<Effect>) -> Option<Option<Record>> {
        match state.get(self.generation, key) {
            Ok(record) => Some(record),
            Err(crate::StateDamaged) => {
                self.go_out_of_service(effects);
                None
            }
        }
    }

    // ------------------------------------------------------------------------------------------------ the rest

    fn on_tick(&mut self, effects: &mut Vec<Effect>) {
        self.ticks = self.ticks.wrapping_add(1);
        if self.standing == Standing::OutOfService(None) && self.ticks.is_multiple_of(self.settings.stuck_ticks) {
            effects.push(Effect::ReportDamaged);
        }
        self.tick_takeover(effects);
        self.tick_primary(effects);
    }

    fn on_peer_up(&mut self, peer: NodeId, effects: &mut Vec<Effect>) {
        self.down.retain(|down| *down != peer);
        self.takeover_peer_up(peer, effects);
        self.primary_peer_up(peer, effects);
    }

    /// Whether [`Event::Tick`] would do anything.
    pub fn needs_tick(&self) -> bool {
        match &self.role {
            Role::Follower => self.standing == Standing::OutOfService(None),
            Role::Taking(_) => true,
            Role::Primary(primary) => primary.needs_tick(self),
        }
    }

    /// Committed and appended changes that the state does not have yet, in bytes of memory.
    pub fn unapplied_bytes(&self) -> usize {
        self.overlay.bytes()
    }

    /// Payload bytes of the log kept in memory.
    pub fn log_bytes(&self) -> usize {
        self.log.bytes()
    }

    /// Requests remembered (P28).
    pub fn requests_remembered(&self) -> usize {
        self.requests.len()
    }

    /// The oldest request remembered: once its time is over, [`Event::Forget`] lets it go.
    pub fn oldest_request(&self) -> Option<types::Stamp> {
        self.requests.oldest()
    }

    /// The newest of the requests remembered, by the log's order.
    pub fn newest_request(&self) -> Option<types::Stamp> {
        self.requests.newest()
    }

    /// P28: a new request with an older stamp is refused.
    pub fn refused_before(&self) -> types::Stamp {
        self.requests.refused_before()
    }

    /// Everything kept on disk but the log and the state.
    pub fn base(&self) -> Base {
        Base {
            generation: self.generation,
            standing: self.standing,
            promised: self.promised,
            committed: self.committed,
            trim: self.log.trim(),
            highest_generation: self.highest_generation,
            settled: self.settled,
        }
    }

    /// The partition.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The oldest entry that the write-ahead log must still have.
    pub fn first_kept(&self) -> Seq {
        self.log.trim().seq.next()
    }

    /// The end of the log.
    pub fn last(&self) -> EntryId {
        self.log.last()
    }

    /// The log's entry at `seq`, if it is kept: for invariants and tests.
    pub fn entry(&self, seq: Seq) -> Option<&Entry> {
        self.log.get(seq)
    }

    /// What the state holds.
    pub fn applied(&self) -> EntryId {
        self.applied
    }

    /// What the replica is at the moment.
    pub fn role(&self) -> RoleSummary {
        match (&self.standing, &self.role) {
            (Standing::None, _) => RoleSummary::None,
            (Standing::OutOfService(_), _) => RoleSummary::OutOfService,
            (Standing::Member, Role::Follower) => RoleSummary::Follower,
            (Standing::Member, Role::Taking(takeover)) => RoleSummary::TakingOver(takeover.term()),
            (Standing::Member, Role::Primary(primary)) if primary.serving() => RoleSummary::Serving(primary.term()),
            (Standing::Member, Role::Primary(primary)) => RoleSummary::Starting(primary.term()),
        }
    }

    /// Damaged, and waiting for a view that ends it (P3).
    pub fn is_out_of_service(&self) -> bool {
        matches!(self.standing, Standing::OutOfService(_))
    }

    /// Followers and learners whose log lacks more than what is under way. Empty unless this is the primary.
    pub fn behind(&self) -> Vec<NodeId> {
        match &self.role {
            Role::Primary(primary) => primary.behind(self),
            _ => Vec::new(),
        }
    }

    /// The learner, once it lacks no more than what is under way. `None` unless this serves.
    pub fn filled(&self) -> Option<NodeId> {
        let (Role::Primary(primary), Some(configuration)) = (&self.role, &self.configuration) else { return None };
        let learner = configuration.learner.filter(|_| primary.serving())?;
        (!primary.behind(self).contains(&learner)).then_some(learner)
    }

    /// The code for a request that can't be taken here at the moment.
    pub(crate) fn refusal(&self) -> Answer {
        let primary = self.configuration.as_ref().and_then(|c| c.primary());
        Answer::Error(match (&self.standing, &self.role) {
            (Standing::OutOfService(_), _) => ErrorCode::Damaged,
            (Standing::Member, Role::Taking(_) | Role::Primary(_)) => ErrorCode::Unavailable,
            // The view that deposed this node, or made it primary, is on its way.
            (Standing::Member, Role::Follower) if primary == Some(self.me) => ErrorCode::Unavailable,
            _ => ErrorCode::NotPrimary,
        })
    }

    pub(crate) fn reply(token: Token, answer: Answer, effects: &mut Vec<Effect>) {
        effects.push(Effect::Reply { token, answer });
    }

    /// What must hold between events, in release builds too.
    fn debug_check(&self) {
        let last = self.log.last();
        assert!(self.committed <= last.seq, "{}: committed {} beyond {last:?}", self.partition, self.committed);
        assert!(self.applied.seq <= self.committed, "{}: applied beyond committed", self.partition);
        assert!(self.durable() <= last.seq, "{}: durable {} beyond {last:?}", self.partition, self.durable());
        assert!(
            last.term <= self.promised || self.standing != Standing::Member,
            "{}: a log of terms not promised",
            self.partition
        );
    }
}

/// The record of a user's key.
pub(crate) fn user(key: &Bytes) -> RecordKey {
    RecordKey::user(key.clone())
}
