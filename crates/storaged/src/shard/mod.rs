//! A shard: one task that owns the replicas of every `shards`-th partition and does their work in bursts.
//!
//! ```text
//! clients' batches ─┐                    ┌─ one submission to the write-ahead log
//! peers' batches ───┼─► queue ─► burst ──┼─ one batch for each peer
//! views, control ───┘            ▲       └─ one batch for each client's stream
//!        completions (log, engine) ─┘
//! ```
//!
//! A burst takes what is in the queue (up to a bound), steps each event as it comes, then flushes every replica that was
//! touched: so one fsync, one message and one wake-up serve everything that arrived together.
//!
//! Invariants: a replica is only ever touched by its shard's task; an idle partition is memory in its slot and nothing
//! else: no task, no timer, no queue. The queue from outside is bounded, and whoever fills it waits; completions need no
//! bound, there are never more than what the shard itself has submitted.

mod burst;
pub(crate) mod input;
mod lag;
mod open;
pub(crate) mod retention;
mod slot;
#[cfg(test)]
mod tests;
mod ticks;
mod timers;
mod watches;
pub(crate) mod worker;

pub(crate) use burst::SentOut;
pub(crate) use input::{Completion, Incoming, Input, ShardHandle, Shards};
pub(crate) use worker::{Parts, Recovered, Worker};
