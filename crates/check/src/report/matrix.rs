//! Every kind of fault against every workload: how often the fault came, how long until everything was served again,
//! and what each workload did while it lasted.

use super::text::grouped;
use super::{FaultSpan, Operations, Report, charts};

/// One kind of fault.
pub(super) struct Row<'a> {
    pub(super) kind: &'a str,
    /// How often it came, and how many of these show that they broke something.
    pub(super) count: usize,
    pub(super) landed: usize,
    /// Of each that recovered, ascending.
    pub(super) recovery_ms: Vec<u64>,
    /// In the order of the report's workloads.
    pub(super) operations: Vec<Operations>,
}

impl Row<'_> {
    /// Between the middle two, their mean.
    pub(super) fn median_ms(&self) -> Option<u64> {
        let ascending = &self.recovery_ms;
        let upper = *ascending.get(ascending.len() / 2)?;
        let lower = ascending[(ascending.len() - 1) / 2];
        Some(lower + (upper - lower) / 2)
    }

    pub(super) fn worst_ms(&self) -> Option<u64> {
        self.recovery_ms.last().copied()
    }
}

/// A row for each kind, in the order in which they first came.
pub(super) fn rows(report: &Report) -> Vec<Row<'_>> {
    charts::kinds(&report.faults).into_iter().map(|kind| row(report, kind)).collect()
}

fn row<'a>(report: &'a Report, kind: &'a str) -> Row<'a> {
    let of_kind = || report.faults.iter().filter(|fault| fault.kind == kind);
    let mut recovery_ms: Vec<u64> = of_kind().filter_map(|fault| fault.recovery_ms).collect();
    recovery_ms.sort_unstable();
    let during = |name: &String| {
        let each = |fault: &FaultSpan| fault.operations.get(name).copied().unwrap_or_default();
        of_kind().map(each).fold(Operations::default(), |sum, more| Operations {
            done: sum.done + more.done,
            not_done: sum.not_done + more.not_done,
            unknown: sum.unknown + more.unknown,
        })
    };
    Row {
        kind,
        count: of_kind().count(),
        landed: of_kind().filter(|fault| fault.landed.is_some()).count(),
        recovery_ms,
        operations: report.workloads.iter().map(|workload| during(&workload.name)).collect(),
    }
}

/// The table as lines of text, indented by two; empty where nothing was broken.
pub fn table(report: &Report) -> String {
    if report.faults.is_empty() {
        return String::new();
    }
    let heads = ["fault", "count", "median", "worst"].map(str::to_owned).into_iter();
    let mut lines = vec![heads.chain(report.workloads.iter().map(|workload| workload.name.clone())).collect()];
    for row in rows(report) {
        let count = match row.landed == row.count {
            true => row.count.to_string(),
            false => format!("{} of {}", row.landed, row.count),
        };
        let ms = |ms: Option<u64>| ms.map_or("–".to_owned(), |ms| format!("{} ms", grouped(ms)));
        let cells = row.operations.iter().map(|operations| match operations.total() {
            0 => "–".to_owned(),
            _ => format!("✓ {}", grouped(operations.done)),
        });
        let (median, worst) = (ms(row.median_ms()), ms(row.worst_ms()));
        lines.push([row.kind.to_owned(), count, median, worst].into_iter().chain(cells).collect());
    }
    let width = |column: usize| lines.iter().map(|line: &Vec<String>| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cell = |(column, cell): (usize, &String)| match column {
            0 => format!("  {cell:<width$}", width = widths[0]),
            _ => format!("  {cell:>width$}", width = widths[column]),
        };
        text += line.iter().enumerate().map(cell).collect::<String>().trim_end();
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Verdict, WorkloadResult};
    use std::collections::BTreeMap;

    fn row_of(recovery_ms: &[u64]) -> Row<'static> {
        Row { kind: "kill", count: 3, landed: 3, recovery_ms: recovery_ms.to_vec(), operations: Vec::new() }
    }

    /// Guards against a median that is one off.
    #[test]
    fn medians() {
        let medians = [&[][..], &[3], &[3, 5], &[3, 5, 90]].map(|times| row_of(times).median_ms());
        assert_eq!(medians, [None, Some(3), Some(4), Some(5)]);
    }

    /// Guards against a table that shows a workload as tested by a fault during which it did nothing, or hides a fault
    /// that did not land.
    #[test]
    fn the_table_shows_what_was_not_tested() {
        let did = |done| Operations { done, ..Operations::default() };
        let fault = |kind: &str, landed: bool, recovery_ms, sets| FaultSpan {
            kind: kind.to_owned(),
            target: "s1".to_owned(),
            began_ms: 0,
            ended_ms: 1,
            landed: landed.then(|| "gone".to_owned()),
            recovery_ms,
            operations: BTreeMap::from([("sets".to_owned(), did(sets))]),
        };
        let workload = |name: &str| WorkloadResult::judged::<()>(name, 1, &[]);
        let report = Report {
            verdict: Verdict::Held,
            sentence: String::new(),
            seed: 1,
            command: String::new(),
            began: String::new(),
            seconds: 1,
            nodes: 1,
            viewleaders: 1,
            faults: vec![
                fault("kill", true, Some(30), 900),
                fault("cut", false, None, 0),
                fault("kill", true, Some(50), 334),
            ],
            timeline: Vec::new(),
            workloads: vec![workload("sets"), workload("locks")],
        };
        let wanted = "  fault   count  median  worst     sets  locks\n  \
                      kill        2   40 ms  50 ms  ✓ 1,234      –\n  \
                      cut    0 of 1       –      –        –      –\n";
        assert_eq!(table(&report), wanted);
        assert_eq!(table(&Report { faults: Vec::new(), ..report }), "");
    }
}
