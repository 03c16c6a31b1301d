//! The HTTP gateway: keys as JSON, for scripts and people with curl. Same path as gRPC from the router on.
//!
//! `PUT|GET|DELETE /kvs/keys/{key}`, `GET /kvs/key-count`, `/kvs/shards`, `/kvs/shards/{id}`; a shard here is a
//! partition. The bodies are an interface that scripts know: words and field names stay as they are.

use crate::clock;
use crate::gate::Gate;
use crate::kv::router;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use engine::Engine;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use types::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use types::{ErrorCode, NodeId, PartitionId};
use wire::v1;
use wire::v1::request::Operation;
use wire::v1::response::Result as Outcome;

/// JSON may write one byte as six.
const BODY_BYTES_MAX: usize = 6 * VALUE_BYTES_MAX + 1024;

/// How long a request is tried again while its partition changes hands: a takeover ends well within it.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two attempts, growing to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(50);

pub(crate) struct Gateway {
    pub(crate) gate: Arc<Gate>,
    engine: Arc<dyn Engine>,
    /// Names this gateway's mutations (P28): drawn when first needed.
    client: u64,
    counter: AtomicU64,
}

/// The gateway's paths.
///
/// # Errors
/// [`crate::Error::System`] without a random source.
pub(crate) fn router(gate: Arc<Gate>, engine: Arc<dyn Engine>) -> Result<Router, crate::Error> {
    let client = getrandom::u64()
        .map_err(|error| crate::Error::System { action: "draw a random number", reason: error.to_string() })?;
    let gateway = Arc::new(Gateway { gate, engine, client, counter: AtomicU64::new(0) });
    Ok(Router::new()
        .route("/kvs/keys", get(crate::http_scan::keys))
        .route("/kvs/keys/{key}", get(get_key).put(put_key).delete(delete_key))
        .route("/kvs/key-count", get(key_count))
        .route("/kvs/shards", get(shards))
        .route("/kvs/shards/{id}", get(shard))
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(gateway))
}

pub(crate) type Gate_ = State<Arc<Gateway>>;

async fn put_key(State(gateway): Gate_, Path(key): Path<String>, body: Bytes) -> Response {
    let mut body = serde_json::from_slice::<Map<String, Value>>(&body).unwrap_or_default();
    let ttl_ms = match body.remove("ttl_ms") {
        None | Some(Value::Null) => 0,
        Some(ttl) => match ttl.as_u64().filter(|ttl_ms| *ttl_ms > 0) {
            Some(ttl_ms) => ttl_ms,
            None => return bad_request("PUT", "ttl_ms is not a number of milliseconds"),
        },
    };
    let lease = match body.remove("lease") {
        None | Some(Value::Null) => 0,
        Some(lease) => match lease.as_u64().filter(|lease| *lease > 0 && ttl_ms == 0) {
            Some(lease) => lease,
            None => return bad_request("PUT", "lease is not a lease's number, or there is a ttl_ms too"),
        },
    };
    let Ok(fence) = fence(body.remove("fence")) else { return bad_request("PUT", "Fence is not NAME:TOKEN") };
    let value = match body.remove("value") {
        None | Some(Value::Null) => return bad_request("PUT", "Value is missing"),
        Some(Value::String(text)) => Bytes::from(text),
        Some(other) => Bytes::from(other.to_string()),
    };
    if key.len() > KEY_BYTES_MAX {
        return bad_request("PUT", "Key is too long");
    }
    let request = Some(gateway.request_id());
    let put = v1::Put { key: key.into(), value, condition: None, request, fence, ttl_ms, lease };
    let response = gateway.call(Operation::Put(put)).await;
    match &response.result {
        Some(Outcome::Written(written)) => {
            let (status, message) = match written.replaced {
                true => (StatusCode::OK, "Updated successfully"),
                false => (StatusCode::CREATED, "Added successfully"),
            };
            let body = json!({ "message": message, "replaced": written.replaced, "version": written.version });
            gateway.answer(status, body, &response)
        }
        _ => gateway.failure("PUT", &response),
    }
}

