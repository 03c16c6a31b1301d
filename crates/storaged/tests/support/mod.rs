//! A stand-in for the viewleader group, and nodes that run in this process.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod leaders;
pub(crate) mod nodes;
