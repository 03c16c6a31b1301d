//! The viewleader: openraft around viewcore, and the services that storage nodes and clients call.
