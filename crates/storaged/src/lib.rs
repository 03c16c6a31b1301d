//! The storage node: replicas on shards, peer streams, the write-ahead log, the engine and the services.
