//! Who this member is, and whom it has met: a small file that outlives everything else in the data directory.
//!
//! The members that a group begins with have the places of their addresses in the sorted list of `--peers` as ids, the
//! same on each; one that joins later is given its id by the group. A data directory draws a random id of its own when it
//! is created, and every member notes, durably and for good, which directory it first met behind each member id. So a
//! member that lost its directory, and with it its votes, is known for a stranger by everyone it ever exchanged a message
//! with, and does not vote a second time.

use crate::{Config, Error};
use daemon::DataDirectory;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use types::ClusterId;

const FILE: &str = "member.json";

/// A member's id within its group, from 1; given once, ever.
pub(crate) type MemberId = u64;

/// The random id of a data directory.
pub(crate) type DirectoryId = u64;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Stored {
    format: u32,
    /// 0: asks to be admitted, and has had no answer yet.
    member: MemberId,
    directory: DirectoryId,
    /// The list that the group begins with; empty in a member that joined later.
    peers: Vec<String>,
    /// Whether the group's log has begun here: from then on the list is what it is.
    begun: bool,
    /// The directory first met behind each other member's id.
    met: BTreeMap<MemberId, DirectoryId>,
    /// Where the others reach a member that joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// The cluster, in hexadecimal digits, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    /// All members' addresses, as last heard.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    members: BTreeMap<MemberId, String>,
    /// Whether the group has said that this member was removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    removed: bool,
}

/// This member's identity. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    directory: Arc<DataDirectory>,
    /// What never changes after the start.
    member: MemberId,
    directory_id: DirectoryId,
    address: Arc<str>,
    founders: Arc<Vec<String>>,
    stored: Arc<Mutex<Stored>>,
}

/// A data directory without an id: the group is to give it one.
#[derive(Debug)]
pub(crate) struct Candidate {
    directory: Arc<DataDirectory>,
    stored: Stored,
}

/// What a data directory is at a start.
#[derive(Debug)]
pub(crate) enum Opened {
    Member(Identity),
    Candidate(Candidate),
}

/// Reads the identity, or makes one for a new directory. The settings are validated.
///
/// # Errors
/// [`Error::PeersChanged`], [`Error::AddressChanged`] where the directory belongs to another group or member;
/// [`Error::Removed`] where its member was removed; [`Error::Daemon`] where the file is damaged or can't be written.
pub(crate) fn open(directory: Arc<DataDirectory>, config: &Config) -> Result<Opened, Error> {
    let before = directory.read_small(FILE)?;
    let stored: Stored = match &before {
        Some(bytes) => serde_json::from_slice(bytes)
            .map_err(|error| Error::Identity { reason: error.to_string(), path: directory.path().join(FILE) })?,
        None => Stored {
            format: 1,
            member: 0,
            directory: random_directory_id()?,
            peers: Vec::new(),
            begun: false,
            met: BTreeMap::new(),
            address: None,
            cluster: None,
            members: BTreeMap::new(),
            removed: false,
        },
    };
    if stored.cluster.as_ref().is_some_and(|digits| u128::from_str_radix(digits, 16).is_err()) {
        return Err(Error::Identity { reason: "its cluster is none".into(), path: directory.path().join(FILE) });
    }
    if stored.removed {
        return Err(Error::Removed { member: stored.member, witness: "it was told before".into() });
    }
    let joined = stored.member != 0 && stored.peers.is_empty();
    let stored = if joined || stored.begun || !stored.met.is_empty() {
        check_same(&directory, &stored, config)?;
        stored
    } else if !config.join.is_empty() {
        let stored = Stored { member: 0, peers: Vec::new(), address: Some(config.advertise.clone()), ..stored };
        write(&directory, before.as_deref(), &stored)?;
        return Ok(Opened::Candidate(Candidate { directory, stored }));
    } else if config.peers.is_empty() && stored.address.is_some() {
        return Err(Error::Setting(format!(
            "the data directory {} was to join a group and was not admitted yet; give --join again",
            directory.path().display()
        )));
    } else {
        // A new directory, or a list that was corrected before anything came of it.
        let alone = vec![config.advertise.clone()];
        let peers = if config.peers.is_empty() { alone } else { config.peers.clone() };
        let member = place(&peers, &config.advertise)?;
        Stored { member, peers, address: None, ..stored }
    };
    write(&directory, before.as_deref(), &stored)?;
    Ok(Opened::Member(Identity::new(directory, stored)))
}

fn random_directory_id() -> Result<DirectoryId, Error> {
    // Zero stands for no directory.
    getrandom::u64().map(|id| id.max(1)).map_err(|error| Error::Random(error.to_string()))
}

fn place(peers: &[String], advertise: &str) -> Result<MemberId, Error> {
    let place = peers.iter().position(|peer| peer == advertise);
    let place = place.ok_or_else(|| Error::Setting(format!("--advertise {advertise} is not in --peers")))?;
    Ok(place as MemberId + 1)
}

/// A directory that has taken part goes on as who it is. A list is needed no more; one that is given must be the first.
fn check_same(directory: &DataDirectory, stored: &Stored, config: &Config) -> Result<(), Error> {
    let other_list = !config.peers.is_empty() && config.peers != stored.peers;
    if other_list || (!config.peers.is_empty() && place(&config.peers, &config.advertise)? != stored.member) {
        return Err(Error::PeersChanged {
            path: directory.path().to_owned(),
            stored: stored.peers.join(","),
            member: stored.member,
        });
    }
    if stored.own_address() != config.advertise {
        return Err(Error::AddressChanged {
            path: directory.path().to_owned(),
            member: stored.member,
            address: stored.own_address().to_owned(),
            advertise: config.advertise.clone(),
        });
    }
    Ok(())
}

