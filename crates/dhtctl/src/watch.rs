//! `watch`: changes of a key, of all keys with a prefix, or of the view, as they are committed.

use crate::cli::{ClusterFlags, Globals};
use crate::failure;
use crate::output::{self, Format, Lines};
use bytes::Bytes;
use clap::Args;
use client::{Client, Cursor, Watch, WatchEvent, WatchFrom, WatchWhat};
use daemon::{Exit, Failure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use types::{PartitionId, Seq, View};

#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Every committed change is printed once, and for each key in order, whichever nodes die or move \
meanwhile. Between keys there is no order.\n\n\
One line for each change: `set KEY VALUE` or `deleted KEY` with tabs between; `present KEY VALUE` for what was there \
already. With --output json an object; with --output raw the value.\n\n\
The history that --from and --cursor need is not kept for ever. Where it is gone the command ends with `compacted at` and \
the oldest seq that is kept; start over with --with-current, which misses nothing."
)]
pub(crate) struct WatchFlags {
    /// One key.
    #[arg(required_unless_present_any = ["prefix", "view"])]
    key: Option<OsString>,
    /// All keys that begin with this; empty: all there are.
    #[arg(long, value_name = "P", conflicts_with = "key")]
    prefix: Option<OsString>,
    /// Each epoch of the view, as it comes.
    #[arg(long, conflicts_with_all = ["key", "prefix", "from", "with_current", "cursor"])]
    view: bool,
    /// Only what came after this version of the key.
    #[arg(long, value_name = "VERSION", requires = "key", conflicts_with_all = ["prefix", "with_current", "cursor"])]
    from: Option<u64>,
    /// First what is there, then every change.
    #[arg(long)]
    with_current: bool,
    /// Go on where a watch with the same file ended; how far this one is stands there when it ends.
    #[arg(long, value_name = "FILE")]
    cursor: Option<PathBuf>,
    /// End after so many lines.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    cluster: ClusterFlags,
}

pub(crate) async fn run(globals: &Globals, flags: WatchFlags) -> Result<Exit, Failure> {
    let client = globals.connect(&flags.cluster).await?;
    if flags.view {
        return views(globals.output, &client, flags.limit).await;
    }
    let bytes = |text: OsString| Bytes::from(text.into_vec());
    let what = match (flags.key, flags.prefix) {
        (Some(key), _) => WatchWhat::Key(bytes(key)),
        (None, prefix) => WatchWhat::Prefix(prefix.map(bytes).unwrap_or_default()),
    };
    let saved = flags.cursor.as_deref().map(read_cursor).transpose()?.flatten();
    let from = match (&what, flags.from, saved) {
        (_, _, Some(cursor)) => WatchFrom::After(cursor),
        (WatchWhat::Key(key), Some(version), None) => {
            let partition = client.view().partition_of(key);
            WatchFrom::After(Cursor { positions: BTreeMap::from([(partition, Seq(version))]) })
        }
        _ if flags.with_current => WatchFrom::Current,
        _ => WatchFrom::Now,
    };
    let mut watch = client.watch(what, from).map_err(failure::of)?;
    let stop = daemon::shutdown::requested(false);
    tokio::pin!(stop);
    let ended = tokio::select! {
        ended = print(globals.output, &mut watch, flags.limit) => ended,
        // A signal ends it well: what was printed is what the cursor says.
        _ = &mut stop => Ok(Exit::Done),
    };
    if let Some(path) = &flags.cursor {
        write_cursor(path, watch.cursor())?;
    }
    ended
}

async fn print(format: Format, watch: &mut Watch, limit: Option<u64>) -> Result<Exit, Failure> {
    let mut lines = Lines::new();
    let mut printed = 0;
    while limit.is_none_or(|limit| printed < limit) {
        let event = watch.next().await.map_err(failure::of)?;
        match &event {
            WatchEvent::Watching => output::note("watching"),
            WatchEvent::Restarted { partition } => {
                output::note(&format!("the history of {partition} is gone; what is there now follows"));
            }
            WatchEvent::Present { .. } | WatchEvent::Changed { .. } => printed += 1,
        }
        // Each line at once: somebody waits for it.
        let read = match line(format, &event) {
            Some(line) => lines.line(&line)? && lines.flush()?,
            None => true,
        };
        if !read {
            break;
        }
    }
    Ok(Exit::Done)
}

