//! Who this member is, and whom it has met: a small file that outlives everything else in the data directory.
//!
//! A member's id is the place of its address in the sorted list of `--peers`, the same on each. A data directory draws a
//! random id of its own when it is created, and every member notes, durably and for good, which directory it first met
//! behind each member id. So a member that lost its directory, and with it its votes, is known for a stranger by
//! everyone it ever exchanged a message with, and does not vote a second time.

use crate::Error;
use daemon::DataDirectory;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

const FILE: &str = "member.json";

/// A member's id within its group: 1 to the number of members.
pub(crate) type MemberId = u64;

/// The random id of a data directory.
pub(crate) type DirectoryId = u64;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Stored {
    format: u32,
    member: MemberId,
    directory: DirectoryId,
    peers: Vec<String>,
    /// Whether the group's log has begun here: from then on the list is what it is.
    begun: bool,
    /// The directory first met behind each other member's id.
    met: BTreeMap<MemberId, DirectoryId>,
}

/// This member's identity. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    directory: Arc<DataDirectory>,
    /// The member and the list it was started with never change after the start.
    member: MemberId,
    directory_id: DirectoryId,
    peers: Arc<Vec<String>>,
    stored: Arc<Mutex<Stored>>,
}

impl Identity {
    /// Reads the identity, or makes one for a new directory. `peers` is sorted and contains `advertise`.
    ///
    /// # Errors
    /// [`Error::PeersChanged`] where the directory belongs to another group or member; [`Error::Daemon`] where the file
    /// is damaged or can't be written.
    pub(crate) fn open(directory: Arc<DataDirectory>, advertise: &str, peers: &[String]) -> Result<Identity, Error> {
        let place = peers.iter().position(|peer| peer == advertise);
        let place = place.ok_or_else(|| Error::Setting(format!("--advertise {advertise} is not in --peers")))?;
        let member = place as MemberId + 1;
        let before = directory.read_small(FILE)?;
        let stored = match &before {
            Some(bytes) => {
                let stored: Stored = serde_json::from_slice(bytes).map_err(|error| Error::Identity {
                    reason: error.to_string(),
                    path: directory.path().join(FILE),
                })?;
                let bound = stored.begun || !stored.met.is_empty();
                let same = stored.peers == peers && stored.member == member;
                if bound && !same {
                    return Err(Error::PeersChanged {
                        path: directory.path().to_owned(),
                        stored: stored.peers.join(","),
                        member: stored.member,
                    });
                }
                // A list that was corrected before anything came of it.
                Stored { member, peers: peers.to_vec(), ..stored }
            }
            None => {
                let directory_id = getrandom::u64().map_err(|error| Error::Random(error.to_string()))?;
                let peers = peers.to_vec();
                Stored { format: 1, member, directory: directory_id, peers, begun: false, met: BTreeMap::new() }
            }
        };
        let whole = encode(&directory, &stored)?;
        if before.as_ref() != Some(&whole) {
            directory.write_small(FILE, &whole)?;
        }
        Ok(Identity {
            directory,
            member,
            directory_id: stored.directory,
            peers: Arc::new(peers.to_vec()),
            stored: Arc::new(Mutex::new(stored)),
        })
    }

    /// This member's id.
    pub(crate) fn member(&self) -> MemberId {
        self.member
    }

    /// This directory's id.
    pub(crate) fn directory_id(&self) -> DirectoryId {
        self.directory_id
    }

    /// The addresses of all members, in the order of their ids.
    pub(crate) fn peers(&self) -> &[String] {
        &self.peers
    }

    /// This member's address.
    pub(crate) fn address(&self) -> &str {
        self.peers.get(self.member as usize - 1).map_or("", String::as_str)
    }

    /// All members' ids and addresses.
    pub(crate) fn members(&self) -> impl Iterator<Item = (MemberId, &str)> {
        (1..).zip(self.peers.iter().map(String::as_str))
    }

    /// The other members' ids and addresses.
    pub(crate) fn others(&self) -> impl Iterator<Item = (MemberId, &str)> {
        self.members().filter(|(member, _)| *member != self.member)
    }

    /// How many members are a majority.
    pub(crate) fn majority(&self) -> usize {
        self.peers.len() / 2 + 1
    }

    /// The directory that was first met behind a member's id.
    pub(crate) fn met(&self, member: MemberId) -> Option<DirectoryId> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).met.get(&member).copied()
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
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).begun
    }

    /// Notes, durably, that the group's log has begun here.
    ///
    /// # Errors
    /// [`Error::Daemon`] if the note can't be written.
    pub(crate) fn set_begun(&self) -> Result<(), Error> {
        self.change(|stored| stored.begun = true)
    }

    fn change(&self, edit: impl FnOnce(&mut Stored)) -> Result<(), Error> {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = stored.clone();
        edit(&mut changed);
        if changed != *stored {
            self.directory.write_small(FILE, &encode(&self.directory, &changed)?)?;
            *stored = changed;
        }
        Ok(())
    }
}

fn encode(directory: &DataDirectory, stored: &Stored) -> Result<Vec<u8>, Error> {
    serde_json::to_vec_pretty(stored)
        .map_err(|error| Error::Identity { reason: error.to_string(), path: directory.path().join(FILE) })
}
