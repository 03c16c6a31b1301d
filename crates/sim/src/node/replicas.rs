//! The replicas: a step, and its effects carried out in order.

use super::{Name, Node};
use crate::context::Context;
use crate::disk::{Disk, Kept};
use crate::faults::Fault;
use crate::happening::{Envelope, Group as OfGroup, Happening, Input, Job, Process, ToGroup};
use crate::invariants::Scene;
use crate::network::Place;
use crate::queue::MS;
use crate::trap::{Act, When};
use crate::world::PEACE;
use bytes::Bytes;
use replcore::{Answer, Apply, Body, Effect, Event, Message, State, StateDamaged, TransactionMessage};
use std::collections::BTreeMap;
use types::{Epoch, Generation, NodeId, PartitionId, Record, RecordKey, RecordKind, Term};

struct PartitionState<'a> {
    kept: Option<&'a Kept>,
    damaged: bool,
}

impl State for PartitionState<'_> {
    fn get(&self, _: Generation, key: &RecordKey) -> Result<Option<Record>, StateDamaged> {
        if self.damaged {
            return Err(StateDamaged);
        }
        Ok(self.kept.and_then(|kept| kept.records.get(key)).cloned())
    }

    fn list(&self, _: Generation, kind: RecordKind) -> Result<Vec<(Bytes, Record)>, StateDamaged> {
        if self.damaged {
            return Err(StateDamaged);
        }
        let records = self.kept.into_iter().flat_map(|kept| &kept.records).filter(|(key, _)| key.kind == kind);
        Ok(records.map(|(key, record)| (key.name.clone(), record.clone())).collect())
    }
}

impl Node {
    pub(super) fn step(&mut self, ctx: &mut Context, partition: PartitionId, event: Event) {
        let Some(process) = &mut self.process else { return };
        let Some(replica) = process.replicas.get_mut(partition.0 as usize) else { return };
        let disk = &ctx.disks[self.place];
        let damaged = disk.is_damaged(partition);
        let state = PartitionState { kept: disk.live(partition, replica.base().generation), damaged };
        let mut effects = Vec::new();
        replica.step(event, &state, &mut effects);
        for effect in effects {
            if self.process.is_none() {
                return;
            }
            self.carry_out(ctx, partition, effect);
        }
        let Some(process) = &self.process else { return };
        let scene = scene(self.place, process.start, partition, &ctx.disks, &ctx.places, &ctx.lost);
        ctx.watch.stepped(ctx.now, scene, &process.replicas[partition.0 as usize]);
    }

    pub(super) fn apply(&mut self, ctx: &mut Context, partition: PartitionId) {
        let Some(process) = &mut self.process else { return };
        let Some(replica) = process.replicas.get_mut(partition.0 as usize) else { return };
        let Some(apply) = replica.take_apply() else { return };
        let scene = scene(self.place, process.start, partition, &ctx.disks, &ctx.places, &ctx.lost);
        ctx.watch.applying(scene, replica, &apply);
        self.order(ctx, Job::Apply { partition, apply });
    }

    /// One thread does the state's work, in order.
    fn order(&mut self, ctx: &mut Context, job: Job) {
        let Some(process) = &mut self.process else { return };
        let delay = ctx.random.between(10, ctx.plan.apply_max);
        process.state_busy_until = process.state_busy_until.max(ctx.now) + delay;
        ctx.process(process.state_busy_until - ctx.now, self.place, process.start, Process::State(job));
    }

    pub(super) fn job_done(&mut self, ctx: &mut Context, job: Job) {
        let disk = &mut ctx.disks[self.place];
        match job {
            Job::Apply { partition, apply } => {
                let (generation, through) = (apply.generation, apply.through);
                disk.apply(partition, apply);
                self.take(ctx, Input::Applied { partition, generation, through });
            }
            Job::Install { partition, number, last, apply } => {
                let generation = apply.generation;
                disk.apply(partition, apply);
                if last {
                    disk.save(usize::MAX);
                }
                self.take(ctx, Input::Installed { partition, generation, number });
            }
            Job::Read { partition, to, snapshot, generation, after, bytes_max } => {
                let records = disk.page(partition, generation, after.as_ref(), bytes_max);
                self.take(ctx, Input::StateRead { partition, to, snapshot, records });
            }
            Job::Scan { partition, token, generation, query } => {
                let (applied, records, ended) = disk.scan(partition, generation, &query);
                // Another thread's: what is applied meanwhile may be heard of first.
                let input = Input::Scanned { partition, token, applied, records, ended };
                let delay = ctx.random.between(1, ctx.plan.apply_max);
                if let Some(start) = self.start_number() {
                    ctx.process(delay, self.place, start, Process::Input(input));
                }
            }
            Job::Delete { partition, generation } => disk.delete(partition, generation),
        }
    }

