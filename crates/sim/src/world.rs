//! One world: the nodes, the viewleader group, the clients, and what happens to them until everything has come to rest.

use crate::checker::{self, Checked};
use crate::client::Client;
use crate::context::{Context, Counts};
use crate::faults::{self, Fault};
use crate::group::Group;
use crate::happening::Happening;
use crate::invariants::{self, Standstill, Violation};
use crate::node::Node;
use crate::plan::{Plan, Scenario};
use crate::queue::{MS, Micros};
use crate::random::Random;
use crate::readers::Reader;
use crate::trace::{Keep, Trace};
use crate::trap::Trap;
use bytes::Bytes;

/// Nodes register and the first map is made before anything goes wrong.
pub(crate) const PEACE: Micros = 400 * MS;
/// Time between two looks at whether everything has come to rest.
const LOOK_EVERY: Micros = 20 * MS;
/// Things that happen in one world, at most: a world that exceeds it is busy with nothing.
const EVENTS_MAX: u64 = 5_000_000;
/// Steps of the search for an order of one key's operations.
const CHECK_STEPS_MAX: u64 = 300_000;

/// How one seed went.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The scenario that it drew or was told.
    pub scenario: Scenario,
    /// What was broken first, if anything was.
    pub violation: Option<Violation>,
    /// Two runs with one hash went through the same.
    pub hash: u64,
    /// The lines that were to be kept.
    pub trace: Vec<String>,
    /// How lively it was.
    pub counts: Counts,
    /// What the checker looked at; nothing where an invariant was broken before.
    pub checked: Checked,
}

struct World {
    ctx: Context,
    nodes: Vec<Node>,
    group: Group,
    clients: Vec<Client>,
    readers: Vec<Reader>,
    finished: bool,
}

/// Runs one seed from beginning to end.
pub fn run(seed: u64, scenario: Option<Scenario>, keep: Keep) -> Report {
    run_trapped(seed, scenario, keep, Trap::default()).0
}

/// As [`run`], with a trap.
pub(crate) fn run_trapped(seed: u64, scenario: Option<Scenario>, keep: Keep, trap: Trap) -> (Report, Trap) {
    let mut random = Random::new(seed);
    let plan = Plan::draw(&mut random, scenario);
    let scenario = plan.scenario;
    let mut world = World::new(random, plan, keep);
    world.ctx.trap = trap;
    world.run();
    let trap = std::mem::take(&mut world.ctx.trap);
    (world.report(seed, scenario), trap)
}

impl World {
    fn new(random: Random, plan: Plan, keep: Keep) -> World {
        let mut ctx = Context::new(random, plan, Trace::new(keep));
        let numbers = [ctx.plan.nodes as u64, ctx.plan.partitions.into(), ctx.plan.clients as u64];
        let plan = ctx.plan.clone();
        ctx.trace.note(0, &numbers, || format!("{plan:?}"));
        let group = Group::new(&mut ctx);
        let mut nodes: Vec<Node> = (0..ctx.plan.nodes).map(|place| Node::new(place, &mut ctx)).collect();
        let founders = ctx.plan.founders;
        for node in &mut nodes[..founders] {
            node.start(&mut ctx);
        }
        let clients: Vec<Client> = (0..ctx.plan.clients).map(|number| Client::new(number, &mut ctx)).collect();
        for client in 0..clients.len() {
            let delay = ctx.between(PEACE / 2, PEACE);
            ctx.after(delay, Happening::Client { client, what: crate::happening::Timer::Next });
        }
        let readers = Reader::all(&mut ctx);
        for reader in 0..readers.len() {
            let delay = ctx.between(PEACE / 2, PEACE);
            ctx.after(delay, Happening::Reader(reader));
        }
        ctx.after(PEACE, Happening::NextFault);
        let busy = ctx.plan.busy;
        ctx.after(PEACE + busy, Happening::Heal);
        World { ctx, nodes, group, clients, readers, finished: false }
    }

