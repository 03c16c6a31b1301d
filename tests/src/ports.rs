//! Addresses for processes that a test starts by itself.

use anyhow::Result;
use std::net::TcpListener;
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below where outgoing connections take their ports from, and away from the playgrounds'.
const PORTS: Range<u16> = 10_000..13_000;

/// A free address that stays free while its process is down; no two tests of this process get the same.
///
/// # Errors
/// Where no port is free.
pub fn free_address() -> Result<String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let width = PORTS.end - PORTS.start;
    let free = (0..width).find_map(|_| {
        let turn = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)).wrapping_add(std::process::id().wrapping_mul(97));
        let port = PORTS.start + u16::try_from(turn % u32::from(width)).ok()?;
        TcpListener::bind(("127.0.0.1", port)).ok()?.local_addr().ok()
    });
    Ok(free.ok_or_else(|| anyhow::anyhow!("no port of {PORTS:?} is free"))?.to_string())
}
