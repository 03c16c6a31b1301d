//! Whom a watch listens to when primaries change.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[allow(dead_code, reason = "other tests need more of them")]
mod fakes;

use client::{Client, Cursor, Options, WatchFrom, WatchWhat};
use fakes::{Act, leader, node, view};
use std::time::Duration;
use tokio::sync::watch;
use types::{PartitionId, Seq};

/// Changes of the view while a node talks without a pause.
const CHANGES: u64 = 20;
/// A bound reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Guards against a watch that stays with a deposed primary, which does not know it, because its view changed while
/// something else was to be heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_where_the_view_says_however_much_it_hears() {
    let mut nodes = [node(1, |_| Act::Silence), node(1, |_| Act::Silence)];
    let addresses = nodes.each_ref().map(|node| node.address().to_owned());
    let of = |epoch: u64| {
        let mut listed = [(1, addresses[0].as_str()), (2, addresses[1].as_str())];
        listed.rotate_left(epoch as usize % 2);
        view(epoch, &listed)
    };
    let (views, _) = watch::channel(of(2));
    let leader = leader(&views);
    let options = Options { timeout: PATIENCE };
    let client = Client::connect(std::slice::from_ref(&leader.address), options).await.unwrap();
    let cursor = Cursor { positions: [(PartitionId(0), Seq(5))].into() };
    let mut watch = client.watch(WatchWhat::Prefix("".into()), WatchFrom::After(cursor)).unwrap();
    // Somebody must take what is told; nothing ever changes here.
    let listening = tokio::spawn(async move { while watch.next().await.is_ok() {} });
    for epoch in 2..2 + CHANGES {
        views.send_replace(of(epoch));
        let primary = &mut nodes[epoch as usize % 2].subscriptions;
        let asked = tokio::time::timeout(PATIENCE, primary.recv()).await;
        let asked = asked.unwrap_or_else(|_| panic!("nobody asked the primary of epoch {epoch}")).unwrap();
        assert_eq!((asked.partition, asked.after), (0, 5));
    }
    listening.abort();
}
