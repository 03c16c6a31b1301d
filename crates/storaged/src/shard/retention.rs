//! Which segments of the write-ahead log still hold something that one partition needs.

use types::Seq;
use wal::SegmentNumber;

/// For each segment with entries of the partition, the highest one in it, oldest segment first.
///
/// Usually one or two segments; a partition without entries in the log costs an empty vector.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Retention {
    segments: Vec<(SegmentNumber, Seq)>,
}

impl Retention {
    /// Entries up to `highest` were written to `segment`, or to later ones.
    pub(crate) fn note(&mut self, segment: SegmentNumber, highest: Seq) {
        match self.segments.last_mut() {
            // A truncated log may be written again with lower seqs: the older ones are then harmlessly kept.
            Some((last, seq)) if *last >= segment => *seq = (*seq).max(highest),
            _ => self.segments.push((segment, highest)),
        }
    }

    /// The oldest segment with an entry at or after `first_kept`; forgets those without.
    pub(crate) fn oldest_needed(&mut self, first_kept: Seq) -> Option<SegmentNumber> {
        self.segments.retain(|(_, highest)| *highest >= first_kept);
        self.segments.first().map(|(segment, _)| *segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a segment released while an entry in it is needed, and against one kept for ever.
    #[test]
    fn a_segment_is_needed_as_long_as_an_entry_in_it_is() {
        let mut retention = Retention::default();
        assert_eq!(retention.oldest_needed(Seq(1)), None);
        for (segment, highest) in [(1, 4), (1, 9), (3, 12), (4, 11), (5, 20)] {
            retention.note(SegmentNumber(segment), Seq(highest));
        }
        assert_eq!(retention.oldest_needed(Seq(9)), Some(SegmentNumber(1)));
        assert_eq!(retention.oldest_needed(Seq(10)), Some(SegmentNumber(3)));
        assert_eq!(retention.oldest_needed(Seq(13)), Some(SegmentNumber(5)));
        assert_eq!(retention.oldest_needed(Seq(21)), None);
        assert_eq!(retention, Retention::default());
    }
}
