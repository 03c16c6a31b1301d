//! Reading many records of a partition at once: a page in the order of their names, and what is asked for.

use crate::ids::Seq;
use crate::record::RecordKind;
use bytes::Bytes;

/// What a page should hold.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PageQuery {
    /// Of which kind.
    pub kind: RecordKind,
    /// Only names that begin with this.
    pub prefix: Bytes,
    /// Only names after this one; empty: from the first.
    pub after: Bytes,
    /// At most so many records; 0: none, only the instant.
    pub records_max: usize,
    /// About so many bytes of names and values, but at least one record. A value that is longer is left out.
    pub bytes_max: usize,
    /// No values.
    pub names_only: bool,
}

impl PageQuery {
    /// Whether a record of this name belongs on the page, as far as the query says.
    pub fn covers(&self, name: &[u8]) -> bool {
        name.starts_with(&self.prefix) && (self.after.is_empty() || *name > *self.after)
    }
}

/// Records of one partition in the order of their names, exactly as at one instant.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Page {
    /// The records.
    pub items: Vec<PageItem>,
    /// The instant: every entry through here is in, none after it.
    pub at: Seq,
    /// The page says everything of names up to this one, there may be more after it; `None`: there is no more.
    pub resume: Option<Bytes>,
}

/// One record of a page.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PageItem {
    /// Its name; for a user's record the key.
    pub name: Bytes,
    /// The entry that wrote it: its version.
    pub seq: Seq,
    /// Its value; `None`: not asked for, or too long for the page.
    pub value: Option<Bytes>,
}
