//! What breaks the cluster: one file per kind of fault.
//!
//! A fault chooses a target, injects, holds, proves that it took effect, and takes it back. It never breaks more than
//! the store promises to survive, because the runner lets the next one begin only when the cluster is whole again: what
//! destroys data then destroys one replica of several.
//!
//! To add one: a file with `run`, a line in [`Kind`], one in `KINDS`, one in [`Kind::run`].

mod blackout;
mod clock;
mod crash_loop;
mod cut;
mod disk;
mod flip;
mod kill;
mod leaders_down;
mod links;
mod member;
mod members;
mod pause;
mod restart;
mod wipe;

use crate::cluster::{Cluster, Role};
use crate::error::Error;
use crate::random::Random;
use crate::screen::Screen;
use crate::workload::Load;
use faults::Fault;
use std::time::{Duration, Instant};

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Kill,
    Pause,
    LongPause,
    Restart,
    Rolling,
    CrashLoop,
    Blackout,
    LeadersDown,
    Cut,
    OneWay,
    Split,
    Bridge,
    Slow,
    Lossy,
    FsyncSlow,
    FsyncFails,
    DiskFull,
    Flip,
    Wipe,
    LeaderFsyncSlow,
    LeaderFsyncFails,
    LeaderDiskFull,
    LeaderFlip,
    LeaderWipe,
    Clock,
    Members,
    EmptyCut,
    OwnEnd,
}

/// All kinds, the mildest first: name and what it does.
pub(crate) const KINDS: &[(Kind, &str, &str)] = &[
    (Kind::Kill, "kill", "SIGKILL of one process, started again a while later"),
    (Kind::Pause, "pause", "SIGSTOP of one process for less than every time-out"),
    (Kind::LongPause, "long-pause", "SIGSTOP of one process for longer than every time-out"),
    (Kind::Restart, "restart", "SIGTERM of one process, started again at once"),
    (Kind::Rolling, "rolling", "every process restarted, one after the other, as an upgrade does"),
    (Kind::CrashLoop, "crash-loop", "one process killed again and again while it starts"),
    (Kind::Blackout, "blackout", "SIGKILL of every process at once, as when the power fails"),
    (Kind::LeadersDown, "leaders-down", "SIGKILL of the whole viewleader group"),
    (Kind::Cut, "cut", "one process cut off from all others, both ways"),
    (Kind::OneWay, "one-way", "one process that hears others and is not heard, or the other way round"),
    (Kind::Split, "split", "the processes in two halves that do not reach each other"),
    (Kind::Bridge, "bridge", "two halves that only one process reaches both of"),
    (Kind::Slow, "slow", "everything to and from one process comes late"),
    (Kind::Lossy, "lossy", "packets lost and connections broken all over the network"),
    (Kind::FsyncSlow, "fsync-slow", "every fsync of one storage node takes long"),
    (Kind::FsyncFails, "fsync-fails", "an fsync of one storage node fails: it must end itself"),
    (Kind::DiskFull, "disk-full", "the disk of one storage node is full: it must end itself"),
    (Kind::Flip, "flip", "bytes flipped in the files of a stopped storage node"),
    (Kind::Wipe, "wipe", "a storage node comes back without its data directory, as a new one"),
    (Kind::LeaderFsyncSlow, "leader-fsync-slow", "every fsync of one viewleader takes long"),
    (Kind::LeaderFsyncFails, "leader-fsync-fails", "an fsync of one viewleader fails: it must end itself"),
    (Kind::LeaderDiskFull, "leader-disk-full", "the disk of one viewleader is full: it must end itself"),
    (
        Kind::LeaderFlip,
        "leader-flip",
        "a byte flipped in the files of a stopped viewleader: it must not start with them",
    ),
    (Kind::LeaderWipe, "leader-wipe", "a viewleader loses its data directory, and joins as a new member"),
    (Kind::Clock, "clock", "the calendar of one storage node jumps by hours"),
    (
        Kind::Members,
        "members",
        "a storage node joins, weights change, moves pause and abort, a process is killed, the node leaves",
    ),
];

