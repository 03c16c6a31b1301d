//! What clients of a group see and are told, and what must hold of it whatever happened.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::transport::Channel;
use types::{NodeId, View};
use wire::convert::apply_view_update;
use wire::v1;
use wire::v1::leaders_client::LeadersClient;
use wire::v1::operate_request::Operation;

/// Longest wait for one answer: a member that is cut off answers nobody.
pub const CALL_MAX: Duration = Duration::from_secs(1);
/// Before something is tried again.
pub const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// What everybody has seen and heard.
#[derive(Default)]
pub struct Seen {
    views: Mutex<BTreeMap<u64, View>>,
    /// Weights in the order in which they were asked for; with its epoch where it was acknowledged.
    weights: Mutex<Vec<(u32, Option<u64>)>>,
    acknowledged: AtomicU64,
    /// Of an acknowledged change.
    highest_epoch: AtomicU64,
}

impl Seen {
    /// Of one epoch there is one view, whoever tells.
    fn view(&self, by: usize, view: &View) {
        let mut views = self.views.lock().unwrap();
        let there = views.entry(view.epoch.0).or_insert_with(|| view.clone());
        assert_eq!(there, view, "member {by} has another view of {}", view.epoch);
    }

    /// How many changes were acknowledged.
    pub fn changes(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// An acknowledged weight is in the view of its epoch; and at the end the last acknowledged one stands, or one that
    /// was never answered.
    pub fn check_weights(&self, node: NodeId, last: &View) {
        let (views, weights) = (self.views.lock().unwrap(), self.weights.lock().unwrap());
        for (weight, epoch) in weights.iter().filter_map(|(weight, epoch)| Some((*weight, (*epoch)?))) {
            assert!(
                epoch <= last.epoch.0,
                "weight {weight} was acknowledged at epoch {epoch}, the last is {}",
                last.epoch
            );
            if let Some(view) = views.get(&epoch) {
                assert_eq!(view.nodes[&node].weight, weight, "at epoch {epoch}");
            }
        }
        let (last_acknowledged, _) = weights.iter().rfind(|(_, epoch)| epoch.is_some()).unwrap();
        let stands = last.nodes[&node].weight;
        // What was never answered may happen at any time.
        let unknown = weights.iter().any(|(weight, epoch)| *weight == stands && epoch.is_none());
        assert!(
            stands == *last_acknowledged || unknown,
            "{stands} stands at the end, {last_acknowledged} was acknowledged last"
        );
    }
}

/// Follows one member's views for ever; epochs never fall while it is watched.
pub async fn watch(mut leaders: LeadersClient<Channel>, member: usize, seen: Arc<Seen>) {
    loop {
        let request = v1::WatchViewRequest { have_epoch: 0 };
        if let Ok(Ok(updates)) = tokio::time::timeout(CALL_MAX, leaders.watch_view(request)).await {
            let mut updates = updates.into_inner();
            let mut view: Option<View> = None;
            while let Ok(Some(update)) = updates.message().await {
                let next = apply_view_update(view.as_ref(), update).unwrap();
                assert!(view.is_none_or(|view| view.epoch <= next.epoch), "member {member} went back");
                seen.view(member, &next);
                view = Some(next);
            }
        }
        // Down: there is nothing to await but its return.
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Changes one node's weight for ever, asking the members in turn, and notes what was acknowledged.
pub async fn operate(members: Vec<LeadersClient<Channel>>, node: NodeId, seen: Arc<Seen>) {
    for (turn, weight) in (101..).enumerate() {
        seen.weights.lock().unwrap().push((weight, None));
        let operation = Operation::SetWeight(v1::SetWeight { node: node.0, weight });
        let request = v1::OperateRequest { operation: Some(operation) };
        let mut leaders = members[turn % members.len()].clone();
        let reply = tokio::time::timeout(CALL_MAX, leaders.operate(request)).await;
        if let Ok(Ok(reply)) = reply
            && let v1::OperateReply { error: None, epoch } = reply.into_inner()
        {
            seen.weights.lock().unwrap().last_mut().unwrap().1 = Some(epoch);
            seen.highest_epoch.fetch_max(epoch, Ordering::SeqCst);
            seen.acknowledged.fetch_add(1, Ordering::SeqCst);
        } else {
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

/// Asks the members in turn for what the group has, for ever: nobody answers without what was acknowledged before.
pub async fn read(members: Vec<LeadersClient<Channel>>, seen: Arc<Seen>) {
    for turn in 0usize.. {
        let acknowledged = seen.highest_epoch.load(Ordering::SeqCst);
        let request = v1::GetViewRequest { have_epoch: u64::MAX, linearizable: true };
        let place = turn % members.len();
        if let Ok(Ok(reply)) = tokio::time::timeout(CALL_MAX, members[place].clone().get_view(request)).await
            && let v1::GetViewReply { error: None, epoch, .. } = reply.into_inner()
        {
            assert!(
                epoch >= acknowledged,
                "member {place} told of epoch {epoch}; {acknowledged} was acknowledged before"
            );
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// What the group has, asked of any member until one answers for all.
pub async fn last_view(mut member: LeadersClient<Channel>) -> View {
    loop {
        let request = v1::GetViewRequest { have_epoch: 0, linearizable: true };
        if let Ok(Ok(reply)) = tokio::time::timeout(CALL_MAX, member.get_view(request)).await
            && let v1::GetViewReply { error: None, update: Some(update), .. } = reply.into_inner()
        {
            return apply_view_update(None, update).unwrap();
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}
