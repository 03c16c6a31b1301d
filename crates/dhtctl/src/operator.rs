//! What the operators' commands share: sending an operation, asking what moves, and how nodes and partitions are named.

use crate::cli::{ClusterFlags, Globals};
use crate::cluster::within;
use crate::failure;
use client::{Leaders, Moves, Operation};
use daemon::{Exit, Failure};
use std::str::FromStr;
use std::time::{Duration, Instant};
use types::{Epoch, NodeId, NodeInfo, PartitionId, View};

/// How long after an answer that was of no use the viewleaders are asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The viewleaders as an operator talks to them.
pub(crate) struct Operator<'a> {
    globals: &'a Globals,
    pub(crate) leaders: Leaders,
}

impl<'a> Operator<'a> {
    pub(crate) fn new(globals: &'a Globals, flags: &ClusterFlags) -> Result<Operator<'a>, Failure> {
        let leaders = Leaders::new(globals.leaders(flags)).map_err(failure::of)?;
        Ok(Operator { globals, leaders })
    }

    pub(crate) async fn operate(&self, operation: &Operation) -> Result<Epoch, Failure> {
        match tokio::time::timeout(self.globals.timeout, self.leaders.operate(operation)).await {
            Ok(answer) => answer.map_err(failure::of),
            Err(_) => Err(Failure::new(
                Exit::Unknown,
                "the viewleaders did not answer in time: it may still be done; the same command again is harmless",
            )),
        }
    }

    pub(crate) async fn moves(&self, if_done: Option<&Operation>) -> Result<Moves, Failure> {
        within(self.globals, self.leaders.moves(if_done)).await
    }

    pub(crate) async fn view(&self) -> Result<View, Failure> {
        within(self.globals, self.leaders.view()).await
    }

    /// The id of a node: a name that is one needs no question.
    pub(crate) async fn node(&self, name: &NodeName) -> Result<NodeId, Failure> {
        match name {
            NodeName::Id(node) => Ok(*node),
            NodeName::Address(address) => id_at(self.view().await?.nodes.values(), address),
        }
    }

    /// What moves, for somebody who waits: viewleaders may change meanwhile, so the question is put again until --timeout
    /// has passed without an answer.
    pub(crate) async fn moves_patiently(&self) -> Result<Moves, Failure> {
        let began = Instant::now();
        loop {
            match self.moves(None).await {
                Err(failure) if failure.exit == Exit::Unavailable && began.elapsed() < self.globals.timeout => {
                    tokio::time::sleep(ASK_AGAIN_AFTER).await;
                }
                answer => return answer,
            }
        }
    }
}

/// How people name a storage node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NodeName {
    /// `n3` or `3`.
    Id(NodeId),
    /// `HOST:PORT`.
    Address(String),
}

impl FromStr for NodeName {
    type Err = String;

    fn from_str(text: &str) -> Result<NodeName, String> {
        match text.strip_prefix('n').unwrap_or(text).parse() {
            Ok(id) if id != 0 => Ok(NodeName::Id(NodeId(id))),
            Err(_) if text.contains(':') => Ok(NodeName::Address(text.to_owned())),
            _ => Err("a storage node is named n3, 3 or HOST:PORT, as dhtctl nodes shows it".to_owned()),
        }
    }
}

/// A value parser for partitions: `p7` or `7`.
///
/// # Errors
/// One line for a person.
pub(crate) fn partition(text: &str) -> Result<PartitionId, String> {
    let number = text.strip_prefix('p').unwrap_or(text).parse();
    number.map(PartitionId).map_err(|_| "a partition is named p7 or 7, as dhtctl partitions shows it".to_owned())
}

fn id_at<'a>(nodes: impl Iterator<Item = &'a NodeInfo>, address: &str) -> Result<NodeId, Failure> {
    let at: Vec<NodeId> = nodes.filter(|node| node.address == address).map(|node| node.id).collect();
    match at[..] {
        [node] => Ok(node),
        [] => Err(Failure::usage(format!("no storage node is at {address}; dhtctl nodes lists them"))),
        [first, second, ..] => {
            Err(Failure::usage(format!("nodes {first} and {second} are both at {address}; give the id of one")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::{Duty, Incarnation};

    /// Guards against a node that can't be named as it is shown, and a name that is taken for another's.
    #[test]
    fn nodes_are_named_as_they_are_shown() {
        assert_eq!("n3".parse(), Ok(NodeName::Id(NodeId(3))));
        assert_eq!("3".parse(), Ok(NodeName::Id(NodeId(3))));
        assert_eq!("n3.example:38000".parse(), Ok(NodeName::Address("n3.example:38000".into())));
        for wrong in ["", "n", "n0", "0", "bob", "p3", "-1"] {
            assert!(wrong.parse::<NodeName>().is_err(), "{wrong}");
        }
        assert_eq!((partition("p7"), partition("7")), (Ok(PartitionId(7)), Ok(PartitionId(7))));
        assert!(partition("n7").is_err());
    }

    /// Guards against the departure of somebody else than was meant.
    #[test]
    fn an_address_names_one_node() {
        let node = |id, address: &str| NodeInfo {
            id: NodeId(id),
            address: address.into(),
            http_address: String::new(),
            zone: String::new(),
            weight: 100,
            incarnation: Incarnation(1),
            accepted_at: Epoch(1),
            alive: true,
            duty: Duty::Active,
        };
        let nodes = [node(1, "a:1"), node(2, "b:1"), node(3, "b:1")];
        assert_eq!(id_at(nodes.iter(), "a:1"), Ok(NodeId(1)));
        assert!(id_at(nodes.iter(), "b:1").unwrap_err().message.contains("n2 and n3"));
        assert_eq!(id_at(nodes.iter(), "c:1").unwrap_err().exit, Exit::Usage);
    }
}
