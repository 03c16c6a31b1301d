//! The view, and its changes.

use super::forward::{Leader, forwarded};
use super::{LeadersService, no_leader, update};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};
use types::{ErrorCode, View};
use wire::convert::{cluster_to_wire, error};
use wire::v1;

/// Updates on their way to one watcher; what comes meanwhile is gathered into the next one.
const UPDATES_WAITING_MAX: usize = 2;

impl LeadersService {
    pub(super) async fn view(&self, request: Request<v1::GetViewRequest>) -> v1::GetViewReply {
        let asked = *request.get_ref();
        if asked.linearizable {
            match self.find_leader(&request).await {
                Leader::Here => {}
                Leader::At(leader) => return self.view_of(&leader, asked).await,
                Leader::Nowhere => {
                    return v1::GetViewReply {
                        error: Some(no_leader()),
                        server_time_ms: now_ms(),
                        ..Default::default()
                    };
                }
            }
        }
        let state = self.group.state().borrow().clone();
        let member_addresses = self.group.addresses().into_values().collect();
        let mut reply = v1::GetViewReply { server_time_ms: now_ms(), member_addresses, ..Default::default() };
        match state.view() {
            Some(view) => {
                reply.cluster = cluster_to_wire(view.cluster);
                reply.epoch = view.epoch.0;
                reply.update = (view.epoch.0 > asked.have_epoch).then(|| update(None, view));
            }
            None => {
                let why = "the viewleaders are still forming their group; try again in a moment";
                reply.error = Some(error(ErrorCode::NotBootstrapped, why));
            }
        }
        reply
    }

    async fn view_of(&self, leader: &str, asked: v1::GetViewRequest) -> v1::GetViewReply {
        let answer = match self.forwarder.client(leader) {
            Ok(mut client) => client.get_view(forwarded(asked)).await.map_err(|status| status.to_string()),
            Err(error) => Err(error.to_string()),
        };
        answer.map(tonic::Response::into_inner).unwrap_or_else(|why| v1::GetViewReply {
            error: Some(error(
                ErrorCode::NoLeader,
                format!("the leader at {leader} does not answer: {why}; try again"),
            )),
            server_time_ms: now_ms(),
            ..Default::default()
        })
    }

    /// The view if it is newer than `have_epoch`, then every change, until either side goes.
    pub(super) fn watch(&self, have_epoch: u64) -> ReceiverStream<Result<v1::ViewUpdate, Status>> {
        let (out, updates) = mpsc::channel(UPDATES_WAITING_MAX);
        let mut state = self.group.state();
        let stopping = self.stopping.clone();
        tokio::spawn(async move {
            let mut sent: Option<Arc<View>> = None;
            loop {
                let view = state.borrow_and_update().view().cloned();
                if let Some(view) = view
                    && view.epoch.0 > sent.as_ref().map_or(have_epoch, |sent| sent.epoch.0)
                {
                    let update = update(sent.as_deref(), &view);
                    if out.send(Ok(update)).await.is_err() {
                        return;
                    }
                    sent = Some(view);
                }
                tokio::select! {
                    changed = state.changed() => if changed.is_err() { return },
                    () = out.closed() => return,
                    () = stopping.cancelled() => return,
                }
            }
        });
        ReceiverStream::new(updates)
    }
}

fn now_ms() -> u64 {
    let calendar_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    #[cfg(feature = "faults")]
    let calendar_ms = faults::calendar_ms(calendar_ms);
    calendar_ms
}
