//! What a watcher is told when primaries change and nodes misbehave: everything, once, in order.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[allow(dead_code, reason = "the other tests need the rest of it")]
mod fakes;

use bytes::Bytes;
use client::{Client, Options, Watch, WatchEvent, WatchFrom, WatchWhat};
use fakes::*;
use std::time::Duration;
use tokio::sync::watch;
use types::View;
use wire::v1;

/// A watch that is silent for so long has failed its test.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// A node whose log ends at `end`, for who asks where it is.
fn log_ends_at(end: u64) -> Node {
    node(1, move |_| {
        let page = v1::Page { at: end, ..Default::default() };
        Act::Answer(v1::Response { result: Some(v1::response::Result::Page(page)), ..Default::default() })
    })
}

/// Who has subscribed to the node's one partition.
async fn subscribed(node: &mut Node) -> Subscribed {
    tokio::time::timeout(SILENCE_MAX, node.subscriptions.recv()).await.unwrap().unwrap()
}

impl Subscribed {
    /// Tells of puts of these versions: everything from after `after` through the last of them.
    fn tell(&self, after: u64, versions: &[u64]) {
        let change = |version: &u64| v1::WatchedChange {
            key: Bytes::from_static(b"k"),
            version: *version,
            value: Some(format!("v{version}").into()),
        };
        let part = v1::WatchPart {
            subscription: self.subscription.number,
            partition: self.subscription.partition,
            after,
            through: versions.last().copied().unwrap_or(after),
            changes: versions.iter().map(change).collect(),
            end: None,
        };
        self.feed.send(Ok(v1::WatchBatch { epoch: 1, parts: vec![part] })).unwrap();
    }
}

async fn client(views: &watch::Sender<View>) -> (Client, Running) {
    let leader = leader(views);
    let options = Options { timeout: Duration::from_secs(60) };
    (Client::connect(std::slice::from_ref(&leader.address), options).await.unwrap(), leader)
}

/// The version that is told next.
async fn version(watch: &mut Watch) -> u64 {
    loop {
        match tokio::time::timeout(SILENCE_MAX, watch.next()).await.unwrap().unwrap() {
            WatchEvent::Changed { version, .. } => return version.0,
            WatchEvent::Watching => {}
            other => panic!("{other:?} is no change"),
        }
    }
}

/// Guards against a watch that misses what was committed while a primary was replaced.
#[tokio::test]
async fn a_watch_goes_on_after_its_cursor_at_the_next_primary() {
    let (mut first, mut second) = (log_ends_at(4), log_ends_at(9));
    let (views, _) = watch::channel(view(1, &[(1, first.address()), (2, second.address())]));
    let (client, _leader) = client(&views).await;
    let mut watch = client.watch(WatchWhat::Key("k".into()), WatchFrom::Now).unwrap();
    let subscription = subscribed(&mut first).await;
    assert_eq!(subscription.subscription.after, 4);
    subscription.tell(4, &[5, 6]);
    assert_eq!((version(&mut watch).await, version(&mut watch).await), (5, 6));

    views.send_replace(view(2, &[(2, second.address()), (1, first.address())]));
    let subscription = subscribed(&mut second).await;
    assert_eq!(subscription.subscription.after, 6, "seven to nine were committed meanwhile");
    subscription.tell(6, &[7, 9]);
    assert_eq!((version(&mut watch).await, version(&mut watch).await), (7, 9));
}

/// Guards against a change that is told twice, or left out, because a node did not go on where it was.
#[tokio::test]
async fn what_does_not_go_on_at_the_cursor_is_not_told() {
    let mut node = log_ends_at(4);
    let (views, _) = watch::channel(view(1, &[(1, node.address())]));
    let (client, _leader) = client(&views).await;
    let mut watch = client.watch(WatchWhat::Key("k".into()), WatchFrom::Now).unwrap();
    let subscription = subscribed(&mut node).await;
    subscription.tell(4, &[5, 6]);
    subscription.tell(4, &[5, 6, 7]);
    assert_eq!((version(&mut watch).await, version(&mut watch).await), (5, 6));
    let again = subscribed(&mut node).await;
    assert_eq!(again.subscription.after, 6);
    again.tell(8, &[9]);
    let again = subscribed(&mut node).await;
    assert_eq!(again.subscription.after, 6);
    again.tell(6, &[7, 8, 9]);
    let told = (version(&mut watch).await, version(&mut watch).await, version(&mut watch).await);
    assert_eq!(told, (7, 8, 9));
}