fn write(directory: &DataDirectory, before: Option<&[u8]>, stored: &Stored) -> Result<(), Error> {
    let whole = serde_json::to_vec_pretty(stored)
        .map_err(|error| Error::Identity { reason: error.to_string(), path: directory.path().join(FILE) })?;
    if before != Some(&whole) {
        directory.write_small(FILE, &whole)?;
    }
    Ok(())
}

impl Stored {
    fn own_address(&self) -> &str {
        let founders_place = || self.peers.get((self.member as usize).checked_sub(1)?).map(String::as_str);
        self.address.as_deref().or_else(founders_place).unwrap_or_default()
    }
}

impl Candidate {
    /// The directory that is to be admitted.
    pub(crate) fn directory_id(&self) -> DirectoryId {
        self.stored.directory
    }

    /// Notes, durably, which member of which group this is from now on.
    ///
    /// # Errors
    /// [`Error::Daemon`] if the note can't be written.
    pub(crate) fn admitted(
        self,
        member: MemberId,
        cluster: ClusterId,
        members: BTreeMap<MemberId, String>,
    ) -> Result<Identity, Error> {
        let stored = Stored { member, cluster: Some(cluster.to_string()), members, ..self.stored };
        write(&self.directory, None, &stored)?;
        Ok(Identity::new(self.directory, stored))
    }
}

impl Identity {
    fn new(directory: Arc<DataDirectory>, stored: Stored) -> Identity {
        Identity {
            directory,
            member: stored.member,
            directory_id: stored.directory,
            address: stored.own_address().into(),
            founders: Arc::new(stored.peers.clone()),
            stored: Arc::new(Mutex::new(stored)),
        }
    }

    /// This member's id.
    pub(crate) fn member(&self) -> MemberId {
        self.member
    }

    /// This directory's id.
    pub(crate) fn directory_id(&self) -> DirectoryId {
        self.directory_id
    }

    /// This member's address.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The addresses that the group began with, in the order of their ids; none if this member joined later.
    pub(crate) fn founders(&self) -> &[String] {
        &self.founders
    }

    /// The ids and addresses that the group began with, other than this member's.
    pub(crate) fn other_founders(&self) -> impl Iterator<Item = (MemberId, &str)> {
        (1..).zip(self.founders.iter().map(String::as_str)).filter(|(member, _)| *member != self.member)
    }

    /// All members' addresses, as last heard.
    pub(crate) fn members(&self) -> BTreeMap<MemberId, String> {
        let heard = self.stored().members.clone();
        if heard.is_empty() { (1..).zip(self.founders.iter().cloned()).collect() } else { heard }
    }

    /// Notes, durably, where the members are now.
    ///
    /// # Errors
    /// [`Error::Daemon`] if the note can't be written.
    pub(crate) fn note_members(&self, members: BTreeMap<MemberId, String>) -> Result<(), Error> {
        self.change(|stored| stored.members = members)
    }

    /// The cluster, once it is known; [`ClusterId::NONE`] before.
    pub(crate) fn cluster(&self) -> ClusterId {
        let digits = self.stored().cluster.clone();
        let number = digits.and_then(|digits| u128::from_str_radix(&digits, 16).ok());
        number.map_or(ClusterId::NONE, ClusterId)
    }

    /// Notes, durably, which cluster this is.
    ///
    /// # Errors
    /// [`Error::Daemon`] if the note can't be written.
    pub(crate) fn note_cluster(&self, cluster: ClusterId) -> Result<(), Error> {
        self.change(|stored| stored.cluster = Some(cluster.to_string()))
    }

    /// The directory that was first met behind a member's id.
    pub(crate) fn met(&self, member: MemberId) -> Option<DirectoryId> {
        self.stored().met.get(&member).copied()
    }

    /// Notes the directory behind a member's id at the first meeting, durably before this returns, and compares it
    /// ever after. Blocks for one write per member and directory, ever.
    ///
    /// # Errors
    /// [`Error::Stranger`]; [`Error::Daemon`] if the note can't be written.
    pub(crate) fn meet(&self, member: MemberId, directory_id: DirectoryId) -> Result<(), Error> {
        match self.met(member) {
            Some(known) if known == directory_id => Ok(()),
            Some(_) => Err(Error::Stranger { member }),
            None => self.change(|stored| {
                stored.met.entry(member).or_insert(directory_id);
            }),
        }
    }

    /// Whether the group's log has begun here.
    pub(crate) fn has_begun(&self) -> bool {
        self.stored().begun
    }

    /// Notes, durably, that the group's log has begun here.
    ///
    /// # Errors
    /// [`Error::Daemon`] if the note can't be written.
    pub(crate) fn set_begun(&self) -> Result<(), Error> {
        self.change(|stored| stored.begun = true)
    }

    /// Notes, durably, that this member was removed: the directory is of no use any more.
    ///
    /// # Errors
    /// [`Error::Daemon`] if the note can't be written.
    pub(crate) fn set_removed(&self) -> Result<(), Error> {
        self.change(|stored| stored.removed = true)
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, edit: impl FnOnce(&mut Stored)) -> Result<(), Error> {
        let mut stored = self.stored();
        let mut changed = stored.clone();
        edit(&mut changed);
        if changed != *stored {
            write(&self.directory, None, &changed)?;
            *stored = changed;
        }
        Ok(())
    }
}
