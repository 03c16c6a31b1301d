//! The page of a small report, as text. `UPDATE_GOLDENFILES=1 cargo test -p check --test report` writes it anew; look
//! at it in a browser, light and dark, before you keep it.

use check::report::{FaultSpan, Operations, Piece, PieceOperation, Report, Second, Verdict, WorkloadResult, html};
use std::path::Path;

fn fault(kind: &str, target: &str, began_ms: u64, ended_ms: u64, recovery_ms: Option<u64>) -> FaultSpan {
    let landed = Some("the process was gone".to_owned());
    let did = |done, unknown| Operations { done, not_done: 0, unknown };
    let operations = [("registers", did(2_140, 3)), ("sets", did(900, 0))];
    let operations = operations.map(|(name, operations)| (name.to_owned(), operations)).into();
    let (kind, target) = (kind.to_owned(), target.to_owned());
    FaultSpan { kind, target, began_ms, ended_ms, landed, recovery_ms, operations }
}

/// A minute with five faults, of which one did not land, and a stale read.
fn small() -> Report {
    let faults = vec![
        fault("kill", "node 3", 6_000, 9_000, Some(1_240)),
        fault("pause", "node 1", 15_000, 21_500, Some(7_900)),
        fault("kill", "node 2", 28_000, 31_000, Some(980)),
        FaultSpan { landed: None, ..fault("cut", "node 1 -> node 4", 38_000, 44_000, None) },
        fault("fsync slow", "node 5 <disk>", 40_000, 52_000, Some(2_100)),
    ];
    let second = |at_s: u32| {
        let is_hit =
            faults.iter().any(|f| (f.began_ms..f.ended_ms.min(f.began_ms + 2_000)).contains(&(u64::from(at_s) * 1000)));
        let done = if is_hit { 180 } else { 1_900 + u64::from(at_s * 37 % 160) };
        let p50_us = 1_400 + u64::from(at_s * 53 % 300);
        let slow = if is_hit { 90 } else { 1 };
        Second {
            at_s,
            done,
            not_done: u64::from(at_s.is_multiple_of(9)) * 12,
            unknown: if is_hit { 40 } else { 0 },
            p50_us,
            p99_us: p50_us * 4 * slow,
            max_us: p50_us * 9 * slow,
        }
    };
    let operation =
        |client, began_us, ended_us, text: &str| PieceOperation { client, began_us, ended_us, text: text.to_owned() };
    let piece = Piece {
        title: "key hot-3 is not linearizable".to_owned(),
        operations: vec![
            operation(4, 31_000_000, Some(31_001_900), "put hot-3 = \"a\" → version 41"),
            operation(7, 31_001_200, None, "put hot-3 = \"<b>\" → unknown"),
            operation(2, 31_004_000, Some(31_006_000), "get hot-3 → \"<b>\" at version 42"),
            operation(4, 31_007_000, Some(31_008_100), "get hot-3 → \"a\" at version 41"),
        ],
    };
    let held = |name: &str, operations| WorkloadResult {
        name: name.to_owned(),
        operations,
        verdict: Verdict::Held,
        sentence: format!("{operations} operations are all explained"),
        violation: None,
    };
    let registers = WorkloadResult {
        verdict: Verdict::Violated,
        sentence: "the history of key hot-3 is not linearizable: a read saw version 41 after version 42".to_owned(),
        violation: Some(piece),
        ..held("registers", 58_213)
    };
    Report {
        verdict: Verdict::Violated,
        sentence: "registers: the history of key hot-3 is not linearizable".to_owned(),
        seed: 18_446_744_073_709_551_615,
        command: "dht-chaos run --seed 18446744073709551615 --minutes 1 --faults 'kill,pause,cut,fsync slow'"
            .to_owned(),
        began: "2026-03-01T12:00:00Z".to_owned(),
        seconds: 60,
        nodes: 5,
        viewleaders: 3,
        timeline: (0..60).map(second).collect(),
        faults,
        workloads: vec![registers, held("sets", 21_400), held("counters", 30_000)],
    }
}

/// Guards against a page that changes without anybody having looked at it.
#[test]
fn the_page_of_a_small_report() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/report.html");
    let page = html(&small());
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    let first = page.lines().zip(golden.lines()).find(|(new, old)| new != old);
    assert!(page == golden, "the page differs from {}: {first:#?}", path.display());
}

/// Guards against JSON that loses something, and against words in it that others can't read.
#[test]
fn json_and_back() {
    let report = small();
    let json = report.to_json();
    assert_eq!(Report::from_json(&json).unwrap(), report);
    for verdict in ["held", "violated"] {
        assert!(json.contains(&format!("\"verdict\": \"{verdict}\"")), "{json}");
    }
    assert_eq!(serde_json::to_string(&Verdict::FaultsDidNotLand).unwrap(), "\"faults_did_not_land\"");
    let error = Report::from_json("{}").unwrap_err().to_string();
    assert!(error.starts_with("this is no report of a run: missing field `verdict`"), "{error}");
}

/// Guards against text of a run that becomes markup, and against anything fetched from elsewhere.
#[test]
fn the_page_is_closed() {
    const EVIL: &str = "</title></svg><script src=//evil>\"'&";
    let mut report = small();
    let workload = &mut report.workloads[0];
    for text in
        [&mut workload.name, &mut workload.sentence, &mut report.sentence, &mut report.command, &mut report.began]
    {
        EVIL.clone_into(text);
    }
    let fault = &mut report.faults[0];
    EVIL.clone_into(&mut fault.kind);
    EVIL.clone_into(&mut fault.target);
    report.faults[1].landed = Some(EVIL.to_owned());
    let piece = workload.violation.as_mut().unwrap();
    EVIL.clone_into(&mut piece.title);
    EVIL.clone_into(&mut piece.operations[0].text);
    let page = html(&report);
    assert!(!page.contains("<script") && !page.contains("evil>"), "markup came through");
    assert_eq!(page.matches("</title>").count(), page.matches("<title>").count());
    for outside in ["http:", "https:", "url(//", "@import", "src="] {
        assert!(!html(&small()).contains(outside), "{outside}");
    }
}

/// Guards against a page that breaks, or grows without end, where a report is empty, long or odd.
#[test]
fn odd_reports() {
    let mut report = small();
    (report.faults, report.timeline, report.workloads) = (Vec::new(), Vec::new(), Vec::new());
    assert!(html(&report).contains("Neither a fault nor any load was recorded."));

    let mut report = small();
    let last = report.timeline[59].clone();
    report.timeline = (0..100_000).map(|at_s| Second { at_s, ..last.clone() }).collect();
    report.seconds = 100_000;
    let piece = report.workloads[0].violation.as_mut().unwrap();
    piece.operations = (0..5_000).map(|i| PieceOperation { began_us: i, ..piece.operations[0].clone() }).collect();
    piece.operations[0].ended_us = Some(0);
    assert!(html(&report).len() < 400_000, "{}", html(&report).len());

    let mut report = small();
    for fault in &mut report.faults {
        (fault.began_ms, fault.ended_ms, fault.recovery_ms) = (u64::MAX, 0, Some(u64::MAX));
    }
    for second in &mut report.timeline {
        (second.done, second.p50_us, second.p99_us, second.max_us) = (0, 0, 0, u64::MAX);
    }
    report.workloads[0].violation = Some(Piece::default());
    let page = html(&report);
    assert!(!page.contains("NaN") && !page.contains("inf"), "a figure that can't be drawn");
}
