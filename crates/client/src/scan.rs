//! All keys, or those with a prefix, in the order of their bytes.
//!
//! Keys are hashed to partitions, so the order comes from a merge of all partitions, made here: page by page from each
//! partition's primary, through the same attempts as any request, so a partition that moves costs a retry and nothing
//! else. A page is what its partition held at one instant after it was asked for; pages are asked for as the merge needs
//! them. So everything that was acknowledged before the scan began, and not deleted since, is seen; what happens while it
//! runs may be seen or not; and there is no instant at which the whole cluster looked like the result.
//!
//! # Memory
//!
//! Each partition may have one page at hand and a part of another: [`ScanOptions::memory_bytes_max`] is divided by twice
//! their number. With 256 partitions and the default of 32 MiB that is 64 KiB, some hundred keys; with 65,536 it is 256
//! bytes, a few keys, and a scan is then as many small requests: about 65,536 for every 200,000 keys, several hundred
//! under way at a time. A value that is longer than its page is left out of it and fetched when its turn comes: the bound
//! is then a page, or one key, for each partition.
//!
//! Had the nodes merged what is theirs, a scan would be a few long streams instead. But each would hold state for its
//! client on the node, twenty thousand cursors with 65,536 partitions, and lose it whenever a partition moves.

use crate::client::Client;
use crate::error::Error;
use crate::outcome::Found;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use types::limits::{PAGE_BYTES_DEFAULT, PAGE_RECORDS_MAX};
use types::{ErrorCode, Page, PageItem, PageQuery, PartitionId, RecordKind, Seq};

/// Pages asked for at a time.
const UNDER_WAY_MAX: usize = 512;
/// The smallest page, however many partitions there are.
const PAGE_BYTES_MIN: usize = 256;

/// What to scan.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    /// Only keys that begin with this.
    pub prefix: Bytes,
    /// At most so many keys.
    pub limit: Option<u64>,
    /// No values.
    pub keys_only: bool,
    /// What may wait here to be merged, about.
    pub memory_bytes_max: usize,
}

impl Default for ScanOptions {
    fn default() -> Self {
        ScanOptions { prefix: Bytes::new(), limit: None, keys_only: false, memory_bytes_max: 32 << 20 }
    }
}

/// One key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// The key.
    pub key: Bytes,
    /// Its value; empty where only keys were asked for.
    pub value: Bytes,
    /// The seq of the entry that wrote it.
    pub version: Seq,
}

/// A scan under way: [`Scan::next`] until there is no more.
pub struct Scan {
    client: Client,
    options: ScanOptions,
    page_bytes: usize,
    given: u64,
    sources: Vec<Source>,
    /// The first key at hand of each partition that has one.
    heads: BinaryHeap<Reverse<(Bytes, usize)>>,
    /// Partitions of which nothing is at hand, and that have not ended: the merge waits for them.
    missing: usize,
    /// Partitions whose next page is to be asked for.
    wanting: VecDeque<usize>,
    under_way: FuturesUnordered<BoxFuture<'static, Asked>>,
    /// The next item, whose value must be fetched first.
    unfinished: Option<PageItem>,
}

/// A partition, where its page begins, and the page.
type Asked = (usize, Bytes, Result<Page, Error>);

/// One partition.
#[derive(Debug)]
struct Source {
    items: VecDeque<PageItem>,
    /// When no more than this is at hand it is time for the next page.
    low: usize,
    /// Where the next page begins; `None`: it is asked for already, or there is none.
    resume: Option<Bytes>,
    ended: bool,
}

impl Client {
    /// Begins to read all keys with a prefix, in the order of their bytes. Nothing is asked for before the first
    /// [`Scan::next`].
    pub fn scan(&self, options: ScanOptions) -> Scan {
        let count = self.view().partition_count.get() as usize;
        let page_bytes = (options.memory_bytes_max / 2 / count).clamp(PAGE_BYTES_MIN, PAGE_BYTES_DEFAULT);
        let source = || Source { items: VecDeque::new(), low: 0, resume: Some(Bytes::new()), ended: false };
        Scan {
            client: self.clone(),
            options,
            page_bytes,
            given: 0,
            sources: std::iter::repeat_with(source).take(count).collect(),
            heads: BinaryHeap::new(),
            missing: count,
            wanting: (0..count).collect(),
            under_way: FuturesUnordered::new(),
            unfinished: None,
        }
    }
}

