//! The write-ahead log: checksummed, segmented, with group commit; a torn tail is told from damage.