    /// Carries an effect out, unless the process dies of it.
    fn carry_out(&mut self, ctx: &mut Context, partition: PartitionId, effect: Effect) {
        let act = Act::of(&effect).filter(|_| ctx.now > PEACE && !ctx.healed);
        let (Some(act), Some(replica)) = (act, self.replica(partition)) else {
            return self.do_carry_out(ctx, partition, effect);
        };
        match ctx.trap.springs(act, replica.role().into()) {
            None => self.do_carry_out(ctx, partition, effect),
            Some(When::Before) => self.die(ctx),
            Some(When::After) => {
                self.do_carry_out(ctx, partition, effect);
                if let Act::Writes(_) = act {
                    let disk = &mut ctx.disks[self.place];
                    let end = disk.end();
                    disk.sync(end);
                }
                self.die(ctx);
            }
        }
    }

    /// In the middle of a step; somebody starts it again.
    fn die(&mut self, ctx: &mut Context) {
        let (place, start) = (self.place, self.start_number());
        self.crash(ctx);
        if let (Some(node), Some(start)) = (ctx.disks[place].id, start) {
            let delay = ctx.between(MS, 40 * MS);
            ctx.after(delay, Happening::Group(OfGroup::SessionEnded { node, start }));
        }
        let delay = ctx.between(MS, 600 * MS);
        ctx.after(delay, Happening::Fault(Fault::Restart(place)));
    }

    fn do_carry_out(&mut self, ctx: &mut Context, partition: PartitionId, effect: Effect) {
        let Some(process) = &mut self.process else { return };
        let (place, start, now) = (self.place, process.start, ctx.now);
        let name = Name(place, ctx.disks[place].id);
        let scene = scene(place, start, partition, &ctx.disks, &ctx.places, &ctx.lost);
        let here = Place::Node(place);
        match effect {
            Effect::Persist { index, record } => {
                ctx.watch.writing(scene, &record);
                ctx.trace.note(now, &[5, place as u64, index.0], || format!("{name}: {partition} writes {record:?}"));
                ctx.disks[place].append(partition, index, record);
            }
            Effect::Send { to, message } => {
                ctx.watch.sending(scene, &message);
                self.trace_message(ctx, "to", to, partition, &message);
                let from = ctx.disks[place].id.unwrap_or_default();
                let known = ctx.disks[place].view.as_ref().and_then(|view| view.nodes.get(&to));
                if let (Some(at), Some(incarnation)) = (ctx.places.get(&to).copied(), known.map(|n| n.incarnation)) {
                    let envelope = Envelope { from, to: at, incarnation, partition, message };
                    ctx.send(here, Place::Node(at), Happening::Peer(envelope));
                }
            }
            Effect::SendToPartition { partition: to, message } => {
                let view = ctx.disks[place].view.as_ref();
                let primary = view.and_then(|view| view.primary(to)).map(|primary| (primary.id, primary.incarnation));
                let numbers = [14, place as u64, u64::from(to.0), message.attempt.term.0, message.attempt.counter];
                ctx.trace.note(now, &numbers, || {
                    let TransactionMessage { attempt, body, .. } = &message;
                    let whom = primary.map_or("nobody".into(), |(node, _)| node.to_string());
                    format!("{name}: {partition} to {to} at {whom}: {attempt} {body:?}")
                });
                let Some((primary, incarnation)) = primary else { return };
                let what = |at| Happening::Partition { to: at, incarnation, partition: to, message };
                match ctx.places.get(&primary).copied() {
                    // Within a node there is no network, but there are threads.
                    Some(at) if at == place => {
                        let delay = ctx.between(1, 100);
                        ctx.after(delay, what(at));
                    }
                    Some(at) => ctx.send(here, Place::Node(at), what(at)),
                    None => {}
                }
            }
            Effect::Reply { token, answer } => {
                ctx.counts.transactions += u64::from(matches!(answer, Answer::Transacted { .. }));
                if let Answer::Written { outcome, durable_on, .. } = &answer {
                    let replica = &process.replicas[partition.0 as usize];
                    ctx.watch.acknowledging(scene, replica, outcome.version, *durable_on);
                }
                let Some(request) = process.requests.remove(&token) else {
                    return ctx.watch.violated("answers", format!("{name} answers {token:?} twice: {answer:?}"));
                };
                ctx.trace.note(now, &[6, place as u64, token.0], || {
                    format!("{name}: {partition} answers client {} {answer:?}", request.client)
                });
                self.answer(ctx, &request, answer);
            }
            Effect::Serving { term } => {
                ctx.trace.note(now, &[7, place as u64, term.map_or(0, |t| t.0)], || {
                    format!("{name}: {partition} serves {term:?}")
                });
                match term {
                    Some(term) => {
                        ctx.counts.terms_served += 1;
                        ctx.watch.serving(scene, ctx.disks[place].id.unwrap_or_default(), term);
                        process.serving.insert(partition, term);
                    }
                    None => {
                        process.serving.remove(&partition);
                        process.timers.retain(|(of, _), _| *of != partition);
                    }
                }
            }
            Effect::ScanState { token, generation, query } => {
                self.order(ctx, Job::Scan { partition, token, generation, query });
            }
            Effect::Expiring { key, expiry } => self.key_expires(ctx, partition, key, expiry),
            Effect::ExpiryOver { keys } => self.expiry_over(ctx, partition, keys),
            Effect::DeleteData { generation } => self.order(ctx, Job::Delete { partition, generation }),
            Effect::ReadState { to, snapshot, generation, after, bytes_max } => {
                ctx.counts.snapshots += u64::from(after.is_none());
                self.order(ctx, Job::Read { partition, to, snapshot, generation, after, bytes_max });
            }
            Effect::Install { generation, number, records, start } => {
                let changes = records.into_iter().map(|(key, record)| (key, Some(record.value), record.seq)).collect();
                let apply = Apply { generation, through: start.unwrap_or_default(), changes };
                let last = start.is_some();
                self.order(ctx, Job::Install { partition, number, last, apply });
            }
            Effect::ReportActivated { term } => {
                let what = ToGroup::Activated { node: place, start, partition, term };
                ctx.send(here, Place::Leader, Happening::ToGroup(what));
            }
            Effect::ReportStuck { term, unreachable, holder } => {
                let node = ctx.disks[place].id.unwrap_or_default();
                ctx.trace.note(now, &[8, place as u64, term.0], || {
                    format!("{name}: {partition} is stuck at {term}, {unreachable:?} do not answer")
                });
                let what = ToGroup::Stuck { node, partition, term, unreachable, holder };
                ctx.send(here, Place::Leader, Happening::ToGroup(what));
            }
            Effect::ReportDamaged => {
                let id = ctx.disks[place].id.unwrap_or_default();
                let view = ctx.disks[place].view.as_ref();
                let configuration = view.and_then(|view| view.configuration(partition));
                let term = configuration.map_or(Term(0), |configuration| configuration.term);
                let what = ToGroup::Damaged { node: place, start, id, partition, term };
                ctx.send(here, Place::Leader, Happening::ToGroup(what));
            }
            Effect::WantView => {
                let epoch = ctx.disks[place].view.as_ref().map_or(Epoch(0), |view| view.epoch);
                ctx.send(here, Place::Leader, Happening::ToGroup(ToGroup::WantView { node: place, start, epoch }));
            }
        }
    }

