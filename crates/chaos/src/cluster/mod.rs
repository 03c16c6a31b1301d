//! A real cluster on this machine: processes of this very binary, their files under one directory, and the network
//! between them.
//!
//! Invariants: every process ends with this one, however that ends, a stopped process too (`process::die_with_parent`).
//! What a fault took down on purpose is known ([`Cluster::expect_down`]); any other process that ends is a finding.
//! Processes are started by the main thread alone: the kernel ties a child to the thread that made it.

mod health;
mod process;
mod root;
mod slot;
mod wires;

use crate::error::Error;
use crate::proxy::Policy;
use crate::random::Random;
use client::Leaders;
use daemon::Exit;
use faults::Fault;
use rustix::process::Signal;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub(crate) use process::{Process, State, die_with_parent, in_words};
pub(crate) use root::{Root, clean_up_on_panic};
pub(crate) use slot::{Role, Slot};
use wires::Wires;

/// How long servers may take to end when they are asked to.
const STOP_MAX: Duration = Duration::from_secs(20);
/// A disk that holds the log of a test run: small segments, so that several are written and recycled.
const SEGMENT: &str = "4MiB";

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) viewleaders: u8,
    pub(crate) nodes: u8,
    /// Slots for storage nodes that join later.
    pub(crate) spares: u8,
    pub(crate) partitions: u32,
    pub(crate) replication: u8,
    /// Namespaces of the kernel between the processes, instead of proxies.
    pub(crate) namespaces: bool,
}

/// The cluster. Dropping it kills every process.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) shape: Shape,
    slots: Vec<Slot>,
    processes: Vec<Option<Process>>,
    wires: Wires,
    leaders: Leaders,
    /// Slots whose process a fault lets end.
    expected_down: Vec<bool>,
    /// Slots of viewleaders that did not found their group: one that lost its directory comes back as a new member.
    joins: Vec<bool>,
    pub(crate) root: Root,
}

impl Cluster {
    /// A cluster of which nothing runs yet.
    ///
    /// # Errors
    /// [`Error::Machine`], [`Error::File`].
    pub(crate) fn new(shape: Shape, random: &mut Random) -> Result<Cluster, Error> {
        let root = Root::new()?;
        let count = shape.viewleaders + shape.nodes + shape.spares;
        let wires = match shape.namespaces {
            true => {
                root::there_are_namespaces();
                Wires::namespaces(count, random)?
            }
            false => Wires::proxies(count, random)?,
        };
        let viewleaders = usize::from(shape.viewleaders);
        let slot = |place: usize| {
            let (role, name) = match place.checked_sub(viewleaders) {
                None => (Role::Viewleader, format!("v{}", place + 1)),
                Some(storage) => (Role::Storaged, format!("s{}", storage + 1)),
            };
            Slot::new(name, role, wires.station(place), root.path())
        };
        let slots: Vec<Slot> = (0..count.into()).map(slot).collect();
        let addresses: Vec<String> = addresses_of(&slots, Role::Viewleader);
        Ok(Cluster {
            leaders: Leaders::new(&addresses)?,
            processes: slots.iter().map(|_| None).collect(),
            expected_down: vec![false; slots.len()],
            joins: vec![false; slots.len()],
            shape,
            slots,
            wires,
            root,
        })
    }

    /// Starts everything and waits until it serves.
    ///
    /// # Errors
    /// [`Error::Machine`], [`Error::File`]; [`Error::Cluster`] where it does not become ready.
    pub(crate) async fn launch(&mut self) -> Result<(), Error> {
        for place in 0..self.slots.len() - usize::from(self.shape.spares) {
            self.start_at(place).await?;
        }
        self.await_whole().await
    }

    pub(crate) fn slot(&self, place: usize) -> &Slot {
        &self.slots[place]
    }

    pub(crate) fn leaders(&self) -> &Leaders {
        &self.leaders
    }

    /// The viewleaders' addresses.
    pub(crate) fn leader_addresses(&self) -> Vec<String> {
        addresses_of(&self.slots, Role::Viewleader)
    }

    /// The places whose processes run, of one role or both.
    pub(crate) fn running(&self, role: Option<Role>) -> Vec<usize> {
        let is = |place: &usize| role.is_none_or(|role| self.slots[*place].role == role);
        (0..self.slots.len()).filter(is).filter(|place| self.processes[*place].is_some()).collect()
    }

    /// A place for a storage node that is not used.
    pub(crate) fn spare(&self) -> Option<usize> {
        (0..self.slots.len()).rev().find(|place| self.processes[*place].is_none())
    }

