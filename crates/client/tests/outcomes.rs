//! What a caller hears, and how often a request is made, when nodes and viewleaders misbehave.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

#[allow(dead_code, reason = "other tests need more of them")]
mod fakes;

use client::{Client, DeleteOutcome, Error, Options, PutOutcome};
use fakes::*;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use types::{Condition, ErrorCode, View};
use wire::v1;

const LONG: Duration = Duration::from_secs(60);

/// A client of one leader that has this view.
async fn client(views: &watch::Sender<View>, timeout: Duration) -> (Client, Running) {
    let leader = leader(views);
    let client = Client::connect(std::slice::from_ref(&leader.address), Options { timeout }).await.unwrap();
    (client, leader)
}

/// What each attempt is answered in turn; the last one for ever.
fn in_turn(acts: Vec<fn() -> Act>) -> impl Fn(&v1::Request) -> Act {
    let turn = AtomicU32::new(0);
    move |_| {
        let turn = turn.fetch_add(1, Ordering::SeqCst) as usize;
        acts[turn.min(acts.len() - 1)]()
    }
}

/// Guards against a second effect: every attempt, whatever became of the one before, carries the same id and stamp.
#[tokio::test]
async fn a_retry_carries_the_same_id() {
    let node = node(
        1,
        in_turn(vec![
            || refused(ErrorCode::Unavailable),
            || refused(ErrorCode::Unknown),
            || Act::Break,
            || refused(ErrorCode::Overloaded),
            || written(5),
        ]),
    );
    let (views, _) = watch::channel(view(1, &[(1, node.address())]));
    let (client, _leader) = client(&views, LONG).await;
    let outcome = client.put("k", "v", Condition::None).await.unwrap();
    assert!(matches!(outcome, PutOutcome::Done(written) if written.version.0 == 5));
    let ids: Vec<v1::RequestId> = node.requests().iter().map(id_of).collect();
    assert_eq!(ids.len(), 5);
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    client.put("k", "v", Condition::None).await.unwrap();
    // The stamp goes with the time: the counter alone must tell two requests apart.
    assert_ne!(id_of(node.requests().last().unwrap()).counter, ids[0].counter);
}

/// Guards against a timeout that is reported as a failure although the node may have written (P29).
#[tokio::test]
async fn silence_is_an_unknown_outcome_for_a_write_and_none_for_a_read() {
    let node = node(1, |_| Act::Silence);
    let (views, _) = watch::channel(view(1, &[(1, node.address())]));
    let (client, _leader) = client(&views, Duration::from_secs(1)).await;
    let error = client.put("k", "v", Condition::None).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    let error = client.get("k").await.unwrap_err();
    assert!(matches!(error, Error::NotDone { .. }), "{error}");
}

/// Guards against "unknown" where nothing can have happened: a refusal to the end is safe to retry.
#[tokio::test]
async fn refusals_to_the_end_are_not_done() {
    let node = node(1, |_| refused(ErrorCode::Unavailable));
    let (views, _) = watch::channel(view(1, &[(1, node.address())]));
    let (client, _leader) = client(&views, Duration::from_millis(50)).await;
    let error = client.put("k", "v", Condition::None).await.unwrap_err();
    assert!(matches!(error, Error::NotDone { code: ErrorCode::Unavailable, .. }), "{error}");
    assert!(error.is_safe_to_retry());

    let nobody = nobody();
    views.send_replace(view(2, &[(1, &nobody)]));
    let (client, _leader) = crate::client(&views, Duration::from_millis(50)).await;
    let error = client.put("k", "v", Condition::None).await.unwrap_err();
    assert!(matches!(error, Error::NotDone { .. }), "{error}");
    assert!(error.to_string().contains(&nobody) && error.to_string().contains("refused"), "{error}");
}

/// Guards against a failed condition reported for a write whose first attempt may still happen.
#[tokio::test]
async fn a_failed_condition_after_silence_settles_nothing() {
    let node = node(1, in_turn(vec![|| Act::Break, condition_failed]));
    let (views, _) = watch::channel(view(1, &[(1, node.address())]));
    let (client, _leader) = client(&views, LONG).await;
    let error = client.put("k", "v", Condition::Absent).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    let outcome = client.put("k", "v", Condition::Absent).await.unwrap();
    assert!(matches!(outcome, PutOutcome::ConditionFailed(Some(version)) if version.0 == 9));
    let outcome = client.delete("k", Condition::Absent).await.unwrap();
    assert!(matches!(outcome, DeleteOutcome::ConditionFailed(_)));
}