impl Scan {
    /// The next key; `None`: there are no more.
    ///
    /// # Errors
    /// As [`Client::get`]. The scan may be continued by another `next`: it asks again for what failed.
    pub async fn next(&mut self) -> Result<Option<Item>, Error> {
        loop {
            if self.options.limit.is_some_and(|limit| self.given >= limit) {
                return Ok(None);
            }
            if let Some(item) = self.unfinished.clone() {
                let item = self.whole(item).await?;
                self.unfinished = None;
                if item.is_some() {
                    self.given += 1;
                    return Ok(item);
                }
            }
            self.ask();
            if self.missing > 0 {
                self.take_page().await?;
                continue;
            }
            let Some(Reverse((_, place))) = self.heads.pop() else { return Ok(None) };
            self.unfinished = self.advance(place);
        }
    }

    /// Takes the first item of a partition whose head was just popped.
    fn advance(&mut self, place: usize) -> Option<PageItem> {
        let source = &mut self.sources[place];
        let item = source.items.pop_front();
        if let Some(next) = source.items.front() {
            self.heads.push(Reverse((next.name.clone(), place)));
        } else if !source.ended {
            self.missing += 1;
        }
        if source.items.len() == source.low && source.resume.is_some() {
            self.wanting.push_back(place);
        }
        item
    }

    /// An item with its value, which may have been too long for its page; `None`: it is deleted meanwhile.
    async fn whole(&mut self, item: PageItem) -> Result<Option<Item>, Error> {
        let PageItem { name: key, seq: version, value } = item;
        match value {
            Some(value) => Ok(Some(Item { key, value, version })),
            None if self.options.keys_only => Ok(Some(Item { key, value: Bytes::new(), version })),
            None => {
                let found = self.client.get(key.clone()).await?;
                Ok(found.map(|Found { value, version }| Item { key, value, version }))
            }
        }
    }

    /// Asks for pages, as many as may be under way.
    fn ask(&mut self) {
        while self.under_way.len() < UNDER_WAY_MAX
            && let Some(place) = self.wanting.pop_front()
        {
            let Some(after) = self.sources[place].resume.take() else { continue };
            let records_max = self.options.limit.map_or(PAGE_RECORDS_MAX, |limit| {
                usize::try_from(limit).unwrap_or(PAGE_RECORDS_MAX).min(PAGE_RECORDS_MAX)
            });
            let query = PageQuery {
                kind: RecordKind::User,
                prefix: self.options.prefix.clone(),
                after: after.clone(),
                records_max,
                bytes_max: self.page_bytes,
                names_only: self.options.keys_only,
            };
            let client = self.client.clone();
            let partition = PartitionId(place as u32);
            let page = async move { (place, after, client.page(partition, query).await) };
            self.under_way.push(Box::pin(page));
        }
    }

    async fn take_page(&mut self) -> Result<(), Error> {
        let Some((place, after, page)) = self.under_way.next().await else {
            let message = "a scan waits for a page that nobody was asked for; a bug".to_owned();
            return Err(Error::NotDone { code: ErrorCode::Internal, message });
        };
        let source = &mut self.sources[place];
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                source.resume = Some(after);
                self.wanting.push_front(place);
                return Err(error);
            }
        };
        let had_none = source.items.is_empty();
        source.ended = page.resume.is_none();
        source.resume = page.resume;
        source.items.extend(page.items);
        source.low = source.items.len() / 2;
        match source.items.front() {
            Some(first) if had_none => {
                self.heads.push(Reverse((first.name.clone(), place)));
                self.missing -= 1;
            }
            None if source.ended => self.missing -= 1,
            // Everything on the page was deleted: on to the next one.
            None => self.wanting.push_front(place),
            Some(_) => {}
        }
        Ok(())
    }
}
