//! Bytes flipped in the files of a stopped storage node: damage is to be noticed and repaired from others, never served.

use super::{Stage, wipe};
use crate::cluster::{Role, State};
use crate::error::Error;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Files that are damaged, and bytes in each.
const FILES: usize = 2;
const BYTES: usize = 4;
/// How long a node may take to notice that its files can't be used.
const REFUSES_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<String, Error> {
    let target = stage.choose(Some(Role::Storaged))?;
    let node = wipe::known_as(stage, target, None).await?;
    stage.begin(stage.name(target));
    // In order: what is at the end of a log after a crash can't be told from a write that never ended.
    stage.cluster.terminate(target).await?;
    let flipped = flip(stage, target)?;
    let said_before = said(stage, target).len();
    stage.cluster.start_at(target).await?;
    stage.cluster.expect_down(&[target], true);
    let what = match refusal(stage, target).await? {
        None => match said(stage, target)[said_before..].lines().filter(|line| line.contains("damaged")).count() {
            0 => "nothing of it was needed".to_owned(),
            count => format!("the node noticed {count} times, and went on with the rest"),
        },
        Some(how) => format!("the node {how}; replaced by {}", wipe::replace(stage, target, node).await?),
    };
    stage.cluster.expect_down(&[target], false);
    stage.end();
    Ok(format!("{flipped}; {what}"))
}

/// What a node has logged so far.
fn said(stage: &Stage<'_>, target: usize) -> String {
    // A log that can't be read says nothing.
    let text = std::fs::read(&stage.cluster.slot(target).log).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

/// How the node refused its files; `None` once it has been accepted with them.
async fn refusal(stage: &mut Stage<'_>, target: usize) -> Result<Option<String>, Error> {
    let began = Instant::now();
    let address = stage.cluster.slot(target).address();
    let mut accepted = false;
    loop {
        if stage.cluster.process(target)?.state() == State::Gone {
            return stage.cluster.await_end(target, REFUSES_WITHIN).await.map(Some);
        }
        if let Ok(status) = stage.cluster.leaders().status().await {
            accepted = status.nodes.iter().any(|node| node.info.address == address && node.info.alive);
        }
        if accepted && began.elapsed() > REFUSES_WITHIN / 5 {
            return Ok(None);
        }
        if began.elapsed() > REFUSES_WITHIN {
            return Err(Error::Cluster(format!("{} neither starts nor ends", stage.name(target))));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Flips bytes that mean something; says where.
fn flip(stage: &mut Stage<'_>, target: usize) -> Result<String, Error> {
    let directory = stage.cluster.slot(target).data_dir.clone();
    let mut files = Vec::new();
    list(&directory, &mut files)?;
    files.sort();
    stage.random.shuffle(&mut files);
    let mut said = Vec::new();
    for path in files {
        if said.len() == FILES {
            break;
        }
        let content = fs::read(&path).map_err(Error::file(&path))?;
        // Zeros are what nobody has written yet.
        let written: Vec<usize> = (0..content.len()).filter(|at| content[*at] != 0).collect();
        if written.is_empty() {
            continue;
        }
        let file = OpenOptions::new().write(true).open(&path).map_err(Error::file(&path))?;
        for _ in 0..BYTES {
            let at = written[stage.random.below(written.len())];
            let flipped = content[at] ^ (1 << stage.random.below(8));
            file.write_all_at(&[flipped], at as u64).map_err(Error::file(&path))?;
        }
        let name = path.strip_prefix(&directory).unwrap_or(&path).display().to_string();
        said.push(format!("{BYTES} of {} bytes of {name}", written.len()));
    }
    match said.is_empty() {
        true => Err(Error::NotLanded("the node had written nothing".to_owned())),
        false => Ok(format!("flipped {}", said.join(" and "))),
    }
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(Error::file(directory))? {
        let path = entry.map_err(Error::file(directory))?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else if path.file_name().is_some_and(|name| name != "LOCK") {
            files.push(path);
        }
    }
    Ok(())
}