/// Guards against a clock that is behind and never writes, and against a restamped retry of what may have happened.
#[tokio::test]
async fn an_old_stamp_is_renewed_only_while_nothing_can_have_happened() {
    const LATER_MS: u64 = 1 << 50;
    let too_old = || Act::Answer(v1::Response { server_time_ms: LATER_MS, ..refusal(ErrorCode::StampTooOld) });
    let stamped = node(1, move |request| if id_of(request).stamp < LATER_MS { too_old() } else { written(1) });
    let (views, _) = watch::channel(view(1, &[(1, stamped.address())]));
    let (known, _leader) = client(&views, LONG).await;
    known.put("k", "v", Condition::None).await.unwrap();
    known.put("k", "v", Condition::None).await.unwrap();
    assert_eq!(stamped.requests().len(), 3, "the second request is stamped by the server's clock from the start");

    let unsure = node(1, in_turn(vec![|| refused(ErrorCode::Unknown), || refused(ErrorCode::StampTooOld)]));
    let (views, _) = watch::channel(view(1, &[(1, unsure.address())]));
    let (client, _leader) = client(&views, LONG).await;
    let error = client.put("k", "v", Condition::None).await.unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    assert_eq!(unsure.requests().len(), 2);
}

/// Guards against a client that goes on asking the old primary although a new view is out.
#[tokio::test]
async fn a_new_view_moves_requests_and_what_waits_at_the_old_primary() {
    let mut hung = node(1, |_| Act::Silence);
    let fresh = node(2, |request| match request.operation {
        Some(v1::request::Operation::Get(_)) => found(b"v"),
        _ => written(3),
    });
    let (old, new) = (hung.address().to_owned(), fresh.address().to_owned());
    let (views, _) = watch::channel(view(1, &[(1, &old), (2, &new)]));
    let (client, _leader) = client(&views, LONG).await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.put("k", "v", Condition::None).await }
    });
    let first = hung.arrivals.recv().await.unwrap();
    views.send_replace(view(2, &[(2, &new), (1, &old)]));
    waiting.await.unwrap().unwrap();
    assert_eq!(id_of(&fresh.requests()[0]), id_of(&first));
    assert_eq!(client.get("k").await.unwrap().unwrap().value, "v");
    assert_eq!(hung.requests().len(), 1);
}

/// Guards against a hung primary that takes a caller's whole time: others are asked, and they forward.
#[tokio::test]
async fn a_hung_or_unreachable_primary_is_gone_round() {
    let hung = node(1, |_| Act::Silence);
    let forwards = node(1, |_| written(3));
    for primary in [hung.address().to_owned(), nobody()] {
        let (views, _) = watch::channel(view(1, &[(1, &primary), (2, forwards.address())]));
        let (client, _leader) = client(&views, LONG).await;
        let outcome = client.put("k", "v", Condition::None).await.unwrap();
        assert!(matches!(outcome, PutOutcome::Done(_)));
    }
    assert_eq!(forwards.requests().len(), 2);
    assert_eq!(id_of(&hung.requests()[0]), id_of(&forwards.requests()[0]));
}

/// Guards against a hint that is not followed, and against a newer epoch in an answer that is not looked up.
#[tokio::test]
async fn a_deposed_primary_names_the_next_one() {
    let fresh = node(1, |_| written(1));
    let hint = |_: &v1::Request| Act::Answer(v1::Response { primary_hint: 2, ..refusal(ErrorCode::NotPrimary) });
    let old = node(1, hint);
    let (views, _) = watch::channel(view(1, &[(1, old.address()), (2, fresh.address())]));
    let (client, _leader) = client(&views, LONG).await;
    client.put("k", "v", Condition::None).await.unwrap();
    assert_eq!((old.requests().len(), fresh.requests().len()), (1, 1));
}

/// Guards against requests that stop when the viewleaders do.
#[tokio::test]
async fn without_viewleaders_the_last_view_serves() {
    let node = node(1, |_| written(1));
    let (views, _) = watch::channel(view(1, &[(1, node.address())]));
    let (client, leader) = client(&views, LONG).await;
    leader.kill();
    for _ in 0..3 {
        client.put("k", "v", Condition::None).await.unwrap();
    }
}

/// Guards against answers handed to the wrong caller, numbers used twice, and one message per request.
#[tokio::test]
async fn many_in_flight_share_batches_and_get_their_own_answers() {
    let node = node(1, |request| match request.operation.as_ref().unwrap() {
        v1::request::Operation::Get(get) => {
            let found = v1::Found { value: get.key.clone(), version: 1 };
            Act::Answer(v1::Response { result: Some(v1::response::Result::Found(found)), ..Default::default() })
        }
        _ => refused(ErrorCode::Invalid),
    });
    let (views, _) = watch::channel(view(1, &[(1, node.address())]));
    let (client, _leader) = client(&views, LONG).await;
    let asked = (0..500).map(|i| {
        let client = client.clone();
        async move { (i, client.get(format!("key-{i}")).await.unwrap().unwrap().value) }
    });
    for (i, value) in futures::future::join_all(asked).await {
        assert_eq!(value, format!("key-{i}"));
    }
    let numbers: std::collections::BTreeSet<u64> = node.requests().iter().map(|request| request.number).collect();
    let batches = node.batches.lock().unwrap();
    assert_eq!(numbers.len(), 500);
    assert!(batches.len() < 100, "{} batches", batches.len());
    assert!(batches.iter().all(|batch| batch.cluster == wire::convert::cluster_to_wire(types::ClusterId(7))));
}