    fn run(&mut self) {
        while !self.finished && self.ctx.watch.violation().is_none() {
            let Some(happening) = self.ctx.next() else { return };
            if self.ctx.counts.events > EVENTS_MAX {
                let what = format!("{EVENTS_MAX} events were not enough; {:?}", self.standstill());
                self.ctx.watch.violated("rest", what);
            }
            self.happen(happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        let World { ctx, nodes, group, clients, readers, .. } = self;
        match happening {
            Happening::Process { node, start, what } => nodes[node].happen(ctx, start, what),
            Happening::Peer(envelope) => nodes[envelope.to].deliver(ctx, envelope),
            Happening::Partition { to, incarnation, partition, message } => {
                nodes[to].deliver_between_partitions(ctx, incarnation, partition, message);
            }
            Happening::ToGroup(what) => group.hear(ctx, what),
            Happening::Group(what) => {
                // One leader at a time.
                let again = matches!(what, crate::happening::Group::NewLeader) && group.has_leader();
                if !again {
                    group.happen(ctx, what);
                }
            }
            Happening::Request { node, request } => nodes[node].request(ctx, request),
            Happening::Answered { client, number, attempt, answer } => match clients.get_mut(client) {
                Some(client) => client.hear(ctx, number, attempt, answer),
                None => readers[client - ctx.plan.clients].hear(ctx, number, answer),
            },
            Happening::Subscribe { node, subscription } => nodes[node].subscribe(ctx, subscription),
            Happening::Fed { watcher, partition, number, after, fed } => {
                readers[watcher].fed(ctx, partition, number, after, &fed);
            }
            Happening::Reader(reader) => readers[reader].happen(ctx, group.view()),
            Happening::Client { client, what } => clients[client].happen(ctx, what, group.view()),
            Happening::NextFault => self.next_fault(),
            Happening::Fault(fault) => {
                // Ends that come after the healing find nothing left to undo.
                if !ctx.healed {
                    fault.happen(ctx, nodes, group);
                }
            }
            Happening::Heal => {
                faults::heal(ctx, nodes, group);
                self.stop_clients();
                self.ctx.after(LOOK_EVERY, Happening::Look);
            }
            Happening::Look => self.look(),
        }
    }

    fn next_fault(&mut self) {
        if self.ctx.healed {
            return;
        }
        for fault in Fault::draw(&mut self.ctx) {
            fault.happen(&mut self.ctx, &mut self.nodes, &mut self.group);
        }
        let delay = self.ctx.between(MS, self.ctx.plan.fault_every);
        self.ctx.after(delay, Happening::NextFault);
    }

    fn stop_clients(&mut self) {
        self.readers.iter_mut().for_each(Reader::stop);
        let count = self.clients.len();
        let mut to_read = vec![Vec::new(); count];
        for key in 0..self.ctx.plan.keys {
            to_read[key % count].push(Bytes::from(format!("k{key}")));
        }
        for (key, name) in self.ctx.plan.hot.iter().enumerate() {
            to_read[key % count].push(name.clone());
        }
        for (client, to_read) in self.clients.iter_mut().zip(to_read) {
            client.stop(&mut self.ctx, to_read);
        }
    }

    fn standstill(&self) -> Result<(), Standstill> {
        let view = self.group.view().filter(|view| view.has_map()).ok_or(Standstill::NoView)?;
        if let Some(client) = self.clients.iter().position(|client| !client.is_done()) {
            return Err(Standstill::Waiting { client });
        }
        if let Some(partition) = self.ctx.watch.expiring() {
            return Err(Standstill::Expiring(partition));
        }
        if let Some(partition) = self.readers.iter().find_map(|reader| reader.behind(&self.ctx)) {
            return Err(Standstill::Watching { partition });
        }
        invariants::nodes_at_rest(view, &self.nodes, &self.ctx.disks, &self.ctx.places)?;
        let gone = Default::default();
        let state = self.group.state();
        match viewcore::plan::moving::plan(state, &gone).first() {
            Some(planned) => Err(Standstill::ToMove(*planned)),
            None => Ok(()),
        }
    }

    fn look(&mut self) {
        match self.standstill() {
            Ok(()) if self.nodes.iter().all(Node::is_idle) => self.finished = true,
            Ok(()) => self.ctx.after(LOOK_EVERY, Happening::Look),
            Err(standstill) => {
                faults::tidy_up(&mut self.ctx, &self.group);
                let plan = &self.ctx.plan;
                if self.ctx.now > PEACE + plan.busy + plan.heal_max {
                    let waited = plan.heal_max / MS / 1000;
                    self.ctx.watch.violated("rest", format!("{waited} s after the last fault, {standstill}"));
                }
                self.ctx.after(LOOK_EVERY, Happening::Look);
            }
        }
    }

    fn report(self, seed: u64, scenario: Scenario) -> Report {
        let World { mut ctx, clients, readers, .. } = self;
        let mut history: Vec<_> =
            clients.into_iter().flat_map(|client| client.into_history(|request| ctx.watch.was_done(request))).collect();
        history.extend(readers.into_iter().flat_map(|reader| reader.history));
        let mut checked = Checked::default();
        if ctx.watch.violation().is_none() {
            match checker::check(&history, CHECK_STEPS_MAX) {
                Ok(done) => checked = done,
                Err(rejection) => ctx.watch.violated("linearizability", rejection.to_string()),
            }
        }
        let mut counts = ctx.counts;
        counts.entries = ctx.watch.entries();
        Report {
            seed,
            scenario,
            violation: ctx.watch.violation().cloned(),
            hash: ctx.trace.hash(),
            trace: ctx.trace.into_lines(),
            counts,
            checked,
        }
    }
}
