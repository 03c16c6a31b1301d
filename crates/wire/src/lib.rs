//! Messages between processes, generated from `proto/`, and their conversions to and from [`types`].
//!
//! Generated types never travel further than a server's or client's edge: [`convert`] turns them into domain types and
//! checks everything a receiver relies on. Sending is infallible, receiving is not.

pub mod convert;
pub mod transactions;

/// The generated messages, services and clients of package `ringleader.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("ringleader.v1");
}

/// All message descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub use convert::Malformed;