    pub(crate) fn names(&self, places: &[usize]) -> String {
        places.iter().map(|place| self.slots[*place].name.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// The process at a place.
    ///
    /// # Errors
    /// [`Error::Cluster`] where none runs.
    pub(crate) fn process(&mut self, place: usize) -> Result<&mut Process, Error> {
        let name = &self.slots[place].name;
        self.processes[place].as_mut().ok_or_else(|| Error::Cluster(format!("{name} does not run")))
    }

    /// From now on, or no longer, the processes at these places may end without that being a finding.
    pub(crate) fn expect_down(&mut self, places: &[usize], may_end: bool) {
        places.iter().for_each(|place| self.expected_down[*place] = may_end);
    }

    /// Starts the process of a place, with the files that are there.
    ///
    /// # Errors
    /// [`Error::Machine`], [`Error::File`].
    pub(crate) async fn start_at(&mut self, place: usize) -> Result<(), Error> {
        let slot = &self.slots[place];
        slot.control.set(&[]).map_err(Error::file(slot.control.path()))?;
        let log = File::options().create(true).append(true).open(&slot.log).map_err(Error::file(&slot.log))?;
        // This very file, even where another has taken its name since.
        let program = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
        let mut command = self.wires.command(place, &program);
        command
            .args(slot.arguments())
            .args(self.role_arguments(place))
            .env(faults::CONTROL_VARIABLE, slot.control.path())
            .env(crate::CHILD_VARIABLE, "1")
            // A settings file is for one process, not for all.
            .env_remove("DHT_CONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            // Ctrl-C is for the harness: it ends its children itself.
            .process_group(0);
        self.processes[place] = Some(Process::start(command)?);
        self.expected_down[place] = false;
        self.wires.open(place).await
    }

    /// From now on the viewleader of a place enters a group that is there.
    pub(crate) fn joins_from_now_on(&mut self, place: usize) {
        self.joins[place] = true;
    }

    fn role_arguments(&self, place: usize) -> Vec<String> {
        let leaders = self.leader_addresses().join(",");
        match self.slots[place].role {
            Role::Viewleader => vec![
                format!("--name={}", self.slots[place].name),
                format!("--{}={leaders}", if self.joins[place] { "join" } else { "peers" }),
                format!("--expect-nodes={}", self.shape.nodes),
                format!("--partitions={}", self.shape.partitions),
                format!("--replication={}", self.shape.replication),
            ],
            Role::Storaged => vec![format!("--leaders={leaders}"), format!("--segment-size={SEGMENT}")],
        }
    }

    /// SIGKILL; resolves when the process is gone.
    ///
    /// # Errors
    /// [`Error::NotLanded`]; [`Error::Cluster`] where it was gone before, and not by somebody's hand.
    pub(crate) async fn kill(&mut self, place: usize) -> Result<(), Error> {
        self.expected_down[place] = true;
        let process = self.process(place)?;
        let killed = process.signal(Signal::KILL, State::Gone).await;
        let status = process.ended();
        self.wires.close(place);
        killed?;
        self.processes[place] = None;
        match status {
            Some(status) if status.signal() != Some(Signal::KILL.as_raw()) => {
                Err(self.trouble(place, status, "before it was killed"))
            }
            _ => Ok(()),
        }
    }

    /// SIGTERM; resolves when the process has ended in order.
    ///
    /// # Errors
    /// [`Error::NotLanded`] where it does not end; [`Error::Cluster`] where it ends with a failure.
    pub(crate) async fn terminate(&mut self, place: usize) -> Result<(), Error> {
        self.expected_down[place] = true;
        let process = self.process(place)?;
        let asked = process.signal(Signal::TERM, State::Gone).await;
        let status = process.ended();
        self.wires.close(place);
        asked?;
        self.processes[place] = None;
        match status {
            Some(status) if !status.success() => Err(self.trouble(place, status, "when it was asked to end")),
            _ => Ok(()),
        }
    }

    /// Waits until the process of a place ends by itself, in a way that it has chosen; says how.
    ///
    /// # Errors
    /// [`Error::NotLanded`] where it does not within `at_most`; [`Error::Cluster`] where it ends with a bug.
    pub(crate) async fn await_end(&mut self, place: usize, at_most: Duration) -> Result<String, Error> {
        let process = self.process(place)?;
        let ended = tokio::time::timeout(at_most, process.reaped()).await;
        let status = process.ended();
        if ended.is_err() {
            let name = &self.slots[place].name;
            return Err(Error::NotLanded(format!("{name} goes on for {} s", at_most.as_secs())));
        }
        self.wires.close(place);
        self.processes[place] = None;
        match status {
            Some(status) if is_a_bug(status) => Err(self.trouble(place, status, "by itself")),
            Some(status) => Ok(in_words(status)),
            None => Ok("ended".to_owned()),
        }
    }

    /// A process that ended in a way that it must not; its last word says more.
    fn trouble(&self, place: usize, status: ExitStatus, when: &str) -> Error {
        let slot = &self.slots[place];
        Error::Cluster(format!("{} {} {when}: {}", slot.name, in_words(status), root::last_line(&slot.log)))
    }

    /// The network between the processes.
    pub(crate) fn wires(&self) -> &Wires {
        &self.wires
    }

    /// All ways are open again, all disks and clocks are good.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn heal(&self) -> Result<(), Error> {
        let places = 0..self.slots.len();
        let ways: Vec<_> = places.clone().flat_map(|from| places.clone().map(move |to| (from, to))).collect();
        self.wires.set(&ways, Policy::Open)?;
        for slot in &self.slots {
            slot.control.set(&[]).map_err(Error::file(slot.control.path()))?;
        }
        Ok(())
    }

    /// Takes back whatever a fault left that did not get to its end.
    ///
    /// # Errors
    /// As [`Cluster::start_at`].
    pub(crate) async fn mend(&mut self) -> Result<(), Error> {
        self.heal()?;
        for place in 0..self.slots.len() {
            let state = self.processes[place].as_ref().map(Process::state);
            match state {
                Some(State::Stopped) => self.process(place)?.signal(Signal::CONT, State::Running).await?,
                Some(State::Gone) if self.expected_down[place] => self.start_at(place).await?,
                // A spare that never ran is none.
                None if self.expected_down[place] && self.slots[place].data_dir.exists() => {
                    self.start_at(place).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Injects exactly these faults into the process of a place.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn inject(&self, place: usize, faults: &[(Fault, i64)]) -> Result<(), Error> {
        let control = &self.slots[place].control;
        control.set(faults).map_err(Error::file(control.path()))
    }

    /// Looks for a process that has ended though no fault let it.
    ///
    /// # Errors
    /// [`Error::Cluster`] where there is one.
    pub(crate) fn all_go_on(&self) -> Result<(), Error> {
        let ended = |place: usize| self.processes[place].as_ref()?.ended().filter(|_| !self.expected_down[place]);
        match (0..self.slots.len()).find_map(|place| Some((place, ended(place)?))) {
            Some((place, status)) => Err(self.trouble(place, status, "though nothing had been done to it")),
            None => Ok(()),
        }
    }

    /// Kills every process, and waits until all are gone.
    pub(crate) async fn kill_all(&mut self) {
        for place in self.running(None) {
            // Fails only where it has ended already.
            let _gone = self.kill(place).await;
        }
    }

    /// Ends every process, politely first.
    ///
    /// # Errors
    /// [`Error::Cluster`] where one does not end, or ends with a failure; all have ended then too.
    pub(crate) async fn stop(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        let mut stopped = Ok(());
        for place in self.running(None) {
            self.expected_down[place] = true;
            if let Ok(process) = self.process(place) {
                // What is stopped can't end. Who does not end is killed below.
                let _gone = process.signal(Signal::CONT, State::Running).await;
                process.ask_to_end();
            }
        }
        for place in self.running(None) {
            let left = STOP_MAX.saturating_sub(began.elapsed());
            let Ok(process) = self.process(place) else { continue };
            let ended = tokio::time::timeout(left, process.reaped()).await;
            let status = process.ended();
            let name = &self.slots[place].name;
            let found = match (ended, status) {
                (Err(_), _) => {
                    Err(Error::Cluster(format!("{name} goes on {} s after it was asked to end", STOP_MAX.as_secs())))
                }
                (Ok(()), Some(status)) if !status.success() => {
                    Err(self.trouble(place, status, "when it was asked to end"))
                }
                (Ok(()), _) => Ok(()),
            };
            // Fails only where it has ended meanwhile, which it had.
            let _gone = self.kill(place).await;
            stopped = stopped.and(found);
        }
        stopped
    }
}

/// Whether it is no end that a server chooses: a panic, or a signal that nobody sent on purpose.
fn is_a_bug(status: ExitStatus) -> bool {
    status.signal().is_some() || status.code() == Some(Exit::Bug.code().into())
}

fn addresses_of(slots: &[Slot], role: Role) -> Vec<String> {
    slots.iter().filter(|slot| slot.role == role).map(Slot::address).collect()
}
