//! Bytes flipped in the files of a stopped process: damage is to be noticed and repaired from others, never served. What
//! the process must not start with, it refuses; it is then replaced by a new node or member.

use super::{Stage, member, wipe};
use crate::cluster::{Role, State};
use crate::error::Error;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use types::{Incarnation, NodeId};

/// Files of a storage node that are damaged, and bytes in each.
const FILES: usize = 2;
const BYTES: usize = 4;
/// The mark of a clean close, and the frame before it.
const LAST_FRAMES: usize = 2;
/// How long a process may take to notice that its files can't be used, on a machine that is busy otherwise.
const REFUSES_WITHIN: Duration = Duration::from_secs(60);
/// And how long one is watched that has been accepted with them.
const WATCHED_FOR: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Who the process is to the others, and would never be again.
#[derive(Clone, Copy, Debug)]
enum Known {
    Node(NodeId),
    Member(u64),
}

/// What was damaged.
struct Flipped {
    /// In words.
    said: String,
    /// A byte that the process has acknowledged, and that others follow on disk: it has to notice.
    vital: Option<String>,
}

pub(super) async fn run(stage: &mut Stage<'_>, role: Role) -> Result<String, Error> {
    let target = stage.choose(Some(role))?;
    let known = match role {
        Role::Storaged => Known::Node(wipe::known_as(stage, target, None).await?),
        Role::Viewleader => Known::Member(member::known_as(stage, target, None).await?),
    };
    stage.begin(stage.name(target));
    // In order: what is at the end of a log after a crash can't be told from a write that never ended.
    stage.cluster.terminate(target).await?;
    let flipped = flip(stage, target, role)?;
    let said_before = said(stage, target).len();
    let before = match known {
        Known::Node(node) => start_of(stage, node).await,
        Known::Member(_) => None,
    };
    stage.cluster.start_at(target).await?;
    stage.cluster.expect_down(&[target], true);
    // "Damaged" is a part of the data, "corrupt" a store that is put aside as a whole.
    let notices = |line: &&str| line.contains("damaged") || line.contains("corrupt");
    let what = match refusal(stage, target, before).await? {
        None => match said(stage, target)[said_before..].lines().filter(notices).count() {
            0 => match flipped.vital {
                Some(vital) => {
                    let name = stage.name(target);
                    return Err(Error::Cluster(format!("{name} goes on as if nothing was with {vital} flipped")));
                }
                None => "nothing of it was needed".to_owned(),
            },
            count => format!("the process noticed {count} times, and went on with the rest"),
        },
        Some(how) => match known {
            Known::Node(old) => format!("the node {how}; replaced by {}", wipe::replace(stage, target, old).await?),
            Known::Member(old) => {
                format!("the member {how}; replaced by member {}", member::replace(stage, target, old).await?)
            }
        },
    };
    stage.cluster.expect_down(&[target], false);
    stage.end();
    Ok(format!("{}; {what}", flipped.said))
}

/// What a process has logged so far.
fn said(stage: &Stage<'_>, target: usize) -> String {
    // A log that can't be read says nothing.
    let text = std::fs::read(&stage.cluster.slot(target).log).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}

/// The start of this node that was accepted last, as far as the viewleaders say.
async fn start_of(stage: &mut Stage<'_>, node: NodeId) -> Option<Incarnation> {
    let status = stage.cluster.leaders().status().await.ok()?;
    status.nodes.iter().find(|there| there.info.id == node).map(|there| there.info.incarnation)
}

/// How the process refused its files; `None` once it has been accepted with them: a node with a later start than `before`.
async fn refusal(stage: &mut Stage<'_>, target: usize, before: Option<Incarnation>) -> Result<Option<String>, Error> {
    let began = Instant::now();
    let address = stage.cluster.slot(target).address();
    let mut accepted = false;
    loop {
        if stage.cluster.process(target)?.state() == State::Gone {
            return stage.cluster.await_end(target, REFUSES_WITHIN).await.map(Some);
        }
        if let Ok(status) = stage.cluster.leaders().status().await {
            let is_it = |info: &types::NodeInfo| info.address == address && info.alive;
            let is_node = status.nodes.iter().any(|node| is_it(&node.info) && Some(node.info.incarnation) > before);
            let is_there = |role: &str| role != "unreachable";
            let is_member = status.members.iter().any(|it| it.address == address && is_there(&it.role));
            accepted = is_node || is_member;
        }
        if accepted && began.elapsed() > WATCHED_FOR {
            return Ok(None);
        }
        if began.elapsed() > REFUSES_WITHIN {
            return Err(Error::Cluster(format!("{} neither starts nor ends", stage.name(target))));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Flips bytes that mean something. Of a viewleader's, one: two could be what a torn end of the log looks like, and no
/// other member would give it back what it has voted.
fn flip(stage: &mut Stage<'_>, target: usize, role: Role) -> Result<Flipped, Error> {
    let directory = stage.cluster.slot(target).data_dir.clone();
    let mut files = Vec::new();
    list(&directory, &mut files)?;
    files.sort();
    stage.random.shuffle(&mut files);
    let (files_max, bytes) = match role {
        Role::Storaged => (FILES, BYTES),
        Role::Viewleader => (1, 1),
    };
    let mut said = Vec::new();
    let mut vital = None;
    for path in files {
        if said.len() == files_max {
            break;
        }
        let content = fs::read(&path).map_err(Error::file(&path))?;
        let name = path.strip_prefix(&directory).unwrap_or(&path).display().to_string();
        let needed = wal::frames(&content).unwrap_or_default();
        // Small files carry a checksum of all that they hold.
        let is_checked_whole = content.starts_with(b"ringleader");
        // Zeros are what nobody has written yet.
        let written: Vec<usize> = match (role, needed.is_empty()) {
            (Role::Viewleader, false) => needed.iter().cloned().flatten().filter(|at| content[*at] != 0).collect(),
            _ => (0..content.len()).filter(|at| content[*at] != 0).collect(),
        };
        if written.is_empty() {
            continue;
        }
        let file = OpenOptions::new().write(true).open(&path).map_err(Error::file(&path))?;
        for _ in 0..bytes {
            let at = written[stage.random.below(written.len())];
            let flipped = content[at] ^ (1 << stage.random.below(8));
            file.write_all_at(&[flipped], at as u64).map_err(Error::file(&path))?;
            // Behind the last frames nothing follows that would show the damage.
            let is_followed = needed.iter().rev().skip(LAST_FRAMES).any(|frame| frame.contains(&at));
            if is_followed || is_checked_whole {
                vital = Some(format!("byte {at} of {name}"));
            }
        }
        said.push(format!("{bytes} of {} bytes of {name}", written.len()));
    }
    match said.is_empty() {
        true => Err(Error::NotLanded("the process had written nothing".to_owned())),
        false => Ok(Flipped { said: format!("flipped {}", said.join(" and ")), vital }),
    }
}

/// All files but those that nobody reads: the lock, what a crash has left beside the file it was to replace, segments of
/// the log that wait to be used again, and a state that was put aside because it was damaged.
fn list(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(Error::file(directory))? {
        let path = entry.map_err(Error::file(directory))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name == "LOCK" || name.contains(".quarantine-") || name.ends_with(".new") || name.ends_with(".spare") {
            continue;
        }
        if path.is_dir() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
