//! Where a watch of a partition begins: at its seq of now, or with what is there.

use crate::client::Client;
use crate::error::Error;
use crate::mutants::{Mutant, on};
use crate::watch::follow::Told;
use crate::watch::{WatchEvent, WatchWhat};
use bytes::Bytes;
use tokio::sync::mpsc;
use types::limits::{PAGE_BYTES_DEFAULT, PAGE_RECORDS_MAX};
use types::{Page, PageItem, PageQuery, PartitionId, RecordKind, Seq};

/// Keys up to `end` were read at `at`: changes of theirs through there are in what was read.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Window {
    /// `None`: all the rest.
    end: Option<Bytes>,
    at: Seq,
}

/// What was read of a partition while it changed; see the [module](crate::watch).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Windows(Vec<Window>);

impl Windows {
    fn add(&mut self, page: &Page) {
        self.0.push(Window { end: page.resume.clone(), at: page.at });
    }

    /// Whether the pages have this change.
    pub(super) fn have(&self, key: &[u8], version: Seq) -> bool {
        let window = self.0.iter().find(|window| window.end.as_ref().is_none_or(|end| *key <= **end));
        window.is_some_and(|window| version <= window.at && !on(Mutant::WatchWindow))
    }

    /// Everything through here was told: pages that were read before that say nothing any more.
    pub(super) fn passed(&mut self, through: Seq) {
        if self.0.last().is_some_and(|last| last.at <= through) {
            self.0.clear();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Where to go on after, and what is told already beyond that.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) after: Seq,
    pub(super) windows: Windows,
}

fn query(prefix: Bytes, after: Bytes, records_max: usize) -> PageQuery {
    let bytes_max = PAGE_BYTES_DEFAULT;
    PageQuery { kind: RecordKind::User, prefix, after, records_max, bytes_max, names_only: false }
}

/// Asks a partition where it is.
pub(super) async fn now(client: &Client, partition: PartitionId) -> Result<Begun, Error> {
    let page = client.page(partition, query(Bytes::new(), Bytes::new(), 0)).await?;
    Ok(Begun { after: page.at, windows: Windows::default() })
}

/// Tells what is there.
pub(super) async fn current(
    client: &Client,
    what: &WatchWhat,
    partition: PartitionId,
    out: &mpsc::Sender<Result<Told, Error>>,
) -> Result<Begun, Error> {
    let (prefix, records_max) = match what {
        WatchWhat::Key(key) => (key, 1),
        WatchWhat::Prefix(prefix) => (prefix, PAGE_RECORDS_MAX),
    };
    let mut windows = Windows::default();
    let mut first = None;
    let mut after = Bytes::new();
    loop {
        let mut page = client.page(partition, query(prefix.clone(), after, records_max)).await?;
        if let WatchWhat::Key(key) = what {
            // The key itself comes first of all that begin with it.
            page.items.retain(|item| item.name == *key);
            page.resume = None;
        }
        first.get_or_insert(page.at);
        windows.add(&page);
        let mut events = Vec::with_capacity(page.items.len());
        for item in page.items {
            events.extend(present(client, item, page.at).await?);
        }
        // Nobody listens any more: then this ends too.
        let _over = out.send(Ok(Told { partition, events, through: None })).await;
        match page.resume {
            Some(resume) => after = resume,
            None => break,
        }
    }
    let after = first.unwrap_or_default();
    windows.passed(after);
    Ok(Begun { after, windows })
}

/// A key's value as of `at`. One that was too long for its page is read now; if it was changed since, the change is told
/// later, and what it was before is nobody's to know.
async fn present(client: &Client, item: PageItem, at: Seq) -> Result<Option<WatchEvent>, Error> {
    let PageItem { name: key, seq, value } = item;
    let (value, version) = match value {
        Some(value) => (value, seq),
        None => match client.get(key.clone()).await? {
            Some(found) if found.version <= at => (found.value, found.version),
            _ => return Ok(None),
        },
    };
    Ok(Some(WatchEvent::Present { key, value, version }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a change that is told though a page has it, and one that is left out though no page does.
    #[test]
    fn a_change_is_told_unless_its_page_has_it() {
        let mut windows = Windows::default();
        for (resume, at) in [(Some("f"), 5), (Some("p"), 8), (None, 9)] {
            windows.add(&Page { items: Vec::new(), at: Seq(at), resume: resume.map(Bytes::from) });
        }
        for (key, seq, has) in [("a", 5, true), ("f", 6, false), ("g", 8, true), ("z", 9, true), ("z", 10, false)] {
            assert_eq!(windows.have(key.as_bytes(), Seq(seq)), has, "{key} {seq}");
        }
        windows.passed(Seq(8));
        assert!(!windows.is_empty());
        windows.passed(Seq(9));
        assert!(windows.is_empty() && !windows.have(b"z", Seq(9)));
    }
}
