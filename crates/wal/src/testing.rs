//! A disk in memory that forgets what was not synced, fails when told to, and lets bytes be changed behind the log's
//! back. For tests of this crate and of those that use it.
//!
//! It is meaner than real disks, but not impossible: of what was not synced, [`SimFiles::restart`] keeps any sectors and
//! any directory changes, in any combination; sectors themselves are whole. A failed sync, of a file
//! or a directory, leaves the changes visible and never makes them durable, however often it is repeated, as Linux does
//! with files.

use crate::files::{File, Files};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

const SECTOR_BYTES: usize = 512;

/// A kind of file operation, each one a step at which the power can go off.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Operation {
    /// [`Files::create`].
    Create,
    /// [`File::write_at`].
    Write,
    /// [`File::sync_data`].
    Sync,
    /// [`Files::rename`].
    Rename,
    /// [`Files::remove`].
    Remove,
    /// [`Files::sync_directory`].
    SyncDirectory,
}

/// What of the unsynced survives when the power goes off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survival {
    /// Nothing.
    Nothing,
    /// Everything, as if the disk had been quick.
    Everything,
    /// Each sector, length and directory change by the toss of a coin with this seed.
    Random(u64),
}

/// The disk. Clones are handles to the same one.
#[derive(Clone, Default)]
pub struct SimFiles {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    disk: Mutex<Disk>,
    gate: Condvar,
}

#[derive(Default)]
struct Disk {
    contents: Vec<Content>,
    /// What `list` and `open` see: a file's place in `contents`.
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Directory changes since the last sync of their directory, in order.
    pending: Vec<Change>,
    steps: u64,
    counts: BTreeMap<Operation, u64>,
    /// The power goes off at this step.
    power_off_at: Option<u64>,
    /// The next operation of this kind, after this many others, fails so.
    failure: Option<(Operation, u64, io::ErrorKind)>,
    capacity_bytes: Option<u64>,
    /// How many more syncs of files may go through; `None` is any number.
    syncs_let_through: Option<u64>,
    syncs_held: u64,
}

#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<usize>,
}

