//! Small worlds around the real cores, explored to the end: every order of every event, not a sample of them.
//!
//! The simulator (`crates/sim`) runs large worlds along few of their paths. Here a world is tiny (three or four nodes,
//! one or two writes, a crash, a takeover) and [`stateright`] walks every path there is: messages arrive in any order or
//! never, a sync takes as long as it likes, a crash takes any suffix of what is not synced, the viewleaders decide
//! whenever they may. It is [`replcore::Replica::step`] itself that takes the steps, and
//! [`viewcore::ClusterState::apply`] that makes the views; nothing of the protocol is written a second time.
//!
//! * [`world`] is what each world contains and how much of each thing may happen in it;
//! * [`state`] is one instant of it, and its fingerprint; [`node`] a storage node in it;
//! * [`action`] is what can happen next, and what follows;
//! * [`history`] remembers what was promised to whom, and says which property a step broke;
//! * [`pair`] has the worlds of transactions, over two partitions;
//! * [`explore`] runs a world to its end and counts.
//!
//! A message that is lost is one that never arrives, so losses cost no states of their own. Repetition by ticks is left
//! out: it adds no step that another order of the first messages does not have; a message may arrive twice where a world
//! allows duplicates. The state is handed nothing: everything committed stays readable in the overlay in front of it, as it
//! does whenever an engine is slow. So snapshots and the trimming of logs are the simulator's to test.

pub mod action;
pub mod explore;
pub mod history;
pub mod node;
pub mod pair;
pub mod state;
pub mod world;
