//! Whole runs of the harness: what it says, and what it leaves behind.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Arguments for `dht-chaos`, whose directories are all under `place`.
fn dht_chaos(place: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dht-chaos"));
    command.args(arguments.split_whitespace()).env("TMPDIR", place.join("tmp")).stdin(Stdio::null());
    if arguments.starts_with("run") || arguments.starts_with("matrix") {
        command.arg("--report").arg(place.join("report"));
    }
    command
}

fn place() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join("tmp")).unwrap();
    place
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout))
}

fn report(place: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(place.join("report/report.json")).unwrap()).unwrap()
}

/// What runs with a directory under `place`: every server names its own on its command line.
fn processes_of(place: &Path) -> Vec<String> {
    let place = place.display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(&place)).collect()
}

fn assert_nothing_is_left(place: &Path) {
    assert_eq!(processes_of(place), Vec::<String>::new());
    let left: Vec<_> = std::fs::read_dir(place.join("tmp")).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Guards against a harness that fails a store which holds, or leaves something behind.
#[test]
fn a_short_run_holds_and_leaves_nothing() {
    let place = place();
    let output =
        dht_chaos(place.path(), "run --seconds 20 --faults kill,pause,cut --seed 1 --floor 0").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_nothing_is_left(place.path());
    let report = report(place.path());
    assert_eq!(report["verdict"], "held");
    let faults = report["faults"].as_array().unwrap();
    assert!(!faults.is_empty() && faults.iter().all(|fault| fault["landed"].is_string()), "{faults:?}");
    let page = std::fs::read_to_string(place.path().join("report/report.html")).unwrap();
    assert!(page.contains("dht-chaos run --seconds 20 --seed 1"), "the page has the command that replays it");
}

/// Guards against a harness that breaks nothing and says that everything held.
#[test]
fn a_cut_that_cuts_nothing_fails_the_run() {
    let place = place();
    let output = dht_chaos(place.path(), "run --seconds 9 --faults empty-cut --seed 1 --floor 0").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("blocked nothing"), "{}", text(&output));
    assert_eq!(report(place.path())["verdict"], "faults_did_not_land");
    // What was found can be looked into.
    let kept = std::fs::read_dir(place.path().join("tmp")).unwrap().flatten().next().unwrap().path();
    assert!(text(&output).contains(&kept.display().to_string()), "{}", text(&output));
    assert!(kept.join("s1.log").exists());
    assert_eq!(processes_of(place.path()), Vec::<String>::new());
}

/// Guards against a fault that was not tried on every workload, and a table that does not say so; and against a viewleader
/// that goes on with a log or a disk that it can't trust.
#[test]
fn a_matrix_has_no_empty_cell() {
    const FAULTS: [&str; 2] = ["leader-flip", "leader-disk-full"];
    let place = place();
    let line = format!("matrix --faults {} --seed 1 --floor 0", FAULTS.join(","));
    let output = dht_chaos(place.path(), &line).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_nothing_is_left(place.path());
    let said = text(&output);
    let head = said.lines().find(|line| line.trim_start().starts_with("fault ")).unwrap();
    let workloads = head.split_whitespace().count() - ["fault", "count", "median", "worst"].len();
    for fault in FAULTS {
        let row = said.lines().find(|line| line.starts_with(&format!("  {fault} "))).unwrap();
        assert_eq!(row.matches('✓').count(), workloads, "{said}");
    }
    let report = report(place.path());
    let cells = report["faults"].as_array().unwrap().iter().flat_map(|fault| fault["operations"].as_object().unwrap());
    assert_eq!(cells.count(), FAULTS.len() * workloads, "{report}");
}

/// Guards against a load that stands still and proves nothing.
#[test]
fn a_load_below_the_floor_fails_the_run() {
    let place = place();
    let output =
        dht_chaos(place.path(), "run --seconds 4 --faults none --workloads sets --floor 1000000").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_eq!(report(place.path())["verdict"], "load_too_low");
}

/// Guards against a server that ended by itself and passes for one that a fault had killed.
#[test]
fn a_server_that_ends_by_itself_fails_the_run() {
    let place = place();
    let output = dht_chaos(place.path(), "run --rounds 1 --faults own-end --seed 5 --workloads sets").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let report = report(place.path());
    assert_eq!(report["verdict"], "violated");
    let sentence = report["sentence"].as_str().unwrap();
    assert!(sentence.contains("was killed by signal 6 before it was killed"), "{sentence}");
}

