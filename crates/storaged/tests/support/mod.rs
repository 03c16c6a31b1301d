//! A stand-in for the viewleader group, and nodes that run in this process.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

pub(crate) mod leaders;
pub(crate) mod nodes;