    pub(super) fn trace_message(
        &self,
        ctx: &mut Context,
        way: &str,
        peer: NodeId,
        partition: PartitionId,
        message: &Message,
    ) {
        let (now, place, name) = (ctx.now, self.place, self.name(ctx));
        let Message { term, body } = message;
        let numbers = match body {
            Body::Prepare { prev, entries, committed, .. } => [prev.seq.0, entries.len() as u64, committed.0],
            Body::Prepared { seq } => [seq.0, 1, 0],
            Body::Confirm { nonce } | Body::Confirmed { nonce } => [*nonce, 2, 0],
            Body::Mismatch { last, committed } | Body::Sealed { last, committed } => [last.seq.0, 3, committed.0],
            Body::Chunk(chunk) => [chunk.snapshot.0, 5, chunk.number],
            _ => [0, 4, 0],
        };
        ctx.trace.note(now, &[9, place as u64, peer.0, term.0, numbers[0], numbers[1], numbers[2]], || {
            format!("{name}: {partition} {way} {peer}: {term} {}", describe(body))
        });
    }
}

fn scene<'a>(
    node: usize,
    start: u64,
    partition: PartitionId,
    disks: &'a [Disk],
    places: &'a BTreeMap<NodeId, usize>,
    lost: &'a BTreeMap<NodeId, Disk>,
) -> Scene<'a> {
    Scene { node, start, partition, disks, places, lost }
}

fn describe(body: &Body) -> String {
    match body {
        Body::Prepare { prev, entries, committed, .. } => {
            let ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
            format!("prepare {ids:?} after {prev:?}, committed {committed}")
        }
        other => format!("{other:?}"),
    }
}
