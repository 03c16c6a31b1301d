//! `GET /kvs/keys?prefix=&limit=`: the first keys with a prefix, in order, for scripts that have no client library.
//!
//! Small answers only, made in memory: of all partitions' pages the first keys by their bytes are kept. Like any scan it
//! sees everything that was acknowledged before it began; larger ones are the client library's.

use crate::http::{Gate_, Gateway, bad_request, base64, not_accepted};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use types::limits::KEY_BYTES_MAX;
use wire::v1;
use wire::v1::request::Operation;
use wire::v1::response::Result as Outcome;

/// Keys in an answer, unless it asks for others; and at most.
const LIMIT_DEFAULT: usize = 1_000;
const LIMIT_MAX: usize = 4_096;
/// Partitions asked at a time.
const UNDER_WAY_MAX: usize = 64;

pub(crate) async fn keys(State(gateway): Gate_, Query(query): Query<HashMap<String, String>>) -> Response {
    let limit = query.get("limit").map_or(Ok(LIMIT_DEFAULT), |limit| limit.parse::<usize>());
    let Some(limit) = limit.ok().filter(|limit| (1..=LIMIT_MAX).contains(limit)) else {
        return bad_request("GET", &format!("limit is not a number from 1 to {LIMIT_MAX}"));
    };
    let prefix = Bytes::from(query.get("prefix").cloned().unwrap_or_default());
    if prefix.len() > KEY_BYTES_MAX {
        return bad_request("GET", "Prefix is too long");
    }
    let Some(node) = gateway.gate.node() else { return not_accepted() };
    let count = node.view.borrow().partition_count.get();
    let gateway = &gateway;
    let pages = (0..count).map(|partition| first_keys(gateway, partition, prefix.clone(), limit));
    let mut pages = stream::iter(pages).buffer_unordered(UNDER_WAY_MAX);
    let mut first = BTreeSet::new();
    let mut more = false;
    while let Some(page) = pages.next().await {
        let (keys, longer) = match page {
            Ok(page) => page,
            Err(response) => return gateway.failure("GET", &response),
        };
        more |= longer;
        first.extend(keys);
        while first.len() > limit {
            first.pop_last();
            more = true;
        }
    }
    let keys: Vec<Value> = first.iter().map(|key| json_key(key)).collect();
    let body = json!({ "message": "Keys retrieved successfully", "keys": keys, "more": more });
    (StatusCode::OK, axum::Json(body)).into_response()
}

/// The first keys of one partition, at least `limit` or all, and whether there are more.
async fn first_keys(
    gateway: &Gateway,
    partition: u32,
    prefix: Bytes,
    limit: usize,
) -> Result<(Vec<Bytes>, bool), Box<v1::Response>> {
    let mut keys = Vec::new();
    let mut after = Bytes::new();
    loop {
        let records_max = (limit - keys.len()) as u32;
        let scan =
            v1::Scan { partition, prefix: prefix.clone(), after, records_max, keys_only: true, ..Default::default() };
        let response = gateway.call(Operation::Scan(scan)).await;
        let Some(Outcome::Page(page)) = response.result else { return Err(Box::new(response)) };
        keys.extend(page.items.into_iter().map(|item| item.key));
        if !page.more || keys.len() >= limit {
            return Ok((keys, page.more));
        }
        after = page.resume;
    }
}

fn json_key(key: &[u8]) -> Value {
    match std::str::from_utf8(key) {
        Ok(text) => text.into(),
        Err(_) => json!({ "base64": base64(key) }),
    }
}