async fn get_key(State(gateway): Gate_, Path(key): Path<String>) -> Response {
    let response = gateway.call(Operation::Get(v1::Get { key: key.into() })).await;
    match &response.result {
        Some(Outcome::Found(found)) => {
            let mut body = json!({
                "doesExist": true,
                "message": "Retrieved successfully",
                "version": found.version,
            });
            match std::str::from_utf8(&found.value) {
                Ok(text) => body["value"] = text.into(),
                Err(_) => {
                    body["value"] = base64(&found.value).into();
                    body["encoding"] = "base64".into();
                }
            }
            gateway.answer(StatusCode::OK, body, &response)
        }
        _ => gateway.failure("GET", &response),
    }
}

async fn delete_key(State(gateway): Gate_, Path(key): Path<String>, body: Bytes) -> Response {
    let mut body = serde_json::from_slice::<Map<String, Value>>(&body).unwrap_or_default();
    let Ok(fence) = fence(body.remove("fence")) else { return bad_request("DELETE", "Fence is not NAME:TOKEN") };
    let request = Some(gateway.request_id());
    let delete = v1::Delete { key: key.into(), condition: None, request, fence };
    let response = gateway.call(Operation::Delete(delete)).await;
    match &response.result {
        Some(Outcome::Written(written)) => {
            let body = json!({ "doesExist": true, "message": "Deleted successfully", "version": written.version });
            gateway.answer(StatusCode::OK, body, &response)
        }
        _ => gateway.failure("DELETE", &response),
    }
}

async fn key_count(State(gateway): Gate_) -> Response {
    let keyspaces = gateway.engine.statistics().keyspaces;
    let count: u64 = keyspaces.values().map(|keyspace| keyspace.user_records).sum();
    (StatusCode::OK, axum::Json(json!({ "message": "Key count retrieved successfully", "key-count": count })))
        .into_response()
}

async fn shards(State(gateway): Gate_) -> Response {
    let Some(node) = gateway.gate.node() else { return not_accepted() };
    let ids: Vec<u32> = (0..node.view.borrow().configurations.len() as u32).collect();
    (StatusCode::OK, axum::Json(json!({ "message": "Shard membership retrieved successfully", "shards": ids })))
        .into_response()
}

async fn shard(State(gateway): Gate_, Path(id): Path<String>) -> Response {
    let Some(node) = gateway.gate.node() else { return not_accepted() };
    let view = node.view.borrow().clone();
    let partition = id.parse().ok().map(PartitionId);
    let Some((partition, configuration)) = partition.zip(partition.and_then(|p| view.configuration(p))) else {
        let body = json!({ "error": "Shard does not exist", "message": "Error in GET" });
        return (StatusCode::NOT_FOUND, axum::Json(body)).into_response();
    };
    let address = |node: &NodeId| view.nodes.get(node).map(|node| node.http_address.clone());
    let replicas: Vec<String> = configuration.replicas.iter().filter_map(address).collect();
    let keyspaces = gateway.engine.statistics().keyspaces;
    let here = keyspaces.iter().filter(|(keyspace, _)| keyspace.partition == partition);
    let count: u64 = here.map(|(_, keyspace)| keyspace.user_records).sum();
    let body = json!({
        "message": "Shard information retrieved successfully",
        "shard-id": partition.0,
        "key-count": count,
        "replicas": replicas,
    });
    (StatusCode::OK, axum::Json(body)).into_response()
}

