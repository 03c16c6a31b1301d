//! A buffer of records, built without an allocation for each.

use crate::format::{self, RECORD_HEADER_BYTES};

/// Records in the order in which they are to be appended, already in the log's own encoding.
///
/// Each record is all or nothing after a crash. All of them together are so, too, as long as they fit one frame
/// ([`crate::Options::frame_bytes_max`]); of more, a crash can keep the first ones only.
#[derive(Clone, Debug, Default)]
pub struct Records {
    encoded: Vec<u8>,
    count: usize,
    longest_bytes: usize,
}

impl Records {
    /// No records.
    pub fn new() -> Records {
        Records::default()
    }

    /// Adds a record.
    pub fn push(&mut self, record: &[u8]) {
        self.push_with(|out| out.extend_from_slice(record));
    }

    /// Adds the record that `write` appends to the buffer it is given. What lies in the buffer already must stay as it
    /// is: `write` may only append.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.encoded.len();
        self.encoded.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        write(&mut self.encoded);
        let end = self.encoded.len();
        assert!(end >= start + RECORD_HEADER_BYTES, "push_with's closure may only append to the buffer");
        format::seal_record(&mut self.encoded[start..]);
        self.count += 1;
        self.longest_bytes = self.longest_bytes.max(end - start - RECORD_HEADER_BYTES);
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many bytes the records take in the log, without their share of the frame around them.
    pub fn bytes(&self) -> usize {
        self.encoded.len()
    }

    /// Forgets the records and keeps the memory.
    pub fn clear(&mut self) {
        self.encoded.clear();
        self.count = 0;
        self.longest_bytes = 0;
    }

    /// The records as they lie in a frame.
    pub(crate) fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// The longest record's length in bytes.
    pub(crate) fn longest_bytes(&self) -> usize {
        self.longest_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against an encoding in which records run together or lose their order.
    #[test]
    fn records_come_out_as_they_went_in() {
        let mut records = Records::new();
        records.push(b"one");
        records.push(b"");
        records.push_with(|out| out.extend_from_slice(&[7; 1000]));
        assert_eq!((records.len(), records.longest_bytes()), (3, 1000));

        let mut at = 0;
        let mut found = Vec::new();
        while at < records.bytes() {
            let range = format::record_at(records.encoded(), at).unwrap();
            found.push(records.encoded()[range.clone()].to_vec());
            at = range.end;
        }
        assert_eq!(found, [b"one".to_vec(), vec![], vec![7; 1000]]);

        records.clear();
        assert!(records.is_empty() && records.bytes() == 0);
    }
}
