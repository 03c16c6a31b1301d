//! The command line: keys, status, bench and the playground.
