//! One partition's replica as a value: step(event) gives effects; no I/O, no clock, no randomness.