fn line(format: Format, event: &WatchEvent) -> Option<Vec<u8>> {
    let (word, key, value, version) = match event {
        WatchEvent::Present { key, value, version } => ("present", key, Some(value), version),
        WatchEvent::Changed { key, value: Some(value), version } => ("set", key, Some(value), version),
        WatchEvent::Changed { key, value: None, version } => ("deleted", key, None, version),
        WatchEvent::Restarted { partition } if format == Format::Json => {
            return Some(json!({ "event": "restarted", "partition": partition.0 }).to_string().into_bytes());
        }
        WatchEvent::Watching | WatchEvent::Restarted { .. } => return None,
    };
    Some(match format {
        Format::Json => {
            let key = output::json_bytes(key);
            let mut object = json!({ "event": word, "key": key, "version": version.0 });
            if let Some(value) = value {
                object["value"] = output::json_bytes(value);
            }
            object.to_string().into_bytes()
        }
        Format::Raw => value.map(|value| value.to_vec()).unwrap_or_default(),
        Format::Table => {
            let value = value.map(|value| format!("\t{}", output::text_bytes(value))).unwrap_or_default();
            format!("{word}\t{}{value}", output::text_bytes(key)).into_bytes()
        }
    })
}

// ---------------------------------------------------------------------------------------------------- views

async fn views(format: Format, client: &Client, limit: Option<u64>) -> Result<Exit, Failure> {
    let mut views = client.watch_views();
    let mut lines = Lines::new();
    let mut before = None;
    let mut printed = 0;
    while limit.is_none_or(|limit| printed < limit) {
        let view = views.next().await;
        if !lines.line(view_line(format, before.as_deref(), &view).as_bytes())? || !lines.flush()? {
            break;
        }
        before = Some(view);
        printed += 1;
    }
    Ok(Exit::Done)
}

fn view_line(format: Format, before: Option<&View>, view: &View) -> String {
    let alive = view.nodes.values().filter(|node| node.alive).count();
    let changed = match before {
        None => view.configurations.len(),
        Some(before) => {
            let same = before.configurations.iter().zip(&view.configurations).filter(|(a, b)| a == b).count();
            view.configurations.len() - same
        }
    };
    match format {
        Format::Json => {
            json!({ "epoch": view.epoch.0, "nodes": view.nodes.len(), "alive": alive, "partitions_changed": changed })
                .to_string()
        }
        Format::Raw => view.epoch.0.to_string(),
        Format::Table => format!(
            "{}: {}, {alive} alive, {} changed",
            view.epoch,
            output::counted(view.nodes.len(), "storage node"),
            output::counted(changed, "partition")
        ),
    }
}

// ---------------------------------------------------------------------------------------------------- cursors

/// The cursor in a file: an object of seqs by partition. No file: no cursor.
fn read_cursor(path: &Path) -> Result<Option<Cursor>, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::usage(format!("cannot read {}: {error}; check --cursor", path.display())));
        }
    };
    let positions: BTreeMap<u32, u64> = serde_json::from_str(&text).map_err(|error| {
        Failure::usage(format!("{} is no cursor: {error}; remove it to begin anew", path.display()))
    })?;
    let positions = positions.into_iter().map(|(partition, seq)| (PartitionId(partition), Seq(seq)));
    Ok(Some(Cursor { positions: positions.collect() }))
}

/// Whole or not at all: a cut file would be no cursor.
fn write_cursor(path: &Path, cursor: &Cursor) -> Result<(), Failure> {
    let positions: BTreeMap<String, Value> =
        cursor.positions.iter().map(|(partition, seq)| (partition.0.to_string(), seq.0.into())).collect();
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let written = std::fs::write(&beside, json!(positions).to_string()).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| Failure::unavailable(format!("cannot write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against lines that change under scripts.
    #[test]
    fn an_event_is_one_line() {
        let set = WatchEvent::Changed { key: "k".into(), value: Some("v".into()), version: Seq(7) };
        let deleted = WatchEvent::Changed { key: "k".into(), value: None, version: Seq(8) };
        let present = WatchEvent::Present { key: "k".into(), value: vec![0xff].into(), version: Seq(6) };
        let text = |format, event: &WatchEvent| line(format, event).map(|line| String::from_utf8(line).unwrap());
        assert_eq!(text(Format::Table, &set).unwrap(), "set\tk\tv");
        assert_eq!(text(Format::Table, &deleted).unwrap(), "deleted\tk");
        assert_eq!(text(Format::Table, &present).unwrap(), "present\tk\tbase64:/w==");
        assert_eq!(text(Format::Json, &set).unwrap(), r#"{"event":"set","key":"k","value":"v","version":7}"#);
        assert_eq!(text(Format::Json, &deleted).unwrap(), r#"{"event":"deleted","key":"k","version":8}"#);
        assert_eq!(text(Format::Table, &WatchEvent::Watching), None);
    }

    /// Guards against a cursor that is not the one that was written, and a missing file taken for a broken one.
    #[test]
    fn a_cursor_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cursor");
        assert_eq!(read_cursor(&path).unwrap(), None);
        let cursor = Cursor { positions: BTreeMap::from([(PartitionId(3), Seq(7)), (PartitionId(200), Seq(0))]) };
        write_cursor(&path, &cursor).unwrap();
        assert_eq!(read_cursor(&path).unwrap(), Some(cursor));
        std::fs::write(&path, "[").unwrap();
        assert!(read_cursor(&path).is_err());
    }
}