/// Guards against limits that only the server knows, and against a request sent for nothing.
#[tokio::test]
async fn limits_are_checked_before_anything_is_sent() {
    let node = node(1, |_| written(1));
    let (views, _) = watch::channel(view(1, &[(1, node.address())]));
    let (client, _leader) = client(&views, LONG).await;
    for key in [String::new(), "x".repeat(1025)] {
        assert!(matches!(client.get(key.clone()).await, Err(Error::Invalid(_))));
        assert!(matches!(client.put(key, "v", Condition::None).await, Err(Error::Invalid(_))));
    }
    assert!(matches!(client.put("k", vec![0; (1 << 20) + 1], Condition::None).await, Err(Error::Invalid(_))));
    client.put("k", vec![0; 1 << 20], Condition::None).await.unwrap();
    assert_eq!(node.requests().len(), 1);
}

/// Guards against a dead or mute member at the head of the list that keeps everybody waiting.
#[tokio::test]
async fn a_dead_or_mute_viewleader_at_the_head_costs_little() {
    let node = node(1, |_| written(1));
    let (views, _) = watch::channel(view(1, &[(1, node.address())]));
    let leader = leader(&views);
    let (mute, _held) = mute().await;
    // With one try for all: if the list were asked in turn, the mute one would take it whole.
    let options = Options { timeout: Duration::from_secs(2) };
    let client = Client::connect(&[mute, nobody(), leader.address.clone()], options).await.unwrap();
    client.put("k", "v", Condition::None).await.unwrap();
}

/// Guards against errors that leave a person guessing.
#[tokio::test]
async fn a_list_of_no_use_is_said_in_one_line() {
    let connect = async |list: &[String]| Client::connect(list, Options::default()).await.unwrap_err();
    let nobody = [nobody(), nobody()];
    let error = connect(&nobody).await;
    assert!(matches!(error, Error::NoViewleader { .. }), "{error}");
    let text = error.to_string();
    assert!(nobody.iter().all(|address| text.contains(address)) && text.contains("refused"), "{text}");

    let stranger = stranger();
    let error = connect(std::slice::from_ref(&stranger.address)).await;
    assert_eq!(error, Error::NotAViewleader { address: stranger.address.clone() });

    let http = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = http.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = http.accept().await {
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.ok();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.ok();
        }
    });
    let error = connect(std::slice::from_ref(&address)).await;
    assert_eq!(error, Error::NotAViewleader { address });

    for list in [vec![], vec!["nonsense".to_owned()], vec!["a:b".to_owned()], vec![":1".to_owned()]] {
        let error = connect(&list).await;
        assert!(matches!(error, Error::Usage(_)), "{error}");
    }
}

/// Guards against a wait for storage nodes that nobody has started.
#[tokio::test]
async fn a_cluster_without_a_map_says_who_is_missing() {
    let mut early = view(2, &[(1, "127.0.0.1:1"), (2, "127.0.0.1:2")]);
    early.configurations.clear();
    let (views, _) = watch::channel(early);
    let (client, _leader) = client(&views, LONG).await;
    let error = client.get("k").await.unwrap_err();
    assert_eq!(error, Error::NotBootstrapped { registered: 2, expected: 3 });
}

/// Guards against a lower-level send that retries, or that says "not sent" of what was.
#[tokio::test]
async fn one_send_is_one_attempt() {
    let node = node(1, |_| Act::Break);
    let streams = client::NodeStreams::new();
    let request =
        v1::Request { operation: Some(v1::request::Operation::Get(v1::Get { key: "k".into() })), ..Default::default() };
    let unanswered = streams.send(node.address(), request.clone(), LONG).answer().await.unwrap_err();
    assert!(unanswered.may_have_arrived);
    assert_eq!(node.requests().len(), 1);
    let unanswered = streams.send(&nobody(), request, LONG).answer().await.unwrap_err();
    assert!(!unanswered.may_have_arrived);
}

/// Guards against a refusal that is taken for one viewleader's trouble: asked on, it would end as "unavailable", without
/// its code.
#[tokio::test]
async fn an_operation_that_is_refused_is_answered() {
    let (views, _) = watch::channel(view(7, &[(1, "127.0.0.1:1")]));
    let leader = leader(&views);
    let leaders = client::Leaders::new(&[nobody(), leader.address.clone()]).unwrap();
    let refusal = Error::NotDone { code: ErrorCode::Refused, message: "too few nodes".to_owned() };
    assert_eq!(leaders.operate(&client::Operation::PauseMoves).await, Err(refusal.clone()));
    assert_eq!(leaders.moves(Some(&client::Operation::PauseMoves)).await, Err(refusal));
    assert_eq!(leaders.moves(None).await.unwrap().epoch.0, 7);
}