#[derive(Clone)]
enum Change {
    Add(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl SimFiles {
    /// An empty disk.
    pub fn new() -> SimFiles {
        SimFiles::default()
    }

    /// How many steps were taken so far: operations that change something.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// How many operations of this kind were begun so far.
    pub fn count(&self, operation: Operation) -> u64 {
        self.lock().counts.get(&operation).copied().unwrap_or(0)
    }

    /// The power goes off at step number `step`, counted from 0 over the disk's life: that operation and all after it fail.
    /// A write or rename at that step may still have happened.
    pub fn power_off_at(&self, step: u64) {
        self.lock().power_off_at = Some(step);
    }

    /// The `nth` operation of this kind from now, counted from 0, fails so; once.
    pub fn fail(&self, operation: Operation, nth: u64, kind: io::ErrorKind) {
        self.lock().failure = Some((operation, nth, kind));
    }

    /// Limits the sum of all files' lengths; writing beyond it fails as on a full disk.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity_bytes = bytes;
    }

    /// Syncs of files wait from now on, until they are let through.
    pub fn hold_syncs(&self) {
        self.lock().syncs_let_through = Some(0);
    }

    /// Lets `count` syncs through.
    pub fn let_syncs_through(&self, count: u64) {
        if let Some(let_through) = &mut self.lock().syncs_let_through {
            *let_through += count;
        }
        self.shared.gate.notify_all();
    }

    /// Syncs wait no longer.
    pub fn release_syncs(&self) {
        self.lock().syncs_let_through = None;
        self.shared.gate.notify_all();
    }

    /// Waits until a file has this name, by a rename.
    pub fn wait_for_renamed(&self, path: &Path) {
        let mut disk = self.lock();
        while !disk.names.contains_key(path) {
            disk = self.shared.gate.wait(disk).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until a sync is being held.
    pub fn wait_for_held_sync(&self) {
        let mut disk = self.lock();
        while disk.syncs_held == 0 {
            disk = self.shared.gate.wait(disk).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The disk as the next start of the machine finds it. This one stays as it is.
    pub fn restart(&self, survival: Survival) -> SimFiles {
        let disk = self.lock();
        let mut coin = Coin::new(survival);
        let mut names = disk.durable_names.clone();
        for change in &disk.pending {
            if coin.toss() {
                apply(&mut names, change);
            }
        }
        let mut contents = disk.contents.clone();
        for content in &mut contents {
            content.lose_unsynced(&mut coin);
        }
        let disk = Disk { contents, durable_names: names.clone(), names, ..Disk::default() };
        SimFiles { shared: Arc::new(Shared { disk: Mutex::new(disk), gate: Condvar::new() }) }
    }

    /// A copy of the disk, what is not synced included.
    pub fn duplicate(&self) -> SimFiles {
        let disk = self.lock();
        let copy = Disk {
            contents: disk.contents.clone(),
            names: disk.names.clone(),
            durable_names: disk.durable_names.clone(),
            pending: disk.pending.clone(),
            ..Disk::default()
        };
        SimFiles { shared: Arc::new(Shared { disk: Mutex::new(copy), gate: Condvar::new() }) }
    }

    /// All files' paths, in order.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.lock().names.keys().cloned().collect()
    }

    /// A file's content as a reader sees it.
    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.lock();
        Some(disk.contents[*disk.names.get(path)?].bytes.clone())
    }

    /// Replaces or adds a file, durably and at once: what a fault or a hand does to the disk.
    pub fn replace(&self, path: &Path, bytes: Vec<u8>) {
        let mut disk = self.lock();
        let at = disk.contents.len();
        disk.contents.push(Content { durable: bytes.clone(), bytes, dirty: BTreeSet::new() });
        disk.names.insert(path.to_path_buf(), at);
        disk.durable_names.insert(path.to_path_buf(), at);
    }

    /// Takes a file away, durably and at once.
    pub fn lose(&self, path: &Path) {
        let mut disk = self.lock();
        disk.names.remove(path);
        disk.durable_names.remove(path);
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.shared.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    /// Counts a step. An error means that the operation must not happen, or fails after it happened.
    fn step(&mut self, operation: Operation) -> io::Result<()> {
        let step = self.steps;
        self.steps += 1;
        *self.counts.entry(operation).or_default() += 1;
        if self.power_off_at.is_some_and(|off| step >= off) {
            return Err(io::Error::other("the power is off"));
        }
        if let Some((failing, nth, kind)) = &mut self.failure
            && *failing == operation
        {
            if *nth == 0 {
                let kind = *kind;
                self.failure = None;
                return Err(kind.into());
            }
            *nth -= 1;
        }
        Ok(())
    }

    fn is_powered(&self) -> bool {
        self.power_off_at.is_none_or(|off| self.steps < off)
    }

    /// Whether the power goes off at just this step: the operation may have happened, but nobody hears of it.
    fn is_last_step(&self) -> bool {
        self.power_off_at == Some(self.steps)
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.pending.push(change);
    }

    fn require(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &Change) {
    match change {
        Change::Add(path, at) => {
            names.insert(path.clone(), *at);
        }
        Change::Rename(from, to) => {
            if let Some(at) = names.remove(from) {
                names.insert(to.clone(), at);
            }
        }
        Change::Remove(path) => {
            names.remove(path);
        }
    }
}

impl Content {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
        self.dirty.extend(offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES));
    }

    /// Makes the dirty sectors durable; of clean ones the disk keeps what it has, whatever the cache shows.
    fn sync(&mut self) {
        self.durable.resize(self.bytes.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.keep(sector);
        }
    }

    fn keep(&mut self, sector: usize) {
        let start = sector * SECTOR_BYTES;
        let end = (start + SECTOR_BYTES).min(self.durable.len());
        if start < end {
            self.durable[start..end].copy_from_slice(&self.bytes[start..end]);
        }
    }

    fn lose_unsynced(&mut self, coin: &mut Coin) {
        if self.bytes.len() > self.durable.len() && coin.toss() {
            self.durable.resize(self.bytes.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            if coin.toss() {
                self.keep(sector);
            }
        }
        self.bytes = self.durable.clone();
    }
}

/// A small deterministic random source (splitmix64): a file layer for tests needs no better one.
struct Coin {
    survival: Survival,
    state: u64,
}

impl Coin {
    fn new(survival: Survival) -> Coin {
        let state = if let Survival::Random(seed) = survival { seed } else { 0 };
        Coin { survival, state }
    }

    fn toss(&mut self) -> bool {
        match self.survival {
            Survival::Nothing => false,
            Survival::Everything => true,
            Survival::Random(_) => {
                self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut mixed = self.state;
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (mixed ^ (mixed >> 31)) & 1 == 1
            }
        }
    }
}

impl Files for SimFiles {
    type File = SimFile;

    fn create_directory(&self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let disk = self.lock();
        let here = disk.names.keys().filter(|path| path.parent() == Some(directory));
        Ok(here.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn create(&self, path: &Path) -> io::Result<SimFile> {
        let mut disk = self.lock();
        disk.step(Operation::Create)?;
        let at = disk.contents.len();
        disk.contents.push(Content::default());
        disk.change(Change::Add(path.to_path_buf(), at));
        Ok(SimFile { files: self.clone(), at })
    }

    fn open(&self, path: &Path) -> io::Result<SimFile> {
        let at = self.lock().require(path)?;
        Ok(SimFile { files: self.clone(), at })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.require(from)?;
        let last = disk.is_last_step();
        let outcome = disk.step(Operation::Rename);
        if outcome.is_ok() || last {
            disk.change(Change::Rename(from.to_path_buf(), to.to_path_buf()));
            self.shared.gate.notify_all();
        }
        outcome
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.require(path)?;
        let last = disk.is_last_step();
        let outcome = disk.step(Operation::Remove);
        if outcome.is_ok() || last {
            disk.change(Change::Remove(path.to_path_buf()));
        }
        outcome
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        let powered = disk.is_powered();
        if let Err(error) = disk.step(Operation::SyncDirectory) {
            if powered {
                disk.pending.clear();
            }
            return Err(error);
        }
        let mut kept = Vec::new();
        for change in std::mem::take(&mut disk.pending) {
            let (Change::Add(path, _) | Change::Rename(path, _) | Change::Remove(path)) = &change;
            if path.parent() == Some(directory) {
                apply(&mut disk.durable_names, &change);
            } else {
                kept.push(change);
            }
        }
        disk.pending = kept;
        Ok(())
    }
}

/// A file of a [`SimFiles`].
pub struct SimFile {
    files: SimFiles,
    at: usize,
}

impl File for SimFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.files.lock().contents[self.at].bytes.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.files.lock();
        let rest = disk.contents[self.at].bytes.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.files.lock();
        let last = disk.is_last_step();
        let outcome = disk.step(Operation::Write);
        if outcome.is_err() && !last {
            return outcome;
        }
        let length = disk.contents[self.at].bytes.len() as u64;
        let growth = (offset + bytes.len() as u64).saturating_sub(length);
        let used: u64 = disk.names.values().map(|&at| disk.contents[at].bytes.len() as u64).sum();
        if growth > 0 && disk.capacity_bytes.is_some_and(|capacity| used + growth > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.contents[self.at].write(bytes, offset as usize);
        outcome
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.files.lock();
        disk.syncs_held += 1;
        self.files.shared.gate.notify_all();
        while disk.syncs_let_through == Some(0) {
            disk = self.files.shared.gate.wait(disk).unwrap_or_else(PoisonError::into_inner);
        }
        disk.syncs_held -= 1;
        if let Some(let_through) = &mut disk.syncs_let_through {
            *let_through -= 1;
        }
        let powered = disk.is_powered();
        let outcome = disk.step(Operation::Sync);
        let content = &mut disk.contents[self.at];
        match &outcome {
            Ok(()) => content.sync(),
            // Linux: after a failed sync the pages count as clean. They are read as written and are never on disk.
            Err(_) if powered => content.dirty.clear(),
            Err(_) => {}
        }
        outcome
    }
}
