//! The storage of applied state behind one trait: sled, in memory, and faulty.
