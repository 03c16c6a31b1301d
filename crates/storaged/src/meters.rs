//! What a node counts. Names are stable: dashboards read them.

use crate::shard::SentOut;
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

/// Says what each name means, once.
pub(crate) fn describe() {
    describe_counter!("storaged_requests_total", "Clients' requests given to replicas here");
    describe_counter!("storaged_forwarded_total", "Requests forwarded to another node");
    describe_counter!("storaged_messages_sent_total", "Replication messages sent to peers");
    describe_counter!("storaged_messages_received_total", "Replication messages received from peers");
    describe_counter!("storaged_log_records_total", "Records given to the write-ahead log");
    describe_counter!("storaged_log_syncs_total", "Groups that the write-ahead log made durable, one sync each");
    describe_counter!("storaged_log_bytes_total", "Bytes written to the write-ahead log");
    describe_gauge!("storaged_log_retained_bytes", "Bytes of the write-ahead log that are still needed");
    describe_counter!("storaged_applied_changes_total", "Changes handed to the engine, rewrites merged");
    describe_counter!(
        "storaged_partition_messages_dropped_total",
        "Messages between partitions here that found no room"
    );
    describe_gauge!("storaged_transactions_in_doubt", "Transactions not over for a second, by shard");
    describe_counter!("storaged_peer_batches_total", "Batches received from peers");
    describe_counter!("storaged_scanned_records_total", "Records read from the engine for clients' scans");
    describe_gauge!("storaged_unapplied_bytes", "Bytes that wait for the engine, by shard");
    describe_gauge!("storaged_open_requests", "Requests that wait for their answer, by shard");
    describe_gauge!("storaged_expiring_keys", "Keys with a time to live that this node serves, by shard");
    describe_gauge!("storaged_serving_partitions", "Partitions that this node serves as primary");
    describe_gauge!("storaged_epoch", "The epoch of the node's view");
    describe_gauge!("storaged_leader_session", "1 while a viewleader has accepted this node's session");
    describe_histogram!("storaged_burst_records", "Records of the log per burst of a shard");
}

/// One shard's counters, looked up once.
pub(crate) struct ShardMeters {
    requests: Counter,
    received: Counter,
    sent: Counter,
    records: Counter,
    applied: Counter,
    unapplied: Gauge,
    in_doubt: Gauge,
    open: Gauge,
    timers: Gauge,
    burst_records: Histogram,
}

impl ShardMeters {
    /// The counters of shard `index`.
    pub(crate) fn new(index: usize) -> ShardMeters {
        let shard = index.to_string();
        ShardMeters {
            requests: counter!("storaged_requests_total"),
            received: counter!("storaged_messages_received_total"),
            sent: counter!("storaged_messages_sent_total"),
            records: counter!("storaged_log_records_total"),
            applied: counter!("storaged_applied_changes_total"),
            unapplied: gauge!("storaged_unapplied_bytes", "shard" => shard.clone()),
            in_doubt: gauge!("storaged_transactions_in_doubt", "shard" => shard.clone()),
            open: gauge!("storaged_open_requests", "shard" => shard.clone()),
            timers: gauge!("storaged_expiring_keys", "shard" => shard),
            burst_records: histogram!("storaged_burst_records"),
        }
    }

    /// Requests arrived.
    pub(crate) fn requests(&self, count: usize) {
        self.requests.increment(count as u64);
    }

    /// Messages arrived.
    pub(crate) fn messages_received(&self, count: usize) {
        self.received.increment(count as u64);
    }

    /// So many transactions take long.
    pub(crate) fn in_doubt(&self, count: usize) {
        self.in_doubt.set(count as f64);
    }

    /// Changes went to the engine.
    pub(crate) fn handed_over(&self, changes: usize) {
        self.applied.increment(changes as u64);
    }

    /// A burst is over.
    pub(crate) fn burst(&self, sent: SentOut, unapplied_bytes: usize, open: usize, timers: usize) {
        self.timers.set(timers as f64);
        self.sent.increment(sent.messages as u64);
        if sent.records > 0 {
            self.records.increment(sent.records as u64);
            self.burst_records.record(sent.records as f64);
        }
        self.unapplied.set(unapplied_bytes as f64);
        self.open.set(open as f64);
    }
}
