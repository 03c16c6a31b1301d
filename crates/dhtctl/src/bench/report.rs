//! What a bench prints at its end.

use super::BenchFlags;
use super::load::Seen;
use crate::output;
use serde_json::{Value, json};
use std::time::Duration;

/// A bench's figures, for people and programs.
#[derive(Debug)]
pub(super) struct Report {
    figures: Value,
    lines: Vec<(String, String)>,
    heading: String,
}

impl Report {
    pub(super) fn new(flags: &BenchFlags, seen: &Seen, processor_us: Option<u64>) -> Report {
        let per_second = (seen.operations as f64 / seen.elapsed.as_secs_f64()).round();
        let at = |quantile: f64| rounded(seen.latency_us.value_at_quantile(quantile) as f64 / 1000.0);
        let latency = [
            ("p50", at(0.5)),
            ("p99", at(0.99)),
            ("p99.9", at(0.999)),
            ("max", rounded(seen.latency_us.max() as f64 / 1000.0)),
        ];
        let ms = |gap: Duration| rounded(gap.as_secs_f64() * 1000.0);
        let (gap, gap_of_one) = (ms(seen.longest_gap), ms(seen.longest_gap_of_one));
        let failed: u64 = seen.errors.values().sum();
        let per_operation = processor_us.map(|us| rounded(us as f64 / seen.operations.max(1) as f64));

        let mut lines = vec![
            ("per second".to_owned(), per_second.to_string()),
            ("operations".to_owned(), seen.operations.to_string()),
        ];
        lines.extend(latency.iter().map(|(name, ms)| (format!("latency {name}"), format!("{ms} ms"))));
        lines.push(("longest gap".to_owned(), format!("{gap} ms")));
        lines.push(("longest gap of one client".to_owned(), format!("{gap_of_one} ms")));
        if let Some(us) = per_operation {
            lines.push(("servers' processor time".to_owned(), format!("{us} µs per operation")));
        }
        lines.push(("errors".to_owned(), failed.to_string()));
        lines.extend(seen.errors.iter().map(|(kind, count)| (format!("  {kind}"), count.to_string())));

        let figures = json!({
            "workload": flags.workload.name(),
            "clients": flags.clients,
            "value_bytes": flags.value_bytes,
            "keys": flags.keys,
            "seconds": rounded(seen.elapsed.as_secs_f64()),
            "operations": seen.operations,
            "per_second": per_second,
            "latency_ms": {
                "p50": latency[0].1, "p99": latency[1].1, "p99_9": latency[2].1, "max": latency[3].1,
                "mean": rounded(seen.latency_us.mean() / 1000.0),
            },
            "longest_gap_ms": gap,
            "longest_gap_of_one_client_ms": gap_of_one,
            "servers_processor_us_per_operation": per_operation,
            "errors": seen.errors,
        });
        let heading = format!(
            "{}: {}, values of {}, {}",
            flags.workload.name(),
            output::counted(flags.clients as usize, "client"),
            output::counted(flags.value_bytes as usize, "byte"),
            output::counted(flags.keys as usize, "key"),
        );
        Report { figures, lines, heading }
    }

    pub(super) fn text(&self) -> String {
        let width = self.lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let line = |(name, value): &(String, String)| {
            let gap = " ".repeat(width - name.chars().count());
            format!("  {name}{gap}  {value}")
        };
        let lines: Vec<String> = self.lines.iter().map(line).collect();
        format!("{}\n\n{}", self.heading, lines.join("\n"))
    }

    pub(super) fn json(&self) -> Value {
        self.figures.clone()
    }
}

/// Two digits after the point are as precise as this gets.
fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Workload;
    use hdrhistogram::Histogram;

    fn seen() -> Seen {
        let mut latency_us = Histogram::new_with_max(600_000_000, 3).unwrap();
        (0..1000).for_each(|_| latency_us.record(1500).unwrap());
        latency_us.record(80_000).unwrap();
        Seen {
            operations: 1001,
            elapsed: Duration::from_secs(2),
            latency_us,
            longest_gap: Duration::from_micros(80_400),
            longest_gap_of_one: Duration::from_millis(91),
            errors: [("unavailable", 2)].into(),
        }
    }

    fn flags() -> BenchFlags {
        BenchFlags {
            workload: Workload::Put,
            clients: 64,
            value_bytes: 256,
            keys: 10_000,
            seconds: 2,
            cluster_file: None,
            cluster: Default::default(),
        }
    }

    /// Guards against figures that change their name or place, and against a gap that is not shown.
    #[test]
    fn figures_for_people() {
        assert_eq!(
            Report::new(&flags(), &seen(), Some(50_050)).text(),
            "\
put: 64 clients, values of 256 bytes, 10000 keys

  per second                 501
  operations                 1001
  latency p50                1.5 ms
  latency p99                1.5 ms
  latency p99.9              1.5 ms
  latency max                80.06 ms
  longest gap                80.4 ms
  longest gap of one client  91 ms
  servers' processor time    50 µs per operation
  errors                     2
    unavailable              2"
        );
    }

    /// Guards against JSON that changes under scripts.
    #[test]
    fn figures_for_programs() {
        let json = Report::new(&flags(), &seen(), None).json();
        assert_eq!(json["per_second"], 501.0);
        assert_eq!(json["latency_ms"]["p99"], 1.5);
        assert_eq!(json["longest_gap_ms"], 80.4);
        assert_eq!(json["errors"], json!({ "unavailable": 2 }));
        assert_eq!(json["servers_processor_us_per_operation"], Value::Null);
    }
}
