//! Who may know whom (ARCHITECTURE.md), held by `cargo metadata`: a wrong edge would let I/O into a core, or a library
//! that is fragile on purpose spread beyond its one crate.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Crate, and the crates of this workspace that it may depend on (dev-dependencies aside).
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("wire", &["types"]),
    ("viewcore", &["types"]),
    ("replcore", &["types"]),
    ("wal", &["types", "faults"]),
    ("engine", &["types"]),
    ("daemon", &["types"]),
    ("viewleader", &["types", "wire", "viewcore", "wal", "daemon", "faults"]),
    ("storaged", &["types", "wire", "replcore", "wal", "engine", "client", "daemon", "faults"]),
    ("client", &["types", "wire", "faults"]),
    ("dhtctl", &["types", "wire", "client", "daemon", "viewleader", "storaged"]),
    ("check", &["types"]),
    ("sim", &["types", "viewcore", "replcore", "engine", "check"]),
    ("faults", &[]),
    ("chaos", &["types", "wal", "client", "daemon", "faults", "check", "viewleader", "storaged"]),
    ("model", &["types", "viewcore", "replcore"]),
    ("catalogue", &[]),
    ("e2e", &["types", "engine", "wire", "client", "dhtctl"]),
];

/// What a core must not reach, not even through others: runtimes, networks, storage, clocks, random sources.
const IMPURE: &[&str] = &["tokio", "tonic", "openraft", "sled", "rand", "getrandom", "rustix", "axum", "mio"];

/// A library, and the only crate that may name it.
const CONFINED: &[(&str, &str)] = &[("openraft", "viewleader"), ("sled", "engine")];

struct Graph {
    /// Direct dependencies by package name, build and dev ones left out.
    edges: BTreeMap<String, BTreeSet<String>>,
    members: BTreeSet<String>,
}

fn graph() -> Result<Graph> {
    // Not offline: it wants the crates of every platform, and a build has fetched those of this one only.
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let text = |v: &Value| v.as_str().map(str::to_owned).context("a string");
    let mut names = BTreeMap::new();
    for package in metadata["packages"].as_array().context("packages")? {
        names.insert(text(&package["id"])?, text(&package["name"])?);
    }
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().context("nodes")? {
        let from = &names[&text(&node["id"])?];
        for dependency in node["deps"].as_array().context("deps")? {
            let kinds = dependency["dep_kinds"].as_array().context("dep_kinds")?;
            if kinds.iter().any(|kind| kind["kind"].is_null()) {
                edges.entry(from.clone()).or_default().insert(names[&text(&dependency["pkg"])?].clone());
            }
        }
    }
    let members = metadata["workspace_members"].as_array().context("members")?;
    let members = members.iter().map(|id| Ok(names[&text(id)?].clone())).collect::<Result<_>>()?;
    Ok(Graph { edges, members })
}

impl Graph {
    fn reached_from(&self, start: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut open = vec![start];
        while let Some(next) = open.pop() {
            for dependency in self.edges.get(next).into_iter().flatten() {
                if reached.insert(dependency.as_str()) {
                    open.push(dependency);
                }
            }
        }
        reached
    }
}

/// Guards against a crate that learns of one it must not know.
#[test]
fn crates_know_only_whom_they_may() -> Result<()> {
    let graph = graph()?;
    let rules: BTreeMap<_, _> = MAY_KNOW.iter().copied().collect();
    for member in &graph.members {
        let allowed = rules.get(member.as_str()).with_context(|| format!("{member} has no rule here: add one"))?;
        for dependency in graph.edges.get(member).into_iter().flatten().filter(|d| graph.members.contains(*d)) {
            ensure!(allowed.contains(&dependency.as_str()), "{member} must not know {dependency}");
        }
    }
    Ok(())
}

/// Guards against I/O, clocks and randomness in a core.
#[test]
fn cores_are_pure() -> Result<()> {
    let graph = graph()?;
    for core in ["types", "replcore", "viewcore", "check"] {
        let reached = graph.reached_from(core);
        for impure in IMPURE {
            ensure!(!reached.contains(impure), "{core} reaches {impure}");
        }
    }
    Ok(())
}

/// Guards against a pinned, fragile library spreading through the code.
#[test]
fn fragile_libraries_stay_where_they_are() -> Result<()> {
    let graph = graph()?;
    for (library, owner) in CONFINED {
        for member in graph.members.iter().filter(|member| member != owner) {
            let direct = graph.edges.get(member).is_some_and(|edges| edges.contains(*library));
            ensure!(!direct, "{member} names {library}; only {owner} may");
        }
    }
    Ok(())
}
