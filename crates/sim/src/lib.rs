//! The deterministic simulator: seeded network, disks and crashes around the real cores, with a linearizability oracle.