impl Gateway {
    /// A request, again and again while its partition changes hands: what was refused then had no effect, and people with
    /// curl have no client library that would try again for them.
    pub(crate) async fn call(&self, operation: Operation) -> v1::Response {
        let until = Instant::now() + HANDOVER_PATIENCE;
        let mut pause = PAUSE_MIN;
        loop {
            let request = v1::Request { operation: Some(operation.clone()), ..Default::default() };
            let response = router::call(&self.gate, request).await;
            let code = match &response.result {
                Some(Outcome::Error(error)) => Some(ErrorCode::from_number(error.code)),
                _ => None,
            };
            let changes_hands = matches!(code, Some(ErrorCode::NotPrimary | ErrorCode::Unavailable));
            if !changes_hands || Instant::now() + pause > until || self.gate.node().is_none() {
                return response;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn request_id(&self) -> v1::RequestId {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        v1::RequestId { client: self.client, counter, stamp: clock::calendar_ms() }
    }

    /// An answer, with the address of the node that gave it where that is another one.
    fn answer(&self, status: StatusCode, mut body: Value, response: &v1::Response) -> Response {
        if let Some(node) = self.gate.node()
            && response.node != 0
            && response.node != node.me.node.0
        {
            let view = node.view.borrow();
            if let Some(other) = view.nodes.get(&NodeId(response.node)) {
                body["address"] = other.http_address.clone().into();
            }
        }
        (status, axum::Json(body)).into_response()
    }

    pub(crate) fn failure(&self, method: &str, response: &v1::Response) -> Response {
        let message = format!("Error in {method}");
        match &response.result {
            Some(Outcome::NotFound(_)) => {
                let body = json!({ "doesExist": false, "error": "Key does not exist", "message": message });
                self.answer(StatusCode::NOT_FOUND, body, response)
            }
            Some(Outcome::Fenced(fenced)) => {
                let body = json!({
                    "error": "The lock was granted again since", "message": message, "newest-token": fenced.newest,
                });
                self.answer(StatusCode::CONFLICT, body, response)
            }
            Some(Outcome::Error(error)) => {
                let status = match ErrorCode::from_number(error.code) {
                    ErrorCode::Invalid => StatusCode::BAD_REQUEST,
                    ErrorCode::Unknown | ErrorCode::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
                    ErrorCode::Overloaded => StatusCode::TOO_MANY_REQUESTS,
                    ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
                    _ => StatusCode::SERVICE_UNAVAILABLE,
                };
                let body = json!({ "error": error.message, "message": message });
                self.answer(status, body, response)
            }
            _ => {
                let body = json!({ "error": "an answer of another kind; a bug", "message": message });
                self.answer(StatusCode::INTERNAL_SERVER_ERROR, body, response)
            }
        }
    }
}

/// `"fence": "NAME:TOKEN"`, where it is there. A name may have colons too.
fn fence(value: Option<Value>) -> Result<Option<v1::Fence>, ()> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => {
            let (name, token) = text.rsplit_once(':').ok_or(())?;
            let fence = v1::Fence { name: name.to_owned(), token: token.parse().map_err(|_| ())? };
            // What it means is checked once, where all requests are.
            Ok(Some(fence))
        }
        Some(_) => Err(()),
    }
}

pub(crate) fn bad_request(method: &str, error: &str) -> Response {
    let body = json!({ "error": error, "message": format!("Error in {method}") });
    (StatusCode::BAD_REQUEST, axum::Json(body)).into_response()
}

pub(crate) fn not_accepted() -> Response {
    let body = json!({ "error": "no viewleader has accepted this node yet", "message": "Error in GET" });
    (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response()
}

/// RFC 4648's alphabet with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let symbol = ALPHABET[(group >> (18 - 6 * place)) as usize & 63] as char;
            text.push(if place > chunk.len() { '=' } else { symbol });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a fence that is passed over because it was not understood.
    #[test]
    fn a_fence_is_there_or_not_or_wrong() {
        assert_eq!(fence(None), Ok(None));
        assert_eq!(fence(Some(json!("jobs:eu:7"))), Ok(Some(v1::Fence { name: "jobs:eu".into(), token: 7 })));
        for wrong in [json!("jobs"), json!("jobs:"), json!(7), json!("jobs:-1"), json!({})] {
            assert_eq!(fence(Some(wrong)), Err(()));
        }
    }

    /// Guards against an encoder that is wrong at the end of its input.
    #[test]
    fn base64_is_as_the_standard_has_it() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
