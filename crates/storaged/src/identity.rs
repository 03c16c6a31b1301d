//! Who this data directory is: its cluster, its node id, and how often it was started (P20).
//!
//! The file is durable before the node registers with what it says. A directory that has not joined a cluster yet has
//! node id 0. The boot nonce is not kept: it tells two processes on copies of one directory apart.

use crate::error::Error;
use daemon::DataDirectory;
use serde::{Deserialize, Serialize};
use types::{BootNonce, ClusterId, Incarnation, NodeId};

const FILE: &str = "identity";

/// Who this start of this directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    /// [`ClusterId::NONE`] before the first registration.
    pub(crate) cluster: ClusterId,
    /// 0 before the first registration.
    pub(crate) node: NodeId,
    /// This start.
    pub(crate) incarnation: Incarnation,
    /// Drawn at this start.
    pub(crate) boot_nonce: BootNonce,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// 32 hexadecimal digits; text, because JSON's numbers end before.
    cluster: String,
    node: u64,
    incarnation: u64,
}

impl Identity {
    /// Reads the directory's identity and counts this start, durably.
    ///
    /// # Errors
    /// [`Error::Identity`], [`Error::Daemon`]; [`Error::System`] without a random source.
    pub(crate) fn begin(directory: &DataDirectory) -> Result<Identity, Error> {
        let boot_nonce = getrandom::u64()
            .map_err(|error| Error::System { action: "draw a random number", reason: error.to_string() })?;
        let before = match directory.read_small(FILE)? {
            None => Kept { cluster: ClusterId::NONE.to_string(), node: 0, incarnation: 0 },
            Some(content) => parse(directory, &content)?,
        };
        let wrong = |reason: String| Error::Identity { path: directory.path().join(FILE), reason };
        let cluster = u128::from_str_radix(&before.cluster, 16)
            .map_err(|error| wrong(format!("`{}` is no cluster id: {error}", before.cluster)))?;
        if (cluster == 0) != (before.node == 0) {
            return Err(wrong("a node has an id if and only if it has a cluster".to_owned()));
        }
        let identity = Identity {
            cluster: ClusterId(cluster),
            node: NodeId(before.node),
            incarnation: Incarnation(before.incarnation + 1),
            boot_nonce: BootNonce(boot_nonce),
        };
        identity.write(directory)?;
        Ok(identity)
    }

    /// Whether the directory has joined a cluster.
    pub(crate) fn has_joined(&self) -> bool {
        self.node != NodeId(0)
    }

    /// Makes it durable that the directory is `node` of `cluster`.
    ///
    /// # Errors
    /// [`Error::Daemon`].
    pub(crate) fn join(self, directory: &DataDirectory, cluster: ClusterId, node: NodeId) -> Result<Identity, Error> {
        let joined = Identity { cluster, node, ..self };
        joined.write(directory)?;
        Ok(joined)
    }

    fn write(&self, directory: &DataDirectory) -> Result<(), Error> {
        let kept = Kept { cluster: self.cluster.to_string(), node: self.node.0, incarnation: self.incarnation.0 };
        let mut content = serde_json::to_vec(&kept).map_err(|error| Error::Bug(error.to_string()))?;
        content.push(b'\n');
        Ok(directory.write_small(FILE, &content)?)
    }
}

fn parse(directory: &DataDirectory, content: &[u8]) -> Result<Kept, Error> {
    serde_json::from_slice(content)
        .map_err(|error| Error::Identity { path: directory.path().join(FILE), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against two starts with one incarnation, and against a nonce that a copied directory shares (P20).
    #[test]
    fn each_start_counts_and_draws_anew() {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(root.path()).unwrap();
        let first = Identity::begin(&directory).unwrap();
        assert_eq!((first.incarnation, first.has_joined()), (Incarnation(1), false));
        let joined = first.join(&directory, ClusterId(0xabc), NodeId(7)).unwrap();
        assert_eq!(joined.boot_nonce, first.boot_nonce);
        let second = Identity::begin(&directory).unwrap();
        assert_eq!((second.cluster, second.node, second.incarnation), (ClusterId(0xabc), NodeId(7), Incarnation(2)));
        assert_ne!(second.boot_nonce, first.boot_nonce);
    }

    /// Guards against content of another shape that is taken for a fresh directory.
    #[test]
    fn an_identity_that_says_something_else_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(root.path()).unwrap();
        for content in [
            &b"{}"[..],
            br#"{"cluster":"xyz","node":1,"incarnation":1}"#,
            br#"{"cluster":"0","node":1,"incarnation":1}"#,
            br#"{"cluster":"1","node":1,"incarnation":1,"more":2}"#,
        ] {
            directory.write_small(FILE, content).unwrap();
            let error = Identity::begin(&directory).unwrap_err();
            assert!(matches!(error, Error::Identity { .. }), "{error}");
        }
    }
}