/// Guards against a run that held because it was over before anything was broken, and one that takes the place of the
/// report that somebody wanted to keep.
#[test]
fn a_run_without_time_for_a_fault_fails_and_keeps_the_report_before_it() {
    let place = place();
    std::fs::create_dir(place.path().join("report")).unwrap();
    std::fs::write(place.path().join("report/report.json"), "kept").unwrap();
    let output = dht_chaos(place.path(), "run --seconds 1 --workloads sets --floor 0").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_eq!(report(place.path())["verdict"], "faults_did_not_land");
    assert_eq!(std::fs::read_to_string(place.path().join("report/previous.json")).unwrap(), "kept");
}

/// Guards against hours of a run whose report then can't be written.
#[test]
fn a_report_that_cannot_be_written_is_noticed_before_the_run() {
    let place = place();
    std::fs::write(place.path().join("report"), "a file").unwrap();
    let output = dht_chaos(place.path(), "run --minutes 5").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_eq!(text(&output).lines().count(), 1, "{}", text(&output));
    assert_nothing_is_left(place.path());
}

/// Guards against what Ctrl-C leaves behind: processes that go on, one that is stopped, a directory.
#[test]
fn ctrl_c_leaves_nothing() {
    let place = place();
    let mut child = dht_chaos(place.path(), "run --minutes 5 --faults long-pause --seed 1")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().contains("clients ask")).unwrap().unwrap();
    // Until something is stopped: a stopped process does not notice that anybody has gone.
    while !processes_stopped(place.path()) {
        std::thread::yield_now();
    }
    let asked = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(asked.success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(child.wait().unwrap().code(), Some(4), "{rest:?}");
    assert_nothing_is_left(place.path());
    assert!(!place.path().join("report").exists(), "an empty directory for a report that never came");
}

/// Guards against namespaces and links that outlive a run which was interrupted. Only root may make them: for anybody else
/// this shows nothing.
#[test]
fn ctrl_c_leaves_no_namespace() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = place();
    let mut child = dht_chaos(place.path(), "run --minutes 5 --faults cut --seed 3 --netns --nodes 3")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let left = format!("dc{}", child.id());
    let there = || {
        let namespaces = Command::new("ip").args(["netns", "list"]).output().unwrap();
        let links = Command::new("ip").args(["-brief", "link", "show"]).output().unwrap();
        (text(&namespaces) + &text(&links)).lines().filter(|line| line.starts_with(&left)).count()
    };
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().contains("clients ask")).unwrap().unwrap();
    assert!(there() > 0, "the cluster has namespaces");
    let asked = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(asked.success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(child.wait().unwrap().code(), Some(4), "{rest:?}");
    assert_eq!(there(), 0);
    assert_nothing_is_left(place.path());
}

/// Whether the kernel shows one of the servers as stopped.
fn processes_stopped(place: &Path) -> bool {
    let place = place.display().to_string();
    std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let read = |name: &str| std::fs::read(process.path().join(name)).unwrap_or_default();
        let stat = String::from_utf8_lossy(&read("stat")).into_owned();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
            && String::from_utf8_lossy(&read("cmdline")).contains(&place)
    })
}

/// Guards against an end of the harness that nobody can catch: servers that outlive it, the stopped one too.
#[test]
fn servers_end_with_a_harness_that_is_killed() {
    let place = place();
    let mut child = dht_chaos(place.path(), "run --minutes 5 --faults long-pause --seed 2")
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !processes_stopped(place.path()) {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // The kernel ends them; there is nothing to wait for but that.
    while !processes_of(place.path()).is_empty() {
        std::thread::yield_now();
    }
}

/// Guards against a replay of what is no report.
#[test]
fn what_is_no_report_is_not_replayed() {
    let place = place();
    let file = place.path().join("no-report.json");
    std::fs::write(&file, "{}").unwrap();
    let output = dht_chaos(place.path(), &format!("replay {}", file.display())).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert_eq!(text(&output).lines().count(), 1, "{}", text(&output));
}