/// For the harness's own tests: each must fail every run.
const FOR_TESTS: &[(Kind, &str)] = &[(Kind::EmptyCut, "empty-cut"), (Kind::OwnEnd, "own-end")];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        let mut all = KINDS.iter().map(|(kind, name, _)| (*kind, *name)).chain(FOR_TESTS.iter().copied());
        all.find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    pub(crate) fn named(name: &str) -> Option<Kind> {
        let mut all = KINDS.iter().map(|(kind, name, _)| (*kind, *name)).chain(FOR_TESTS.iter().copied());
        all.find(|(_, known)| *known == name).map(|(kind, _)| kind)
    }

    /// Injects, holds, proves and takes back; says how it landed.
    ///
    /// # Errors
    /// [`Error::NotLanded`] where nothing shows that it took effect; whatever else goes wrong.
    pub(crate) async fn run(self, stage: &mut Stage<'_>) -> Result<String, Error> {
        match self {
            Kind::Kill => kill::run(stage).await,
            Kind::Pause => pause::run(stage, pause::Length::Short).await,
            Kind::LongPause => pause::run(stage, pause::Length::Long).await,
            Kind::Restart => restart::one(stage).await,
            Kind::Rolling => restart::rolling(stage).await,
            Kind::CrashLoop => crash_loop::run(stage).await,
            Kind::Blackout => blackout::run(stage).await,
            Kind::LeadersDown => leaders_down::run(stage).await,
            Kind::Cut => cut::run(stage, cut::Shape::Isolated).await,
            Kind::OneWay => cut::run(stage, cut::Shape::OneWay).await,
            Kind::Split => cut::run(stage, cut::Shape::Halves).await,
            Kind::Bridge => cut::run(stage, cut::Shape::Bridge).await,
            Kind::EmptyCut => cut::run(stage, cut::Shape::Nothing).await,
            Kind::OwnEnd => kill::after_its_own_end(stage).await,
            Kind::Slow => links::slow(stage).await,
            Kind::Lossy => links::lossy(stage).await,
            Kind::FsyncSlow => disk::slow(stage, Role::Storaged).await,
            Kind::FsyncFails => disk::fails(stage, Role::Storaged, Fault::FsyncFails).await,
            Kind::DiskFull => disk::fails(stage, Role::Storaged, Fault::DiskFull).await,
            Kind::Flip => flip::run(stage, Role::Storaged).await,
            Kind::Wipe => wipe::run(stage).await,
            Kind::LeaderFsyncSlow => disk::slow(stage, Role::Viewleader).await,
            Kind::LeaderFsyncFails => disk::fails(stage, Role::Viewleader, Fault::FsyncFails).await,
            Kind::LeaderDiskFull => disk::fails(stage, Role::Viewleader, Fault::DiskFull).await,
            Kind::LeaderFlip => flip::run(stage, Role::Viewleader).await,
            Kind::LeaderWipe => member::wiped(stage).await,
            Kind::Clock => clock::run(stage).await,
            Kind::Members => members::run(stage).await,
        }
    }
}

/// Where a fault happens.
pub(crate) struct Stage<'a> {
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) random: Random,
    /// How long what is held is held.
    pub(crate) hold: Duration,
    pub(crate) screen: &'a Screen,
    pub(crate) load: &'a Load,
    pub(crate) kind: Kind,
    /// What is hit, and since when, once it is known.
    pub(crate) began: Option<(String, Instant)>,
    /// When it was taken back.
    pub(crate) ended: Option<Instant>,
}

impl Stage<'_> {
    /// From here on something is broken.
    fn begin(&mut self, target: impl Into<String>) {
        let target = target.into();
        self.screen.fault_begins(self.kind.name(), &target);
        self.began = Some((target, Instant::now()));
        self.load.meter.fault_begins();
    }

    /// From here on it is to repair itself.
    fn end(&mut self) {
        self.ended = Some(Instant::now());
        self.load.meter.fault_ends();
    }

    async fn hold(&self) {
        tokio::time::sleep(self.hold).await;
    }

    /// One that runs, of one role or any.
    fn choose(&mut self, role: Option<Role>) -> Result<usize, Error> {
        let running = self.cluster.running(role);
        let chosen = self.random.choose(&running).copied();
        chosen.ok_or_else(|| Error::NotLanded("nothing runs that it could hit".to_owned()))
    }

    fn name(&self, place: usize) -> String {
        self.cluster.slot(place).name.clone()
    }
}
