//! What both servers' processes share: settings, logging, the data directory's lock, admin HTTP, exit codes.
