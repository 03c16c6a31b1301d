//! What clients ask: the service, the router behind it, and the way back.
//!
//! A client's batch becomes one message to each shard it touches, whatever the number of its requests; answers gather in
//! the client's [`connection`] and leave as batches. Only requests for another node's partitions cost a task each.

pub(crate) mod answer;
pub(crate) mod connection;
pub(crate) mod router;
pub(crate) mod service;
pub(crate) mod transactions;
