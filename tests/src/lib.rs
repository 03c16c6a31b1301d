//! Helpers shared by the end-to-end tests: a playground of real processes, and a load that remembers what was
//! acknowledged.

pub mod load;
pub mod playground;
mod ports;
pub mod storage_node;

pub use load::{Load, insist};
pub use playground::{Playground, Process, Role};
pub use ports::free_address;
